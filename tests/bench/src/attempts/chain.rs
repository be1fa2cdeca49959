//! Attempts one after the other without anybody beside: each end begins the next on the guests' thread where it came,
//! so that nothing is measured but attempts, and no driver takes a core from the guests. Only now and then is one begun
//! from outside: a thread that found nothing sleeps until something comes from there, however much others have to do.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use stem_core::outcome::Outcome;
use stem_isolate::{AttemptHost, Exit, IsolateRuntime, Module};
use tokio::sync::{mpsc, oneshot};

use super::{INPUT, Nobody, spec};

/// Of so many attempts of a chain one is begun from outside.
const OUTSIDE: u32 = 64;

/// What all chains of one measurement share.
struct Work {
    isolates: Arc<IsolateRuntime>,
    module: Arc<Module>,
    host: Arc<dyn AttemptHost>,
    /// Begins the next attempt of a chain, which has been taken already.
    outside: mpsc::UnboundedSender<Arc<Chain>>,
    /// Attempts that no chain has taken yet.
    left: AtomicU32,
    /// CPU time inside the attempts.
    inside_nanos: AtomicU64,
}

impl Work {
    /// Takes one of the attempts that are left.
    fn take(&self) -> bool {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.is_ok()
    }
}

type Running = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// One attempt after the other; its waker is called by the thread that ends one.
struct Chain {
    work: Arc<Work>,
    at: Mutex<Link>,
}

struct Link {
    running: Option<Running>,
    taken: u32,
    /// Hears of the end, or of the first attempt that did not succeed.
    done: Option<oneshot::Sender<Result<(), String>>>,
}

impl Chain {
    /// Goes on as far as it can. `is_taken` says that it is to begin an attempt that it has taken already.
    fn go(self: &Arc<Self>, mut is_taken: bool) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = Waker::from(Arc::clone(self));
        loop {
            if let Some(running) = &mut at.running {
                let polled = running.as_mut().poll(&mut Context::from_waker(&waker));
                let Poll::Ready(exit) = polled else { return };
                at.running = None;
                if !matches!(exit.outcome, Outcome::Succeeded(_)) {
                    return at.end(Err(format!("{:?}", exit.outcome)));
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a small positive number"
                )]
                let nanos = (exit.usage.cpu_ms * 1e6) as u64;
                self.work.inside_nanos.fetch_add(nanos, Ordering::Relaxed);
            }
            if !std::mem::take(&mut is_taken) {
                if !self.work.take() {
                    return at.end(Ok(()));
                }
                at.taken += 1;
                // Nobody is there any more only when another chain has failed.
                if at.taken.is_multiple_of(OUTSIDE)
                    && self.work.outside.send(Arc::clone(self)).is_ok()
                {
                    return;
                }
            }
            let Work { isolates, module, host, .. } = &*self.work;
            let running = isolates.start(module, spec(INPUT), Arc::clone(host));
            at.running = Some(Box::pin(running.exit()));
        }
    }
}

impl Link {
    fn end(&mut self, how: Result<(), String>) {
        if let Some(done) = self.done.take() {
            // Whoever does not wait any more has heard of another chain's failure.
            let _ = done.send(how);
        }
    }
}

impl Wake for Chain {
    fn wake(self: Arc<Self>) {
        self.go(false);
    }
}

/// Runs so many attempts in so many chains, and returns the CPU time inside each of them, in microseconds.
pub(super) async fn attempts(
    isolates: &Arc<IsolateRuntime>,
    module: &Arc<Module>,
    chains: usize,
    count: u32,
) -> anyhow::Result<f64> {
    let (outside, mut handed) = mpsc::unbounded_channel();
    let work = Arc::new(Work {
        isolates: Arc::clone(isolates),
        module: Arc::clone(module),
        host: Arc::new(Nobody),
        outside,
        left: AtomicU32::new(count),
        inside_nanos: AtomicU64::new(0),
    });
    let mut ends = Vec::new();
    for _ in 0..chains {
        let (done, end) = oneshot::channel();
        let at = Mutex::new(Link { running: None, taken: 0, done: Some(done) });
        Arc::new(Chain { work: Arc::clone(&work), at }).go(false);
        ends.push(end);
    }
    let begin_handed = async {
        while let Some(chain) = handed.recv().await {
            chain.go(true);
        }
    };
    let all_end = async {
        for end in ends {
            let how = end.await?;
            how.map_err(|outcome| anyhow::anyhow!("an attempt did not succeed: {outcome}"))?;
        }
        Ok(())
    };
    let ended: anyhow::Result<()> = tokio::select! {
        ended = all_end => ended,
        () = begin_handed => unreachable!("this function has a sender itself"),
    };
    ended?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
    let nanos = work.inside_nanos.load(Ordering::Relaxed) as f64;
    Ok(nanos / 1e3 / f64::from(count))
}
