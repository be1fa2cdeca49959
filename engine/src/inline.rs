//! Native handlers: what they are given, how they fail, how they are stopped.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stem_core::envelope::Payload;
use stem_core::id::TaskId;
use stem_core::limits::{Limits, Usage};
use stem_core::outcome::{
    Failure, FailureKind, Outcome, RetryAdvice, StopHow, StopNotice, StopReason,
};
use stem_core::task::Progress;
use stem_isolate::{AttemptHost, Child, Exit, LogLevel, Refusal, Release, TaskInfo};
use tokio::sync::Notify;
use tokio::time::Instant;

/// From a stop by force until the handler is dropped at its next await: what it has to reach a checkpoint and end in
/// good order.
const COURTESY: Duration = Duration::from_millis(250);
/// From then on until the attempt counts as ended even though native code, which nothing can stop, still runs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The attempt is to end. Pass it up with `?`; the worker knows what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attempt is asked to stop ({code})")]
pub struct Interrupted {
    code: &'static str,
}

impl Interrupted {
    /// Why, as a word: `revoked`, `soft-time-limit`, `worker-drain`, `worker-stop`.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

/// How a handler ends without a result.
#[derive(Debug)]
pub struct TaskError(Kind);

#[derive(Debug)]
enum Kind {
    Failed { failure: Failure, retry: RetryAdvice },
    Interrupted(Interrupted),
}

impl TaskError {
    /// Try again later, if attempts are left.
    pub fn retryable(code: &str, message: impl fmt::Display) -> Self {
        Self::failed(code, &message, RetryAdvice::Policy)
    }

    /// Try again later, and not before this much time has passed; at most a day counts.
    pub fn retry_after(code: &str, message: impl fmt::Display, after: Duration) -> Self {
        Self::failed(code, &message, RetryAdvice::After(after))
    }

    /// Never try again.
    pub fn fatal(code: &str, message: impl fmt::Display) -> Self {
        Self::failed(code, &message, RetryAdvice::Never)
    }

    /// Keeps something for programs with the failure. At most 16 KiB of JSON; more is left out.
    #[must_use]
    pub fn with_detail(mut self, detail: &impl Serialize) -> Self {
        if let Kind::Failed { failure, .. } = &mut self.0
            && let Ok(json) = serde_json::to_vec(detail)
            && json.len() <= 16 << 10
        {
            failure.detail = Some(Payload::json(json));
        }
        self
    }

    fn failed(code: &str, message: &dyn fmt::Display, retry: RetryAdvice) -> Self {
        Self(Kind::Failed {
            failure: Failure::new(FailureKind::Error, code, &message.to_string()),
            retry,
        })
    }
}

impl From<Interrupted> for TaskError {
    fn from(interrupted: Interrupted) -> Self {
        Self(Kind::Interrupted(interrupted))
    }
}

/// What a native handler is given: facts about its attempt, and the checkpoints. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskContext {
    info: Arc<TaskInfo>,
    limits: Arc<Limits>,
    shared: Arc<Shared>,
    host: Arc<dyn AttemptHost>,
}

impl TaskContext {
    /// Facts about the attempt.
    pub fn info(&self) -> &TaskInfo {
        &self.info
    }

    /// Says "still alive". Fails once the attempt is to stop; pass that up with `?`. Costs no traffic.
    pub fn heartbeat(&self) -> Result<(), Interrupted> {
        self.shared.checkpoint();
        self.shared.interrupted().map_or(Ok(()), Err)
    }

    /// Publishes progress, 0 to 1; the newest wins. Also a heartbeat.
    pub fn progress(&self, fraction: f64, message: &str) -> Result<(), Interrupted> {
        self.heartbeat()?;
        self.host.progress(Progress {
            fraction: Some(fraction)
                .filter(|fraction| fraction.is_finite())
                .map(|fraction| fraction.clamp(0.0, 1.0)),
            message: Some(stem_core::text::printable(message, 1024))
                .filter(|message| !message.is_empty()),
            data: None,
        });
        Ok(())
    }

