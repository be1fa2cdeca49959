//! Processes that are measured from outside: the `stem` program, and this one in its modes for peers.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A process, killed when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("{} cannot be started", program.display()))?))
    }

    /// A worker in a process of its own on a Redis, as `peer.rs` makes it: an isolate that does nothing.
    pub(crate) fn isolate_worker(
        url: &str,
        concurrency: usize,
        prefetch: usize,
    ) -> anyhow::Result<Self> {
        Self::idle_worker("isolate", url, concurrency, prefetch)
    }

    /// The same of one of the kinds that `peer.rs` has.
    pub(crate) fn idle_worker(
        kind: &str,
        url: &str,
        concurrency: usize,
        prefetch: usize,
    ) -> anyhow::Result<Self> {
        let (many, most) = (concurrency.to_string(), prefetch.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["peer", "worker", kind, &many, &most]).env("REDIS_URL", url);
        Self::start(command.stdout(Stdio::null()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it by SIGTERM, so that it leaves nothing behind.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a child has a number")?, Signal::TERM)?;
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "a worker ended with {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A home of its own for the `stem` program, with one service.
pub(crate) struct Place {
    dir: TempDir,
    url: String,
}

impl Place {
    pub(crate) fn new(url: impl Into<String>) -> anyhow::Result<Self> {
        Ok(Self { dir: tempfile::tempdir()?, url: url.into() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `stem` with these words, and nothing of this process's environment.
    pub(crate) fn stem(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program()?);
        command
            .args(words)
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("STEM_BROKER_URL", &self.url)
            .env("STEM_LOG", "error")
            .current_dir(self.path())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// `stem worker start` with these words more; returns when it has said that it is ready.
    pub(crate) fn worker(&self, words: &[&str]) -> anyhow::Result<Process> {
        let mut command = self.stem(&["worker", "start"])?;
        let mut process = Process::start(command.args(words).stdout(Stdio::piped()))?;
        let mut said = String::new();
        let out = process.0.stdout.take().context("its output is a pipe")?;
        BufReader::new(out).read_line(&mut said)?;
        anyhow::ensure!(said.contains("is ready"), "a worker did not get ready: {said:?}");
        Ok(process)
    }

    /// A directory with so many modules: the Rust example component, each with a byte sequence and so a digest of its own.
    pub(crate) fn modules(&self, count: u32) -> anyhow::Result<PathBuf> {
        let wasm = crate::example("crunch")?;
        let modules = self.path().join("modules");
        for number in 0..count {
            let dir = modules.join(format!("crunch-{number}"));
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join("crunch.wasm"), marked(&wasm, number))?;
            std::fs::write(
                dir.join("stem.toml"),
                format!(
                    "[handlers.crunch-{number}]\nsource = \"file:crunch.wasm\"\nkind = \"component\"\n"
                ),
            )?;
        }
        Ok(modules)
    }
}

/// The same module with a custom section at its end, which changes nothing but its digest.
fn marked(wasm: &[u8], number: u32) -> Vec<u8> {
    const NAME: &[u8] = b"bench";
    let mark = number.to_le_bytes();
    // The section's number, its size, the name's size; each size fits one byte of LEB128.
    let size = u8::try_from(1 + NAME.len() + mark.len()).expect("ten bytes");
    let name = u8::try_from(NAME.len()).expect("five bytes");
    [wasm, &[0, size, name], NAME, &mark].concat()
}

/// The `stem` program of the same build.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("stem");
    anyhow::ensure!(
        path.is_file(),
        "{} is not there; build it first: cargo build --release -p stem-cli",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn marked_modules_are_modules_and_differ() {
        let isolates = crate::attempts::runtime(1, 1).unwrap();
        let wasm = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#).unwrap();
        let first = isolates.load(&marked(&wasm, 1)).await.unwrap();
        let second = isolates.load(&marked(&wasm, 2)).await.unwrap();
        assert_ne!(first.digest(), second.digest());
    }
}
