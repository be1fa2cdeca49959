//! Databases, and calls, as the tests of Postgres make them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stem_core::backend::broker::{Broker, Published};
use stem_core::backend::{BackendError, ErrorClass, Records};
use stem_sql::{Postgres, PostgresOptions};

use super::envelope;

/// Short, so that a server that does not answer does not hold the tests up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// What a call may take longer than its deadline on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(20);

/// After a fault is over, work must go on within this, also on a busy machine.
pub(crate) const RECOVERY: Duration = Duration::from_secs(30);

pub(crate) fn options(url: &str) -> PostgresOptions {
    PostgresOptions { deadline: DEADLINE, ..PostgresOptions::new(url) }
}

pub(crate) async fn open(url: &str) -> Arc<Postgres> {
    Postgres::open(options(url)).await.unwrap()
}

pub(crate) async fn refusal(options: PostgresOptions) -> BackendError {
    let error = Postgres::open(options).await.unwrap_err();
    println!("{error}");
    error
}

pub(crate) async fn publish(store: &Postgres, id: &str) -> Result<Published, BackendError> {
    store.publish(&[envelope(id)], Records::Here).await.map(|mut published| published.remove(0))
}

/// Publishes until it succeeds; says how long that took.
pub(crate) async fn until_it_works(store: &Postgres, id: &str) -> Duration {
    let started = Instant::now();
    loop {
        match publish(store, id).await {
            Ok(_) => return started.elapsed(),
            Err(error) => assert_eq!(error.class(), ErrorClass::Transient, "{error}"),
        }
        assert!(started.elapsed() < RECOVERY * 2, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