    /// Asks for so much more time on the lease, and returns what is left of it. The worker renews leases by itself; this
    /// is for a handler that is about to block. A lost lease is an interrupt; a broker that cannot be reached is not:
    /// the answer is then zero. Cancel-safe.
    pub async fn extend_lease(&self, by: Duration) -> Result<Duration, Interrupted> {
        self.heartbeat()?;
        match self.host.extend_lease(by).await {
            Ok(left) => Ok(left),
            Err(Refusal::LeaseLost) => Err(Interrupted { code: "worker-stop" }),
            Err(Refusal::Unavailable(_) | Refusal::Quota(_) | Refusal::Invalid(_)) => {
                Ok(Duration::ZERO)
            }
        }
    }

    /// The notice that asks the attempt to stop, without counting as a heartbeat.
    pub fn stop_requested(&self) -> Option<StopNotice> {
        self.shared.notice()
    }

    /// Until the hard limit.
    pub fn time_left(&self) -> Duration {
        self.limits.hard.saturating_sub(self.shared.started_at.elapsed())
    }

    /// State that an earlier attempt saved.
    pub async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, TaskError> {
        self.host.load_checkpoint().await.map_err(refused)
    }

    /// Keeps state for the next attempt; at most 256 KiB.
    pub async fn save_checkpoint(&self, state: Vec<u8>) -> Result<(), TaskError> {
        self.heartbeat()?;
        if state.len() > stem_core::backend::result::CHECKPOINT_BYTES {
            return Err(TaskError::fatal(
                "checkpoint-too-large",
                format!("the checkpoint has {} bytes", state.len()),
            ));
        }
        self.host.save_checkpoint(state).await.map_err(refused)
    }

    /// Enqueues tasks whose parent is this one, and returns their ids in order: now, or with this attempt's success and never
    /// otherwise. An attempt may enqueue [`CHILDREN`](stem_core::settlement::CHILDREN) tasks of
    /// [`CHILDREN_BYTES`](stem_core::settlement::CHILDREN_BYTES) together, and a chain is at most
    /// [`DEPTH`](stem_core::envelope::DEPTH) deep.
    ///
    /// An attempt that runs again enqueues again; give children a key to make them the same ones. Where broker and result
    /// backend are two services, the children of a success are enqueued just before it counts: a worker that dies in that
    /// moment has enqueued them, and the attempt is made again.
    pub async fn enqueue(
        &self,
        children: Vec<Child>,
        release: Release,
    ) -> Result<Vec<TaskId>, TaskError> {
        self.heartbeat()?;
        self.host.enqueue(children, release).await.map_err(refused)
    }

    /// Writes a line to the worker's log, under the task's name and id.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.host.log(level, &stem_core::text::printable(message, 4096), &[]);
    }
}

fn refused(refusal: Refusal) -> TaskError {
    match refusal {
        Refusal::LeaseLost => Interrupted { code: "worker-stop" }.into(),
        Refusal::Unavailable(problem) => TaskError::retryable("unavailable", problem),
        Refusal::Quota(what) => TaskError::fatal("quota", what),
        Refusal::Invalid(what) => TaskError::fatal("invalid", what),
    }
}

/// What a handler and those who stop it share.
#[derive(Debug)]
struct Shared {
    stop: Mutex<Option<(StopReason, Instant)>>,
    notice: Mutex<Option<(StopNotice, Instant)>>,
    forced: Notify,
    started_at: Instant,
    checkpoint_nanos: AtomicU64,
}

