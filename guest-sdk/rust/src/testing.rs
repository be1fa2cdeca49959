//! Runs a task natively, under plain `cargo test`, with a host that does what the test says.
//!
//! What differs from a worker: time is the host's own and passes only in [`Context::sleep`] and as
//! [`TestHost::beat_takes`] says; an end by force unwinds, so destructors run; log lines are cut but never dropped for their
//! rate; a panic of the task is a panic of the test; no limit on memory or CPU time applies.

mod attempt;
mod granted;
mod run;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stem_host_abi::{RESULT_TOO_LARGE, limits};

pub(crate) use self::attempt::TestAttempt;
use self::attempt::{Ended, Script};
use self::run::Values;
pub use self::run::{End, Enqueued, LogLine, Run};
use crate::error::encode;
use crate::{Binary, Context, Input, Level, Output, StopNotice, TaskError};

/// A host for one attempt, set up by its methods.
///
/// ```
/// use stem_guest::testing::{End, TestHost};
/// use stem_guest::{Context, StopNotice, TaskError};
///
/// #[stem_guest::task]
/// fn forever(ctx: &Context, (): ()) -> Result<(), TaskError> {
///     loop {
///         ctx.heartbeat()?;
///     }
/// }
///
/// let run = TestHost::new().args(&()).stop_after(3, StopNotice::new("revoked")).run(forever);
/// assert_eq!(run.failure().code(), "revoked");
///
/// let run = TestHost::new().args(&()).terminate_after(5).run(forever);
/// assert_eq!(run.end, End::Terminated);
/// assert_eq!(run.beats, 5);
/// ```
#[derive(Clone, Debug)]
pub struct TestHost {
    payload: Binary,
    script: Script,
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// The first attempt of a task `test` with the payload `null`, with nothing that could stop it.
    pub fn new() -> Self {
        Self { payload: Binary::json(b"null".to_vec()), script: Script::new() }
    }

    /// Sets the arguments, as JSON.
    ///
    /// # Panics
    /// When serde cannot write them, or they are over the bound of a payload.
    #[must_use]
    pub fn args<T: Serialize + ?Sized>(self, args: &T) -> Self {
        self.payload(Binary::json(serde_json::to_vec(args).expect("arguments that JSON can hold")))
    }

    /// Sets the payload.
    ///
    /// # Panics
    /// When it is over the bound: such a task could not be enqueued.
    #[must_use]
    pub fn payload(mut self, payload: Binary) -> Self {
        assert!(
            payload.bytes.len() <= limits::PAYLOAD_BYTES,
            "a payload is at most {} bytes",
            limits::PAYLOAD_BYTES
        );
        self.payload = payload;
        self
    }

    /// Sets the task's id, and with it the chain's and the idempotency key.
    #[must_use]
    pub fn task_id(mut self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.script.info.root_id.clone_from(&id);
        self.script.info.idempotency_key.clone_from(&id);
        self.script.info.task_id = id;
        self
    }

    /// Sets the name and the queue under which the task was enqueued.
    #[must_use]
    pub fn task_name(mut self, name: impl Into<String>, queue: impl Into<String>) -> Self {
        self.script.info.task_name = name.into();
        self.script.info.queue = queue.into();
        self
    }

    /// Sets the number of the attempt (1 is the first) and how many are allowed.
    #[must_use]
    pub fn attempt(mut self, attempt: u32, max_attempts: impl Into<Option<u32>>) -> Self {
        self.script.info.attempt = attempt;
        self.script.info.max_attempts = max_attempts.into();
        self
    }

    /// Sets when the task was enqueued.
    #[must_use]
    pub fn enqueued_at(mut self, at: SystemTime) -> Self {
        self.script.info.enqueued_at = at;
        self
    }

    /// Makes the task one that another enqueued.
    #[must_use]
    pub fn parent(mut self, parent_id: impl Into<String>, root_id: impl Into<String>) -> Self {
        self.script.info.parent_id = Some(parent_id.into());
        self.script.info.root_id = root_id.into();
        self
    }

