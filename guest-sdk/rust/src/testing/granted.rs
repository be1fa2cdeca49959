//! What a test grants, and what an attempt makes of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use stem_host_abi::limits;

use super::attempt::within;
use super::{Enqueued, Values};
use crate::{Child, Entry, HostError, Release, When};

/// What the test grants; everything else is denied.
#[derive(Clone, Debug, Default)]
pub(super) struct Granted {
    pub(super) children: Vec<String>,
    /// Whether they may be written, by bucket.
    pub(super) buckets: BTreeMap<String, bool>,
    /// Where none is given the worker has none.
    pub(super) settings: BTreeMap<String, Option<String>>,
    /// Those that have a value may be revealed.
    pub(super) secrets: BTreeMap<String, Option<Vec<u8>>>,
    pub(super) values: Values,
}

/// What an attempt did with it.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) granted: Granted,
    pub(super) children: RefCell<Vec<Enqueued>>,
    asked: Cell<usize>,
    values: RefCell<BTreeMap<(String, String), Kept>>,
    version: Cell<u64>,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    /// By the host's clock.
    until: Option<Duration>,
}

fn denied(grant: &str) -> HostError {
    HostError::Denied(format!(
        "no grant covers it: put {grant} under [handlers.NAME.grants] in stem.toml"
    ))
}

fn invalid<T>(problem: impl Into<String>) -> Result<T, HostError> {
    Err(HostError::Invalid(problem.into()))
}

/// The rules for names.
fn check_name(what: &str, name: &str) -> Result<(), HostError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let all =
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
    if first && all && name.len() <= 128 { Ok(()) } else { invalid(format!("{what} {name:?}")) }
}

impl Reach {
    pub(super) fn new(granted: Granted) -> Self {
        let reach = Self { granted, ..Self::default() };
        for ((bucket, key), value) in &reach.granted.values {
            reach.keep(bucket, key, value, None);
        }
        reach
    }

    /// What is in the buckets at this time.
    pub(super) fn values(&self, now: Duration) -> Values {
        let values = self.values.borrow();
        let there = values.iter().filter(|(_, kept)| kept.is_there(now));
        there.map(|(place, kept)| (place.clone(), kept.entry.value.clone())).collect()
    }

    pub(super) fn enqueue(
        &self,
        children: Vec<Child>,
        release: Release,
    ) -> Result<Vec<String>, HostError> {
        if children.len() > limits::CHILDREN_PER_CALL {
            return invalid(format!("{} tasks in one call", children.len()));
        }
        children.iter().try_for_each(|child| self.admit(child))?;
        let asked = self.asked.get() + children.len();
        if asked > limits::CHILDREN_PER_ATTEMPT {
            return Err(HostError::Quota("tasks enqueued by this attempt".to_owned()));
        }
        self.asked.set(asked);
        Ok(children.into_iter().map(|child| self.enqueue_one(child, release)).collect())
    }

    fn enqueue_one(&self, child: Child, release: Release) -> String {
        let mut enqueued = self.children.borrow_mut();
        let same = enqueued
            .iter()
            .find(|other| child.dedup_key.is_some() && other.child.dedup_key == child.dedup_key);
        if let Some(same) = same {
            return same.id.clone();
        }
        let id = format!("child-{}", enqueued.len() + 1);
        enqueued.push(Enqueued { id: id.clone(), release, child });
        id
    }

