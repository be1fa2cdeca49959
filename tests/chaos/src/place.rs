//! Where a run's services are: URLs to backends.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use stem_core::backend::{BackendError, ErrorClass};
use stem_engine::{Backends, SystemClock};
use stem_redis::{Redis, RedisOptions};
use stem_sql::{Postgres, PostgresOptions, Sqlite, SqliteOptions};

/// Between two tries to reach a service that is away.
const PAUSE: Duration = Duration::from_millis(100);

/// One URL for each part that may be a service of its own.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Envelopes, commands, dead letters.
    #[arg(long)]
    pub broker: String,
    /// Records and heartbeats.
    #[arg(long)]
    pub results: String,
    /// Revocations.
    #[arg(long)]
    pub revokes: String,
}

impl Place {
    /// Everything in one service.
    pub fn all_in_one(url: &str) -> Self {
        Self { broker: url.to_owned(), results: url.to_owned(), revokes: url.to_owned() }
    }

    /// Connects; one connection for equal URLs.
    pub async fn open(&self) -> Result<Backends, BackendError> {
        let broker = service(&self.broker).await?;
        let results = match &self.results {
            url if *url == self.broker => broker.clone(),
            url => service(url).await?,
        };
        let revokes = match &self.revokes {
            url if *url == self.broker => broker.clone(),
            url if *url == self.results => results.clone(),
            url => service(url).await?,
        };
        Ok(Backends {
            broker: broker.broker,
            control: broker.control,
            dead_letters: broker.dead_letters,
            modules: broker.modules,
            results: results.results,
            presence: results.presence,
            buckets: results.buckets,
            revokes: revokes.revokes,
        })
    }

    /// Connects, however long that takes: a service that is away is waited for, and one that refuses.
    pub async fn open_patiently(&self) -> Result<Backends, BackendError> {
        loop {
            match self.open().await {
                Err(error)
                    if matches!(error.class(), ErrorClass::Transient | ErrorClass::Refused) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                opened => return opened,
            }
        }
    }
}

async fn service(url: &str) -> Result<Backends, BackendError> {
    match url.split(':').next().unwrap_or_default() {
        "redis" => {
            let options = RedisOptions { url: url.to_owned(), clock: None };
            Ok(Backends::all_in_one(Redis::open(options).await?))
        }
        "sqlite" => {
            let path = url.trim_start_matches("sqlite:").into();
            let clock = Arc::new(SystemClock);
            let busy_timeout = Duration::from_secs(5);
            let options = SqliteOptions { path, clock, create: true, busy_timeout };
            Ok(Backends::all_in_one(Sqlite::open(options).await?))
        }
        "postgres" => Ok(Backends::all_in_one(Postgres::open(PostgresOptions::new(url)).await?)),
        other => {
            let problem = format!("no backend of this run has a URL that begins with {other:?}");
            Err(BackendError::new(ErrorClass::Unsupported, other, "connect", problem))
        }
    }
}
