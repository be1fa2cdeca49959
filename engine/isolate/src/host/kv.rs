//! `stem:task/kv`: small values in buckets, shared by all tasks that are granted them.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::buckets::{Changed, Entry, When};
use stem_core::grants::BucketGrant;
use stem_core::id::BucketName;
use stem_host_abi::limits::{
    KV_BUCKET_BYTES, KV_BYTES_PER_ATTEMPT, KV_BYTES_PER_WRITE, KV_KEY_BYTES, KV_TTL_CAP,
    KV_VALUE_BYTES,
};

use super::abi::stem::task::kv;
use super::abi::types::HostError;
use super::{AttemptState, ComponentState};

/// One value's place.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) key: String,
}

impl AttemptState {
    pub(super) async fn read_value(
        &mut self,
        Place { bucket, key }: Place,
    ) -> wasmtime::Result<Result<Option<Entry>, HostError>> {
        if let Err(error) = self.may_use(&bucket, &key, false) {
            return Ok(Err(error));
        }
        let host = Arc::clone(&self.host);
        self.ask(host.read_bucket(&bucket, &key)).await
    }

    /// Writes, and answers the value's version. A span of zero is refused.
    pub(super) async fn write_value(
        &mut self,
        Place { bucket, key }: Place,
        value: Vec<u8>,
        when: When,
        ttl: Option<Duration>,
    ) -> wasmtime::Result<Result<u64, HostError>> {
        if let Err(error) = self.may_use(&bucket, &key, true) {
            return Ok(Err(error));
        }
        if value.len() > KV_VALUE_BYTES {
            return Ok(Err(HostError::TooLarge(KV_VALUE_BYTES as u64)));
        }
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Ok(Err(HostError::Invalid("a value is kept for 1 ms or longer".to_owned())));
        }
        let size = (bucket.len() + key.len() + value.len()).max(KV_BYTES_PER_WRITE);
        if self.written + size > KV_BYTES_PER_ATTEMPT {
            return Ok(Err(HostError::Quota(format!(
                "an attempt writes at most {} MiB into buckets",
                KV_BYTES_PER_ATTEMPT >> 20
            ))));
        }
        let ttl = ttl.map(|ttl| ttl.min(KV_TTL_CAP));
        let host = Arc::clone(&self.host);
        let written = self.ask(host.write_bucket(&bucket, &key, value, when, ttl)).await?;
        let written = written.and_then(changed);
        // One whose answer is lost may have been made.
        if !matches!(written, Err(HostError::Conflict)) {
            self.written += size;
        }
        Ok(written)
    }

    pub(super) async fn remove_value(
        &mut self,
        Place { bucket, key }: Place,
        when: When,
    ) -> wasmtime::Result<Result<(), HostError>> {
        if let Err(error) = self.may_use(&bucket, &key, true) {
            return Ok(Err(error));
        }
        if when == When::Absent {
            let problem = "a value that is not there cannot be removed".to_owned();
            return Ok(Err(HostError::Invalid(problem)));
        }
        let host = Arc::clone(&self.host);
        let removed = self.ask(host.remove_from_bucket(&bucket, &key, when)).await?;
        Ok(removed.and_then(changed).map(|_| ()))
    }

    /// Checks names and the grant.
    fn may_use(&mut self, bucket: &str, key: &str, write: bool) -> Result<(), HostError> {
        for (text, bound) in [(bucket, KV_BUCKET_BYTES), (key, KV_KEY_BYTES)] {
            if text.len() > bound {
                return Err(HostError::TooLarge(bound as u64));
            }
        }
        // A colon ends the name where a manifest names it: `thumbs:rw`.
        if BucketName::new(bucket).is_err() || bucket.contains(':') {
            return Err(HostError::Invalid(
                "a bucket's name is of A-Z a-z 0-9 . _ - and begins with a letter, a digit or _"
                    .to_owned(),
            ));
        }
        if key.is_empty() || key.chars().any(char::is_control) {
            let problem = "a key is not empty and holds no control character".to_owned();
            return Err(HostError::Invalid(problem));
        }
        let mut grants = self.granted.grants.kv.iter();
        if grants.any(|grant| grant.bucket == bucket && (grant.write || !write)) {
            return Ok(());
        }
        let grant = BucketGrant { bucket: bucket.to_owned(), write };
        Err(self.denied(&format!("kv = [\"{}\"]", grant.written())))
    }
}

fn changed(changed: Changed) -> Result<u64, HostError> {
    match changed {
        Changed::Done(version) => Ok(version),
        Changed::Conflict => Err(HostError::Conflict),
        Changed::Absent => Err(HostError::NotFound),
    }
}

impl From<kv::Condition> for When {
    fn from(condition: kv::Condition) -> Self {
        match condition {
            kv::Condition::Always => Self::Always,
            kv::Condition::IfAbsent => Self::Absent,
            kv::Condition::IfVersion(version) => Self::Version(version),
        }
    }
}

impl kv::Host for ComponentState {
    async fn get(
        &mut self,
        bucket: String,
        key: String,
    ) -> wasmtime::Result<Result<Option<kv::Entry>, HostError>> {
        self.attempt.enter()?;
        let entry = self.attempt.read_value(Place { bucket, key }).await?;
        Ok(entry.map(|entry| entry.map(|Entry { value, version }| kv::Entry { value, version })))
    }

    async fn put(
        &mut self,
        bucket: String,
        key: String,
        value: Vec<u8>,
        when: kv::Condition,
        ttl: Option<u64>,
    ) -> wasmtime::Result<Result<u64, HostError>> {
        self.attempt.enter()?;
        let ttl = ttl.map(Duration::from_millis);
        self.attempt.write_value(Place { bucket, key }, value, when.into(), ttl).await
    }

    async fn remove(
        &mut self,
        bucket: String,
        key: String,
        when: kv::Condition,
    ) -> wasmtime::Result<Result<(), HostError>> {
        self.attempt.enter()?;
        self.attempt.remove_value(Place { bucket, key }, when.into()).await
    }
}
