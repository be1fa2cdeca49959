//! What stands in front of modules and buckets; see `through`.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::buckets::{Changed, Entry, When};
use stem_core::backend::modules::{Assigned, History, Pushed, Removed};
use stem_core::backend::{BackendError, Buckets, Health, ModuleStore, ServiceId};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{Assignment, Catalogue, Push, Rollout};

use super::Twice;
use super::through::Through;

#[async_trait]
impl ModuleStore for Through<dyn ModuleStore> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        let make = || self.inner.put(digest, bytes);
        self.faulty.call("modules.put", Twice::FirstCounts, make).await
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        let make = || self.inner.get(digest);
        self.faulty.call("modules.get", Twice::Never, make).await
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        let make = || self.inner.push(push, rollout);
        self.faulty.call("modules.push", Twice::FirstCounts, make).await
    }

    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        let make = || self.inner.assign(name, seen, assignment);
        self.faulty.call("modules.assign", Twice::FirstCounts, make).await
    }

    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        let make = || self.inner.remove(name, version);
        self.faulty.call("modules.remove", Twice::FirstCounts, make).await
    }

    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        let make = || self.inner.history(name);
        self.faulty.call("modules.history", Twice::Never, make).await
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        let make = || self.inner.catalogue();
        self.faulty.call("modules.catalogue", Twice::Never, make).await
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        let make = || self.inner.changed(seen, wait);
        self.faulty.call("modules.changed", Twice::Never, make).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        let make = || self.inner.health();
        self.faulty.call("modules.health", Twice::Never, make).await
    }
}

#[async_trait]
impl Buckets for Through<dyn Buckets> {
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError> {
        let make = || self.inner.read(bucket, key);
        self.faulty.call("buckets.read", Twice::Never, make).await
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError> {
        let twice = match when {
            When::Always => Twice::SecondCounts,
            // The condition does not hold any more for the second.
            When::Absent | When::Version(_) => Twice::FirstCounts,
        };
        let make = || self.inner.write(bucket, key, value, when, ttl);
        self.faulty.call("buckets.write", twice, make).await
    }

    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError> {
        let make = || self.inner.remove(bucket, key, when);
        self.faulty.call("buckets.remove", Twice::FirstCounts, make).await
    }
}
