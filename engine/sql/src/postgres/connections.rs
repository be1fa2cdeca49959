//! A bounded number of connections, of which only those in a known state are used again.
//!
//! sqlx's own pool is not used for two reasons. It takes back every connection, also one that was given up in the
//! middle of a statement, and then waits without a bound until the server has answered that statement: a server that is
//! frozen, or a network that is cut, would use up the pool for good. And it asks the server after every use whether the
//! connection still works, which costs as much as the shortest calls. Here a connection comes back only by
//! [`Lease::give_back`]; dropped in any other way it is closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use stem_core::backend::ErrorClass;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::Trouble;
use crate::fault::Fault;

/// A connection that was not used for so long is closed, so that a burst does not keep its connections for ever.
const IDLE: Duration = Duration::from_mins(5);

struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// Connections to one database.
pub(super) struct Connections {
    settings: PgConnectOptions,
    /// How long to wait for the server to accept a new connection.
    patience: Duration,
    places: Arc<Semaphore>,
    /// The last that came back is the first to be used again.
    idle: Mutex<Vec<Idle>>,
}

impl Connections {
    pub(super) fn new(settings: PgConnectOptions, max: u32, patience: Duration) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(usize::try_from(max.max(1)).unwrap_or(1)));
        Arc::new(Self { settings, patience, places, idle: Mutex::default() })
    }

    /// Waits for a place, then takes a connection that is idle or makes a new one.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Trouble> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the places are never closed");
        let idle = self.idle().pop();
        let connection = match idle {
            Some(idle) => idle.connection,
            None => self.connect().await?,
        };
        Ok(Lease { home: Arc::clone(self), connection, _place: place })
    }

    async fn connect(&self) -> Result<PgConnection, Trouble> {
        let connected = tokio::time::timeout(self.patience, self.settings.connect()).await;
        let late = |_| {
            let problem = format!(
                "it did not accept a connection within {} s; is it overloaded, or the network cut?",
                self.patience.as_secs_f32()
            );
            Fault::new(ErrorClass::Transient, problem)
        };
        Ok(connected.map_err(late)??)
    }

    /// Closes what is idle: when one connection was cut, the others probably were too.
    pub(super) fn forget_idle(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Closed when it is dropped.
pub(super) struct Lease {
    home: Arc<Connections>,
    pub(super) connection: PgConnection,
    _place: OwnedSemaphorePermit,
}

impl Lease {
    /// For the next call. Everything that was sent on it must have been answered, and no transaction be open.
    pub(super) fn give_back(self) {
        let now = Instant::now();
        let mut idle = self.home.idle();
        // The oldest lie at the bottom.
        let tired = idle.iter().take_while(|it| now.duration_since(it.since) > IDLE).count();
        idle.drain(..tired);
        idle.push(Idle { connection: self.connection, since: now });
    }
}
