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

/// Between two notifications of one process, on average.
const GAP: Duration = Duration::from_millis(5);

/// So many after a pause keep no distance: a task that runs at once is claimed and settled within a few milliseconds, and
/// somebody may wait for both.
const BURST: u32 = 4;

/// The same average where only records have changed. Who waits for those is a person or a script; and every notification wakes
/// up the server's side of every process that listens, whatever it listens for.
const RECORDS_GAP: Duration = Duration::from_millis(20);

/// A process that has told nothing for so long may be one that does a single thing and ends.
const QUIET: Duration = Duration::from_millis(20);

/// How long such a process waits until its news is out.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a notification may take; news older than that is no news.
const LIMIT: Duration = Duration::from_secs(2);

/// The commit of a notification need not be on the disk when it is answered.
const NOTIFY: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// Keeps a distance on average.
struct Pace {
    gap: Duration,
    /// When the distances of all that was sent will have been kept.
    kept_at: Option<Instant>,
}

impl Pace {
    fn new(gap: Duration) -> Self {
        Self { gap, kept_at: None }
    }

    /// From when on one more may be sent.
    fn due(&self, now: Instant) -> Instant {
        let due = || self.kept_at?.checked_sub(self.gap * (BURST - 1));
        due().unwrap_or(now).max(now)
    }

    fn sent(&mut self, now: Instant) {
        self.kept_at = Some(self.kept_at.map_or(now, |kept_at| kept_at.max(now)) + self.gap);
    }
}

struct Pending {
    topics: Topics,
    /// Grows with each announcement.
    number: u64,
    last_sent: Option<Instant>,
    /// Nothing more will come; what is pending goes out at once.
    last: bool,
    pace: Pace,
    records_pace: Pace,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            topics: Topics::NONE,
            number: 0,
            last_sent: None,
            last: false,
            pace: Pace::new(GAP),
            records_pace: Pace::new(RECORDS_GAP),
        }
    }
}

impl Pending {
    /// When to send, if there is anything.
    fn due(&self, now: Instant) -> Option<Instant> {
        match self.topics {
            Topics::NONE => None,
            _ if self.last => Some(now),
            Topics::RECORDS => Some(self.records_pace.due(now)),
            _ => Some(self.pace.due(now)),
        }
    }

    /// What is to be sent now, and its number.
    fn take(&mut self, now: Instant) -> (Topics, u64) {
        match self.topics {
            Topics::RECORDS => self.records_pace.sent(now),
            _ => self.pace.sent(now),
        }
        self.last_sent = Some(now);
        (std::mem::take(&mut self.topics), self.number)
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
        let now = Instant::now();
        let (due, last) = {
            let pending = shared.pending();
            (pending.due(now), pending.last)
        };
        match due {
            None if last => return,
            None => shared.some.notified().await,
            Some(due) if due > now => {
                tokio::select! {
                    () = sleep_until(due) => {}
                    // Something more urgent may have come; it stays pending, so losing this wake-up loses nothing.
                    () = shared.some.notified() => {}
                }
            }
            Some(_) => {
                let (topics, number) = shared.pending().take(now);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to send so often, each as soon as it may be.
    fn sending(topics: Topics, count: u32) -> Duration {
        let started = Instant::now();
        let mut pending = Pending::default();
        let mut now = started;
        for _ in 0..count {
            pending.topics = topics;
            now = pending.due(now).unwrap();
            assert_eq!(pending.take(now).0, topics);
            assert_eq!(pending.due(now), None);
        }
        now - started
    }

    #[test]
    fn a_few_notifications_go_out_at_once_and_many_keep_their_distance() {
        for (topics, gap) in [(Topics::WORK, GAP), (Topics::RECORDS, RECORDS_GAP)] {
            assert_eq!(sending(topics, BURST), Duration::ZERO);
            assert_eq!(sending(topics, 100), gap * (100 - BURST));
        }
    }

    #[test]
    fn news_of_work_does_not_wait_for_the_distance_of_records() {
        let mut pending = Pending::default();
        let now = Instant::now();
        for _ in 0..BURST {
            pending.topics = Topics::RECORDS;
            pending.take(now);
        }
        pending.topics = Topics::RECORDS;
        assert_eq!(pending.due(now), Some(now + RECORDS_GAP));
        pending.topics = Topics::TASKS;
        assert_eq!(pending.due(now), Some(now));
        pending.topics = Topics::RECORDS;
        pending.last = true;
        assert_eq!(pending.due(now), Some(now), "nothing waits for the next when there is none");
    }
}
