//! The processes of a run, and the long run itself. `cargo xtask chaos` starts the latter.

use clap::{Parser, Subcommand};
use stem_chaos::{role, soak};
use tokio::runtime::Builder;

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Works until it is killed or told to drain
    #[command(hide = true)]
    Worker(role::worker::Args),
    /// Enqueues and revokes until it is killed or done
    #[command(hide = true)]
    Producer(role::producer::Args),
    /// Round after round of tasks under every kind of fault, each with servers of its own and a verdict
    Soak(soak::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().role {
        Role::Worker(args) => {
            stem_chaos::end_with_stdin();
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(role::worker::run(args))
        }
        Role::Producer(args) => {
            stem_chaos::end_with_stdin();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(role::producer::run(args))
        }
        Role::Soak(args) => soak::run(&args),
    }
}
