//! A node's start: its command in the background, and the wait until its worker takes tasks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use stem_core::control::WorkerState;
use stem_engine::units;

use super::pidfile::{Found, Record};
use super::roster::{Node, without_secrets};
use super::{log, process, safe};
use crate::env;
use crate::error::CliError;
use crate::exit::Ending;

/// How often a node that starts is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Where programs are looked for when nothing says where.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Everything that a node's start needs.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which node.
    pub node: Node,
    /// Where its output goes.
    pub logfile: PathBuf,
    /// Where it works.
    pub workdir: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What it gets beside the environment of this process.
    pub variables: BTreeMap<String, OsString>,
}

/// A node that did not get ready.
#[derive(Debug)]
pub enum Failure {
    /// It runs already; nothing was done to it.
    Running(Box<Record>, CliError),
    /// It runs and is not ready yet.
    NotReady(Option<u32>, CliError),
    /// It cannot be started, or ended.
    Failed(CliError),
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Failed(error)
    }
}

impl Launch {
    /// Whether it could be started, as far as that can be seen without changing anything: a restart stops nothing
    /// that it cannot start again.
    pub fn check(&self) -> Result<(), CliError> {
        let named = &self.command[0];
        let found = if named.contains('/') {
            is_program(&from(&self.workdir, named))
        } else {
            let own = self.variables.get("PATH").cloned().or_else(|| std::env::var_os("PATH"));
            let path = own.unwrap_or_else(|| PATH.into());
            std::env::split_paths(&path).any(|dir| is_program(&self.workdir.join(dir).join(named)))
        };
        if found {
            return Ok(());
        }
        Err(CliError::usage(
            format!(
                "node {}: {:?} is not a program that can be run",
                self.node.name,
                without_secrets(named)
            ),
            format!(
                "give its path from {}, or put it into a directory of PATH",
                self.workdir.display()
            ),
        ))
    }

