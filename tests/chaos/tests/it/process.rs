//! Programs of this crate as children, which are killed, frozen and started again; and their histories, followed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use stem_chaos::history::{Event, Journal, Line};

/// The longest that any single wait in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Program {
    Worker,
    Producer,
}

impl Program {
    fn path(self) -> &'static str {
        match self {
            Self::Worker => env!("CARGO_BIN_EXE_chaos-worker"),
            Self::Producer => env!("CARGO_BIN_EXE_chaos-producer"),
        }
    }
}

/// One process after another under one name. Killed when dropped; ends by itself when the test's process ends.
pub(crate) struct Process {
    program: Program,
    name: String,
    args: Vec<String>,
    directory: PathBuf,
    journal: Arc<Journal>,
    life: u32,
    child: Child,
}

impl Process {
    pub(crate) fn start(
        program: Program,
        name: &str,
        args: Vec<String>,
        directory: &Path,
        journal: &Arc<Journal>,
    ) -> Self {
        let child = spawn(program, name, 1, &args, directory);
        let (directory, journal) = (directory.to_owned(), Arc::clone(journal));
        Self { program, name: name.to_owned(), args, directory, journal, life: 1, child }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name of the history of its present life.
    pub(crate) fn history(&self) -> String {
        format!("{}.{}", self.name, self.life)
    }

    /// Follows what its present life writes down, from the beginning.
    pub(crate) fn follow(&self) -> Tail {
        Tail::of(self.directory.join(format!("{}.jsonl", self.history())))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.journal.write(Event::Killed(self.history()));
    }

    /// Begins its next life. The last one must be over.
    pub(crate) fn restart(&mut self) {
        self.life += 1;
        self.child = spawn(self.program, &self.name, self.life, &self.args, &self.directory);
    }

    pub(crate) fn freeze(&self) {
        self.journal.write(Event::Frozen(self.history()));
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.child.id());
        until("a process to stop", || fs::read_to_string(&stat).unwrap().contains(") T "));
    }

    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
        self.journal.write(Event::Thawed(self.history()));
    }

    /// How it ended, if it has: 0 in good order.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Asks it to drain and waits until it has.
    pub(crate) fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut code = None;
        until("a worker to drain", || {
            code = self.ended();
            code.is_some()
        });
        assert_eq!(code, Some(0), "{} did not end well:\n{}", self.name, self.log());
    }

    /// The last lines of what all its lives said.
    pub(crate) fn log(&self) -> String {
        let path = self.directory.join(format!("{}.log", self.name));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Fails if it has ended by itself.
    #[track_caller]
    pub(crate) fn must_live(&mut self) {
        let ended = self.ended();
        assert_eq!(ended, None, "{} ended by itself:\n{}", self.history(), self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended needs no kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: Program, name: &str, life: u32, args: &[String], directory: &Path) -> Child {
    let log = directory.join(format!("{name}.log"));
    let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    Command::new(program.path())
        .args(["--name", name, "--life", &life.to_string(), "--directory"])
        .arg(directory)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// What a history has by now, read as it grows.
pub(crate) struct Tail {
    path: PathBuf,
    read: u64,
    pub(crate) lines: Vec<Line>,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, read: 0, lines: Vec::new() }
    }

    /// Reads on.
    pub(crate) fn look(&mut self) -> &[Line] {
        // Before its first line it is not there.
        let Ok(mut file) = File::open(&self.path) else { return &self.lines };
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        file.read_to_end(&mut text).unwrap();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        self.lines.extend(lines.map(|line| serde_json::from_slice::<Line>(line).unwrap()));
        self.read += u64::try_from(whole).unwrap();
        &self.lines
    }

    /// Reads on, and counts.
    pub(crate) fn count(&mut self, meant: impl Fn(&Line) -> bool) -> usize {
        self.look().iter().filter(|line| meant(line)).count()
    }

    /// Waits until the worker takes deliveries.
    pub(crate) fn until_ready(&mut self) {
        until("a worker to be ready", || self.count(|line| line.2 == Event::Ready) > 0);
    }
}

/// Waits until it is so, and gives up after [`PATIENCE`].
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK);
    }
}
