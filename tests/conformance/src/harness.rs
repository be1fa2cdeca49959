//! What a backend provides to be tested.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::{
    Broker, Buckets, ControlPlane, DeadLetters, ModuleStore, Presence, ResultBackend, RevokeStore,
};
use stem_core::envelope::Envelope;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};

/// No case takes longer; one that does hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// One connection to every trait of one service.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is its type")]
pub struct Backends {
    pub broker: Arc<dyn Broker>,
    pub results: Arc<dyn ResultBackend>,
    pub revokes: Arc<dyn RevokeStore>,
    pub control: Arc<dyn ControlPlane>,
    pub presence: Arc<dyn Presence>,
    pub dead: Arc<dyn DeadLetters>,
    pub modules: Arc<dyn ModuleStore>,
    pub buckets: Arc<dyn Buckets>,
}

impl Backends {
    /// All of one value.
    pub fn of<T>(backend: Arc<T>) -> Self
    where
        T: Broker
            + ResultBackend
            + RevokeStore
            + ControlPlane
            + Presence
            + DeadLetters
            + ModuleStore
            + Buckets
            + 'static,
    {
        Self {
            broker: backend.clone(),
            results: backend.clone(),
            revokes: backend.clone(),
            control: backend.clone(),
            presence: backend.clone(),
            dead: backend.clone(),
            modules: backend.clone(),
            buckets: backend,
        }
    }
}

/// A store with no data, its clock, and a way to damage it.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Another connection to the same data, as another process would have it where the backend can be shared.
    async fn connect(&self) -> Backends;

    /// Moves the store's clock.
    fn advance(&self, by: Duration);

    /// Sets the store's clock back.
    fn set_back(&self, by: Duration);

    /// The store's time.
    fn now(&self) -> Timestamp;

    /// Whether that is a clock of the store's own, and not that of whoever asks.
    fn has_clock(&self) -> bool {
        true
    }

    /// Leaves a task in a queue, with a record, whose envelope is these bytes.
    async fn plant_raw_envelope(
        &self,
        queue: &QueueName,
        id: &TaskId,
        name: &TaskName,
        bytes: &[u8],
    );
}

/// What the revoke suite asks for, so that a backend which is nothing but a revoke store can run it.
#[async_trait]
pub trait RevokeHarness: Send + Sync {
    /// Another connection to the same data; see [`Harness::connect`].
    async fn connect(&self) -> Arc<dyn RevokeStore>;

    /// Moves the store's clock.
    fn advance(&self, by: Duration);

    /// The store's time.
    fn now(&self) -> Timestamp;

    /// Whether the store has a clock; see [`Harness::has_clock`].
    fn has_clock(&self) -> bool;
}

#[async_trait]
impl<H: Harness> RevokeHarness for H {
    async fn connect(&self) -> Arc<dyn RevokeStore> {
        Harness::connect(self).await.revokes
    }

    fn advance(&self, by: Duration) {
        Harness::advance(self, by);
    }

    fn now(&self) -> Timestamp {
        Harness::now(self)
    }

    fn has_clock(&self) -> bool {
        Harness::has_clock(self)
    }
}

/// What the suite of modules asks for, so that a backend which is nothing but a module store can run it.
#[async_trait]
pub trait ModuleHarness: Send + Sync {
    /// Another connection to the same data; see [`Harness::connect`].
    async fn connect(&self) -> Arc<dyn ModuleStore>;

    /// Moves the store's clock.
    fn advance(&self, by: Duration);

    /// The store's time.
    fn now(&self) -> Timestamp;
}

#[async_trait]
impl<H: Harness> ModuleHarness for H {
    async fn connect(&self) -> Arc<dyn ModuleStore> {
        Harness::connect(self).await.modules
    }

    fn advance(&self, by: Duration) {
        Harness::advance(self, by);
    }

    fn now(&self) -> Timestamp {
        Harness::now(self)
    }
}

/// A clock that moves when it is told to.
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Starts at 2026-11-22T00:00:00Z.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_795_305_600_000)))
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Is set back.
    pub fn set_back(&self, by: Duration) {
        self.0.fetch_sub(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.0.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({})", self.now())
    }
}

/// Runs a case, which must not hang.
pub async fn run(case: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, case).await.expect("the case hangs");
}

/// A good envelope for the place where [`Harness::plant_raw_envelope`] leaves other bytes.
pub fn stand_in(
    harness: &dyn Harness,
    queue: &QueueName,
    id: &TaskId,
    name: &TaskName,
) -> Envelope {
    let envelope = crate::fixture::envelope(harness, id.as_str());
    Envelope { queue: queue.clone(), name: name.clone(), ..envelope }
}
