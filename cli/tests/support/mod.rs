//! A private place for one test, and the program run in it.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod started;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stem_core::control::{Heartbeat, WorkerState};
use stem_core::id::{Incarnation, Namespace, TaskId, WorkerId};
use stem_core::revoke::RevokeRequest;
use stem_core::time::{Clock, Timestamp};
use stem_engine::{Backends, SystemClock, Worker, WorkerConfig, WorkerError};
use stem_sql::{Sqlite, SqliteOptions};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A home, a state directory and a working directory of its own.
pub(crate) struct Place {
    dir: TempDir,
    around: Option<&'static str>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) bytes: Vec<u8>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), around: None }
    }

    /// Where the program is one with a bug: this shell script, for which `"$0" "$@"` is the real one.
    pub(crate) fn with_planted(around: &'static str) -> Self {
        Self { around: Some(around), ..Self::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The default database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path("state/stem/stem.db")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_stem");
        let mut command = Command::new(if self.around.is_some() { "sh" } else { program });
        command
            .args(self.around.into_iter().flat_map(|around| ["-c", around, program]))
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn stem(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub(crate) fn stem_env(&self, environment: &[(&str, &str)], args: &[&str]) -> Ran {
        Ran::of(self.command(args).envs(environment.iter().copied()).output().unwrap())
    }

    /// Runs it where no file may grow beyond 256 or 512 KiB, and where that is an error and not the end of the process:
    /// a disk that is full for large files only.
    pub(crate) fn stem_with_small_files(&self, environment: &[(&str, &str)], args: &[&str]) -> Ran {
        let program = self.command(args);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg("trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"");
        shell.arg(program.get_program()).args(program.get_args()).env_clear();
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.envs(environment.iter().copied()).current_dir(self.dir.path()).stdin(Stdio::null());
        Ran::of(shell.output().unwrap())
    }

    pub(crate) fn stem_stdin(&self, input: &[u8], args: &[&str]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // A program that refuses early does not read it all.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::of(child.wait_with_output().unwrap())
    }

    /// The services behind the default database, for making states that no command makes.
    pub(crate) async fn backends(&self) -> Backends {
        backends(&self.database()).await
    }
}

/// A worker that is there as far as anyone can see, and answers nothing by itself.
pub(crate) async fn appear(backends: &Backends, worker: &str) {
    let heartbeat = Heartbeat {
        worker: WorkerId::new(worker).unwrap(),
        boot_id: Incarnation(uuid::Uuid::now_v7()),
        namespace: Namespace::new("stem").unwrap(),
        state: WorkerState::Running,
        host: "host".into(),
        pid: 1,
        started_at: SystemClock.now(),
        seen_at: Timestamp::default(),
        interval_ms: 60_000,
        concurrency: 1,
        queues: BTreeMap::new(),
        tasks: Vec::new(),
        inflight: 0,
        oldest_without_progress: None,
    };
    backends.presence.register(&heartbeat).await.unwrap();
}

/// A worker in this process, with the native task `wait`, which goes from checkpoint to checkpoint until it is stopped.
pub(crate) struct Live(JoinHandle<Result<(), WorkerError>>);

impl Live {
    pub(crate) async fn start(backends: Backends, name: &str) -> Self {
        let config = WorkerConfig::new(WorkerId::new(name).unwrap());
        let worker = Worker::builder(backends, config)
            .inline("wait", |context, _: Value| async move {
                loop {
                    context.heartbeat()?;
                    context.progress(0.5, "waiting")?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                #[expect(unreachable_code, reason = "says what type the result would have")]
                Ok(())
            })
            .unwrap()
            .build()
            .unwrap();
        let (ready, wait) = tokio::sync::oneshot::channel();
        let worker = worker.on_ready(|_| ready.send(()).expect("somebody waits"));
        let running = Self(tokio::spawn(worker.run()));
        wait.await.expect("the worker gets ready");
        running
    }
}

/// As if it were killed.
impl Drop for Live {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn backends(path: &Path) -> Backends {
    let options = SqliteOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        create: true,
        busy_timeout: Duration::from_secs(5),
    };
    Backends::all_in_one(Sqlite::open(options).await.unwrap())
}

/// Fills a store so that under [`Place::stem_with_small_files`] it can be opened and read and refuses to write, as long
/// as these backends are kept: its write-ahead log is longer than files may be.
pub(crate) async fn fill(backends: &Backends) {
    let long = RevokeRequest { reason: Some("x".repeat(400)), ..RevokeRequest::default() };
    let filler: Vec<_> = (0..3_000)
        .map(|number| (TaskId::new(format!("f{number}")).unwrap(), long.clone()))
        .collect();
    let namespace = Namespace::new("filler").unwrap();
    backends.revokes.revoke(&namespace, &filler).await.unwrap();
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Standard error names this.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in {self:#?}");
        self
    }

    /// It failed as every failure must: an error, then a hint, and nothing that is not JSON for programs.
    #[track_caller]
    pub(crate) fn complains(self) -> Self {
        let mut lines = self.stderr.lines();
        assert!(lines.any(|line| line.starts_with("error: ")), "no error is told: {self:#?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("hint: "), "no hint is at the end: {self:#?}");
        self
    }

    /// The one document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// One document, or nothing.
    #[track_caller]
    pub(crate) fn json_or_nothing(self) -> Self {
        if !self.stdout.is_empty() {
            self.json();
        }
        self
    }
}

/// A value has these keys and no others; those with a `?` may be absent. After `[]`: each item of a list has.
#[track_caller]
pub(crate) fn assert_keys(value: &Value, keys: &str, what: &str) {
    if let Some(keys) = keys.strip_prefix("[] ") {
        let items = value.as_array().unwrap_or_else(|| panic!("{what}: no list: {value}"));
        return items.iter().for_each(|item| assert_keys(item, keys, what));
    }
    let has = value.as_object().unwrap_or_else(|| panic!("{what}: no object: {value}"));
    let known: Vec<&str> = keys.split_whitespace().map(|key| key.trim_end_matches('?')).collect();
    for key in keys.split_whitespace().filter(|key| !key.ends_with('?')) {
        assert!(has.contains_key(key), "{what}: {key} is missing in {value}");
    }
    for key in has.keys() {
        assert!(known.contains(&key.as_str()), "{what}: {key} is new in {value}");
    }
}

/// A module that writes its own result, and a line to its log.
pub(crate) fn command_module() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{\"ok\":true}")
            (data (i32.const 96) "a line for the log\n")
            (data (i32.const 0) "\40\00\00\00\0b\00\00\00\60\00\00\00\13\00\00\00")
            (func (export "_start")
                (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#,
    )
    .unwrap()
}

/// A module that writes a line to its log and then computes for ever.
pub(crate) fn talking_spin() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 96) "a line for the log\n")
            (data (i32.const 8) "\60\00\00\00\13\00\00\00")
            (func (export "_start")
                (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32)))
                (loop (br 0))))"#,
    )
    .unwrap()
}

