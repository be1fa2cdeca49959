//! Group commit: one task takes every operation that waits, runs them in one transaction, commits once, answers all.
//!
//! One `fsync` then stands for many operations, and inside a process nobody waits for SQLite's lock. Each operation
//! of a group runs in a savepoint of its own, so that one that fails does not spoil the others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use stem_core::time::{Clock, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::clock::Seen;
use super::error::is_busy;
use super::watch::Herald;
pub(super) use crate::bells::Topics;
use crate::fault::Fault;

/// Operations that may wait; more callers wait for a place.
const QUEUE: usize = 1024;

/// Operations in one transaction. Bounds what one failing commit takes with it, and how long others wait for the lock.
const GROUP: usize = 256;

/// Between two tries for the lock. SQLite's own busy handler backs off to 100 ms, in which a busy neighbour would take
/// the lock again and again.
const LOCK_RETRY: Duration = Duration::from_millis(1);

/// One atomic change.
#[async_trait]
pub(super) trait Operation: Send + Sized + 'static {
    type Output: Send + 'static;
    /// What is tried, completing "failed to …".
    const ACTION: &'static str;
    /// Who is to look again when it has happened.
    const RINGS: Topics;

    /// Runs inside the writer's transaction.
    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault>;

    /// Whether this outcome changed anything that others wait for.
    fn wrote(_: &Self::Output) -> bool {
        true
    }

    /// Whether it is pointless once the caller has gone.
    const FOR_CALLER_ONLY: bool = false;

    /// Whether a power cut may take it back: true of what holds only while this machine runs, such as a lease, whose holder ends
    /// with the machine. It is not synced by itself, which is a third of an idle task's time; later transactions sync it with them.
    /// No crash of a process takes it back.
    const FLEETING: bool = false;

    /// What undoes an outcome that nobody was there to take.
    fn undo(self, _: Self::Output) -> Option<Box<dyn Job>> {
        None
    }
}

/// An operation with its caller, without its type.
#[async_trait]
pub(super) trait Job: Send {
    fn is_pointless(&self) -> bool;
    /// See [`Operation::FLEETING`].
    fn is_fleeting(&self) -> bool;
    /// Runs the operation; the answer waits for the commit.
    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<(), Fault>;
    /// Answers the caller; says who is to look again, and what must still be done.
    fn finish(self: Box<Self>, committed: Result<(), Fault>) -> (Topics, Vec<Box<dyn Job>>);
}

struct Pending<O: Operation> {
    operation: O,
    outcome: Option<O::Output>,
    caller: oneshot::Sender<Result<O::Output, Fault>>,
}

/// Where the answer to an operation comes.
pub(super) type Answer<O> = oneshot::Receiver<Result<<O as Operation>::Output, Fault>>;

/// The operation as a job, and where its answer comes.
pub(super) fn job<O: Operation>(operation: O) -> (Box<dyn Job>, Answer<O>) {
    let (caller, answer) = oneshot::channel();
    (Box::new(Pending { operation, outcome: None, caller }), answer)
}

#[async_trait]
impl<O: Operation> Job for Pending<O> {
    fn is_pointless(&self) -> bool {
        O::FOR_CALLER_ONLY && self.caller.is_closed()
    }

    fn is_fleeting(&self) -> bool {
        O::FLEETING
    }

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<(), Fault> {
        self.outcome = Some(self.operation.run(conn, now).await?);
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), Fault>) -> (Topics, Vec<Box<dyn Job>>) {
        let Self { operation, outcome, caller } = *self;
        match (committed, outcome) {
            (Ok(()), Some(outcome)) => {
                let rings = if O::wrote(&outcome) { O::RINGS } else { Topics::NONE };
                let undo = match caller.send(Ok(outcome)) {
                    Err(Ok(outcome)) => operation.undo(outcome),
                    Ok(()) | Err(Err(_)) => None,
                };
                (rings, undo.into_iter().collect())
            }
            (Ok(()), None) => (Topics::NONE, Vec::new()),
            (Err(fault), _) => {
                // A caller that has gone does not mind.
                let _ = caller.send(Err(fault));
                (Topics::NONE, Vec::new())
            }
        }
    }
}

struct Writer {
    connection: Option<SqliteConnection>,
    /// Whether the connection syncs when it commits.
    syncs: bool,
    settings: SqliteConnectOptions,
    clock: Arc<dyn Clock>,
    seen: Seen,
    patience: Duration,
    herald: Herald,
}

