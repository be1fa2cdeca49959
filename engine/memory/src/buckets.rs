//! [`Buckets`] in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::BackendError;
use stem_core::backend::buckets::{Buckets, Changed, Entry, When, check};
use stem_core::time::Timestamp;

use crate::Memory;

/// Every value, by bucket and key. Versions are those of the whole store, so that a key needs no trace of its old ones.
#[derive(Default)]
pub(crate) struct Values {
    version: u64,
    values: BTreeMap<(String, String), Value>,
}

struct Value {
    entry: Entry,
    ends: Option<Timestamp>,
}

impl Value {
    fn is_over(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

fn place(bucket: &str, key: &str) -> (String, String) {
    (bucket.to_owned(), key.to_owned())
}

impl Values {
    /// What is there now. Every value whose time is over goes.
    fn current(&mut self, place: &(String, String), now: Timestamp) -> Option<u64> {
        self.values.retain(|_, value| !value.is_over(now));
        self.values.get(place).map(|value| value.entry.version)
    }
}

#[async_trait]
impl Buckets for Memory {
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError> {
        check(&self.service, "read a value", bucket, key, &[])?;
        let now = self.now();
        let state = self.state();
        let value = state.values.values.get(&place(bucket, key));
        Ok(value.filter(|value| !value.is_over(now)).map(|value| value.entry.clone()))
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError> {
        check(&self.service, "write a value", bucket, key, value)?;
        let (now, place) = (self.now(), place(bucket, key));
        let values = &mut self.state().values;
        if !when.holds(values.current(&place, now)) {
            return Ok(Changed::Conflict);
        }
        values.version += 1;
        let entry = Entry { value: value.to_vec(), version: values.version };
        values.values.insert(place, Value { entry, ends: ttl.map(|ttl| now.after(ttl)) });
        Ok(Changed::Done(values.version))
    }

    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError> {
        check(&self.service, "remove a value", bucket, key, &[])?;
        let (now, place) = (self.now(), place(bucket, key));
        let values = &mut self.state().values;
        Ok(match values.current(&place, now) {
            None => Changed::Absent,
            found @ Some(_) if !when.holds(found) => Changed::Conflict,
            Some(version) => {
                values.values.remove(&place);
                Changed::Done(version)
            }
        })
    }
}
