//! A task's view of its own attempt.

use std::cell::OnceCell;
use std::fmt::{self, Display};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use stem_host_abi::limits;

use crate::checkpoint::Checkpoint;
use crate::children::{Children, Release};
use crate::error::{HostError, StopNotice, TaskError};
use crate::host::{Here, Host, TaskInfo};
use crate::kv::Bucket;
use crate::log::Level;
use crate::progress::Progress;
use crate::secrets::Secrets;

/// The attempt now running: facts about it, and the calls by which it says that it lives and learns that it should stop.
///
/// No call returns once the attempt is to end by force (terminate, hard time limit, lost lease): the guest ends there,
/// without running destructors.
pub struct Context {
    host: Rc<Here>,
    // Asked for at the first use, so that a task which never looks makes no host call for it.
    info: OnceCell<TaskInfo>,
}

/// Time until the limits of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLeft {
    /// Until a stop notice comes; zero once it has; `None` without a soft limit.
    pub soft: Option<Duration>,
    /// Until the attempt ends by force; `None` without a hard limit.
    pub hard: Option<Duration>,
}

/// Facts. The same throughout an attempt.
impl Context {
    pub(crate) fn new(host: Rc<Here>) -> Self {
        Self { host, info: OnceCell::new() }
    }

    fn info(&self) -> &TaskInfo {
        self.info.get_or_init(|| self.host.info())
    }

    /// The task's id, the same in all of its attempts.
    pub fn task_id(&self) -> &str {
        &self.info().task_id
    }

    /// The name under which the task was enqueued.
    pub fn task_name(&self) -> &str {
        &self.info().task_name
    }

    /// The queue it came from.
    pub fn queue(&self) -> &str {
        &self.info().queue
    }

    /// 1 for the first attempt.
    pub fn attempt(&self) -> u32 {
        self.info().attempt
    }

    /// Attempts allowed in all; `None` when unbounded.
    pub fn max_attempts(&self) -> Option<u32> {
        self.info().max_attempts
    }

    /// When the task was enqueued, by the worker's clock, to the millisecond.
    pub fn enqueued_at(&self) -> SystemTime {
        self.info().enqueued_at
    }

    /// The task that enqueued this one, if a task did.
    pub fn parent_id(&self) -> Option<&str> {
        self.info().parent_id.as_deref()
    }

    /// The first task of the chain; this task's own id when it has no parent.
    pub fn root_id(&self) -> &str {
        &self.info().root_id
    }

    /// The same in every attempt of this task and in no other task. Give it to outside services, so that an effect repeated
    /// by a later attempt takes place once.
    pub fn idempotency_key(&self) -> &str {
        &self.info().idempotency_key
    }

    /// The W3C `traceparent` that came with the task.
    pub fn trace_parent(&self) -> Option<&str> {
        self.info().trace_parent.as_deref()
    }

    /// Name and value pairs from whoever enqueued the task, in their order; a name may occur twice.
    pub fn headers(&self) -> &[(String, String)] {
        &self.info().headers
    }

    /// The first header of this name, compared without regard to ASCII case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Checkpoints. Call one of these in every loop that may run for long.
impl Context {
    /// Says that the attempt makes headway. Does no I/O, so it is fit for inner loops.
    ///
    /// # Errors
    /// Once a stop notice is pending, the failure it stands for, to be passed up with `?`. To tidy up first, use
    /// [`beat`](Self::beat).
    pub fn heartbeat(&self) -> Result<(), TaskError> {
        stopped(self.beat())
    }

    /// Like [`heartbeat`](Self::heartbeat), but hands over the stop notice, again at each call once one is pending.
    pub fn beat(&self) -> Option<StopNotice> {
        self.host.heartbeat()
    }

