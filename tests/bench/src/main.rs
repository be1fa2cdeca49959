//! The benchmark suite: everything in one run, so that ratios hold whatever the machine does.
//!
//! `cargo xtask bench`, or `cargo run --release -p stem-bench` after `cargo build --release -p stem-cli`. Prints a table
//! with each figure beside its goal and the last run that was kept, and writes `target/bench.json` and
//! `target/bench/*.svg`. Figures decide nothing by themselves; the machine is named beside them.
//!
//! | | files |
//! |---|---|
//! | what is asked for, what it came to | [`options`], [`figure`], [`machine`], [`record`], [`table`], [`bars`], [`plot`], [`page`] |
//! | what is measured | a file for each group of [`options::Group`] |
//! | what measuring needs | [`mod@measure`], [`process`], [`services`], [`peer`] |

mod attempts;
mod backlog;
mod bars;
mod endtoend;
mod epoch;
mod figure;
mod growth;
mod idle;
mod kernels;
mod languages;
mod machine;
mod measure;
mod messages;
mod options;
mod page;
mod peer;
mod peers;
mod ping;
mod plot;
mod process;
mod record;
mod replay;
mod revocations;
mod services;
mod start;
mod stopping;
mod suspended;
mod table;
mod terminate;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use figure::{Row, row, spread};
use machine::Machine;
use measure::Cost;
use options::{Group, Options};
use record::Run;
use services::{bench_guest, example, postgres, redis, sqlite, target_dir};

/// As `stem` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::print_stderr, reason = "what this program is for")]
fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A client that does one thing after the other needs one thread, and is spared the hops between several.
    let mut builder = if words == ["peer", "rounds"] {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match words[..] {
            ["peer", ref mode @ ..] => peer::run(mode).await?,
            // What is measured in a process of its own.
            ["child", "hydrate", place] => revocations::hydrate(place).await?,
            ["child", "attempts"] => attempts::ceiling::child().await?,
            ["child", "suspended"] => suspended::child().await?,
            _ => return bench(&Options::parse()).await,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The run that is kept in the repository.
fn kept() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/last.json"))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what this program is for")]
async fn bench(options: &Options) -> anyhow::Result<ExitCode> {
    if options.list {
        println!("{}", Group::list());
        return Ok(ExitCode::SUCCESS);
    }
    // Read first: a name that is wrong is told before minutes have gone.
    let against = options.against.clone().or_else(|| Some(kept()).filter(|path| path.is_file()));
    let last = against.as_deref().map(Run::read).transpose();
    let last = last
        .context("there is no last run to compare with (hint: --against FILE names another one)")?;
    let mut run = Run { machine: Machine::here(), figures: Vec::new() };
    let mut failed = Vec::new();
    for group in options.chosen() {
        let name = group.name();
        eprintln!("measuring {name} …");
        let rows = measure(group, options).await;
        if let Err(error) = rows.and_then(|rows| run.add(&name, rows)) {
            eprintln!("error: {name} cannot be measured: {error:#}");
            failed.push(name);
        }
    }
    run.machine.load_at_end = machine::load();
    print!("\n{}\n\n{}\n", run.machine.lines(), table::render(&run, last.as_ref()));
    let written = target_dir().join("bench.json");
    run.write(&written)?;
    let pictures = target_dir().join("bench");
    run.draw(&pictures)?;
    println!("written to {}, and drawn in {}", written.display(), pictures.display());
    if !failed.is_empty() {
        eprintln!("error: not everything was measured: {}", failed.join(", "));
        eprintln!("hint: what stands above says why; a run with gaps is not kept");
        return Ok(ExitCode::FAILURE);
    }
    if options.save {
        let path = kept();
        run.write(&path).context("the run cannot be kept")?;
        page::write(&run).context("the page cannot be written")?;
        println!("kept as {}, and in {}", path.display(), page::path().display());
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(group: Group, options: &Options) -> anyhow::Result<Vec<Row>> {
    match group {
        Group::Attempts => attempts::run().await,
        Group::Stopping => stopping::run().await,
        Group::Terminate => terminate::run().await,
        Group::Epoch => epoch::run().await,
        Group::Endtoend => endtoend::run().await,
        Group::Revocations => revocations::run().await,
        Group::Start => start::run().await,
        Group::Idle => idle::run().await,
        Group::Ping => ping::run().await,
        Group::Suspended => suspended::run().await,
        Group::Backlog => backlog::run().await,
        Group::Growth => growth::run().await,
        Group::Peers => {
            let folder = options.peers.clone().unwrap_or_else(|| target_dir().join("peers"));
            peers::run(&folder).await
        }
        Group::Replay => replay::run().await,
        Group::Languages => languages::run().await,
    }
}
