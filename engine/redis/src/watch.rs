//! Waiting for one record. Whoever changes it tells the processes that have asked, each on its own channel, and what it
//! says carries the record, so that the end of a task is known without another call. What is lost costs a look some
//! seconds later: every waiter reads the record now and then by itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stem_core::backend::ErrorClass;
use stem_core::backend::result::Until;
use stem_core::id::TaskId;
use stem_core::task::TaskRecord;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::fault::Fault;
use crate::link::Hears;
use crate::read::{self, Fields};
use crate::records::Row;
use crate::{Inner, LOOK_AGAIN, script};

/// How long a waiter trusts that it is told: a connection that breaks is noticed, and everything is looked at again then.
const TRUST: Duration = Duration::from_secs(5);

/// How long the server remembers who asked; asked again with each look.
const REMEMBERED: Duration = Duration::from_secs(15);

/// No wait is longer; whoever wants more asks again.
const LONGEST: Duration = Duration::from_hours(24);

/// What was last said of a record.
#[derive(Clone, Debug, Default)]
enum Told {
    /// That it is to be looked at.
    #[default]
    Look,
    /// What it is, and the how manieth telling this was.
    Record { count: u64, fields: Vec<u8> },
}

/// Those of this process who wait for one record.
#[derive(Debug, Default)]
struct Waiting {
    /// All of them.
    all: usize,
    /// Those who want every change.
    any: usize,
    told: watch::Sender<Told>,
}

/// Who waits in this process, and the name of the channel on which it is told.
#[derive(Debug)]
pub(crate) struct Watches {
    process: String,
    waiting: Mutex<HashMap<TaskId, Waiting>>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { process: Uuid::now_v7().simple().to_string(), waiting: Mutex::default() }
    }
}

impl Watches {
    /// The channel of this process.
    pub(crate) fn channel(&self, prefix: &str) -> String {
        format!("{prefix}tell/{}", self.process)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what a script said: a task, a count, and the fields of its record or nothing. Anything else is not ours.
    pub(crate) fn tell(&self, said: &[u8]) {
        let mut parts = said.splitn(3, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let (Some(task), Some(count)) = (text(), text()) else { return };
        let (Ok(task), Ok(count)) = (TaskId::new(task), count.parse()) else { return };
        let fields = parts.next().unwrap_or_default();
        if let Some(waiting) = self.lock().get(&task) {
            waiting.told.send_replace(match fields {
                [] => Told::Look,
                fields => Told::Record { count, fields: fields.to_vec() },
            });
        }
    }

    /// Makes everybody look: something that was said may have been lost.
    pub(crate) fn look_all(&self) {
        for waiting in self.lock().values() {
            waiting.told.send_replace(Told::Look);
        }
    }

    /// Whether anybody waits, so that a new connection should bring tellings too.
    pub(crate) fn any_watcher(&self) -> bool {
        !self.lock().is_empty()
    }

    fn wait_for(&self, task: &TaskId, any: bool) -> Watcher<'_> {
        let mut all = self.lock();
        let waiting = all.entry(task.clone()).or_default();
        waiting.all += 1;
        waiting.any += usize::from(any);
        let told = waiting.told.subscribe();
        Watcher { watches: self, task: task.clone(), any, told }
    }
}

/// One who waits, until it is dropped.
struct Watcher<'a> {
    watches: &'a Watches,
    task: TaskId,
    any: bool,
    told: watch::Receiver<Told>,
}

impl Watcher<'_> {
    /// What the server should tell this process: as much as anybody here wants.
    fn what(&self) -> &'static str {
        let all = self.watches.lock();
        if all.get(&self.task).is_some_and(|waiting| waiting.any > 0) { "any" } else { "final" }
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        let mut all = self.watches.lock();
        if let Some(waiting) = all.get_mut(&self.task) {
            waiting.all -= 1;
            waiting.any -= usize::from(self.any);
            if waiting.all == 0 {
                all.remove(&self.task);
            }
        }
    }
}

impl Inner {
    /// See [`ResultBackend::watch`](stem_core::backend::ResultBackend::watch).
    pub(crate) async fn watch_record(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, Fault> {
        if wait.is_zero() {
            return self.fetch_record(task).await;
        }
        let over = Instant::now() + wait.min(LONGEST);
        let mut watcher = self.watches.wait_for(task, matches!(until, Until::Other(_)));
        loop {
            // Before the look, so that what is told while it is under way is not taken for known.
            watcher.told.mark_unchanged();
            let (count, record) = match self.look_at(task, watcher.what()).await {
                Ok((count, record)) => (Some(count), record),
                // Who may not write, or not hear, or asks a server that takes no writes now, may still read.
                Err(fault) if fault.class == ErrorClass::Refused => {
                    let record = self.fetch_record(task).await.map_err(|_| fault)?;
                    (None, record)
                }
                Err(fault) => return Err(fault),
            };
            if until.is_met(record.as_ref()) {
                return Ok(record);
            }
            let patience = if count.is_some() { TRUST } else { LOOK_AGAIN };
            let look_again = over.min(Instant::now() + patience);
            while tokio::time::timeout_at(look_again, watcher.told.changed()).await.is_ok() {
                let told = watcher.told.borrow_and_update().clone();
                match told {
                    Told::Look => break,
                    Told::Record { count: told, fields }
                        if count.is_some_and(|count| told > count) =>
                    {
                        let record = Row::told(&fields)?.record(task.clone())?;
                        if until.is_met(Some(&record)) {
                            return Ok(Some(record));
                        }
                    }
                    // Said before the look.
                    Told::Record { .. } => {}
                }
            }
            if Instant::now() >= over {
                return self.fetch_record(task).await;
            }
        }
    }

    /// The record, after which of the tellings, and from now on those that follow.
    async fn look_at(
        &self,
        task: &TaskId,
        what: &'static str,
    ) -> Result<(u64, Option<TaskRecord>), Fault> {
        // The connection may be another than before, on which nothing is told yet.
        self.link.listen(Hears::TELL).await?;
        let mut call = self.call(&script::WATCH);
        call.arg(task.as_str()).arg(&self.watches.process).arg(what).arg(REMEMBERED.as_millis());
        let mut answer = Fields::of(self.run(&script::WATCH, &call).await?)?;
        let count = read::large(answer.next()?)?;
        Ok((count, Row::of(answer.next()?)?.into_record(task)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskId {
        TaskId::new("t").unwrap()
    }

    #[test]
    fn what_is_not_ours_or_not_waited_for_is_passed_over() {
        let watches = Watches::default();
        watches.tell(b"t 1 1:a1:b");
        let watcher = watches.wait_for(&task(), false);
        for said in
            [&b""[..], b"t", b"t x ", b"\xff 1 ", b"/ 1 ", b"other 1 ", b"t 18446744073709551616 "]
        {
            watches.tell(said);
        }
        assert!(!watcher.told.has_changed().unwrap());
        watches.tell(b"t 7 1:a1:b");
        assert!(watcher.told.has_changed().unwrap());
        let told = watcher.told.borrow().clone();
        assert!(matches!(told, Told::Record { count: 7, fields } if fields == b"1:a1:b"));
    }

    #[test]
    fn the_server_is_asked_for_as_much_as_anybody_wants_and_nobody_is_left_behind() {
        let watches = Watches::default();
        let last = watches.wait_for(&task(), false);
        assert_eq!(last.what(), "final");
        let any = watches.wait_for(&task(), true);
        assert_eq!((any.what(), last.what()), ("any", "any"));
        drop(any);
        assert_eq!(last.what(), "final");
        drop(last);
        assert!(watches.lock().is_empty());
    }
}
