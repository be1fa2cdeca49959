//! What every private server has: a directory, a port, processes, and somebody who removes all of it.
//!
//! **Which processes belong to a server** is told by their working directory: it lies in the server's. So the children
//! of a server that was killed are found as well.
//!
//! **The sexton** is a small shell process outside the test's process group. It reads a pipe whose other end only the
//! test process has; when that ends, it kills what belongs to the server and removes the directory. A test process that
//! is killed closes its pipes like one that ends well, so there is one way to clean up. A death signal set on the server
//! would do less: it is tied to the thread that started the server, it is lost to the server's children, of which those
//! of Postgres can be frozen, and it removes no files.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal};

/// Nothing that is waited for here takes longer, also on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Ports that are tried before it is given up: another process may be faster.
pub(crate) const PORTS: usize = 20;

/// Kills what belongs to the server in `$1` and removes the directory. A postmaster that was killed leaves a segment of
/// shared memory, which its lock file names; the system has room for some thousands. Where `data` is a file system of its
/// own, that goes too.
pub(crate) const BURY: &str = r#"
bury() {
    while pids=$(ls -ld /proc/[0-9]*/cwd 2>/dev/null | sed -n "s|.*/proc/\([0-9]*\)/cwd -> $1\(/.*\)\{0,1\}\$|\1|p") && test -n "$pids"; do
        kill -KILL $pids 2>/dev/null
        sleep 0.01
    done
    segment=$(sed -n '7s/^ *[0-9]* *\([0-9]*\) *$/\1/p' "$1/data/postmaster.pid" 2>/dev/null)
    test -z "$segment" || ipcrm -m "$segment" 2>/dev/null
    umount -l "$1/data" 2>/dev/null
    rm -rf "$1"
}
"#;

/// A directory, and somebody who removes it.
#[derive(Debug)]
pub(crate) struct Plot {
    directory: PathBuf,
    sexton: Child,
}

impl Plot {
    /// A new directory, only for its owner.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let directory = directory(name)?;
        let sexton = Command::new("sh")
            .args(["-c", &format!("{BURY}\nread -r _\nbury \"$1\""), "sh"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("failed to start sh")?;
        Ok(Self { directory, sexton })
    }

    /// Where it has a file system of its own, if it has one.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Kills what lives there, removes it, and waits until it is gone.
    fn bury(&mut self) {
        drop(self.sexton.stdin.take());
        // A `Drop` has nobody to tell; the sexton ends by itself in any case.
        let _ = wait_until(|| matches!(self.sexton.try_wait(), Ok(Some(_)) | Err(_)));
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        self.bury();
    }
}

/// A server's directory, its port and, while it runs, its first process.
#[derive(Debug)]
pub(crate) struct Server {
    /// What it is, for messages.
    name: &'static str,
    plot: Plot,
    port: u16,
    running: Mutex<Option<Child>>,
}

impl Server {
    /// A new directory, only for its owner, and a port that was free a moment ago. Nothing runs yet.
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        Ok(Self { name, plot: Plot::new(name)?, port: free_port()?, running: Mutex::new(None) })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.plot.directory
    }

    /// Where it has a file system of its own, if it has one.
    pub(crate) fn disk(&self) -> PathBuf {
        self.plot.disk()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What the server said, of all its lives.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.directory().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Where the output of a process of this server goes.
    pub(crate) fn log_to(&self, command: &mut Command) -> Result<()> {
        let path = self.directory().join("log");
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(())
    }

    /// Starts the first process in the server's directory, and waits until it is ready.
    pub(crate) fn launch(
        &self,
        mut command: Command,
        is_ready: impl Fn(u32) -> bool,
    ) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(running.is_none(), "{} runs already", self.name);
        self.log_to(&mut command)?;
        // Signals that a terminal sends to the test's process group are not for the server.
        command.current_dir(self.directory()).process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to run {}", command.get_program().display()))?;
        // What is broken on purpose is to leave no images of memory behind. One that has ended already leaves none.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = rustix::process::prlimit(Some(Pid::from_child(&child)), Resource::Core, none);
        let ready =
            wait_until(|| is_ready(child.id()) || child.try_wait().is_ok_and(|s| s.is_some()));
        match child.try_wait() {
            Ok(None) if ready => {
                *running = Some(child);
                Ok(())
            }
            Ok(Some(status)) => {
                bail!("{} ended at its start, {status}:\n{}", self.name, self.log())
            }
            _ => {
                *running = Some(child);
                bail!("{} is not ready after {PATIENCE:?}:\n{}", self.name, self.log())
            }
        }
    }

