//! What the service manager is told that started a worker (systemd's `Type=notify`): ready, reloading, stopping, still
//! alive. Where `NOTIFY_SOCKET` is not set nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;
use stem_core::control::WorkerState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::env::NOTIFY_SOCKET;

/// The shortest time between two signs of life; a manager that asks for more would be flooded.
const SHORTEST: Duration = Duration::from_millis(10);

/// It takes tasks.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Nothing runs any more, and the process ends. Not to be said while it drains: from then on systemd counts
/// `TimeoutStopSec` and kills what takes longer, whoever asked for the drain.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping: nothing runs any more")]);
}

/// Says that the worker drains as soon as it begins to, that it is alive twice in each `WATCHDOG_USEC`, and what has become
/// of a reload. Returns at once where there is no service manager, else when the worker has ended; dropped, it says no more.
///
/// The signs of life come from the threads that renew leases and obey operators, so that a process whose threads are stuck
/// gives none.
pub async fn follow(mut states: watch::Receiver<WorkerState>) {
    if std::env::var_os(NOTIFY_SOCKET.name).is_none() {
        return;
    }
    let every = sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(SHORTEST));
    // A reload is a SIGHUP, which would else end the process.
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => Some(hangups),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be listened to, so that a reload would end this worker");
            None
        }
    };
    let mut drains = false;
    loop {
        tokio::select! {
            changed = states.changed() => {
                let state = *states.borrow_and_update();
                if state == WorkerState::Draining && !std::mem::replace(&mut drains, true) {
                    tell(&[NotifyState::Status("draining: takes nothing new")]);
                }
                if changed.is_err() || state == WorkerState::Stopped {
                    return;
                }
            }
            () = sleep(every) => tell(&[NotifyState::Watchdog]),
            Some(()) = hangup(hangups.as_mut()) => reload(*states.borrow()),
        }
    }
}

/// There is nothing to read anew: the log file is opened by whoever keeps it, modules are looked at every second, and
/// settings need a restart. The manager waits for an answer all the same.
fn reload(state: WorkerState) {
    tracing::info!("reload asked: modules are looked at all the time, and settings need a restart");
    if state == WorkerState::Running
        && let Ok(now) = NotifyState::monotonic_usec_now()
    {
        tell(&[NotifyState::Reloading, now]);
        tell(&[NotifyState::Ready]);
    }
}

async fn sleep(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

async fn hangup(hangups: Option<&mut Signal>) -> Option<()> {
    match hangups {
        Some(hangups) => hangups.recv().await,
        None => std::future::pending().await,
    }
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, "the service manager cannot be told how the worker stands; look at NOTIFY_SOCKET");
    }
}
