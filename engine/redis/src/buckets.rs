//! [`Buckets`] on Redis.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::BackendError;
use stem_core::backend::buckets::{Buckets, Changed, Entry, When, check};

use crate::fault::Fault;
use crate::read::{self, Fields};
use crate::{Inner, Redis, script};

/// What lasts longer than 300 years lasts for ever; Redis cannot count much further.
const LONGEST: Duration = Duration::from_hours(24 * 365 * 300);

/// As the scripts take it.
fn condition(when: When) -> String {
    match when {
        When::Always => String::new(),
        When::Absent => "absent".to_owned(),
        When::Version(version) => version.to_string(),
    }
}

impl Inner {
    async fn read_value(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Fault> {
        let mut call = self.call(&script::BUCKET_READ);
        call.arg(bucket).arg(key);
        let answer = read::list(self.run(&script::BUCKET_READ, &call).await?)?;
        if answer.is_empty() {
            return Ok(None);
        }
        let mut answer = Fields::of(redis::Value::Array(answer))?;
        let version = read::large(answer.next()?)?;
        let value = read::bytes(answer.next()?)?.unwrap_or_default();
        Ok(Some(Entry { value, version }))
    }

    async fn write_value(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, Fault> {
        let ttl = ttl.filter(|ttl| *ttl < LONGEST).map(|ttl| ttl.as_millis().to_string());
        let mut call = self.call(&script::BUCKET_WRITE);
        call.arg(bucket).arg(key).arg(condition(when)).arg(ttl.unwrap_or_default()).arg(value);
        Ok(match read::large(self.run(&script::BUCKET_WRITE, &call).await?)? {
            0 => Changed::Conflict,
            version => Changed::Done(version),
        })
    }

    async fn remove_value(&self, bucket: &str, key: &str, when: When) -> Result<Changed, Fault> {
        let mut call = self.call(&script::BUCKET_REMOVE);
        call.arg(bucket).arg(key).arg(condition(when));
        Ok(match read::int(self.run(&script::BUCKET_REMOVE, &call).await?)? {
            0 => Changed::Conflict,
            version => u64::try_from(version).map_or(Changed::Absent, Changed::Done),
        })
    }
}

#[async_trait]
impl Buckets for Redis {
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError> {
        const ACTION: &str = "read a value";
        check(&self.inner.service, ACTION, bucket, key, &[])?;
        let entry = self.inner.read_value(bucket, key).await;
        entry.map_err(|fault| self.inner.during(fault, ACTION))
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError> {
        const ACTION: &str = "write a value";
        check(&self.inner.service, ACTION, bucket, key, value)?;
        let written = self.inner.write_value(bucket, key, value, when, ttl).await;
        written.map_err(|fault| self.inner.during(fault, ACTION))
    }

    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError> {
        const ACTION: &str = "remove a value";
        check(&self.inner.service, ACTION, bucket, key, &[])?;
        let removed = self.inner.remove_value(bucket, key, when).await;
        removed.map_err(|fault| self.inner.during(fault, ACTION))
    }
}
