//! The programs as child processes: the command line, and the workers.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A worker compiles its modules before it is ready; on a slow machine that takes seconds.
const READY: Duration = Duration::from_mins(1);
/// A worker that has nothing in hand leaves at once.
const LEAVE: Duration = Duration::from_secs(20);

/// The command line, with services and files of its own.
pub(crate) struct Stem {
    folder: PathBuf,
    dir: PathBuf,
    pub(crate) database: PathBuf,
}

impl Stem {
    /// The programs lie beside this one, where cargo built all of them.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let this = std::env::current_exe().context("where is this program?")?;
        let folder = this.parent().context("this program lies nowhere")?.to_owned();
        Ok(Self { folder, dir: dir.to_owned(), database: dir.join("stem.db") })
    }

    /// Where cargo built them, beside the modules.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        Ok(self.folder.parent().context("the programs lie in no build folder")?.to_owned())
    }

    /// Nothing of the user's own settings, and nothing left behind.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("STEM_") {
                command.env_remove(variable);
            }
        }
        command
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .env("XDG_STATE_HOME", self.dir.join("state"))
            .env("XDG_CACHE_HOME", self.dir.join("cache"))
            .env("STEM_BROKER_URL", format!("sqlite://{}", self.database.display()));
        command
    }

    /// `stem` with these arguments.
    pub(crate) fn command<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = self.program("stem");
        command.args(arguments);
        command
    }

    /// The example worker with the inline handler.
    pub(crate) fn report_worker(&self) -> Result<Command> {
        let path = self.folder.join("report-worker");
        ensure!(path.is_file(), "{} is not there; run this by cargo xtask demo", path.display());
        Ok(self.program("report-worker"))
    }

    /// Runs `stem` with these arguments and returns what it prints.
    pub(crate) fn run<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        let shown = format!("stem {}", arguments.join(" "));
        let output = self.command(arguments).output();
        let output = output.with_context(|| format!("cannot start {shown}"))?;
        ensure!(
            output.status.success(),
            "{shown}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).with_context(|| format!("{shown} prints no text"))
    }
}

/// A worker that runs. It is killed when it is dropped, unless it was stopped before.
pub(crate) struct Worker {
    pub(crate) name: &'static str,
    /// The line it printed when it was ready.
    pub(crate) ready: String,
    /// From its start until then.
    pub(crate) took: Duration,
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker and waits until it is ready. What it logs goes to a file.
    pub(crate) fn start(name: &'static str, mut command: Command, dir: &Path) -> Result<Self> {
        let started = Instant::now();
        let log = dir.join(format!("{name}.log"));
        let child = command
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut worker = Self { name, ready: String::new(), took: Duration::ZERO, child, log };
        let stdout = worker.child.stdout.take().context("it was asked for")?;
        let (line, lines) = mpsc::channel();
        // Reads on to the end, so that the worker never finds its pipe full or closed.
        std::thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Only the first line is waited for.
                let _ = line.send(text);
            }
        });
        match lines.recv_timeout(READY) {
            Ok(ready) => worker.ready = ready,
            Err(_) => bail!("{name} did not become ready\n{}", worker.last_words()),
        }
        worker.took = started.elapsed();
        Ok(worker)
    }

    /// Sends SIGTERM, and says how long the worker took to leave.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        let started = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .with_context(|| format!("{} was gone already\n{}", self.name, self.last_words()))?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(
                    status.success(),
                    "{} ended with {status}\n{}",
                    self.name,
                    self.last_words()
                );
                return Ok(started.elapsed());
            }
            ensure!(
                started.elapsed() < LEAVE,
                "{} does not leave\n{}",
                self.name,
                self.last_words()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has left already is only reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
