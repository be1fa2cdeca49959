//! What processes of a run wrote down: one file for each life of a process, one line for each event.
//!
//! A line is written by one call to a file that is only appended to. So a process that is killed tears its last line at
//! most, and [`read`] leaves that one out. Times are of the monotonic clock, which all processes of a machine share.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use stem_core::backend::{BackendError, ErrorClass};
use stem_core::id::{LeaseToken, RequestId, TaskId};
use stem_core::revoke::Version;
use stem_core::settlement::Settlement;
use stem_core::task::TaskState;
use stem_core::time::Timestamp;

/// How the file of a history ends.
const ENDING: &str = "jsonl";
/// Two looks at the monotonic clock, with one at the wall clock between, are no further apart, or all are taken again.
const CLOSE: Duration = Duration::from_micros(50);

/// The kind of a fault in which a server is killed.
pub const SERVER_KILLED: &str = "server-killed";

/// The kind of a fault in which a worker died since it got no more memory.
pub const WORKER_OUT_OF_MEMORY: &str = "worker-out-of-memory";

/// A moment by the monotonic clock, in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
        Self(seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0))
    }

    /// When the wall clock shows this time.
    pub fn of(wall: Timestamp) -> Self {
        loop {
            let (before, now, after) = (Self::now(), SystemTime::now(), Self::now());
            if after.since(before) < CLOSE {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
                let wall = u128::from(wall.unix_millis().unsigned_abs()) * 1_000_000;
                let moment = (u128::from(before.0) + wall).saturating_sub(now);
                return Self(u64::try_from(moment).unwrap_or(u64::MAX));
            }
        }
    }

    /// The time that has passed since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// So much later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A settlement without its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Move {
    /// Final, with a result.
    Succeed,
    /// Final, among the dead letters.
    Fail,
    /// To be tried again.
    Retry,
    /// Final, by an operator's order.
    Revoke,
    /// Final, too late to start.
    Expire,
    /// Given back.
    Release,
    /// A leftover of a task that is final.
    Discard,
}

impl Move {
    /// The final state that it brings, if it does.
    pub fn state(self) -> Option<TaskState> {
        match self {
            Self::Succeed => Some(TaskState::Succeeded),
            Self::Fail => Some(TaskState::Failed),
            Self::Revoke => Some(TaskState::Revoked),
            Self::Expire => Some(TaskState::Expired),
            Self::Retry | Self::Release | Self::Discard => None,
        }
    }

    /// Whether the broker delivers the task again after it.
    pub fn gives_back(self) -> bool {
        matches!(self, Self::Retry | Self::Release)
    }
}

impl From<&Settlement> for Move {
    fn from(settlement: &Settlement) -> Self {
        match settlement {
            Settlement::Succeed(_) => Self::Succeed,
            Settlement::Fail { .. } => Self::Fail,
            Settlement::Retry { .. } => Self::Retry,
            Settlement::Revoke(_) => Self::Revoke,
            Settlement::Expire => Self::Expire,
            Settlement::Release => Self::Release,
            Settlement::Discard => Self::Discard,
        }
    }
}

/// How a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It returned.
    Returned,
    /// It was dropped at an await.
    Dropped,
}

/// A settlement, or the record of one, that the store has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The task.
    pub task: TaskId,
    /// The token that was shown.
    pub token: LeaseToken,
    /// What was asked for.
    pub by: Move,
    /// When the call began. The store decided between this and the time of the event.
    pub sent: Moment,
}

/// A task under a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// The lease's token.
    pub token: LeaseToken,
}

