//! [`Auditor`]: what a worker notes. Nothing waits for it: a thread writes, and what it cannot write is counted, said, and
//! noted in the log itself once that can be written again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use stem_core::time::{Clock, Timestamp};

use super::{AuditFile, Entry, Side, Verdict};

/// Entries that wait for the thread.
const WAITING: usize = 1_024;
/// Entries that are written at once.
const AT_ONCE: usize = 256;
/// Between two tries where the log cannot be written, and after which what was left out is noted.
const PAUSE: Duration = Duration::from_secs(1);
/// Refusals that are noted however fast they come.
const BURST: u64 = 100;
/// One more refusal is noted after so long: who has no key must not be able to fill the log with them, and push out of it
/// what was done with one. This is 8,640 a day, some 4 MB.
const EVERY: Duration = Duration::from_secs(10);

/// Writes what a worker obeys and refuses.
#[derive(Debug)]
pub struct Auditor {
    path: PathBuf,
    by: String,
    clock: Arc<dyn Clock>,
    told: Arc<Told>,
    sender: Mutex<Option<SyncSender<Entry>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What both sides know.
#[derive(Debug, Default)]
struct Told {
    /// Entries that were not written and never will be.
    lost: AtomicU64,
    problem: Mutex<Option<String>>,
    refusals: Mutex<Refusals>,
    /// Nothing is tried again any more.
    closing: AtomicBool,
}

/// How many refusals may be noted.
#[derive(Debug, Default)]
struct Refusals {
    /// Of the burst, used.
    used: u64,
    /// When that was reckoned.
    at: Option<Timestamp>,
    left_out: u64,
}

impl Refusals {
    /// Whether one may be noted now, by a clock that does not step; then how many were left out since the last.
    fn may(&mut self, now: Timestamp) -> Option<u64> {
        let since = self.at.map_or(Duration::ZERO, |at| now.since(at));
        let regained = u64::try_from(since.as_millis() / EVERY.as_millis()).unwrap_or(u64::MAX);
        if self.at.is_none() || regained > 0 {
            (self.used, self.at) = (self.used.saturating_sub(regained), Some(now));
        }
        if self.used >= BURST {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// It, and those that were left out before it.
fn stands_for(entry: &Entry) -> u64 {
    entry.more.unwrap_or(0).saturating_add(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Auditor {
    /// Starts the thread. `by` is the worker; `clock` gives the times of what the thread notes by itself.
    pub fn start(file: AuditFile, by: &str, clock: Arc<dyn Clock>) -> std::io::Result<Arc<Self>> {
        let (sender, entries) = sync_channel(WAITING);
        let (path, told) = (file.path().to_owned(), Arc::new(Told::default()));
        let writer = Writer {
            file,
            entries,
            told: Arc::clone(&told),
            by: by.to_owned(),
            clock: Arc::clone(&clock),
            waiting: Vec::new(),
            lost_noted: 0,
        };
        let thread =
            std::thread::Builder::new().name("stem-audit".to_owned()).spawn(|| writer.run())?;
        let (sender, thread) = (Mutex::new(Some(sender)), Mutex::new(Some(thread)));
        Ok(Arc::new(Self { path, by: by.to_owned(), clock, told, sender, thread }))
    }

    /// An entry of this worker's, at this moment.
    pub fn entry(&self, verdict: Verdict, what: &str) -> Entry {
        Entry::new(self.clock.now(), Side::Worker, &self.by, verdict, what)
    }

    /// Notes it. Never waits.
    pub fn note(&self, entry: Entry) {
        let (entry, sender) = (entry.bounded(), lock(&self.sender));
        let count = stands_for(&entry);
        if sender.as_ref().is_none_or(|sender| sender.try_send(entry).is_err()) {
            self.told.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Notes a refusal, unless so many came that others stand for it. `now` is by a clock that does not step.
    pub fn note_refused(&self, now: Timestamp, entry: impl FnOnce() -> Entry) {
        let left_out = lock(&self.told.refusals).may(now);
        if let Some(left_out) = left_out {
            self.note(Entry { more: Some(left_out).filter(|left_out| *left_out > 0), ..entry() });
        }
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entries that were not written and never will be.
    pub fn lost(&self) -> u64 {
        self.told.lost.load(Ordering::Relaxed)
    }

    /// Why nothing is written at the moment.
    pub fn problem(&self) -> Option<String> {
        lock(&self.told.problem).clone()
    }

    /// Writes what waits, and ends. Waits for that; what is noted later is lost.
    pub fn close(&self) {
        // While nothing can be written, the channel's end is far behind what lies in it.
        self.told.closing.store(true, Ordering::Release);
        drop(lock(&self.sender).take());
        if let Some(thread) = lock(&self.thread).take() {
            // It does not panic, and there is nobody else to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's part.
struct Writer {
    file: AuditFile,
    entries: Receiver<Entry>,
    told: Arc<Told>,
    by: String,
    clock: Arc<dyn Clock>,
    waiting: Vec<Entry>,
    /// Of those that are lost, noted in the log.
    lost_noted: u64,
}

impl Writer {
    fn run(mut self) {
        let mut is_open = true;
        while is_open {
            // What finds no room here waits in the channel, and what finds none there is lost.
            if self.waiting.len() < AT_ONCE {
                match self.entries.recv_timeout(PAUSE) {
                    Ok(entry) => self.waiting.push(entry),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => is_open = false,
                }
            }
            is_open &= !self.told.closing.load(Ordering::Acquire);
            let room = AT_ONCE.saturating_sub(self.waiting.len());
            self.waiting.extend(self.entries.try_iter().take(room));
            // While others come, one of them says how many it stands for.
            let left_out = if self.waiting.is_empty() { self.left_out() } else { 0 };
            if !self.write(left_out) && is_open {
                std::thread::sleep(PAUSE);
            }
        }
        // At the end one write takes all.
        self.waiting.extend(self.entries.try_iter());
        let left_out = self.left_out();
        if !self.write(left_out) {
            let waiting = self.waiting.iter().map(stands_for).sum::<u64>();
            let lost = self.told.lost.fetch_add(waiting, Ordering::Relaxed);
            let lost = lost + waiting - self.lost_noted;
            tracing::error!(lost, file = %self.file.path().display(), "entries of the audit log are lost");
        }
    }

    fn left_out(&self) -> u64 {
        std::mem::take(&mut lock(&self.told.refusals).left_out)
    }

    fn entry(&self, verdict: Verdict, what: &str, more: u64) -> Entry {
        Entry {
            more: Some(more),
            ..Entry::new(self.clock.now(), Side::Worker, &self.by, verdict, what)
        }
    }

    /// Writes what waits and what is to be said beside it; whether that worked.
    fn write(&mut self, left_out: u64) -> bool {
        let lost = self.told.lost.load(Ordering::Relaxed);
        let mut text = std::mem::take(&mut self.waiting);
        let own = text.len();
        if lost > self.lost_noted {
            let reason =
                Some("the log could not be written, or not as fast as they came".to_owned());
            let lost = self.entry(Verdict::Lost, "audit", lost - self.lost_noted);
            text.push(Entry { reason, ..lost });
        }
        if left_out > 0 {
            let reason = Some("more than are noted one by one".to_owned());
            text.push(Entry { reason, ..self.entry(Verdict::Refused, "more", left_out) });
        }
        if text.is_empty() {
            return true;
        }
        let written = self.file.append(&text);
        let mut problem = lock(&self.told.problem);
        match written {
            Ok(_) => {
                if problem.take().is_some() {
                    tracing::info!(
                        lost = lost - self.lost_noted,
                        "the audit log can be written again"
                    );
                }
                self.lost_noted = lost;
                true
            }
            Err(error) => {
                if problem.as_ref() != Some(&error) {
                    tracing::error!(problem = %error, "what is obeyed and refused is kept for the audit log until it can be written, as far as there is room");
                }
                *problem = Some(error);
                lock(&self.told.refusals).left_out += left_out;
                text.truncate(own);
                self.waiting = text;
                false
            }
        }
    }
}