/// The digest of some module.
pub(crate) const BUILD: &str =
    "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

/// Every command that needs a service, with arguments that are right.
pub(crate) const WITH_SERVICES: &[&[&str]] = &[
    &["worker", "start"],
    &["worker", "ping"],
    &["worker", "inspect"],
    &["worker", "stats"],
    &["worker", "revoke", "--task", "t"],
    &["worker", "shutdown"],
    &["worker", "pause", "--queue", "q"],
    &["worker", "resume", "--queue", "q"],
    &["worker", "status"],
    &["worker", "revoke", "--module", BUILD],
    &["revokes", "list"],
    &["revokes", "undo", "--task", "t"],
    &["revokes", "undo", "--module", BUILD],
    &["revokes", "prune"],
    &["module", "list"],
    &["module", "show", "job"],
    &["module", "rollback", "job"],
    &["module", "promote", "job"],
    &["module", "canary", "job", "--percent", "5%"],
    &["module", "remove", "job", "1", "--yes"],
    &["task", "enqueue", "x"],
    &["task", "show", "t"],
    &["task", "wait", "t"],
    &["task", "list"],
    &["task", "result", "t"],
    &["dlq", "list"],
    &["dlq", "show", "t"],
    &["dlq", "replay", "t", "--yes"],
    &["dlq", "purge", "t", "--yes"],
    &["queue", "list"],
    &["queue", "purge", "q", "--yes"],
    &["queue", "pause", "q"],
    &["queue", "resume", "q"],
    &["health"],
];