    /// Publishes how far the attempt is, and counts as a heartbeat. A fraction outside 0.0 to 1.0 is brought inside, one
    /// that is no number counts as unknown; a message over 1,024 bytes is cut. The newest update wins, at most five a second
    /// leave the worker.
    ///
    /// # Errors
    /// As for [`heartbeat`](Self::heartbeat).
    pub fn progress(&self, fraction: f64, message: impl Into<String>) -> Result<(), TaskError> {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(limits::PROGRESS_MESSAGE_BYTES));
        let fraction = (!fraction.is_nan()).then(|| fraction.clamp(0.0, 1.0));
        stopped(self.publish(&Progress { fraction, message: Some(message), data: None })?)
    }

    /// Publishes an update as it is, with data if it has any, and returns the pending stop notice.
    ///
    /// # Errors
    /// [`HostError::TooLarge`] and [`HostError::Invalid`] for an update out of its bounds; nothing is then published.
    pub fn publish(&self, update: &Progress) -> Result<Option<StopNotice>, HostError> {
        self.host.progress(update)
    }

    /// The pending stop notice, without counting as a heartbeat.
    pub fn stop_requested(&self) -> Option<StopNotice> {
        self.host.stop_requested()
    }

    /// Asks for the lease to last at least `by` from now, and returns how long it now lasts, which may be less. Needed
    /// only before a long stretch without any call here.
    ///
    /// # Errors
    /// [`HostError::Unavailable`] when the broker cannot be reached; the present lease stands.
    pub fn extend_lease(&self, by: Duration) -> Result<Duration, HostError> {
        self.host.extend_lease(by)
    }

    /// Waits without using CPU time.
    ///
    /// # Errors
    /// As for [`heartbeat`](Self::heartbeat), as soon as a stop notice is pending.
    pub fn sleep(&self, duration: Duration) -> Result<(), TaskError> {
        match self.host.sleep(duration) {
            Ok(()) => Ok(()),
            Err(HostError::Stopping) => {
                stopped(self.stop_requested())?;
                Err(HostError::Stopping.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Time until the soft and the hard limit.
    pub fn time_left(&self) -> TimeLeft {
        let (soft, hard) = self.host.time_left();
        TimeLeft { soft, hard }
    }

    /// State for the next attempt of this task.
    pub fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint { host: &self.host }
    }
}

/// What the operator grants. Without a grant every call here fails with [`HostError::Denied`], whose text has the line that
/// `stem.toml` lacks.
impl Context {
    /// Enqueues further tasks: at once, or with this attempt's success. Granted by name: `children = ["thumb.*"]`.
    pub fn children(&self) -> Children<'_> {
        Children { host: &self.host, release: Release::Now }
    }

    /// Small values that tasks share. Granted by bucket, to read or to write too: `kv = ["thumbs", "seen:rw"]`.
    pub fn kv<'a>(&'a self, bucket: &'a str) -> Bucket<'a> {
        Bucket { host: &self.host, name: bucket, ttl: None }
    }

    /// A setting of the worker; `None` if it has none of that name. Granted by name: `config = ["SIZE"]`.
    ///
    /// # Errors
    /// [`HostError::Denied`].
    pub fn config(&self, key: &str) -> Result<Option<String>, HostError> {
        self.host.setting(key)
    }

    /// Secrets. Granted by name, to be sent to a host or to be read: `secrets = ["API_KEY@api.example.org"]`.
    pub fn secrets(&self) -> Secrets<'_> {
        Secrets { host: &self.host }
    }
}

/// Logging; the macros [`info!`](crate::info!) and its fellows are more convenient.
impl Context {
    /// Writes one line. At most 4,096 bytes with its fields, 32 fields, 100 lines a second after a burst of 500; what is
    /// beyond is cut or dropped.
    pub fn log(&self, level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
        self.host.log(level, message, &fields);
    }

    /// Whether lines of this level are kept at all.
    pub fn log_enabled(&self, level: Level) -> bool {
        self.host.log_enabled(level)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("info", &self.info.get()).finish_non_exhaustive()
    }
}

fn stopped(notice: Option<StopNotice>) -> Result<(), TaskError> {
    notice.map_or(Ok(()), |notice| Err(notice.into()))
}