/// A revocation as a store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The task.
    pub task: TaskId,
    /// The store's.
    pub version: Version,
    /// Whether a running attempt is stopped too.
    pub terminate: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A worker's process begins, and has asked no service anything.
    Boots,
    /// Somebody is about to enqueue these.
    EnqTry(Vec<TaskId>),
    /// The store has acknowledged them.
    EnqOk(Vec<TaskId>),
    /// A worker takes deliveries.
    Ready,
    /// The broker has delivered it.
    Lease {
        /// What.
        held: Held,
        /// When the lease ends.
        until: Moment,
    },
    /// A result backend that is another service has recorded that the attempt of this lease begins.
    Begun(Held),
    /// The broker has renewed the lease.
    Renewed {
        /// What.
        held: Held,
        /// When the lease ends.
        until: Moment,
    },
    /// The broker has refused to renew it.
    RenewStale(Held),
    /// The handler's first line.
    Start(Held),
    /// The handler is gone.
    End {
        /// What.
        held: Held,
        /// How.
        how: Ended,
    },
    /// A settlement that gives a task back is about to be asked for. Its answer may never come.
    GiveBack(Held),
    /// The broker has accepted a settlement.
    SettleOk(Answered),
    /// The broker has refused one.
    SettleStale(Answered),
    /// A result backend that is another service has accepted what a settlement means for the record.
    RecordOk(Answered),
    /// It has refused that.
    RecordStale(Answered),
    /// A handler is about to enqueue children at once.
    WantsChildren(Held),
    /// Its worker says that they are enqueued.
    ChildrenOk(Held),
    /// A guest reads a value, after which it asks to replace it.
    WantsWrite(Held),
    /// The store has made a write.
    WriteOk(Held),
    /// A checkpoint was stored.
    CheckpointOk {
        /// By whom.
        held: Held,
        /// When the call began.
        sent: Moment,
    },
    /// One was refused.
    CheckpointStale(Held),
    /// An operator is about to revoke this.
    RevokeTry(TaskId),
    /// The store has acknowledged it.
    RevokeOk(Revoked),
    /// A worker was told of revocations by a command.
    Told {
        /// Which.
        request: RequestId,
        /// What it says.
        revoked: Vec<Revoked>,
    },
    /// A worker has read revocations from the store, and has not yet taken them in.
    Looked {
        /// When the call began.
        sent: Moment,
        /// It asked for what comes after this.
        after: Version,
        /// Whether there was no more.
        whole: bool,
        /// What there was.
        revoked: Vec<Revoked>,
    },
    /// A worker has taken in everything that it has read before.
    Knows,
    /// A worker was handed a command.
    CtlRecv(RequestId),
    /// A worker's reply to it is stored.
    CtlReply(RequestId),
    /// A service has refused a call: it has no room, or takes no writes.
    Declined,
    /// A server begins to be disturbed, or is well again.
    Fault {
        /// How, for instance [`SERVER_KILLED`].
        kind: String,
        /// Whether it begins.
        on: bool,
    },
    /// A process was killed; by the name of its history.
    Killed(String),
    /// A process was stopped.
    Frozen(String),
    /// It goes on.
    Thawed(String),
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line(pub Moment, pub u32, pub Event);

/// What one life of a process wrote down, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its name and the number of its life, for instance `w1.3`.
    pub process: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// Writes a history.
#[derive(Debug)]
pub struct Journal {
    file: File,
    pid: u32,
}

impl Journal {
    /// Begins or continues the history of `process` in this directory.
    pub fn open(directory: &Path, process: &str) -> io::Result<Self> {
        let path = directory.join(process).with_added_extension(ENDING);
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, pid: std::process::id() })
    }

    /// Writes one event, as of now.
    ///
    /// # Panics
    ///
    /// If it cannot be written: a run without its history shows nothing.
    pub fn write(&self, event: Event) -> Moment {
        let now = Moment::now();
        let mut line =
            serde_json::to_vec(&Line(now, self.pid, event)).expect("events have string keys");
        line.push(b'\n');
        let written = (&self.file).write(&line).expect("a history can be written");
        assert_eq!(written, line.len(), "a line of a history was cut off");
        now
    }

    /// An answer, which is written down if a service refused the call.
    pub fn noted<T>(&self, answer: Result<T, BackendError>) -> Result<T, BackendError> {
        answer.inspect_err(|error| self.note(error))
    }

    /// Writes down that a service refused a call, if this is what the error says.
    pub fn note(&self, error: &BackendError) {
        if error.class() == ErrorClass::Refused {
            self.write(Event::Declined);
        }
    }
}

/// Reads one history. A last line without an end is left out; any other that cannot be read is an error.
pub fn read(path: &Path) -> io::Result<History> {
    let process = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let text = fs::read(path)?;
    let mut lines = Vec::new();
    let mut rest = text.as_slice();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = serde_json::from_slice(&rest[..end]).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })?;
        lines.push(line);
        rest = &rest[end + 1..];
    }
    Ok(History { process: process.unwrap_or_default(), lines })
}

/// Reads every history of a directory whose process has a name that `is_meant`, by name.
pub fn read_all(directory: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<Vec<History>> {
    let mut histories = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
        if path.extension() == Some(OsStr::new(ENDING)) && is_meant(&name) {
            histories.insert(name, read(&path)?);
        }
    }
    Ok(histories.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_out_and_damage_elsewhere_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(directory.path(), "w1.1").expect("a journal");
        journal.write(Event::Ready);
        journal.write(Event::Fault { kind: "why".to_owned(), on: true });
        let path = directory.path().join("w1.1.jsonl");
        let whole = fs::read(&path).expect("written");
        assert_eq!(read(&path).expect("whole").lines.len(), 2);
        fs::write(&path, &whole[..whole.len() - 1]).expect("written");
        let torn = read(&path).expect("torn");
        assert_eq!((torn.process.as_str(), torn.lines.len()), ("w1.1", 1));
        fs::write(&path, &whole[1..]).expect("written");
        assert!(read(&path).is_err());
    }

    #[test]
    fn a_moment_follows_the_wall_clock() {
        let wall = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
            i64::try_from(now).expect("before 9999")
        };
        let (before, now) = (Moment::now(), wall());
        let after = Moment::now();
        let then = Moment::of(Timestamp::from_unix_millis(now + 1_000));
        // The wall clock was read between the two and is cut off to a millisecond; a clock may be slewed a little meanwhile.
        let (second, little) = (Duration::from_secs(1), Duration::from_millis(10));
        assert!(then.after(little) >= before.after(second), "{before:?} {then:?}");
        assert!(then <= after.after(second + little), "{then:?} {after:?}");
    }
}
