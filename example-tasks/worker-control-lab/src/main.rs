//! `worker-control-lab`: three workers, and everything an operator can do to them, in one script that checks itself.
//!
//! Without arguments it runs the script; `worker` is one of the workers that the script starts. Nothing here is a test
//! double: workers are processes that embed the engine, and the operator's side is the program `stem`.

mod interrupt;
mod lab;
mod programs;
mod script;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use tempfile::TempDir;

use self::lab::Lab;
use self::programs::Place;

/// Three workers, and everything an operator can do to them.
#[derive(Debug, Parser)]
#[command(name = "worker-control-lab")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the script (the default)
    Run(RunArgs),
    /// Be one of its workers
    #[command(hide = true)]
    Worker(worker::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The program `stem` [default: `STEM_BIN`, else the one beside this program]
    #[arg(long, value_name = "PATH")]
    stem: Option<PathBuf>,
    /// Where `cargo xtask guests` put the modules [default: stem-modules beside this program's folder]
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == worker::COMPILE) {
        return stem_isolate::compile::child_main();
    }
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Worker(args)) => worker::run(args),
        Some(Command::Run(args)) => run(args),
        None => run(cli.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    let this = std::env::current_exe().context("where is this program?")?;
    let folder = this.parent().context("this program lies nowhere")?;
    let stem = args
        .stem
        .or_else(|| std::env::var_os("STEM_BIN").map(PathBuf::from))
        .unwrap_or_else(|| folder.join("stem"));
    ensure!(
        stem.is_file(),
        "{} is not there\nhint: `cargo xtask lab` builds everything; --stem or STEM_BIN names another one",
        stem.display()
    );
    let modules = match args.modules {
        Some(modules) => modules,
        None => {
            folder.parent().context("this program lies in no build folder")?.join("stem-modules")
        }
    };
    for guest in worker::GUESTS {
        let module = modules.join(format!("{guest}/{guest}.wasm"));
        ensure!(
            module.is_file(),
            "{} is not there\nhint: run `cargo xtask guests`",
            module.display()
        );
    }
    let dir = temporary()?;
    interrupt::clean_up_after(dir.path().to_owned())?;
    let mut lab = Lab::new(Place {
        dir: dir.path().to_owned(),
        stem: std::path::absolute(stem)?,
        lab: this,
        modules: std::path::absolute(modules)?,
    });
    script::run(&mut lab).inspect_err(|_| {
        eprintln!("\n{}", lab.last_words());
        eprintln!("hint: database and logs are kept in {}", dir.keep().display());
    })
}

/// A directory for the database and the logs. In memory where that is possible: a disk with much to write makes a commit
/// wait for seconds, and then workers answer late and say so, which is right and not what is shown here.
fn temporary() -> Result<TempDir> {
    let new = || {
        let mut new = tempfile::Builder::new();
        new.prefix("stem-lab-");
        new
    };
    new().tempdir_in("/dev/shm").or_else(|_| new().tempdir()).context("no temporary directory")
}
