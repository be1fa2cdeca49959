//! Processes of a run as children, which are killed, frozen and started again; and their histories, followed.

#![expect(clippy::unwrap_used, reason = "a run says by panicking what it did not expect")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::history::{Event, Journal, Line, WORKER_OUT_OF_MEMORY};

/// The longest that any single wait in a run may take.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// What a worker still gets that gets no more memory. Less than one of its tasks asks for at once, see
/// [`role::worker`](crate::role::worker), and enough for what a process needs that has nothing new to do.
const LEFT: u64 = 16 << 20;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// [`role::worker`](crate::role::worker).
    Worker,
    /// [`role::producer`](crate::role::producer).
    Producer,
}

impl Program {
    fn role(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Producer => "producer",
        }
    }
}

/// The program of this crate, which is every process of a run: this one, or the one that was built for these tests.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let mut places = this.ancestors().skip(1).take(2).map(|place| place.join("stem-chaos"));
    let found = places.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("there is no stem-chaos beside {}", this.display()))
}

/// One process after another under one name. Killed when dropped; ends by itself when ours ends.
#[derive(Debug)]
pub struct Process {
    program: Program,
    name: String,
    args: Vec<String>,
    directory: PathBuf,
    journal: Arc<Journal>,
    life: u32,
    child: Child,
    /// Its present life has been without memory, and may die of that even now.
    starved: bool,
}

impl Process {
    /// Begins its first life.
    pub fn start(
        program: Program,
        name: &str,
        args: Vec<String>,
        directory: &Path,
        journal: &Arc<Journal>,
    ) -> Self {
        let child = spawn(program, name, 1, &args, directory);
        let (directory, journal) = (directory.to_owned(), Arc::clone(journal));
        let name = name.to_owned();
        Self { program, name, args, directory, journal, life: 1, child, starved: false }
    }

    /// Its name, the same in all its lives.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the history of its present life.
    pub fn history(&self) -> String {
        format!("{}.{}", self.name, self.life)
    }

    /// Follows what its present life writes down, from the beginning.
    pub fn follow(&self) -> Tail {
        Tail::of(self.directory.join(format!("{}.jsonl", self.history())))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// With SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.journal.write(Event::Killed(self.history()));
    }

    /// Begins its next life. The last one must be over.
    pub fn restart(&mut self) {
        self.life += 1;
        self.starved = false;
        self.child = spawn(self.program, &self.name, self.life, &self.args, &self.directory);
    }

    /// With SIGSTOP; returns when nothing of it runs.
    pub fn freeze(&self) {
        self.journal.write(Event::Frozen(self.history()));
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.child.id());
        until("a process to stop", || fs::read_to_string(&stat).unwrap().contains(") T "));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
        self.journal.write(Event::Thawed(self.history()));
    }

    /// Whether its present life takes deliveries.
    pub fn is_ready(&self) -> bool {
        self.follow().count(|line| line.2 == Event::Ready) > 0
    }

    /// Whether its present life is, or was, without memory.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Lets it have hardly any more memory than it has.
    pub fn starve(&mut self) {
        self.starved = true;
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        // One that has just ended has none.
        let kib = size.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok());
        self.limit(Resource::As, Some(kib.unwrap_or(0_u64) * 1024 + LEFT));
        // It ends by a signal that would leave an image of its memory behind.
        self.limit(Resource::Core, Some(0));
    }

    /// Lets it have memory again.
    pub fn feed(&self) {
        self.limit(Resource::As, None);
    }

    fn limit(&self, what: Resource, current: Option<u64>) {
        let maximum = rustix::process::getrlimit(what).maximum;
        // One that has ended is beyond limits.
        let _ = prlimit(Some(self.pid()), what, Rlimit { current: current.or(maximum), maximum });
    }

    /// Begins its next life if it has died since it got no more memory. Says whether it has.
    pub fn dies_starved(&mut self) -> bool {
        if !self.starved || self.ended().is_none() {
            return false;
        }
        let kind = || WORKER_OUT_OF_MEMORY.to_owned();
        self.journal.write(Event::Fault { kind: kind(), on: true });
        self.restart();
        self.journal.write(Event::Fault { kind: kind(), on: false });
        true
    }

    /// How it ended, if it has: 0 in good order.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Asks it to drain and waits until it has.
    pub fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut code = None;
        until("a worker to drain", || {
            code = self.ended();
            code.is_some()
        });
        assert_eq!(code, Some(0), "{} did not end well:\n{}", self.name, self.log());
    }

    /// The last lines of what all its lives said.
    pub fn log(&self) -> String {
        let path = self.directory.join(format!("{}.log", self.name));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Begins its next life if it ended before it was ready, as whoever supervises it would: a service that refuses what it
    /// is asked for ends a worker that starts. Also if it was without memory. Fails if it ended by itself otherwise.
    #[track_caller]
    pub fn supervise(&mut self) {
        self.dies_starved();
        if self.ended().is_some() && !self.is_ready() {
            self.restart();
        }
        self.must_live();
    }

    /// Fails if it has ended by itself.
    #[track_caller]
    pub fn must_live(&mut self) {
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
    Command::new(self::program())
        .arg(program.role())
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
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    read: u64,
    lines: Vec<Line>,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, read: 0, lines: Vec::new() }
    }

    /// Reads on.
    pub fn look(&mut self) -> &[Line] {
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
    pub fn count(&mut self, meant: impl Fn(&Line) -> bool) -> usize {
        self.look().iter().filter(|line| meant(line)).count()
    }

    /// Waits until the worker takes deliveries.
    pub fn until_ready(&mut self) {
        until("a worker to be ready", || self.count(|line| line.2 == Event::Ready) > 0);
    }
}

/// Waits until it is so, and gives up after [`PATIENCE`].
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK);
    }
}