impl Shared {
    fn checkpoint(&self) {
        let nanos = u64::try_from(self.started_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.checkpoint_nanos.store(nanos, Ordering::Relaxed);
    }

    fn stopped(&self) -> Option<(StopReason, Instant)> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notice(&self) -> Option<StopNotice> {
        let notice = self.notice.lock().unwrap_or_else(PoisonError::into_inner);
        notice.as_ref().map(|(notice, since)| StopNotice {
            force_after: notice.force_after.map(|grace| grace.saturating_sub(since.elapsed())),
            ..notice.clone()
        })
    }

    fn interrupted(&self) -> Option<Interrupted> {
        if let Some((reason, _)) = self.stopped() {
            let code = match reason {
                StopReason::Revoked => "revoked",
                StopReason::TimeLimit => "soft-time-limit",
                StopReason::Shutdown | StopReason::Recalled | StopReason::LeaseLost => {
                    "worker-stop"
                }
            };
            return Some(Interrupted { code });
        }
        self.notice().map(|notice| Interrupted { code: notice.code })
    }

    /// Whether the handler is being stopped, or asked to stop, because its worker goes away.
    fn told_of_shutdown(&self) -> bool {
        let ordered = self.stopped().is_some_and(|(reason, _)| reason == StopReason::Shutdown);
        ordered
            || self
                .notice()
                .is_some_and(|notice| matches!(notice.code, "worker-drain" | "worker-stop"))
    }

    /// What an interrupt that the handler passed up means.
    fn outcome(&self, how: StopHow, interrupted: Option<Interrupted>) -> Outcome {
        let (reason, elapsed) =
            match (self.stopped(), interrupted.map(|interrupted| interrupted.code)) {
                (Some((reason, at)), _) => (reason, at.elapsed()),
                (None, Some("revoked")) => (StopReason::Revoked, Duration::ZERO),
                (None, Some("soft-time-limit")) => (StopReason::TimeLimit, Duration::ZERO),
                (None, _) => (StopReason::Shutdown, Duration::ZERO),
            };
        Outcome::Stopped { reason, how, elapsed }
    }
}

/// Stops and watches a native handler.
#[derive(Clone, Debug)]
pub(crate) struct InlineInterrupt(Arc<Shared>);

impl InlineInterrupt {
    pub(crate) fn stop(&self, reason: StopReason, force: bool) {
        {
            let mut stop = self.0.stop.lock().unwrap_or_else(PoisonError::into_inner);
            let since = stop.map_or_else(Instant::now, |(_, since)| since);
            if stop.is_none_or(|(earlier, _)| reason > earlier) {
                *stop = Some((reason, since));
            }
        }
        if force {
            self.0.forced.notify_one();
        }
    }

    pub(crate) fn notify(&self, notice: StopNotice) {
        *self.0.notice.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((notice, Instant::now()));
    }

