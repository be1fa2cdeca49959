//! `stem worker multi …`: which nodes and what they run, worked out once for all actions.

mod here;
mod names;
mod report;
mod restart;
mod start;
mod status;
mod stop;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::super::Context;
use crate::args::{LaunchArgs, Multi, NodesArgs};
use crate::env;
use crate::error::{CliError, Outcome};
use crate::nodes::launch::Launch;
use crate::nodes::placeholders::has_time;
use crate::nodes::roster::{Node, Roster};

/// On threads of its own: it waits for files and processes, and for no service.
pub(super) fn run(context: &Context, command: Multi) -> Outcome {
    match command {
        Multi::Start(args) => start::run(context, &args),
        Multi::Stop { nodes, timeout } => stop::run(context, &nodes, Some(timeout)),
        Multi::StopWait(nodes) => stop::run(context, &nodes, None),
        Multi::Restart(args) => restart::run(context, &args),
        Multi::Status(nodes) => status::run(context, &nodes),
        Multi::Names { launch } => names::run(context, &launch),
    }
}

fn roster(context: &Context, args: &NodesArgs) -> Result<Roster, CliError> {
    Roster::new(
        &args.nodes,
        args.pidfile.as_deref(),
        args.env_file.as_deref(),
        &context.environment,
    )
}

/// Refuses a PID file whose name has the time in it, where a node is to be found by it: it was another time.
fn findable(args: &NodesArgs) -> Result<(), CliError> {
    if !args.pidfile.as_deref().is_some_and(has_time) {
        return Ok(());
    }
    Err(CliError::usage(
        "--pidfile has %d in it, the time of this command, so no node can be found by it",
        "give the file as `start` told it, or start nodes with %n alone in --pidfile",
    ))
}

/// What each node is to run, and where.
fn launches(context: &Context, args: &LaunchArgs) -> Result<Vec<Launch>, CliError> {
    let roster = roster(context, &args.nodes)?;
    let command = command(context, args, &roster)?;
    let shared = variables(context, args, &roster)?;
    let launch = |node: &Node| {
        let logfile = roster.logfile(node, args.logfile.as_deref())?;
        let workdir = roster.path(node, "--workdir", args.workdir.as_deref().unwrap_or("."))?;
        let words = command.iter().map(|word| roster.expand(node, "the command's word", word));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        let mut variables = shared.clone();
        for (variable, value) in [
            (env::WORKER_NODE, node.name.as_str().into()),
            (env::WORKER_INDEX, node.index.to_string().into()),
            (env::WORKER_HOST, roster.host.clone().into()),
            (env::WORKER_PIDFILE, node.pidfile.clone().into_os_string()),
        ] {
            variables.insert(variable.name.to_owned(), value);
        }
        Ok(Launch { node: node.clone(), logfile, workdir, command: words, variables })
    };
    roster.nodes.iter().map(launch).collect()
}

/// The words of the command, placeholders and all: from the flags, else the environment, else this program.
fn command(context: &Context, args: &LaunchArgs, roster: &Roster) -> Result<Vec<String>, CliError> {
    let environment = roster.variables.over(&context.environment);
    let split = |what: &str, text: &str| match shell_words::split(text) {
        Ok(words) => Ok(words),
        Err(error) => Err(CliError::usage(
            format!("{what} cannot be split into words: {error}"),
            "close every quote",
        )),
    };
    let told = if let Some(line) = &args.command_line {
        Some(split("--command-line", line)?)
    } else if args.command.is_empty() {
        let told = environment.read(env::WORKER_COMMAND)?;
        told.map(|line| split(env::WORKER_COMMAND.name, line)).transpose()?
    } else {
        Some(args.command.clone())
    };
    let config = context.services.config.as_ref();
    let mut words = match (told, config) {
        (Some(words), None) => words,
        (Some(_), Some(_)) => {
            return Err(CliError::usage(
                "--config is for the default command, and another command is given",
                "put --config into that command",
            ));
        }
        (None, config) => {
            let told = args.arguments.iter().any(|word| {
                word.strip_prefix("--config")
                    .is_some_and(|rest| matches!(rest.get(..1), None | Some("=")))
            });
            let config = config.map(PathBuf::as_path).or_else(|| here::settings_file(told));
            own_command(config.map(std::path::absolute).transpose())?
        }
    };
    words.extend(args.arguments.iter().cloned());
    if words.first().is_none_or(String::is_empty) {
        return Err(CliError::usage(
            "the command has no words",
            "give a program and its arguments, for instance 'stem worker start --modules ./modules'",
        ));
    }
    Ok(words)
}