    /// Sets the W3C trace context.
    #[must_use]
    pub fn trace_parent(mut self, trace_parent: impl Into<String>) -> Self {
        self.script.info.trace_parent = Some(trace_parent.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.script.info.headers.push((name.into(), value.into()));
        self
    }

    /// Makes `notice` pending once that many heartbeats and progress updates are done; 0 is from the start.
    #[must_use]
    pub fn stop_after(mut self, beats: u64, notice: StopNotice) -> Self {
        self.script.stop = Some((beats, notice));
        self
    }

    /// Ends the attempt by force at the first call after that many heartbeats and progress updates; 0 is the very first.
    #[must_use]
    pub fn terminate_after(mut self, beats: u64) -> Self {
        self.script.terminate_after = Some(beats);
        self
    }

    /// Sets the soft limit, at which a stop notice becomes pending.
    #[must_use]
    pub fn soft_limit(mut self, limit: Duration) -> Self {
        self.script.soft = Some(limit);
        self
    }

    /// Sets the hard limit, at which the attempt ends by force.
    #[must_use]
    pub fn hard_limit(mut self, limit: Duration) -> Self {
        self.script.hard = Some(limit);
        self
    }

    /// Lets that much time pass in each heartbeat and progress update.
    #[must_use]
    pub fn beat_takes(mut self, duration: Duration) -> Self {
        self.script.beat_takes = duration;
        self
    }

    /// The most that a lease can be extended to; one hour when not set.
    #[must_use]
    pub fn max_lease(mut self, max: Duration) -> Self {
        self.script.max_lease = max;
        self
    }

    /// Puts a value there that an earlier attempt saved as JSON.
    ///
    /// # Panics
    /// When serde cannot write it.
    #[must_use]
    pub fn checkpoint<T: Serialize + ?Sized>(self, state: &T) -> Self {
        let bytes = serde_json::to_vec(state).expect("a checkpoint that JSON can hold");
        self.checkpoint_bytes(bytes)
    }

    /// Puts bytes there that an earlier attempt saved.
    #[must_use]
    pub fn checkpoint_bytes(mut self, state: Vec<u8>) -> Self {
        self.script.checkpoint = Some(state);
        self
    }

    /// Lets every call that needs the broker or a store answer `unavailable`.
    #[must_use]
    pub fn unavailable(mut self) -> Self {
        self.script.unavailable = true;
        self
    }

    /// Lets the task enqueue others: one name, or a beginning and `*`. Nothing is granted that no method here names.
    #[must_use]
    pub fn allow_children(mut self, pattern: impl Into<String>) -> Self {
        self.script.granted.children.push(pattern.into());
        self
    }

    /// Lets the task read and write a bucket.
    #[must_use]
    pub fn bucket(mut self, bucket: impl Into<String>) -> Self {
        self.script.granted.buckets.insert(bucket.into(), true);
        self
    }

    /// Lets the task read a bucket and not write it, whatever was said before.
    #[must_use]
    pub fn bucket_read_only(mut self, bucket: impl Into<String>) -> Self {
        self.script.granted.buckets.insert(bucket.into(), false);
        self
    }

    /// Puts a value into a bucket, as JSON. The bucket is for reading and writing unless it was named before.
    ///
    /// # Panics
    /// When serde cannot write it.
    #[must_use]
    pub fn value<T: Serialize + ?Sized>(
        mut self,
        bucket: impl Into<String>,
        key: impl Into<String>,
        value: &T,
    ) -> Self {
        let value = serde_json::to_vec(value).expect("a value that JSON can hold");
        let bucket = bucket.into();
        self.script.granted.buckets.entry(bucket.clone()).or_insert(true);
        self.script.granted.values.insert((bucket, key.into()), value);
        self
    }

    /// Grants a setting, with a value or without one.
    #[must_use]
    pub fn config<'a>(mut self, key: impl Into<String>, value: impl Into<Option<&'a str>>) -> Self {
        self.script.granted.settings.insert(key.into(), value.into().map(str::to_owned));
        self
    }

    /// Grants a secret by its placeholder, which is `stem-secret-` and the name here.
    #[must_use]
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        self.script.granted.secrets.entry(name.into()).or_default();
        self
    }

    /// Grants a secret to be revealed, and by its placeholder.
    #[must_use]
    pub fn revealed_secret(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.script.granted.secrets.insert(name.into(), Some(value.into()));
        self
    }

    /// Keeps log lines of this level and above; all of them when not set.
    #[must_use]
    pub fn log_level(mut self, level: Level) -> Self {
        self.script.log_level = level;
        self
    }

    /// Runs one attempt of `task`. The host can be cloned before to run another.
    ///
    /// # Panics
    /// When the task does.
    pub fn run<A: Input, O: Output>(
        self,
        task: impl FnOnce(&Context, A) -> Result<O, TaskError>,
    ) -> Run {
        let attempt = Rc::new(TestAttempt::new(self.script));
        let context = Context::new(attempt.clone());
        let payload = self.payload;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            encode(A::from_payload(payload).and_then(|args| task(&context, args)))
        }));
        let end = match ended {
            Ok(Ok(result)) if result.bytes.len() > limits::RESULT_BYTES => {
                End::Failed(TaskError::fatal(
                    RESULT_TOO_LARGE,
                    format!(
                        "{} bytes, over the bound of {}",
                        result.bytes.len(),
                        limits::RESULT_BYTES
                    ),
                ))
            }
            Ok(Ok(result)) => End::Returned(result),
            Ok(Err(failure)) => End::Failed(failure),
            Err(panic) if panic.is::<Ended>() => End::Terminated,
            Err(panic) => resume_unwind(panic),
        };
        attempt.into_run(end)
    }
}
