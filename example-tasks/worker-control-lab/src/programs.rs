//! The programs as child processes: the command line, and the workers.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The longest that any single wait may take. None takes a tenth of it, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The same for the answers to a command that names no timeout. Nobody waits for it unless something is wrong.
const PATIENT: &str = "20s";
/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);
/// A write that takes so long waits for a lock.
const LOCKED: Duration = Duration::from_millis(500);

/// Where everything lies.
#[derive(Debug)]
pub(crate) struct Place {
    /// Current directory of all programs; the database and the logs are in it.
    pub(crate) dir: PathBuf,
    /// The program `stem`.
    pub(crate) stem: PathBuf,
    /// This program.
    pub(crate) lab: PathBuf,
    /// The modules.
    pub(crate) modules: PathBuf,
}

/// What a command printed, on both streams in the order of its writes, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Place {
    /// Nothing of the user's own settings, and nothing left behind.
    fn program(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
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
            .env("STEM_CONTROL_TIMEOUT", PATIENT)
            .env("STEM_BROKER_URL", format!("sqlite://{}", self.dir.join("stem.db").display()));
        command
    }

    /// Runs `stem` with what is written on this line.
    pub(crate) fn stem(&self, line: &str) -> Result<Said> {
        let (mut said, say) = std::io::pipe()?;
        let mut command = self.program(&self.stem);
        command.args(arguments(line)).stdout(say.try_clone()?).stderr(say);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.stem.display()))?;
        // It holds our ends of the pipe, which would never be at its end.
        drop(command);
        let mut text = String::new();
        said.read_to_string(&mut text).with_context(|| format!("stem {line}"))?;
        Ok(Said { code: child.wait()?.code().unwrap_or(-1), text })
    }

    /// The same with `--json`; it must end with this exit code.
    pub(crate) fn json(&self, line: &str, code: i32) -> Result<Value> {
        let mut command = self.program(&self.stem);
        let output = command.args(arguments(line)).arg("--json").output()?;
        ensure!(
            output.status.code() == Some(code),
            "stem {line} --json: {} where exit code {code} was expected\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("stem {line} --json prints no JSON"))
    }

    /// Whether a write to the database gets through.
    fn can_write(&self) -> Result<bool> {
        let mut child = self
            .program(&self.stem)
            .args(["revokes", "prune"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let since = Instant::now();
        let written = loop {
            if let Some(status) = child.try_wait()? {
                break status.success();
            }
            if since.elapsed() > LOCKED {
                break false;
            }
            std::thread::sleep(PAUSE);
        };
        // One that has ended already is only reaped.
        let _ = child.kill();
        child.wait()?;
        Ok(written)
    }
}

/// The words of a line; what is between single quotes is one.
fn arguments(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in line.split('\'').enumerate() {
        let mut pieces = part.split(if at % 2 == 0 { ' ' } else { '\'' });
        let last = words.len() - 1;
        words[last] += pieces.next().unwrap_or_default();
        words.extend(pieces.map(str::to_owned));
    }
    words
}

/// A worker that runs. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker and waits until it is ready. What it logs goes to a file.
    pub(crate) fn start(place: &Place, name: &'static str, queues: &str) -> Result<Self> {
        let log = place.dir.join(format!("{name}.log"));
        let child = place
            .program(&place.lab)
            .args(["worker", name, "--queue", queues])
            .args(["--parent", &std::process::id().to_string(), "--modules"])
            .arg(&place.modules)
            .arg("--cache")
            .arg(place.dir.join("cache"))
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut worker = Self { name, child, log };
        let mut stdout = BufReader::new(worker.child.stdout.take().context("it was asked for")?);
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut ready = String::new();
            // The one line it prints when it is ready; nothing when it ends without a word.
            if stdout.read_line(&mut ready).is_ok_and(|read| read > 0) {
                let _ = line.send(ready);
            }
        });
        if lines.recv_timeout(PATIENCE).is_err() {
            bail!("{name} did not become ready\n{}", worker.last_words());
        }
        Ok(worker)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// Stops its process, at a moment when it does not hold the database's lock: one that did would stop everybody.
    pub(crate) fn freeze(&self, place: &Place) -> Result<()> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            self.signal(Signal::STOP)?;
            if place.can_write()? {
                return Ok(());
            }
            self.thaw()?;
            std::thread::sleep(PAUSE);
        }
        bail!("{} holds the database's lock whenever it is stopped", self.name)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Its exit code, once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        format!("--- {}:\n{}", self.name, lines[lines.len().saturating_sub(10)..].join("\n"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has left already is only reaped. SIGKILL also ends one that is stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
