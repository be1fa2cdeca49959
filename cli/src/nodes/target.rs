//! A process that may be signalled: held by a pidfd and proven to be the one that is meant, so that no signal can reach
//! another that got its number.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{self, Identity};

/// A living process.
#[derive(Debug)]
pub struct Target {
    fd: OwnedFd,
}

impl Target {
    /// Takes hold of this very process; `None` if it has ended. The first process of a system and this one are
    /// refused: neither is a node.
    pub fn of(identity: Identity) -> io::Result<Option<Self>> {
        let pid = i32::try_from(identity.pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
        let pid = pid.filter(|pid| *pid != rustix::process::getpid());
        let Some(pid) = pid else {
            return Err(io::Error::other(format!("{identity} is never signalled")));
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // After the opening: the one that has the number now and began when ours did has had it all the time.
        let same = process::see(identity.pid)?.is_some_and(|seen| seen.identity == identity);
        Ok(same.then_some(Self { fd }))
    }

    /// Sends a signal; one that has ended meanwhile gets none, which is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended, or so long; without a bound as long as that takes. Whether it has ended.
    pub fn wait(&self, patience: Option<Duration>) -> io::Result<bool> {
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_very_process_is_signalled() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let identity = process::see(child.id()).unwrap().unwrap().identity;
        // Another start, another boot: another process.
        let later = Identity { start_ticks: identity.start_ticks + 1, ..identity };
        let boot = Identity { boot: uuid::Uuid::nil(), ..identity };
        for other in [later, boot] {
            assert!(Target::of(other).unwrap().is_none(), "{other:?}");
        }
        for pid in [0, 1, std::process::id(), u32::MAX] {
            assert!(Target::of(Identity { pid, ..identity }).is_err(), "{pid}");
        }
        let target = Target::of(identity).unwrap().unwrap();
        assert!(!target.wait(Some(Duration::from_millis(20))).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        target.signal(Signal::KILL).unwrap();
        assert!(target.wait(None).unwrap());
        child.wait().unwrap();
        target.signal(Signal::TERM).unwrap();
        assert!(Target::of(identity).unwrap().is_none());
    }
}
