//! A private place for one test: its own state directory, its own database, real processes.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest that any single wait in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

/// A worker process. Killed when dropped.
pub(crate) struct Worker {
    child: Child,
    log: Arc<Mutex<String>>,
}

/// What a command printed, and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    fn of(Output { status, stdout, stderr }: Output) -> Self {
        Self {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Where the example tasks' modules are. The tests' own command builds them first.
pub(crate) fn modules() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    let modules = target.join("stem-modules");
    assert!(
        modules.join("spin/spin.wasm").is_file(),
        "the example tasks are not built: run `cargo xtask guests`"
    );
    modules
}

/// How much of something a test does: what the variable says, or what is usual.
pub(crate) fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a whole number"))
}

/// The environment in which broker, records and revocations are this one service.
pub(crate) fn all_on(url: &str) -> [(&'static str, &str); 3] {
    ["STEM_BROKER_URL", "STEM_RESULT_BACKEND_URL", "STEM_REVOKE_STORE_URL"].map(|name| (name, url))
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stem-under-test"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STEM_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            // One for all tests: modules are compiled once.
            .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn stem(&self, args: &[&str]) -> Said {
        self.stem_with(args, &[])
    }

    pub(crate) fn stem_with(&self, args: &[&str], env: &[(&str, &str)]) -> Said {
        Said::of(self.command(args).envs(env.iter().copied()).output().unwrap())
    }

    /// The default database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path("state/stem/stem.db")
    }

    /// Runs the program where no file may grow beyond so many blocks of 512 or 1024 bytes, and where that is an error
    /// and not the end of the process: a disk that is full for large files only.
    pub(crate) fn stem_with_small_files(
        &self,
        blocks: u32,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Said {
        let mut limited = self.limited(&format!("trap '' XFSZ; ulimit -f {blocks}"), args);
        Said::of(limited.envs(env.iter().copied()).output().unwrap())
    }

    /// The program with these arguments, after what a shell does first.
    fn limited(&self, first: &str, args: &[&str]) -> Command {
        let program = self.command(args);
        let mut shell = Command::new("sh");
        let script = format!("{first}; exec \"$0\" \"$@\"");
        shell.arg("-c").arg(script).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.current_dir(self.dir.path()).stdin(Stdio::null());
        shell
    }

    /// Starts a worker on the example tasks and waits until it is ready.
    pub(crate) fn worker(&self, args: &[&str]) -> Worker {
        self.worker_with(args, &[])
    }

    /// As [`Lab::worker`], with these variables in its environment.
    pub(crate) fn worker_with(&self, args: &[&str], env: &[(&str, &str)]) -> Worker {
        let modules = modules();
        let mut all = vec!["worker", "start", "--modules", modules.to_str().unwrap()];
        all.extend(args);
        self.start(&all, env)
    }

    pub(crate) fn worker_from(&self, args: &[&str]) -> Worker {
        self.start(args, &[])
    }

    /// As [`Lab::worker_from`], with these variables in its environment.
    pub(crate) fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Worker {
        Self::spawn(self.command(args).envs(env.iter().copied()))
    }

    /// As [`Lab::start`], where no process may have more than so many files open.
    pub(crate) fn start_with_few_files(
        &self,
        files: u32,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Worker {
        let mut limited = self.limited(&format!("ulimit -n {files}"), args);
        Self::spawn(limited.envs(env.iter().copied()))
    }

    fn spawn(command: &mut Command) -> Worker {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let copy = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                copy.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let worker = Worker { child, log };
        assert!(!ready.is_empty(), "the worker did not get ready:\n{}", worker.log());
        std::thread::spawn(move || {
            let mut rest = String::new();
            let _ = stdout.read_to_string(&mut rest);
        });
        worker
    }

    pub(crate) fn enqueue(&self, name: &str, args: &str, more: &[&str]) -> String {
        let mut all = vec!["task", "enqueue", name, "--json-args", args];
        all.extend(more);
        self.stem(&all).ok().stdout.trim().to_owned()
    }

    pub(crate) fn show(&self, id: &str) -> Value {
        self.stem(&["task", "show", id, "--json"]).ok().json()
    }

    /// Waits until a task's record is as wanted.
    #[track_caller]
    pub(crate) fn until(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let record = self.show(id);
            if wanted(&record) {
                return record;
            }
            assert!(since.elapsed() < PATIENCE, "{id} never became {what}: {record}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until something that can be asked for is as wanted; returns it.
    #[track_caller]
    pub(crate) fn wait_for<T: std::fmt::Debug>(
        &self,
        what: &str,
        look: impl Fn(&Self) -> T,
        wanted: impl Fn(&T) -> bool,
    ) -> T {
        let since = Instant::now();
        loop {
            let seen = look(self);
            if wanted(&seen) {
                return seen;
            }
            assert!(since.elapsed() < PATIENCE, "{what} never came: {seen:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a task's guest has had CPU time: the record says running from the lease on, before any code ran.
    #[track_caller]
    pub(crate) fn until_computing(&self, id: &str) {
        let since = Instant::now();
        loop {
            let said = self.stem(&["worker", "inspect", "--json"]).ok().json();
            let workers = said["replies"].as_array().unwrap().iter();
            let mut active =
                workers.flat_map(|reply| reply["payload"]["active"].as_array().unwrap());
            if active.any(|row| row["id"] == id && row["cpuMs"].as_f64().unwrap_or(0.0) > 0.0) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{id} never computed: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub(crate) fn until_state(&self, id: &str, state: &str) -> Value {
        self.until(id, state, |record| record["state"] == state)
    }
}

impl Worker {
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent =
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// As [`Worker::signal`], also when its process may have ended; nobody else can have its number before it is waited for.
    pub(crate) fn signal_if_there(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok());
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many files its process has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Whether its process is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself; returns its exit code.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(since.elapsed() < PATIENCE, "the worker does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
