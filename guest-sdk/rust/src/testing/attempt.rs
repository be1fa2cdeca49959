//! The host's side of one attempt in a test.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use stem_host_abi::{limits, stop};

use super::granted::{Granted, Reach};
use super::{End, LogLine, Run};
use crate::host::{Host, TaskInfo};
use crate::{Child, Entry, HostError, Level, Progress, Release, StopNotice, When};

/// What the test asked for.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) info: TaskInfo,
    pub(super) stop: Option<(u64, StopNotice)>,
    pub(super) terminate_after: Option<u64>,
    pub(super) soft: Option<Duration>,
    pub(super) hard: Option<Duration>,
    pub(super) beat_takes: Duration,
    pub(super) max_lease: Duration,
    pub(super) checkpoint: Option<Vec<u8>>,
    pub(super) unavailable: bool,
    pub(super) log_level: Level,
    pub(super) granted: Granted,
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            info: TaskInfo {
                task_id: "test-1".to_owned(),
                task_name: "test".to_owned(),
                queue: "default".to_owned(),
                attempt: 1,
                max_attempts: None,
                enqueued_at: UNIX_EPOCH,
                parent_id: None,
                root_id: "test-1".to_owned(),
                idempotency_key: "test-1".to_owned(),
                trace_parent: None,
                headers: Vec::new(),
            },
            stop: None,
            terminate_after: None,
            soft: None,
            hard: None,
            beat_takes: Duration::ZERO,
            max_lease: Duration::from_hours(1),
            checkpoint: None,
            unavailable: false,
            log_level: Level::Trace,
            granted: Granted::default(),
        }
    }
}

/// Carried by the unwinding that stands for an end by force.
pub(super) struct Ended;

pub(crate) struct TestAttempt {
    script: Script,
    beats: Cell<u64>,
    elapsed: Cell<Duration>,
    progress: RefCell<Vec<Progress>>,
    log: RefCell<Vec<LogLine>>,
    checkpoint: RefCell<Option<Vec<u8>>>,
    reach: Reach,
}

impl TestAttempt {
    pub(super) fn new(script: Script) -> Self {
        let checkpoint = RefCell::new(script.checkpoint.clone());
        let reach = Reach::new(script.granted.clone());
        Self {
            script,
            reach,
            beats: Cell::new(0),
            elapsed: Cell::new(Duration::ZERO),
            progress: RefCell::default(),
            log: RefCell::default(),
            checkpoint,
        }
    }

    pub(super) fn into_run(self: Rc<Self>, end: End) -> Run {
        let mut children = self.reach.children.take();
        if !matches!(end, End::Returned(_)) {
            children.retain(|child| child.release == Release::Now);
        }
        Run {
            end,
            children,
            values: self.reach.values(self.elapsed.get()),
            progress: self.progress.take(),
            log: self.log.take(),
            checkpoint: self.checkpoint.take(),
            beats: self.beats.get(),
            elapsed: self.elapsed.get(),
        }
    }

    /// Every call of the host begins here, as in a worker.
    fn pass_or_end(&self) {
        let terminated = self.script.terminate_after.is_some_and(|beats| self.beats.get() >= beats);
        if terminated || self.is_past(self.script.hard) {
            // Not a panic: no hook runs, nothing is printed.
            resume_unwind(Box::new(Ended));
        }
    }

    fn beat(&self) {
        self.beats.set(self.beats.get() + 1);
        self.elapsed.set(self.elapsed.get().saturating_add(self.script.beat_takes));
    }

    fn is_past(&self, limit: Option<Duration>) -> bool {
        limit.is_some_and(|limit| self.elapsed.get() >= limit)
    }

    fn left(&self, limit: Option<Duration>) -> Option<Duration> {
        limit.map(|limit| limit.saturating_sub(self.elapsed.get()))
    }

    fn pending(&self) -> Option<StopNotice> {
        match &self.script.stop {
            Some((beats, notice)) if self.beats.get() >= *beats => Some(notice.clone()),
            _ if self.is_past(self.script.soft) => {
                let mut notice = StopNotice::new(stop::SOFT_TIME_LIMIT);
                notice.grace = self.left(self.script.hard);
                Some(notice)
            }
            _ => None,
        }
    }

    fn store(&self) -> Result<(), HostError> {
        if self.script.unavailable {
            return Err(HostError::Unavailable("the test host was told to be".to_owned()));
        }
        Ok(())
    }
}

