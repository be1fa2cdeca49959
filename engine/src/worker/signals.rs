//! SIGTERM, SIGINT and SIGQUIT become facts for the lifecycle.

use std::sync::Arc;

use stem_core::machine::lifecycle::{Event, Signal};
use tokio::signal::unix::{SignalKind, signal};

use super::shared::Shared;

/// Listens until dropped. Fails only where signals cannot be listened to at all.
pub(super) fn listen(shared: Arc<Shared>) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        loop {
            let signal = tokio::select! {
                Some(()) = terminate.recv() => Signal::Terminate,
                Some(()) = interrupt.recv() => Signal::Interrupt,
                Some(()) = quit.recv() => Signal::Quit,
                else => return,
            };
            tracing::info!(?signal, "signal received");
            shared.tell(Event::Signalled(signal));
        }
    })
}
