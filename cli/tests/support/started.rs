//! A real worker process, ready.

use std::io::{BufRead, BufReader};
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use super::Place;

/// Killed when dropped.
pub(crate) struct Started {
    pub(crate) child: Child,
}

impl Started {
    /// `stem worker start` with these words more; returns when it says that it is ready.
    pub(crate) fn new(place: &Place, environment: &[(&str, &str)], words: &[&str]) -> Self {
        let mut command = place.command(&["worker", "start"]);
        let mut child = command
            .args(words)
            .envs(environment.iter().copied())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("ready"), "{said}");
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// As if the machine took it away: the PID file stays.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
