//! Which nodes a command means, and where each has its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use etcetera::base_strategy::{BaseStrategy, Xdg};
use stem_core::id::WorkerId;
use stem_core::time::Timestamp;

use super::env_file::{self, EnvFile};
use super::pidfile::{self, Found};
use super::placeholders::Placeholders;
use crate::connect::mask;
use crate::env::{self, Environment, Variable};
use crate::error::CliError;
use crate::identity;

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: WorkerId,
    /// Its place in the list, from 1.
    pub index: u32,
    /// Where its process writes down which one it is.
    pub pidfile: PathBuf,
}

impl Node {
    /// What its PID file tells. A living process that calls itself another node is an error: two lists of nodes give
    /// the same file to different ones, for instance with `%i` in its path.
    pub fn look(&self) -> Result<Found, CliError> {
        let found = pidfile::look(&self.pidfile)?;
        let Found::Alive(record, _) = &found else { return Ok(found) };
        match &record.about.node {
            Some(other) if *other != self.name => Err(CliError::failed(
                format!(
                    "the PID file {} of node {} is held by node {other}, process {}",
                    self.pidfile.display(),
                    self.name,
                    record.identity.pid
                ),
                "put %n into --pidfile, and neither %i nor %d",
            )),
            _ => Ok(found),
        }
    }
}

/// Which kind of file a default is for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `run/NODE.pid`
    Pid,
    /// `log/NODE.log`
    Log,
}

/// The nodes of a command, and what stands for their placeholders.
#[derive(Debug)]
pub struct Roster {
    /// In the order in which they were named; at least one, none twice, no two with the same PID file.
    pub nodes: Vec<Node>,
    /// The machine's name.
    pub host: String,
    /// What the environment file says.
    pub variables: EnvFile,
    time: String,
}

impl Roster {
    /// Reads the environment file and finds the nodes: those named, else those of the environment.
    pub fn new(
        named: &[WorkerId],
        pidfile: Option<&str>,
        env_file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, CliError> {
        let variables = match env_file {
            None => EnvFile::default(),
            Some(path) => env_file::read(path).map_err(|error| error.into_cli(path))?,
        };
        let host = identity::host(&variables.over(environment))?;
        let names = match named {
            [] => of_environment(&variables.over(environment))?,
            named => named.to_vec(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_unix_millis(now.as_millis().try_into().unwrap_or(i64::MAX));
        let time = now.to_string().replace([':', '.'], "-");
        let mut roster = Self { nodes: Vec::new(), host, variables, time };
        let mut owners: BTreeMap<PathBuf, WorkerId> = BTreeMap::new();
        for (index, name) in (1..).zip(names) {
            if roster.nodes.iter().any(|node| node.name == name) {
                return Err(CliError::usage(
                    format!("node {name} is named twice"),
                    "name each node once",
                ));
            }
            let mut node = Node { name, index, pidfile: PathBuf::new() };
            node.pidfile = match pidfile {
                None => default_file(&node, Kind::Pid)?,
                Some(template) => roster.path(&node, "--pidfile", template)?,
            };
            if let Some(other) = owners.insert(node.pidfile.clone(), node.name.clone()) {
                return Err(CliError::usage(
                    format!(
                        "nodes {other} and {} have the same PID file {}",
                        node.name,
                        node.pidfile.display()
                    ),
                    "put %n into --pidfile",
                ));
            }
            roster.nodes.push(node);
        }
        Ok(roster)
    }

    /// What a flag says of a node, its placeholders replaced.
    pub fn expand(&self, node: &Node, what: &str, text: &str) -> Result<String, CliError> {
        let placeholders = Placeholders {
            node: &node.name,
            index: node.index,
            host: &self.host,
            time: &self.time,
        };
        let refuse = |problem: &str| {
            CliError::usage(
                format!("{what} {:?} cannot be used: {problem}", without_secrets(text)),
                "write %n node, %N in upper case, %h host, %i index, %d time, %% a percent sign",
            )
        };
        let expanded = placeholders.expand(text).map_err(|problem| refuse(&problem))?;
        if expanded.contains('\0') { Err(refuse("it has a NUL")) } else { Ok(expanded) }
    }

    /// Where a node's output goes.
    pub fn logfile(&self, node: &Node, template: Option<&str>) -> Result<PathBuf, CliError> {
        match template {
            None => default_file(node, Kind::Log),
            Some(template) => self.path(node, "--logfile", template),
        }
    }

    /// The same for a path, which is below the current directory unless it begins at the root.
    pub fn path(&self, node: &Node, what: &str, template: &str) -> Result<PathBuf, CliError> {
        let path = self.expand(node, what, template)?;
        std::path::absolute(&path).map_err(|error| {
            CliError::usage(format!("{what} {path:?} cannot be used: {error}"), "give a path")
        })
    }
}

impl EnvFile {
    /// An environment in which these variables beat the others.
    pub fn over(&self, environment: &Environment) -> Environment {
        environment.with(self.iter())
    }
}

/// A word of a command as it may be shown: a URL in it, also behind `--flag=`, without its password.
pub fn without_secrets(word: &str) -> String {
    let (flag, value) = match word.split_once('=') {
        Some((flag, value)) if word.starts_with('-') => (Some(flag), value),
        _ => (None, word),
    };
    let value = if value.contains("://") { mask(value) } else { value.to_owned() };
    flag.map_or_else(|| value.clone(), |flag| format!("{flag}={value}"))
}

fn of_environment(environment: &Environment) -> Result<Vec<WorkerId>, CliError> {
    for variable in [env::STEMD_NODES, env::WORKER_NODES] {
        if let Some(text) = environment.read(variable)? {
            return names(variable, text);
        }
    }
    Err(CliError::usage(
        "no node is named",
        format!("name them, or set {}=\"alpha beta\"", env::WORKER_NODES.name),
    ))
}

fn names(variable: Variable, text: &str) -> Result<Vec<WorkerId>, CliError> {
    let refuse = |problem: String| {
        CliError::usage(format!("{} cannot be used: {problem}", variable.name), variable.meaning)
    };
    let names: Result<Vec<_>, _> = text.split_whitespace().map(WorkerId::new).collect();
    match names {
        Ok(names) if names.is_empty() => Err(refuse("it names none".to_owned())),
        Ok(names) => Ok(names),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// Where a node's file is when no flag says so.
fn default_file(node: &Node, kind: Kind) -> Result<PathBuf, CliError> {
    let (system, users, ending, flag) = match kind {
        Kind::Pid => ("/var/run/stem", "run", "pid", "--pidfile"),
        Kind::Log => ("/var/log/stem", "log", "log", "--logfile"),
    };
    let file = format!("{}.{ending}", node.name);
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(system).join(file));
    }
    let state = Xdg::new().ok().and_then(|xdg| xdg.state_dir());
    state.map(|state| state.join("stem").join(users).join(file)).ok_or_else(|| {
        CliError::usage(
            "there is no state directory for the files of nodes: this user has no home",
            format!("set HOME, or give {flag} /path/%n.{ending}"),
        )
    })
}
