//! All eight backends on one SQLite file.
//!
//! | module | what it holds |
//! |---|---|
//! | `open` | files and their modes, settings of a connection, migrations |
//! | `writer` | one task that commits whatever waits as one transaction |
//! | `lane` | calls of one kind that meet at the writer become one batch |
//! | `watch`, `pace` | waking up when this or another process has committed, and how often |
//! | `error` | result codes as classes, with what to do about them |
//! | `broker`, `records`, `dead_letter`, `revoke`, `control`, `presence`, `modules`, `buckets` | one trait each |
//!
//! Reads go over a small pool of their own; in WAL mode they neither wait for the writer nor hold it up.

mod broker;
mod buckets;
mod clock;
mod control;
mod dead_letter;
mod error;
mod lane;
mod modules;
mod open;
mod pace;
mod presence;
mod records;
mod revoke;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use stem_core::backend::{BackendError, ErrorClass, Health, Records, ServiceId};
use stem_core::time::{Clock, Timestamp};
use tokio::sync::mpsc;

use crate::bells::Topic;
use crate::fault::Fault;
use broker::{Publish, SettleBatch};
use lane::{Batch, Lane};
use watch::Changes;
use writer::{Job, Operation, Topics};

/// No call takes longer, whatever the disk and other processes do; waiting for deliveries or news is bounded by its
/// own argument beside it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How to open a database file.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The file. Missing directories on the way are made for this user only.
    pub path: PathBuf,
    /// The store's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether to make the file if there is none.
    pub create: bool,
    /// How long to wait for a lock that another process holds; 5 s is a good value.
    pub busy_timeout: Duration,
}

impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOptions").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One SQLite file as every backend. Several of these, in one process or many, may be open on one file.
///
/// A call that is dropped has happened whole or not at all: the writer finishes what it has begun, and gives back
/// deliveries that nobody is there to take.
pub struct Sqlite {
    service: ServiceId,
    clock: Arc<dyn Clock>,
    jobs: mpsc::Sender<Box<dyn Job>>,
    readers: SqlitePool,
    changes: Changes,
    /// Whether the last request for deliveries left nothing: then the next looks before it takes the write lock.
    quiet: AtomicBool,
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

impl Sqlite {
    /// Opens a database file, makes it if asked to, and brings an older one up to date. Must be called inside a
    /// Tokio runtime, which must outlive the value; calls may come from other runtimes.
    pub async fn open(options: SqliteOptions) -> Result<Arc<Self>, BackendError> {
        const ACTION: &str = "open the database";
        let fallback = ServiceId(format!("sqlite:{}", options.path.display()));
        let opened = tokio::time::timeout(DEADLINE, open::open(&options)).await;
        let opened = opened
            .unwrap_or_else(|_| Err(late()))
            .map_err(|fault| fault.during(&fallback, ACTION))?;
        let changes = Changes::new(opened.path.clone(), opened.settings.clone());
        let jobs = writer::start(
            opened.connection,
            opened.settings.clone(),
            Arc::clone(&options.clock),
            options.busy_timeout,
            changes.herald(),
        );
        Ok(Arc::new(Self {
            service: ServiceId(format!("sqlite:{}", opened.path.display())),
            clock: options.clock,
            jobs,
            readers: open::readers(&opened.settings),
            changes,
            quiet: AtomicBool::new(false),
            publishes: ByRecords::new(|records| Publish { records }),
            settlements: ByRecords::new(|records| SettleBatch { records }),
        }))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Hands an operation to the writer and waits until it is durable.
    async fn write<O: Operation>(&self, operation: O) -> Result<O::Output, BackendError> {
        let (job, answer) = writer::job(operation);
        let durable = async {
            self.jobs.send(job).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        self.bounded(O::ACTION, durable).await
    }

    /// Hands a batch to the writer, together with others of its kind, and waits until it is durable.
    async fn write_with_others<B: Batch>(
        &self,
        lane: &Lane<B>,
        items: Vec<B::Item>,
    ) -> Result<Vec<B::Answer>, BackendError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let durable = async {
            let answer = lane.join(&self.jobs, items).await.ok_or_else(gone)?;
            answer.await.map_err(|_| gone())?
        };
        self.bounded(B::ACTION, durable).await
    }

    /// Bounds a call, and says whose it was if it fails.
    async fn bounded<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = Result<T, Fault>> + Send,
    ) -> Result<T, BackendError> {
        tokio::time::timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(|fault| fault.during(&self.service, action))
    }

    async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>, Fault> {
        Ok(self.readers.acquire().await?)
    }

    /// Waits for news of one kind, at most `wait`.
    async fn news(&self, topic: Topic, wait: Duration) -> Result<(), BackendError> {
        let waited = async { self.changes.subscribe(topic).await };
        let mut news = self.bounded("watch the database", waited).await?;
        news.wait_loosely(wait).await;
        Ok(())
    }

    async fn health_now(&self) -> Result<Health, BackendError> {
        let mut health = self.write(CheckHealth).await?;
        health.service.clone_from(&self.service.0);
        Ok(health)
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.service.0).finish()
    }
}

fn gone() -> Fault {
    Fault::new(ErrorClass::Transient, "its writer has ended with its runtime")
}

fn late() -> Fault {
    let problem =
        format!("no answer within {} s; is the disk or another process stuck?", DEADLINE.as_secs());
    Fault::new(ErrorClass::Transient, problem)
}

/// Runs inside the writer's transaction, so that an answer means that the write lock could be had.
struct CheckHealth;

#[async_trait]
impl Operation for CheckHealth {
    type Output = Health;
    const ACTION: &'static str = "check that the database can be written";
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<Health, Fault> {
        let version: String =
            sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *conn).await?;
        let journal: String =
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await?;
        let synchronous: i64 =
            sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await?;
        let level = match synchronous {
            0 => "OFF",
            1 => "NORMAL",
            2 => "FULL",
            _ => "EXTRA",
        };
        let mut warnings = Vec::new();
        if !journal.eq_ignore_ascii_case("wal") {
            warnings.push(format!(
                "journal_mode is {journal}, so readers and the writer wait for each other: put the file on a local disk"
            ));
        }
        if synchronous < 2 {
            warnings.push(format!(
                "synchronous is {level}: a power cut can lose tasks that were acknowledged"
            ));
        }
        let detail =
            format!("SQLite {version}, {}, synchronous={level}", journal.to_ascii_uppercase());
        Ok(Health { service: String::new(), detail, warnings })
    }
}
