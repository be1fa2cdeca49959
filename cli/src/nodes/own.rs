//! What a worker was told of itself by who started it as a node, and what it does about that: its PID file and its log.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use serde_json::{Value, json};
use stem_core::control::WorkerState;
use stem_core::id::{Namespace, WorkerId};
use tokio::sync::watch;

use super::log;
use super::pidfile::{About, PidFile};
use crate::env::{self, Environment, Variable};
use crate::error::CliError;
use crate::identity;
use crate::settings::{Setting, Source};

/// What it was told.
#[derive(Clone, Debug)]
pub struct Own {
    /// The node that it is; also its id, unless it has another.
    pub node: Setting<Option<WorkerId>>,
    /// The node's place in its list.
    pub index: Setting<Option<u32>>,
    /// The machine's name.
    pub host: Setting<String>,
    /// Where it writes down which process it is.
    pub pidfile: Setting<Option<PathBuf>>,
    /// The file that its output goes to, if it does.
    pub logfile: Setting<Option<PathBuf>>,
}

impl Own {
    /// From the flag `--pidfile` and the environment.
    pub fn read(pidfile: Option<PathBuf>, environment: &Environment) -> Result<Self, CliError> {
        let path = |text: &str| Ok(PathBuf::from(text));
        let mut own = Self {
            node: told(environment, env::WORKER_NODE, |text| {
                WorkerId::new(text).map_err(|error| error.to_string())
            })?,
            index: told(environment, env::WORKER_INDEX, |text| {
                let index = text.parse().ok().filter(|index: &u32| *index > 0);
                index.ok_or_else(|| format!("{text:?} is not a whole number from 1"))
            })?,
            host: Setting {
                value: identity::host(environment)?,
                source: match environment.read(env::WORKER_HOST)? {
                    Some(_) => Source::Environment(env::WORKER_HOST.name),
                    None => Source::Default,
                },
            },
            pidfile: told(environment, env::WORKER_PIDFILE, path)?,
            logfile: told(environment, env::WORKER_LOGFILE, path)?,
        };
        if pidfile.is_some() {
            own.pidfile = Setting { value: pidfile, source: Source::Flag("--pidfile") };
        }
        Ok(own)
    }

    /// The same for `worker start --print-config`.
    pub fn rows(&self) -> Vec<(&'static str, Value, Source)> {
        let path = |setting: &Setting<Option<PathBuf>>| {
            (
                json!(setting.value.as_ref().map(|path| path.display().to_string())),
                setting.source.clone(),
            )
        };
        let (pidfile, logfile) = (path(&self.pidfile), path(&self.logfile));
        vec![
            ("node", json!(self.node.value), self.node.source.clone()),
            ("index", json!(self.index.value), self.index.source.clone()),
            ("host", json!(self.host.value), self.host.source.clone()),
            ("pidfile", pidfile.0, pidfile.1),
            ("logfile", logfile.0, logfile.1),
        ]
    }

    /// Writes the PID file, if there is to be one, and listens for SIGHUP if it has one or a log file. On a runtime. The
    /// PID file is removed when what is returned is dropped.
    pub fn take_up(
        &self,
        worker: &WorkerId,
        namespace: &Namespace,
    ) -> Result<Option<Arc<PidFile>>, CliError> {
        // First: who reads the PID file may send one.
        if self.logfile.value.is_some() || self.pidfile.value.is_some() {
            let keep = log::keep(self.logfile.value.clone()).map_err(|error| {
                CliError::failed(
                    format!("SIGHUP cannot be listened to: {error}"),
                    "check the limits of this process (ulimit -a)",
                )
            })?;
            if let Some(keep) = keep {
                tokio::spawn(keep);
            }
        }
        let Some(path) = &self.pidfile.value else { return Ok(None) };
        let about = About {
            node: self.node.value.clone(),
            index: self.index.value,
            host: self.host.value.clone(),
            worker: worker.clone(),
            namespace: namespace.clone(),
        };
        Ok(Some(Arc::new(PidFile::create(path, about)?)))
    }
}

fn told<T>(
    environment: &Environment,
    variable: Variable,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Setting<Option<T>>, CliError> {
    let Some(text) = environment.read(variable)? else { return Ok(Setting::default(None)) };
    let value = read(text).map_err(|problem| {
        CliError::usage(format!("{} cannot be used: {problem}", variable.name), variable.meaning)
    })?;
    Ok(Setting { value: Some(value), source: Source::Environment(variable.name) })
}

/// Writes each state of the worker into its PID file, until the worker or the file is gone.
pub async fn follow(pidfile: Weak<PidFile>, mut states: watch::Receiver<WorkerState>) {
    loop {
        let state = *states.borrow_and_update();
        let Some(pidfile) = pidfile.upgrade().filter(|_| state != WorkerState::Stopped) else {
            return;
        };
        if let Err(error) = pidfile.set_state(state) {
            tracing::warn!(%error, "the PID file cannot be written; it tells an old state");
        }
        drop(pidfile);
        if states.changed().await.is_err() {
            return;
        }
    }
}
