//! Telling other processes of changes: `NOTIFY`, apart from the transactions that change something.
//!
//! A transaction that notifies holds one lock of the whole server while it commits, so that of all transactions that
//! notify only one at a time waits for the disk. Here none of those that matter does: after they are committed, one
//! small transaction says for many of them that there is news, and waits for no disk itself. What is lost that way when
//! a process dies costs a second, after which every waiter looks by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::connections::Connections;
use super::error::Trouble;
use crate::bells::Topics;

/// Between two notifications of one process. The first after a pause is never late.
const GAP: Duration = Duration::from_millis(5);

/// The same where only records have changed. Who waits for those is a person or a script; and every notification wakes
/// up the server's side of every process that listens, whatever it listens for.
const RECORDS_GAP: Duration = Duration::from_millis(50);

/// A process that has told nothing for so long may be one that does a single thing and ends.
const QUIET: Duration = Duration::from_millis(20);

/// How long such a process waits until its news is out.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a notification may take; news older than that is no news.
const LIMIT: Duration = Duration::from_secs(2);

/// The commit of a notification need not be on the disk when it is answered.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

#[derive(Default)]
struct Pending {
    topics: Topics,
    /// Grows with each announcement.
    number: u64,
    last_sent: Option<Instant>,
    /// Nothing more will come; what is pending goes out at once.
    last: bool,
}

impl Pending {
    /// When to send, if there is anything.
    fn due(&self) -> Option<Instant> {
        let gap = match self.topics {
            Topics::NONE => return None,
            _ if self.last => Duration::ZERO,
            Topics::RECORDS => RECORDS_GAP,
            _ => GAP,
        };
        Some(self.last_sent.map_or_else(Instant::now, |last| last + gap))
    }
}

struct Shared {
    pending: Mutex<Pending>,
    some: Notify,
    /// The number of the newest announcement that was sent, or given up.
    sent: watch::Sender<u64>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Announces changes that this process has made.
pub(super) struct Ringer {
    shared: Arc<Shared>,
}

impl Drop for Ringer {
    /// The task ends when what is pending is out.
    fn drop(&mut self) {
        self.shared.pending().last = true;
        self.shared.some.notify_one();
    }
}

impl Ringer {
    /// `origin` marks what this process has sent itself.
    pub(super) fn start(
        runtime: &Handle,
        connections: Arc<Connections>,
        channel: String,
        origin: String,
    ) -> Self {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            some: Notify::new(),
            sent: watch::Sender::new(0),
        });
        runtime.spawn(run(Arc::clone(&shared), connections, channel, origin));
        Self { shared }
    }

    /// Says that these have changed. With `first` it waits until that is out, if the process was quiet before: a busy one
    /// lives long enough.
    pub(super) async fn announce(&self, topics: Topics, first: bool) {
        let (number, quiet) = {
            let mut pending = self.shared.pending();
            pending.topics.0 |= topics.0;
            pending.number += 1;
            (pending.number, pending.last_sent.is_none_or(|last| last.elapsed() > QUIET))
        };
        self.shared.some.notify_one();
        if first && quiet {
            let mut sent = self.shared.sent.subscribe();
            // It is only news; the call has succeeded whatever becomes of this.
            let _ = timeout(PATIENCE, sent.wait_for(|sent| *sent >= number)).await;
        }
    }
}

async fn run(shared: Arc<Shared>, connections: Arc<Connections>, channel: String, origin: String) {
    loop {
        let (due, last) = {
            let pending = shared.pending();
            (pending.due(), pending.last)
        };
        match due {
            None if last => return,
            None => shared.some.notified().await,
            Some(due) if due > Instant::now() => {
                tokio::select! {
                    () = sleep_until(due) => {}
                    // Something more urgent may have come; it stays pending, so losing this wake-up loses nothing.
                    () = shared.some.notified() => {}
                }
            }
            Some(_) => {
                let (topics, number) = {
                    let mut pending = shared.pending();
                    pending.last_sent = Some(Instant::now());
                    (std::mem::take(&mut pending.topics), pending.number)
                };
                let payload = format!("{} {origin}", topics.0);
                match timeout(LIMIT, notify(&connections, &channel, &payload)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(trouble)) => tracing::debug!(?trouble, "a notification was lost"),
                    Err(_) => tracing::debug!("a notification was lost: the server is slow"),
                }
                shared.sent.send_replace(number);
            }
        }
    }
}

async fn notify(
    connections: &Arc<Connections>,
    channel: &str,
    payload: &str,
) -> Result<(), Trouble> {
    let mut lease = connections.lease().await?;
    sqlx::query(NOTIFY).bind(channel).bind(payload).execute(&mut lease.connection).await?;
    lease.give_back();
    Ok(())
}