/// This program as a worker.
fn own_command(
    config: std::io::Result<Option<std::path::PathBuf>>,
) -> Result<Vec<String>, CliError> {
    let unknown = |problem: &dyn std::fmt::Display| {
        CliError::failed(
            format!("the default command is not to be had: {problem}"),
            "say what the nodes run with --command-line",
        )
    };
    // Its words may hold placeholders; a path that happens to hold a percent sign does not.
    let word = |path: std::path::PathBuf| match path.into_os_string().into_string() {
        Ok(text) => Ok(text.replace('%', "%%")),
        Err(path) => Err(unknown(&format!("{} is not UTF-8", path.display()))),
    };
    let program = std::env::current_exe().map_err(|error| unknown(&error))?;
    let mut words = vec![word(as_installed(program))?, "worker".to_owned(), "start".to_owned()];
    if let Some(config) = config.map_err(|error| unknown(&error))? {
        words.extend(["--config".to_owned(), word(config)?]);
    }
    Ok(words)
}

/// Where this program is installed. While an upgrade puts another in its place, the system names the one that runs with
/// this ending; whoever is started anew is the new one.
fn as_installed(program: std::path::PathBuf) -> std::path::PathBuf {
    let installed = program.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    match installed {
        Some(installed) if !program.exists() => installed.into(),
        _ => program,
    }
}

/// What all nodes get beside the environment of this process: the file's variables, then what flags say. Services go
/// this way and not by arguments, which everybody on the machine can read.
fn variables(
    context: &Context,
    args: &LaunchArgs,
    roster: &Roster,
) -> Result<BTreeMap<String, OsString>, CliError> {
    let mut variables: BTreeMap<String, OsString> =
        roster.variables.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let queues: Vec<&str> = args.queue.iter().map(stem_core::id::QueueName::as_str).collect();
    let services = &context.services;
    let url = |told: Option<&String>| told.map(|url| here::absolute(url)).transpose();
    for (variable, value) in [
        (env::BROKER_URL, url(services.broker.as_ref())?),
        (env::RESULT_BACKEND_URL, url(services.backend.as_ref())?),
        (env::REVOKE_STORE_URL, url(services.revoke_store.as_ref())?),
        (env::MODULE_STORE_URL, url(services.module_store.as_ref())?),
        (env::WORKER_QUEUES, (!queues.is_empty()).then(|| queues.join(","))),
    ] {
        if let Some(value) = value {
            variables.insert(variable.name.to_owned(), value.into());
        }
    }
    Ok(variables)
}

/// Does something with every node at the same time; the answers are in the order of the nodes.
fn each<Item: Sync, Answer: Send>(
    items: &[Item],
    work: impl Fn(&Item) -> Answer + Sync,
) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, Answer>| match thread.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(end).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_the_one_in_its_place() {
        let gone = |path: &str| as_installed(path.into()).display().to_string();
        assert_eq!(gone("/nowhere/stem (deleted)"), "/nowhere/stem");
        assert_eq!(gone("/nowhere/stem"), "/nowhere/stem");
        let dir = tempfile::tempdir().unwrap();
        let named_so = dir.path().join("stem (deleted)");
        std::fs::write(&named_so, "").unwrap();
        assert_eq!(as_installed(named_so.clone()), named_so);
    }
}