pub(super) fn within(size: usize, bound: usize) -> Result<(), HostError> {
    if size > bound {
        return Err(HostError::TooLarge(bound as u64));
    }
    Ok(())
}

impl Host for TestAttempt {
    fn info(&self) -> TaskInfo {
        self.pass_or_end();
        self.script.info.clone()
    }

    fn heartbeat(&self) -> Option<StopNotice> {
        self.pass_or_end();
        let pending = self.pending();
        self.beat();
        pending
    }

    fn extend_lease(&self, by: Duration) -> Result<Duration, HostError> {
        self.pass_or_end();
        self.store()?;
        Ok(by.min(self.script.max_lease))
    }

    fn progress(&self, update: &Progress) -> Result<Option<StopNotice>, HostError> {
        self.pass_or_end();
        if update.fraction.is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
            return Err(HostError::Invalid("fraction is not within 0.0 to 1.0".to_owned()));
        }
        within(update.message.as_ref().map_or(0, String::len), limits::PROGRESS_MESSAGE_BYTES)?;
        within(
            update.data.as_ref().map_or(0, |data| data.bytes.len()),
            limits::PROGRESS_DATA_BYTES,
        )?;
        self.progress.borrow_mut().push(update.clone());
        let pending = self.pending();
        self.beat();
        Ok(pending)
    }

    fn stop_requested(&self) -> Option<StopNotice> {
        self.pass_or_end();
        self.pending()
    }

    fn time_left(&self) -> (Option<Duration>, Option<Duration>) {
        self.pass_or_end();
        (self.left(self.script.soft), self.left(self.script.hard))
    }

    fn sleep(&self, duration: Duration) -> Result<(), HostError> {
        self.pass_or_end();
        if self.pending().is_some() {
            return Err(HostError::Stopping);
        }
        let started = self.elapsed.get();
        let awake = started.saturating_add(duration);
        let first_limit = [self.script.soft, self.script.hard]
            .into_iter()
            .flatten()
            .filter(|at| *at > started)
            .min();
        self.elapsed.set(first_limit.map_or(awake, |limit| awake.min(limit)));
        self.pass_or_end();
        if self.pending().is_some() { Err(HostError::Stopping) } else { Ok(()) }
    }

    fn log(&self, level: Level, message: &str, fields: &[(String, String)]) {
        self.pass_or_end();
        if level < self.script.log_level {
            return;
        }
        let mut room = limits::LOG_LINE_BYTES;
        let mut cut = |text: &str| {
            let kept = &text[..text.floor_char_boundary(room)];
            room -= kept.len();
            kept.to_owned()
        };
        let message = cut(message);
        let fields = fields
            .iter()
            .take(limits::LOG_FIELDS)
            .map(|(name, value)| (cut(name), cut(value)))
            .collect();
        self.log.borrow_mut().push(LogLine { level, message, fields });
    }

    fn log_enabled(&self, level: Level) -> bool {
        self.pass_or_end();
        level >= self.script.log_level
    }

    fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, HostError> {
        self.pass_or_end();
        self.store()?;
        Ok(self.checkpoint.borrow().clone())
    }

    fn save_checkpoint(&self, state: &[u8]) -> Result<(), HostError> {
        self.pass_or_end();
        within(state.len(), limits::CHECKPOINT_BYTES)?;
        self.store()?;
        self.checkpoint.replace(Some(state.to_vec()));
        Ok(())
    }

    fn enqueue(&self, children: Vec<Child>, release: Release) -> Result<Vec<String>, HostError> {
        self.pass_or_end();
        self.store()?;
        self.reach.enqueue(children, release)
    }

    fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, HostError> {
        self.pass_or_end();
        self.store()?;
        self.reach.read(bucket, key, self.elapsed.get())
    }

    fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<u64, HostError> {
        self.pass_or_end();
        self.store()?;
        self.reach.write((bucket, key), value, when, (ttl, self.elapsed.get()))
    }

    fn remove(&self, bucket: &str, key: &str, when: When) -> Result<(), HostError> {
        self.pass_or_end();
        self.store()?;
        self.reach.remove(bucket, key, when, self.elapsed.get())
    }

    fn setting(&self, key: &str) -> Result<Option<String>, HostError> {
        self.pass_or_end();
        self.reach.setting(key)
    }

    fn placeholder(&self, secret: &str) -> Result<String, HostError> {
        self.pass_or_end();
        self.reach.placeholder(secret)
    }

    fn reveal(&self, secret: &str) -> Result<Vec<u8>, HostError> {
        self.pass_or_end();
        self.reach.reveal(secret)
    }
}