    pub(crate) fn has_checkpointed(&self) -> bool {
        self.0.checkpoint_nanos.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn since_checkpoint(&self) -> Duration {
        let at = Duration::from_nanos(self.0.checkpoint_nanos.load(Ordering::Relaxed));
        self.0.started_at.elapsed().saturating_sub(at)
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Payload, TaskError>> + Send>>;

/// A handler with its types taken off.
pub(crate) trait InlineHandler: Send + Sync {
    fn call(&self, context: TaskContext, input: Payload) -> Running;
}

struct Erased<Run, Args>(Run, std::marker::PhantomData<fn(Args)>);

pub(crate) fn erase<Args, Out, Run, Fut>(run: Run) -> Arc<dyn InlineHandler>
where
    Args: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
    Run: Fn(TaskContext, Args) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, TaskError>> + Send + 'static,
{
    Arc::new(Erased(run, std::marker::PhantomData))
}

impl<Args, Out, Run, Fut> InlineHandler for Erased<Run, Args>
where
    Args: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
    Run: Fn(TaskContext, Args) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, TaskError>> + Send + 'static,
{
    fn call(&self, context: TaskContext, input: Payload) -> Running {
        let args = match serde_json::from_slice(&input.bytes) {
            Ok(args) => args,
            Err(error) => {
                let error = TaskError::fatal("invalid-arguments", error);
                return Box::pin(async move { Err(error) });
            }
        };
        let limit = context.limits.result_bytes;
        let running = (self.0)(context, args);
        Box::pin(async move {
            let out = running.await?;
            let json = serde_json::to_vec(&out)
                .map_err(|error| TaskError::fatal("result-not-json", error))?;
            if json.len() as u64 > limit {
                let message = format!("the result is over {limit} bytes");
                let failure =
                    Failure::new(FailureKind::PayloadTooLarge, "result-too-large", &message);
                return Err(TaskError(Kind::Failed { failure, retry: RetryAdvice::Never }));
            }
            Ok(Payload::json(json))
        })
    }
}

/// What to run.
#[derive(Debug)]
pub(crate) struct InlineSpec {
    pub(crate) input: Payload,
    pub(crate) info: TaskInfo,
    pub(crate) limits: Limits,
}

/// Starts a handler on the inline threads.
pub(crate) fn start(
    handler: &Arc<dyn InlineHandler>,
    spec: InlineSpec,
    host: Arc<dyn AttemptHost>,
    threads: &tokio::runtime::Handle,
) -> (InlineInterrupt, impl Future<Output = Exit> + Send + use<>) {
    let shared = Arc::new(Shared {
        stop: Mutex::new(None),
        notice: Mutex::new(None),
        forced: Notify::new(),
        started_at: Instant::now(),
        checkpoint_nanos: AtomicU64::new(0),
    });
    let context = TaskContext {
        info: Arc::new(spec.info),
        limits: Arc::new(spec.limits),
        shared: Arc::clone(&shared),
        host,
    };
    let handler = Arc::clone(handler);
    // The call itself is the handler's code too, so it happens over there.
    let mut running = threads.spawn(async move {
        if !context.host.holds_lease() {
            return None;
        }
        Some(handler.call(context, spec.input).await)
    });
    let watched = Arc::clone(&shared);
    let exit = async move {
        let ended = tokio::select! {
            // One that has ended is not stopped.
            biased;
            ended = &mut running => Some(ended),
            () = watched.forced.notified() => None,
        };
        let ended = match ended {
            Some(ended) => Some(ended),
            None => {
                if let Ok(ended) = tokio::time::timeout(COURTESY, &mut running).await {
                    Some(ended)
                } else {
                    running.abort();
                    tokio::time::timeout(PATIENCE, &mut running).await.ok()
                }
            }
        };
        let outcome = match ended {
            Some(Ok(None)) => Outcome::not_begun(),
            Some(Ok(Some(Ok(result)))) => Outcome::Succeeded(result),
            // A handler that was told of a shutdown and asks to run again has done what was asked; no attempt is used up.
            Some(Ok(Some(Err(TaskError(Kind::Failed { retry, .. })))))
                if retry != RetryAdvice::Never && watched.told_of_shutdown() =>
            {
                watched.outcome(StopHow::Checkpoint, None)
            }
            Some(Ok(Some(Err(TaskError(Kind::Failed { failure, retry }))))) => {
                Outcome::Failed { failure, retry }
            }
            Some(Ok(Some(Err(TaskError(Kind::Interrupted(interrupted)))))) => {
                watched.outcome(StopHow::Checkpoint, Some(interrupted))
            }
            Some(Err(error)) if error.is_panic() => {
                let panic = error.into_panic();
                let words = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or(panic.downcast_ref::<String>().map(String::as_str));
                Outcome::failed(FailureKind::Trap, "panic", words.unwrap_or("the handler panicked"))
            }
            Some(Err(_)) => watched.outcome(StopHow::Preempted, None),
            None => {
                tracing::error!(
                    "a native handler blocks and cannot be stopped; its attempt is over, and nothing it still does counts"
                );
                watched.outcome(StopHow::Preempted, None)
            }
        };
        Exit { outcome, usage: Usage::default() }
    };
    (InlineInterrupt(shared), exit)
}
