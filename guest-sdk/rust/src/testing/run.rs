//! What an attempt did, and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::{Binary, Child, Level, Progress, Release, TaskError};

/// Values by bucket and key.
pub(super) type Values = BTreeMap<(String, String), Vec<u8>>;

/// What one attempt did.
#[derive(Clone, Debug)]
pub struct Run {
    /// How it ended.
    pub end: End,
    /// Every update, in order; a worker would merge those in quick succession.
    pub progress: Vec<Progress>,
    /// Every log line kept, in order.
    pub log: Vec<LogLine>,
    /// The checkpoint as it stands at the end.
    pub checkpoint: Option<Vec<u8>>,
    /// Tasks it enqueued, in order, one for each dedup key. Those that go with its success are here if it returned.
    pub children: Vec<Enqueued>,
    /// What is in the buckets at the end.
    pub values: BTreeMap<(String, String), Vec<u8>>,
    /// Heartbeats and progress updates.
    pub beats: u64,
    /// How long it took by the host's clock.
    pub elapsed: Duration,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// With this result.
    Returned(Binary),
    /// With this failure.
    Failed(TaskError),
    /// By force.
    Terminated,
}

/// A task that was enqueued.
#[derive(Clone, Debug, PartialEq)]
pub struct Enqueued {
    /// The id that the task was told: `child-1`, `child-2` and so on.
    pub id: String,
    /// When.
    pub release: Release,
    /// What.
    pub child: Child,
}

/// A log line as the host keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// Its text.
    pub message: String,
    /// Its fields, in order.
    pub fields: Vec<(String, String)>,
}

impl Run {
    /// The result.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn result(&self) -> &Binary {
        match &self.end {
            End::Returned(result) => result,
            other => panic!("expected a result, got {other:?}"),
        }
    }

    /// The result, read from JSON.
    ///
    /// # Panics
    /// When there is none, or it has another shape.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        match serde_json::from_slice(&self.result().bytes) {
            Ok(value) => value,
            Err(error) => panic!("the result is no JSON of that type: {error}"),
        }
    }

    /// The failure.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn failure(&self) -> &TaskError {
        match &self.end {
            End::Failed(failure) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    /// The checkpoint, read from JSON.
    ///
    /// # Panics
    /// When there is none, or it has another shape.
    #[track_caller]
    pub fn checkpoint_json<T: DeserializeOwned>(&self) -> T {
        match self.checkpoint.as_deref().map(serde_json::from_slice) {
            Some(Ok(value)) => value,
            Some(Err(error)) => panic!("the checkpoint is no JSON of that type: {error}"),
            None => panic!("no checkpoint was saved"),
        }
    }

    /// A value in a bucket at the end, read from JSON; `None` if there is none.
    ///
    /// # Panics
    /// When it has another shape.
    #[track_caller]
    pub fn value<T: DeserializeOwned>(&self, bucket: &str, key: &str) -> Option<T> {
        let value = self.values.get(&(bucket.to_owned(), key.to_owned()))?;
        match serde_json::from_slice(value) {
            Ok(value) => Some(value),
            Err(error) => panic!("the value is no JSON of that type: {error}"),
        }
    }
}
