//! [`ModuleStore`] in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::modules::{
    Assigned, History, LOOSE_TTL, ModuleStore, Pushed, Removed, check_module, check_push,
};
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{Assignment, Catalogue, Push, Release, Rollout, Shelves};
use stem_core::time::Timestamp;

use crate::state::State;
use crate::{Look, Memory};

/// Releases, and the bytes that they name.
#[derive(Default)]
pub(crate) struct Modules {
    shelves: Shelves,
    /// With the time when they were stored last.
    bytes: BTreeMap<Digest, (Vec<u8>, Timestamp)>,
}

impl Modules {
    /// Drops the bytes of releases that are gone, and those that nobody has pushed for long.
    fn sweep(&mut self, gone: &[Release], now: Timestamp) {
        let Self { shelves, bytes } = self;
        bytes.retain(|digest, (_, put_at)| {
            let loose = gone.iter().any(|release| release.digest == *digest)
                || now.since(*put_at) >= LOOSE_TTL;
            !loose || shelves.need(digest)
        });
    }
}

#[async_trait]
impl ModuleStore for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        check_module(&self.service, bytes)?;
        let now = self.now();
        self.state().modules.bytes.insert(*digest, (bytes.to_vec(), now));
        Ok(())
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.state().modules.bytes.get(digest).map(|(bytes, _)| bytes.clone()))
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        check_push(&self.service, push)?;
        let now = self.now();
        let mut state = self.state();
        let modules = &mut state.modules;
        if !modules.bytes.contains_key(&push.digest) {
            return Ok(Pushed::NoSuchModule);
        }
        let shelved = modules.shelves.push(push, rollout, now);
        modules.sweep(&shelved.gone, now);
        drop(state);
        self.bells.modules.ring();
        Ok(Pushed::Release(shelved.release))
    }

    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        let now = self.now();
        let assigned = self.state().modules.shelves.assign(name, seen, assignment, now);
        self.bells.modules.ring();
        Ok(assigned)
    }

    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let modules = &mut state.modules;
        match modules.shelves.remove(name, version, now) {
            Err(why) => return Ok(why),
            Ok(release) => modules.sweep(&[release], now),
        }
        drop(state);
        self.bells.modules.ring();
        Ok(Removed::Done)
    }

    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        Ok(self.state().modules.shelves.history(name))
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        Ok(self.state().modules.shelves.catalogue())
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        let look = |state: &mut State, _| {
            if state.modules.shelves.revision == seen {
                Look::Nothing { due: None }
            } else {
                Look::Found(())
            }
        };
        // Running out of time is no news to the caller: both ways it looks again.
        let _ = self.look_until(&self.bells.modules, wait, look).await;
        Ok(())
    }

    async fn health(&self) -> Result<Health, BackendError> {
        Ok(self.health_now())
    }
}
