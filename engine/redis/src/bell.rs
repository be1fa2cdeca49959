//! Wake-ups for whoever waits in this process. They come from the server's one channel; each that is lost costs at most the
//! time after which a waiter looks again by itself.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// What a wake-up is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topic {
    Work,
    Revocations,
    Control,
    Modules,
}

impl Topic {
    const ALL: [Self; 4] = [Self::Work, Self::Revocations, Self::Control, Self::Modules];

    /// The letter that scripts publish.
    fn letter(self) -> u8 {
        match self {
            Self::Work => b'w',
            Self::Revocations => b'v',
            Self::Control => b'c',
            Self::Modules => b'm',
        }
    }
}

/// A change this recent may have come between a caller's own look and its wait.
const RECENT: Duration = Duration::from_millis(25);

/// How long whoever may have missed such a change waits before it looks again. Most did not miss it, and each look is a call.
const SOON: Duration = Duration::from_millis(3);

struct Bell {
    notify: Notify,
    rung_at: Mutex<Option<Instant>>,
}

/// One bell for each topic.
pub(crate) struct Bells {
    bells: [Bell; 4],
    listened: AtomicBool,
}

impl Default for Bells {
    fn default() -> Self {
        let bell = || Bell { notify: Notify::new(), rung_at: Mutex::new(None) };
        Self { bells: [bell(), bell(), bell(), bell()], listened: AtomicBool::new(false) }
    }
}

impl Bells {
    fn of(&self, topic: Topic) -> &Bell {
        &self.bells[topic as usize]
    }

    /// Rings for what the server said.
    pub(crate) fn ring(&self, letters: &[u8]) {
        for topic in Topic::ALL.into_iter().filter(|topic| letters.contains(&topic.letter())) {
            self.ring_one(topic);
        }
    }

    /// Makes everybody look again.
    pub(crate) fn ring_all(&self) {
        for topic in Topic::ALL {
            self.ring_one(topic);
        }
    }

    fn ring_one(&self, topic: Topic) {
        let bell = self.of(topic);
        *bell.rung_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        bell.notify.notify_waiters();
    }

    /// A ring from now on wakes the future, whether it is polled by then or not.
    pub(crate) fn next(&self, topic: Topic) -> tokio::sync::futures::Notified<'_> {
        self.listened.store(true, Ordering::Relaxed);
        self.of(topic).notify.notified()
    }

    /// Whether anybody has ever waited, so that a new connection should bring wake-ups too.
    pub(crate) fn any_listener(&self) -> bool {
        self.listened.load(Ordering::Relaxed)
    }

    /// Waits for a caller that does not say what it has seen: after a recent change it waits only a little.
    pub(crate) async fn wait_loosely(&self, topic: Topic, wait: Duration) {
        let ring = self.next(topic);
        let rung_at = *self.of(topic).rung_at.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = rung_at.is_some_and(|at| at.elapsed() < RECENT);
        let wait = if recent { wait.min(SOON) } else { wait };
        // Running out of time is no news to the caller: both ways it looks again.
        let _ = tokio::time::timeout(wait, ring).await;
    }
}