/// Starts the writer; it ends when the last sender is gone and everything sent is done.
pub(super) fn start(
    connection: SqliteConnection,
    settings: SqliteConnectOptions,
    clock: Arc<dyn Clock>,
    patience: Duration,
    herald: Herald,
) -> mpsc::Sender<Box<dyn Job>> {
    let (sender, jobs) = mpsc::channel(QUEUE);
    // Waiting inside SQLite would be deaf and slow; see `lock`.
    let settings = settings.busy_timeout(Duration::ZERO);
    let (connection, seen) = (Some(connection), Seen::default());
    let writer = Writer { connection, syncs: true, settings, clock, seen, patience, herald };
    tokio::spawn(writer.run(jobs));
    sender
}

impl Writer {
    async fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        let mut group: Vec<Box<dyn Job>> = Vec::new();
        loop {
            if group.is_empty() && jobs.recv_many(&mut group, GROUP).await == 0 {
                break;
            }
            while group.len() < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            group.retain(|job| !job.is_pointless());
            group = self.commit(group).await;
        }
        self.part().await;
    }

    /// Runs a group and answers every caller; gives back what must still be done.
    async fn commit(&mut self, mut group: Vec<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
        if group.is_empty() {
            return group;
        }
        let answers = match self.transact(&mut group).await {
            Ok(answers) => answers,
            Err(fault) => {
                self.part().await;
                vec![Err(fault); group.len()]
            }
        };
        let mut rings = Topics::NONE;
        let mut left = Vec::new();
        for (job, answer) in group.into_iter().zip(answers) {
            let (topics, undo) = job.finish(answer);
            rings.0 |= topics.0;
            left.extend(undo);
        }
        self.herald.tell(rings);
        left
    }

    /// Gives the connection up: whatever state it is in, a new one is not in it. Waits until it has let go of its lock, which the
    /// new one would meet.
    async fn part(&mut self) {
        // What was noted in it may be undone.
        self.seen = Seen::default();
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "closing the database failed");
        }
    }

    /// One transaction. An error means that nothing of the group has happened.
    async fn transact(
        &mut self,
        group: &mut [Box<dyn Job>],
    ) -> Result<Vec<Result<(), Fault>>, Fault> {
        if self.connection.is_none() {
            self.connection = Some(self.settings.connect().await?);
            self.syncs = true;
        }
        let conn = self.connection.as_mut().expect("it was made above if there was none");
        let syncs = !group.iter().all(|job| job.is_fleeting());
        let ready = async {
            if syncs != self.syncs {
                let full = "PRAGMA synchronous = FULL";
                let level = if syncs { full } else { "PRAGMA synchronous = NORMAL" };
                patiently(conn, level, self.patience).await?;
                self.syncs = syncs;
            }
            lock(conn, self.patience).await
        };
        if let Err(error) = ready.await {
            // Being locked out is no reason to open the file again.
            if is_busy(&error) {
                return Ok(vec![Err(error.into()); group.len()]);
            }
            return Err(error.into());
        }
        let now = self.clock.now();
        self.seen.note(conn, now).await?;
        let mut answers = Vec::with_capacity(group.len());
        if let [alone] = group {
            let answer = alone.run(conn, now).await;
            let end = if answer.is_ok() { "COMMIT" } else { "ROLLBACK" };
            answers.push(answer);
            if let Err(error) = sqlx::query(end).execute(&mut *conn).await
                && answers[0].is_ok()
            {
                return Err(error.into());
            }
            if answers[0].is_err() {
                // SQLite rolls some failures back by itself; a new connection is clean either way.
                self.part().await;
            }
            return Ok(answers);
        }
        for job in group {
            sqlx::query("SAVEPOINT one").execute(&mut *conn).await?;
            let answer = job.run(conn, now).await;
            if answer.is_err() {
                sqlx::query("ROLLBACK TO one").execute(&mut *conn).await?;
            }
            sqlx::query("RELEASE one").execute(&mut *conn).await?;
            answers.push(answer);
        }
        sqlx::query("COMMIT").execute(&mut *conn).await?;
        Ok(answers)
    }
}

/// Takes the write lock, waiting for other processes at most so long.
pub(super) async fn lock(
    conn: &mut SqliteConnection,
    patience: Duration,
) -> Result<(), sqlx::Error> {
    patiently(conn, "BEGIN IMMEDIATE", patience).await
}

/// Executes a statement that others may be in the way of, and tries it again for at most so long.
async fn patiently(
    conn: &mut SqliteConnection,
    statement: &'static str,
    patience: Duration,
) -> Result<(), sqlx::Error> {
    let started = Instant::now();
    loop {
        match sqlx::query(statement).execute(&mut *conn).await {
            Ok(_) => return Ok(()),
            Err(error) if is_busy(&error) && started.elapsed() < patience => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}
