//! Values that guests write. A store is not told for whom; so a guest of a run takes its task's id for the key, and reads the
//! value each time before it asks to replace it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::BackendError;
use stem_core::backend::buckets::{Buckets, Changed, Entry, When};
use stem_core::id::TaskId;

use super::Tokens;
use crate::history::{Event, Held, Journal};

#[derive(Debug)]
pub(super) struct RecordedBuckets {
    pub(super) inner: Arc<dyn Buckets>,
    pub(super) journal: Arc<Journal>,
    pub(super) tokens: Arc<Tokens>,
}

impl RecordedBuckets {
    /// Whose a key is: a JSON text with the id. Of a task that was delivered here again it is the newest attempt, which
    /// finds nothing that is not there.
    fn held(&self, key: &str) -> Option<Held> {
        let task = TaskId::new(key.trim_matches('"')).ok()?;
        let token = self.tokens.of(&task)?;
        Some(Held { task, token })
    }
}

#[async_trait]
impl Buckets for RecordedBuckets {
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError> {
        if let Some(held) = self.held(key) {
            self.journal.write(Event::WantsWrite(held));
        }
        self.inner.read(bucket, key).await
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError> {
        let held = self.held(key);
        let answer = self.inner.write(bucket, key, value, when, ttl).await;
        let answer = self.journal.noted(answer)?;
        if let (Some(held), Changed::Done(_)) = (held, answer) {
            self.journal.write(Event::WriteOk(held));
        }
        Ok(answer)
    }

    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError> {
        self.inner.remove(bucket, key, when).await
    }
}
