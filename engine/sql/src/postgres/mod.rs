//! All eight backends on one schema of a Postgres database.
//!
//! | module | what it holds |
//! |---|---|
//! | `place` | what a URL says, and the settings of a connection |
//! | `open` | migrations |
//! | `connections` | a bounded number of them, of which only those in a known state are used again |
//! | `transact` | one call as one transaction: tried again where that is safe, bounded in time |
//! | `lane` | calls of one kind that meet become one transaction |
//! | `ringer` | telling other processes of changes |
//! | `watch` | hearing of theirs |
//! | `error` | SQLSTATEs as classes, with what to do about them |
//! | `health` | whether the server can be written to, what it says of itself, and what is unsafe about it |
//! | `counters` | numbers in the order of commits |
//! | `broker`, `records`, `dead_letter`, `revoke`, `control`, `presence`, `modules`, `buckets` | one trait each |
//!
//! Time is the server's. Waiting holds no connection.

mod broker;
mod buckets;
mod clock;
mod connections;
mod control;
mod counters;
mod dead_letter;
mod error;
mod health;
mod lane;
mod modules;
mod open;
mod place;
mod presence;
mod records;
mod revoke;
mod ringer;
#[cfg(test)]
mod tests;
mod transact;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, ErrorClass, Health, Records};
use stem_core::time::Clock;
use tokio::runtime::Handle;

use crate::bells::{Bells, LOOK_AGAIN, Topic};
use crate::fault::Fault;
use broker::{Publish, SettleBatch};
use connections::Connections;
use error::Trouble;
use health::{CheckSettings, CheckWrite};
use lane::{Batch, Lane};
use place::Route;
pub use place::check_url;
use ringer::Ringer;
use transact::{Core, Operation};
use watch::Changes;

/// How long a call takes at most, unless the options say otherwise; waiting for deliveries or news is bounded by its own
/// argument beside it.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Connections that work at once, unless the options say otherwise. More would only take turns on the server's cores.
pub const MAX_CONNECTIONS: u32 = 16;

/// The longest that a server which is there may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// How to open a database.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`, with `sslmode` and the other parameters that libpq has, as far as
    /// sqlx knows them. `schema` says where Stem's tables lie, else it is `stem`; it is made if it is missing, and holds
    /// nothing else.
    pub url: String,
    /// The store's clock; `None` is the server's own, which is what all processes should go by.
    pub clock: Option<Arc<dyn Clock>>,
    /// Connections that work at once. One more listens for news, where somebody waits for it.
    pub max_connections: u32,
    /// How long a call takes at most.
    pub deadline: Duration,
}

impl PostgresOptions {
    /// By the server's clock.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), clock: None, max_connections: MAX_CONNECTIONS, deadline: DEADLINE }
    }
}

impl fmt::Debug for PostgresOptions {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions").finish_non_exhaustive()
    }
}

/// One schema of a Postgres database as every backend. Any number of these, in any number of processes, may be open on
/// one schema.
///
/// A call that is dropped has happened whole or not at all: what has begun is finished, and deliveries that nobody is
/// there to take are given back.
pub struct Postgres {
    core: Arc<Core>,
    changes: Changes,
    route: Route,
    publishes: ByRecords<Publish>,
    settlements: ByRecords<SettleBatch>,
}

/// Two lanes: calls with records and calls without do different things.
struct ByRecords<B: Batch> {
    here: Lane<B>,
    elsewhere: Lane<B>,
}

impl<B: Batch> ByRecords<B> {
    fn new(batch: impl Fn(Records) -> B) -> Self {
        Self {
            here: Lane::new(batch(Records::Here)),
            elsewhere: Lane::new(batch(Records::Elsewhere)),
        }
    }

    fn of(&self, records: Records) -> &Lane<B> {
        match records {
            Records::Here => &self.here,
            Records::Elsewhere => &self.elsewhere,
        }
    }
}

impl Postgres {
    /// Connects, makes the schema if it is missing, and brings an older one up to date. Must be called inside a Tokio
    /// runtime, which must outlive the value; calls may come from other runtimes.
    pub async fn open(options: PostgresOptions) -> Result<Arc<Self>, BackendError> {
        const ACTION: &str = "open the database";
        let place =
            place::place(&options).map_err(|fault| fault.during(&place::unnamed(), ACTION))?;
        let patience = CONNECT.min(options.deadline);
        let connections =
            Connections::new(place.settings.clone(), options.max_connections, patience);
        let opened = tokio::time::timeout(options.deadline, async {
            let mut lease = connections.lease().await?;
            open::migrate(&mut lease.connection, &place.schema).await?;
            lease.give_back();
            Ok::<(), Trouble>(())
        });
        let opened = opened.await.unwrap_or_else(|_| {
            let problem = "it does not answer in time; is the server frozen, or the network cut?";
            Err(Fault::new(ErrorClass::Transient, problem).into())
        });
        opened.map_err(|trouble| Fault::from(trouble).during(&place.service, ACTION))?;

        let runtime = Handle::current();
        let bells = Bells::new();
        let channel = format!("stem:{}", place.schema);
        let origin = uuid::Uuid::now_v7().simple().to_string();
        let ringer =
            Ringer::start(&runtime, Arc::clone(&connections), channel.clone(), origin.clone());
        let changes = Changes::new(place.settings, channel, origin, runtime.clone(), bells.clone());
        let core = Core {
            service: place.service,
            connections,
            clock: options.clock,
            deadline: options.deadline,
            runtime,
            bells,
            ringer,
        };
        Ok(Arc::new(Self {
            core: Arc::new(core),
            changes,
            route: place.route,
            publishes: ByRecords::new(|records| Publish { records }),
            settlements: ByRecords::new(|records| SettleBatch { records }),
        }))
    }

    /// Makes one call.
    async fn call<O: Operation>(&self, operation: O) -> Result<O::Output, BackendError> {
        self.core.call(operation).await
    }

    /// Waits for news of one kind, at most `wait`. News that was lost is made up for by returning early.
    async fn news(&self, topic: Topic, wait: Duration) {
        self.changes.subscribe(topic).wait_loosely(wait.min(LOOK_AGAIN)).await;
    }

    async fn health_now(&self) -> Result<Health, BackendError> {
        let service = self.core.service.0.clone();
        let health = self.call(CheckSettings { service, route: self.route }).await?;
        self.call(CheckWrite).await?;
        Ok(health)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(&self.core.service.0).finish()
    }
}