    /// The first process, while it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(Pid::from_child)
    }

    /// Kills every process of the server, and waits until all are gone.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal_until_none(Signal::KILL)?;
        self.reap()
    }

    /// Asks the first process to end, and waits until all are gone.
    pub(crate) fn stop(&self, signal: Signal) -> Result<()> {
        if let Some(pid) = self.pid() {
            rustix::process::kill_process(pid, signal)?;
        }
        self.reap()?;
        let gone = wait_until(|| self.processes().is_empty());
        ensure!(gone, "{} still has processes after {PATIENCE:?}", self.name);
        Ok(())
    }

    /// Stops every process, and waits until none runs. The first process goes first, so that it starts no others.
    pub(crate) fn freeze(&self) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        rustix::process::kill_process(pid, Signal::STOP)?;
        let frozen = wait_until(|| {
            let awake = |pid: &Pid| !is_stopped(*pid);
            let awake: Vec<Pid> = self.processes().into_iter().filter(awake).collect();
            send(&awake, Signal::STOP);
            awake.is_empty()
        });
        ensure!(frozen, "{} is not frozen after {PATIENCE:?}", self.name);
        Ok(())
    }

    /// Lets every process go on.
    pub(crate) fn thaw(&self) {
        send(&self.processes(), Signal::CONT);
    }

    /// Whether its first process runs, or is stopped.
    pub(crate) fn is_running(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn processes(&self) -> Vec<Pid> {
        processes_in(self.directory())
    }

    fn signal_until_none(&self, signal: Signal) -> Result<()> {
        let gone = wait_until(|| {
            let processes = self.processes();
            send(&processes, signal);
            processes.is_empty()
        });
        ensure!(gone, "{} cannot be killed", self.name);
        Ok(())
    }

    /// Waits for the end of the first process.
    fn reap(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = running.as_mut() else { return Ok(()) };
        let over = wait_until(|| matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
        ensure!(over, "{} has not ended after {PATIENCE:?}", self.name);
        *running = None;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.plot.bury();
        let _ = self.reap();
    }
}

/// Makes a server on one port after another until it can listen there.
pub(crate) fn on_a_free_port<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..PORTS {
        match start() {
            Err(error) if is_port_taken(&error.to_string()) => {}
            other => return other,
        }
    }
    start()
}

/// Whether a server's log says that somebody else listens there.
pub(crate) fn is_port_taken(log: &str) -> bool {
    log.contains("Address already in use")
}

/// A new directory with a name of its own. It lies directly under `/tmp` because another user may have to reach it.
pub(crate) fn directory(name: &str) -> Result<PathBuf> {
    let directory = tempfile::Builder::new()
        .prefix(&format!("stem-{name}-"))
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in("/tmp")
        .context("failed to make a directory in /tmp")?;
    Ok(directory.keep())
}

/// A port on which nobody listens now.
///
/// Below the ports that the system gives to outgoing connections. Else a client that tries again and again to reach a
/// killed server could be given the server's port for itself, and even connect to itself; the server could not return.
pub(crate) fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let start = random();
    (0..u64::from(COUNT))
        .filter_map(|n| u16::try_from(start.wrapping_add(n) % u64::from(COUNT)).ok())
        .map(|n| FIRST + n)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("there is no free port on 127.0.0.1")
}

/// Another number each time, also in another process: the seeds of the standard library's hash tables are random.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Looks until it is so; says whether it ever was.
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(LOOK);
    }
}

/// Takes a lock, or gives up.
pub(crate) fn lock(file: &File, attempt: impl Fn(&File) -> bool) -> Result<()> {
    ensure!(wait_until(|| attempt(file)), "failed to take a lock within {PATIENCE:?}");
    Ok(())
}

/// Whether the working directory of a process lies in this one. A process that has ended has none, also while nobody has
/// waited for it.
pub(crate) fn belongs(pid: &str, directory: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
}

/// The processes that belong to a directory.
fn processes_in(directory: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| belongs(name, directory))
        .filter_map(|name| Pid::from_raw(name.parse().ok()?))
        .collect()
}

/// Whether a process does not run: stopped, or ended.
fn is_stopped(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The state follows the name, which stands in brackets and may hold any character.
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    matches!(state, Some('T' | 'Z' | 'X'))
}

fn send(processes: &[Pid], signal: Signal) {
    for pid in processes {
        // One that ended meanwhile needs no signal.
        let _ = rustix::process::kill_process(*pid, signal);
    }
}
