//! Which process is meant. A number comes back for another process; a number with its start and the boot it counts from does not.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use uuid::Uuid;

/// One process, once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number, at least 1.
    pub pid: u32,
    /// When it started, in clock ticks since the boot: field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// Which boot that is: `/proc/sys/kernel/random/boot_id`.
    pub boot: Uuid,
}

/// What a living process is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It runs, or waits for something.
    Running,
    /// Somebody stopped it (SIGSTOP, a debugger); it does nothing until it is continued.
    Stopped,
}

impl Condition {
    /// The word used in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// A process that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub identity: Identity,
    /// What it is at.
    pub condition: Condition,
    /// Its session: the number of the process that began it, 0 if that one cannot be seen from here (another PID namespace).
    pub session: u32,
}

/// The process that has this number now; `None` if there is none, or if it has ended and only waits for its parent.
pub fn see(pid: u32) -> io::Result<Option<Seen>> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = match std::fs::read_to_string(&path) {
        Ok(stat) => stat,
        // The second: it ended between opening and reading.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let odd = || io::Error::new(ErrorKind::InvalidData, format!("{} is odd", path.display()));
    let Stat { state, session, start_ticks } = read(&stat).ok_or_else(odd)?;
    let condition = match state {
        'Z' | 'X' | 'x' => return Ok(None),
        'T' | 't' => Condition::Stopped,
        _ => Condition::Running,
    };
    let identity = Identity { pid, start_ticks, boot: boot()? };
    Ok(Some(Seen { identity, condition, session }))
}

/// This process.
pub fn this() -> io::Result<Identity> {
    let seen = see(std::process::id())?;
    // A process that asks has not ended, but /proc may not be mounted.
    seen.map(|seen| seen.identity)
        .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "/proc does not show this process"))
}

/// What is read of a line of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    session: u32,
    start_ticks: u64,
}

/// The name in parentheses may hold anything, parentheses too.
fn read(stat: &str) -> Option<Stat> {
    let (_, after) = stat.rsplit_once(')')?;
    // The state is field 3, the session field 6.
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let session = fields.nth(6 - 4)?.parse().ok()?;
    let start_ticks = fields.nth(22 - 7)?.parse().ok()?;
    Some(Stat { state, session, start_ticks })
}

fn boot() -> io::Result<Uuid> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(|error: uuid::Error| io::Error::new(ErrorKind::InvalidData, error))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) R 1) T 1 7 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 991 1 1";
        assert_eq!(read(stat), Some(Stat { state: 'T', session: 5, start_ticks: 991 }));
        assert_eq!(read("7 (x) S 1 2"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn a_process_is_itself_and_what_ended_is_nobody() {
        let me = this().unwrap();
        assert_eq!(see(std::process::id()).unwrap().unwrap().identity, me);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(see(child.id()).unwrap(), None);
        assert_eq!(see(u32::MAX).unwrap(), None);
    }
}