    /// Starts it in the background and waits until it takes tasks. What it writes goes to its log.
    pub fn start(&self, patience: Duration) -> Result<Box<Record>, Failure> {
        if let Found::Alive(record, _) = self.node.look()? {
            return Err(self.taken(record));
        }
        safe::directory_of(&self.node.pidfile)?;
        safe::make_directory(&self.workdir)?;
        let output = log::open(&self.logfile)?;
        let written = output.metadata().map_or(0, |about| about.len());
        let refuse = |error: std::io::Error| {
            CliError::failed(
                format!("node {} cannot be started: {error}", self.node.name),
                "check the limits of this user (ulimit -a)",
            )
        };
        let mut command = Command::new(crate::THIS_PROGRAM);
        command.arg(crate::DETACH).args(&self.command);
        self.dress(&mut command);
        // A service manager that waits for this command must not take a node for it.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command.env(env::WORKER_LOGFILE.name, &self.logfile);
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(refuse)?).stderr(output);
        let child = command.spawn().map_err(refuse)?;
        self.watch(child, written, patience)
    }

    /// Becomes the node. Returns only if that is impossible.
    pub fn become_it(&self) -> CliError {
        let ready = safe::directory_of(&self.node.pidfile)
            .and_then(|_| safe::make_directory(&self.workdir));
        if let Err(error) = ready {
            return error;
        }
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        self.dress(&mut command);
        let error = command.exec();
        CliError::usage(
            format!(
                "node {}: {} cannot be run: {error}",
                self.node.name,
                without_secrets(&self.command[0])
            ),
            "check it with `stem worker multi names`",
        )
    }

    fn dress(&self, command: &mut Command) {
        command.current_dir(&self.workdir).envs(&self.variables);
    }

    fn watch(
        &self,
        mut child: Child,
        written: u64,
        patience: Duration,
    ) -> Result<Box<Record>, Failure> {
        let begun = Instant::now();
        let node = &self.node;
        let mut seen = None;
        loop {
            // First whether it ended, then the file: so its last words in the file are seen.
            let ended = match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(How::Known(status)),
                // Where SIGCHLD is ignored the system keeps no status.
                Err(_) => Some(How::Unknown),
            };
            // It may have left the worker to a process of its own, even in a session of its own.
            let handed_over = matches!(ended, Some(How::Known(status)) if status.success());
            let found = match node.look() {
                Ok(found) => found,
                Err(error) if ended.is_none() => {
                    return Err(Failure::NotReady(Some(child.id()), error));
                }
                Err(error) => return Err(error.into()),
            };
            let mut stranger = None;
            let pid = match found {
                Found::Alive(record, _) if handed_over || is_of(&record, &child) => {
                    if record.state == WorkerState::Running {
                        return Ok(record);
                    }
                    Some(record.identity.pid)
                }
                Found::Alive(record, _) if ended.is_some() => return Err(self.taken(record)),
                Found::Alive(record, _) => {
                    stranger = Some(record.identity.pid);
                    None
                }
                _ => None,
            };
            let over = begun.elapsed() >= patience;
            if let (Some(how), None) = (ended, pid) {
                // A worker that was left behind needs a while to write its file, and has gone if that has.
                if over || !handed_over || seen.is_some() {
                    return Err(self.ended(how, written).into());
                }
            }
            seen = seen.or(pid);
            if over {
                let what = match (pid, stranger) {
                    (Some(_), _) => "runs and takes no tasks yet".to_owned(),
                    (None, Some(other)) => format!(
                        "is not known to take tasks (its PID file is held by process {other}, which is not of this start)"
                    ),
                    (None, None) => "has written no PID file".to_owned(),
                };
                return Err(Failure::NotReady(
                    pid.or_else(|| ended.is_none().then(|| child.id())),
                    CliError::failed(
                        format!(
                            "node {} {what} after {}; it is left running{}",
                            node.name,
                            units::write_duration(patience),
                            self.last_words(written)
                        ),
                        "see its log; is broker, result backend or revoke store away (`stem health`)? Is its command a worker?",
                    ),
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn taken(&self, record: Box<Record>) -> Failure {
        let error = CliError::failed(
            format!(
                "node {} runs already, as process {} (since {}); nothing was done to it",
                self.node.name, record.identity.pid, record.since
            ),
            "`stem worker multi restart` starts it anew",
        );
        Failure::Running(record, error)
    }

    fn ended(&self, how: How, written: u64) -> CliError {
        let (code, signal) = match how {
            How::Known(status) => (status.code(), status.signal()),
            How::Unknown => (None, None),
        };
        let how = match (code, signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        };
        // What it means is the worker's to say; a program of others may use the codes in another way.
        let ending = Ending::ALL
            .into_iter()
            .find(|ending| *ending != Ending::Done && code == Some(ending.code().into()));
        CliError::new(
            ending.unwrap_or(Ending::Failed),
            format!(
                "node {} ended before it took tasks, with {how}{}",
                self.node.name,
                self.last_words(written)
            ),
            "mend what its log says; `stem worker multi names` shows its command",
        )
    }

    /// The end of its log, for an error.
    fn last_words(&self, written: u64) -> String {
        let lines = log::tail(&self.logfile, written);
        if lines.is_empty() {
            return format!("; {} has nothing new", self.logfile.display());
        }
        format!("; the end of {}:\n  | {}", self.logfile.display(), lines.join("\n  | "))
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug)]
enum How {
    /// As this says.
    Known(ExitStatus),
    /// Nobody can tell.
    Unknown,
}

/// Whether a worker was started by this child: it is the child, or in its session, which begins with it.
fn is_of(record: &Record, child: &Child) -> bool {
    if record.identity.pid == child.id() {
        return true;
    }
    process::see(record.identity.pid)
        .is_ok_and(|seen| seen.is_some_and(|seen| seen.session == child.id()))
}

/// A path as it will be seen from a directory that need not be there yet.
fn from(dir: &Path, named: &str) -> PathBuf {
    if dir.exists() {
        return dir.join(named);
    }
    Path::new(named).components().fold(dir.to_owned(), |mut path, part| {
        if part == Component::ParentDir {
            path.pop();
        } else {
            path.push(part);
        }
        path
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}
