//! Ctrl-C and SIGTERM in the middle of the script.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// From now on an interrupt removes this directory and ends the process. Its workers end with it, however it ends: the
/// kernel sees to that (`crate::worker`).
pub(crate) fn clean_up_after(dir: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            let signal = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                }
            });
            eprintln!("\ninterrupted; the workers are killed");
            // Whatever still writes there keeps some of it.
            let _ = std::fs::remove_dir_all(&dir);
            std::process::exit(128 + signal.as_raw_value());
        })
        .context("cannot start a thread")?;
    Ok(())
}
