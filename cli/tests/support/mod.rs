//! A private place for one test, and the program run in it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stem_engine::{Backends, SystemClock};
use stem_sql::{Sqlite, SqliteOptions};
use tempfile::TempDir;

/// A home, a state directory and a working directory of its own.
pub(crate) struct Place {
    dir: TempDir,
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
        Self { dir: tempfile::tempdir().unwrap() }
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_stem"));
        command
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

pub(crate) async fn backends(path: &Path) -> Backends {
    let options = SqliteOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        create: true,
        busy_timeout: Duration::from_secs(5),
    };
    Backends::all_in_one(Sqlite::open(options).await.unwrap())
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
        assert!(self.stderr.lines().any(|line| line.starts_with("error: ")), "{self:#?}");
        assert!(self.stderr.lines().last().unwrap_or_default().starts_with("hint: "), "{self:#?}");
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
    &["revokes", "list"],
    &["revokes", "undo", "--task", "t"],
    &["revokes", "prune"],
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