    fn admit(&self, child: &Child) -> Result<(), HostError> {
        let name = &child.task_name;
        check_name("task name", name)?;
        let covers = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => pattern == name,
        };
        if !self.granted.children.iter().any(covers) {
            return Err(denied(&format!("children = [{name:?}]")));
        }
        child.queue.iter().try_for_each(|queue| check_name("queue name", queue))?;
        child.dedup_key.iter().try_for_each(|key| check_name("dedup key", key))?;
        let input = child.input.as_ref().map_err(|error| HostError::Invalid(error.clone()))?;
        within(input.bytes.len(), limits::PAYLOAD_BYTES)?;
        for (at, (name, value)) in child.headers.iter().enumerate() {
            let twice = child.headers[..at].iter().any(|(other, _)| other == name);
            if twice || name.is_empty() || name.len() + value.len() > 4096 || at >= 64 {
                return invalid(format!("header {name}"));
            }
        }
        Ok(())
    }

    pub(super) fn read(
        &self,
        bucket: &str,
        key: &str,
        now: Duration,
    ) -> Result<Option<Entry>, HostError> {
        self.may_use(bucket, key, false)?;
        Ok(self.find(bucket, key, now))
    }

    pub(super) fn write(
        &self,
        (bucket, key): (&str, &str),
        value: &[u8],
        when: When,
        (ttl, now): (Option<Duration>, Duration),
    ) -> Result<u64, HostError> {
        self.may_use(bucket, key, true)?;
        within(value.len(), limits::KV_VALUE_BYTES)?;
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return invalid("a time to live of 0");
        }
        let found = self.find(bucket, key, now).map(|entry| entry.version);
        let holds = match when {
            When::Always => true,
            When::Absent => found.is_none(),
            When::Version(version) => found == Some(version),
        };
        if !holds {
            return Err(HostError::Conflict);
        }
        let until = ttl.map(|ttl| now.saturating_add(ttl.min(limits::KV_TTL_CAP)));
        Ok(self.keep(bucket, key, value, until))
    }

    pub(super) fn remove(
        &self,
        bucket: &str,
        key: &str,
        when: When,
        now: Duration,
    ) -> Result<(), HostError> {
        self.may_use(bucket, key, true)?;
        let found = self.find(bucket, key, now).ok_or(HostError::NotFound)?;
        if matches!(when, When::Version(version) if version != found.version) {
            return Err(HostError::Conflict);
        }
        self.values.borrow_mut().remove(&(bucket.to_owned(), key.to_owned()));
        Ok(())
    }

    fn keep(&self, bucket: &str, key: &str, value: &[u8], until: Option<Duration>) -> u64 {
        let version = self.version.get() + 1;
        self.version.set(version);
        let entry = Entry { value: value.to_vec(), version };
        let place = (bucket.to_owned(), key.to_owned());
        self.values.borrow_mut().insert(place, Kept { entry, until });
        version
    }

    fn find(&self, bucket: &str, key: &str, now: Duration) -> Option<Entry> {
        let values = self.values.borrow();
        let kept = values.get(&(bucket.to_owned(), key.to_owned()))?;
        kept.is_there(now).then(|| kept.entry.clone())
    }

    fn may_use(&self, bucket: &str, key: &str, write: bool) -> Result<(), HostError> {
        within(bucket.len(), limits::KV_BUCKET_BYTES)?;
        within(key.len(), limits::KV_KEY_BYTES)?;
        check_name("bucket", bucket)?;
        if bucket.contains(':') {
            return invalid(format!("bucket {bucket:?}"));
        }
        if key.is_empty() || key.chars().any(char::is_control) {
            return invalid(format!("key {key:?}"));
        }
        match self.granted.buckets.get(bucket) {
            Some(writable) if *writable || !write => Ok(()),
            _ => Err(denied(&format!("kv = [\"{bucket}{}\"]", if write { ":rw" } else { "" }))),
        }
    }

    pub(super) fn setting(&self, key: &str) -> Result<Option<String>, HostError> {
        within(key.len(), limits::SETTING_NAME_BYTES)?;
        let setting = self.granted.settings.get(key);
        setting.cloned().ok_or_else(|| denied(&format!("config = [{key:?}]")))
    }

    pub(super) fn placeholder(&self, secret: &str) -> Result<String, HostError> {
        within(secret.len(), limits::SETTING_NAME_BYTES)?;
        if !self.granted.secrets.contains_key(secret) {
            return Err(denied(&format!("secrets = [\"{secret}@HOST\"]")));
        }
        Ok(format!("stem-secret-{secret}"))
    }

    pub(super) fn reveal(&self, secret: &str) -> Result<Vec<u8>, HostError> {
        within(secret.len(), limits::SETTING_NAME_BYTES)?;
        match self.granted.secrets.get(secret) {
            Some(Some(value)) => Ok(value.clone()),
            _ => Err(denied(&format!("secrets = [{{ name = {secret:?}, reveal = true }}]"))),
        }
    }
}

impl Kept {
    fn is_there(&self, now: Duration) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}
