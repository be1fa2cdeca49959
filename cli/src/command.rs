//! What each command does: one file each, in a folder for its group.

mod audit;
mod completions;
mod config;
mod consent;
mod dlq;
mod health;
mod help;
mod keys;
mod man;
mod module;
mod queue;
mod revokes;
mod task;
mod top;
mod worker;

use std::io::IsTerminal;

use crate::args::{Cli, Command, ServiceArgs};
use crate::audit as ledger;
use crate::env::Environment;
use crate::error::{CliError, Outcome};
use crate::logging;
use crate::settings::{Flags, Settings};

/// What every command is given.
#[derive(Debug)]
struct Context {
    services: ServiceArgs,
    environment: Environment,
}

impl Context {
    /// Resolves settings, this command's own flags included, and starts logging at `level` unless told otherwise.
    fn settings_logging(
        &self,
        level: &str,
        own: impl FnOnce(&mut Flags),
    ) -> Result<Settings, CliError> {
        let settings = self.settings_silent(own)?;
        logging::start(&settings, &self.environment, level);
        Ok(settings)
    }

    /// The same without logging.
    fn settings_silent(&self, own: impl FnOnce(&mut Flags)) -> Result<Settings, CliError> {
        let mut flags = Flags {
            config: self.services.config.clone(),
            broker: self.services.broker.clone(),
            backend: self.services.backend.clone(),
            revoke_store: self.services.revoke_store.clone(),
            module_store: self.services.module_store.clone(),
            ..Flags::default()
        };
        own(&mut flags);
        Settings::load(&flags, &self.environment)
    }

    /// The same for a command whose logs are of interest only when something is wrong.
    fn settings(&self, own: impl FnOnce(&mut Flags)) -> Result<Settings, CliError> {
        self.settings_logging("warn", own)
    }

    /// The same for a command that draws on the whole terminal: logs only where standard error is something else.
    fn settings_on_screen(&self, own: impl FnOnce(&mut Flags)) -> Result<Settings, CliError> {
        if std::io::stderr().is_terminal() { self.settings_silent(own) } else { self.settings(own) }
    }

    /// Whether standard error may be coloured and drawn upon.
    fn lively(&self) -> bool {
        logging::lively_stderr(&self.environment)
    }
}

/// Does what the command line says.
pub fn run(cli: Cli) -> Outcome {
    let context = Context { services: cli.services, environment: Environment::of_process() };
    let Some(act) = ledger::of(&cli.command) else { return obey(&context, cli.command) };
    let namespace = act.namespace.clone();
    let settings = context.settings_silent(|flags| flags.namespace = namespace)?;
    ledger::around(&settings, act, || obey(&context, cli.command))
}

fn obey(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Completions { shell } => completions::run(shell),
        Command::Man { dir } => man::run(dir.as_deref()),
        Command::Help { topic } => help::run(&topic),
        Command::Top(args) => with_runtime(top::run(context, args)),
        Command::Worker(command) => worker::run(context, command),
        Command::Revokes(command) => with_runtime(revokes::run(context, command)),
        Command::Task(command) => with_runtime(task::run(context, command)),
        Command::Module(command) => with_runtime(module::run(context, command)),
        Command::Dlq(command) => with_runtime(dlq::run(context, command)),
        Command::Queue(command) => with_runtime(queue::run(context, command)),
        Command::Keys(command) => keys::run(context, command),
        Command::Audit(args) => audit::run(context, &args),
        Command::Config(command) => config::run(context, command),
        Command::Health(json) => with_runtime(health::run(context, json)),
    }
}

/// Two threads or more: leases are renewed and commands answered on them; guests have threads of their own.
fn with_runtime(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4)),
        )
        .thread_name("stem-main")
        .enable_all()
        .build()
        .map_err(|error| {
            CliError::failed(
                format!("threads cannot be started: {error}"),
                "check the limits of this process (ulimit -a)",
            )
        })?;
    let outcome = runtime.block_on(work);
    // What was promised is done; nothing left is worth waiting for.
    runtime.shutdown_background();
    outcome
}
