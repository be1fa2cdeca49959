//! The file held to the contract. Every `connect` is a store of its own, as another process has it.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_conformance::{ManualClock, RevokeHarness};
use stem_core::backend::RevokeStore;
use stem_core::time::{Clock, Timestamp};
use stem_file::{FileStore, FileStoreOptions};

struct OnFile {
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

#[async_trait]
impl RevokeHarness for OnFile {
    async fn connect(&self) -> Arc<dyn RevokeStore> {
        FileStore::open(FileStoreOptions {
            path: self.directory.path().join("revokes"),
            clock: self.clock.clone(),
            lock_timeout: FileStoreOptions::DEFAULT_LOCK_TIMEOUT,
        })
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn has_clock(&self) -> bool {
        false
    }
}

#[expect(clippy::unused_async, reason = "the suites make harnesses that may have to wait")]
async fn harness() -> OnFile {
    OnFile { clock: ManualClock::new(), directory: tempfile::tempdir().unwrap() }
}

stem_conformance::revoke_suite!(harness);
