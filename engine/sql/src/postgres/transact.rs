//! One call as one transaction: begun, run, committed, tried again where that is safe, bounded in time.
//!
//! Each call runs in a task of its own on the runtime that opened the database. A caller that goes away does not stop
//! it, so it happens whole or not at all. Until `COMMIT` is sent nothing has happened, whatever else is lost: a server
//! that was frozen and wakes up to statements of callers that have long gone rolls them back. So a broken connection is
//! replaced and the call made again, except when the answer to `COMMIT` itself is lost and the call is not one that can
//! be made twice.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use stem_core::backend::{BackendError, ErrorClass, ServiceId};
use stem_core::time::Clock;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::connections::Connections;
use super::error::Trouble;
use super::ringer::Ringer;
use crate::bells::{Bells, Topics};
use crate::fault::Fault;

/// How often one call begins anew because others changed the same rows. A conflict is rare, one after the other rarer.
const CONFLICTS: u32 = 8;

/// How often one call is made again on another connection.
const CUTS: u32 = 2;

/// `BEGIN` also shows that the connection works, before anything was asked of it. The level is said because the
/// statements count on it, and somebody may have set another default. Whether it may write is left to the server's
/// default: a database that an operator has made read-only is not to be written.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// One call.
#[async_trait]
pub(super) trait Operation: Send + Sync + 'static {
    type Output: Send + 'static;
    /// What is tried, completing "failed to …".
    const ACTION: &'static str;
    /// Whether it only reads, and so needs no transaction around its statements.
    const READS: bool = false;
    /// Whether it is one statement, and so a transaction by itself: what it locks stays locked for no round trip, and a
    /// process that is stopped in the middle stops nobody else.
    const ALONE: bool = false;
    /// Whether making it twice is the same as making it once, answer included.
    const REPEATABLE: bool = Self::READS;
    /// Whether a process may make this call and end, so that the news of it must be out before the answer is.
    const SENDS_NEWS_FIRST: bool = false;

    /// Runs inside the transaction, if it has one; again from the start when that is begun anew. `now` is the time where a clock was
    /// given, and `None` where the server's counts.
    async fn run(&self, conn: &mut PgConnection, now: Option<i64>)
    -> Result<Self::Output, Trouble>;

    /// Whether this outcome is to last.
    fn keeps(_: &Self::Output) -> bool {
        true
    }

    /// Who is to look again after this outcome.
    fn rings(_: &Self::Output) -> Topics {
        Topics::NONE
    }

    /// Of which of these other processes are told. They look every second in any case.
    fn tells(output: &Self::Output) -> Topics {
        Self::rings(output)
    }
}

/// A call that failed.
pub(super) struct Failed<T> {
    pub(super) fault: Fault,
    /// What has happened, if the commit that nobody confirmed went through.
    pub(super) unclear: Option<T>,
}

/// How far a try came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Working,
    Committing,
}

/// What every call needs.
pub(super) struct Core {
    pub(super) service: ServiceId,
    pub(super) connections: Arc<Connections>,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) deadline: Duration,
    pub(super) runtime: Handle,
    pub(super) bells: Bells,
    pub(super) ringer: Ringer,
}

impl Core {
    /// Makes a call; the caller may go away meanwhile.
    pub(super) async fn call<O: Operation>(
        self: &Arc<Self>,
        operation: O,
    ) -> Result<O::Output, BackendError> {
        let core = Arc::clone(self);
        let done = self.runtime.spawn(async move { core.perform(&operation).await });
        match done.await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(failed)) => Err(failed.fault.during(&self.service, O::ACTION)),
            Err(_) => Err(gone().during(&self.service, O::ACTION)),
        }
    }

    /// Makes a call in this task, which must not be dropped meanwhile.
    pub(super) async fn perform<O: Operation>(
        &self,
        operation: &O,
    ) -> Result<O::Output, Failed<O::Output>> {
        self.perform_until(Instant::now() + self.deadline, operation).await
    }

    /// The same for a caller that has waited already.
    pub(super) async fn perform_until<O: Operation>(
        &self,
        end: Instant,
        operation: &O,
    ) -> Result<O::Output, Failed<O::Output>> {
        let (mut conflicts, mut cuts) = (0, 0);
        loop {
            let mut stage = Stage::Connecting;
            let mut outcome = None;
            let tried = timeout_at(end, self.attempt(operation, &mut stage, &mut outcome)).await;
            let trouble = match (tried, outcome.take()) {
                (Ok(Ok(())), Some(output)) => {
                    self.bells.ring(O::rings(&output));
                    self.tell(O::tells(&output), O::SENDS_NEWS_FIRST).await;
                    return Ok(output);
                }
                (Ok(Ok(())), None) => Fault::corrupt("a call ended without an outcome").into(),
                (Ok(Err(trouble)), undecided) => {
                    outcome = undecided;
                    trouble
                }
                (Err(_), undecided) => {
                    outcome = undecided;
                    self.late().into()
                }
            };
            if trouble.is_cut() {
                self.connections.forget_idle();
            }
            if trouble.is_conflict() && conflicts < CONFLICTS && Instant::now() < end {
                conflicts += 1;
                // Whoever was first is done soon; a little chance keeps two from meeting again.
                let chance = u64::from(uuid::Uuid::now_v7().as_bytes()[15]) % 8;
                tokio::time::sleep(Duration::from_millis(chance * u64::from(conflicts))).await;
                continue;
            }
            let harmless = match stage {
                // Where nobody answers at all, the caller knows better how long to try.
                Stage::Connecting => trouble.is_termination(),
                Stage::Working => true,
                Stage::Committing => O::REPEATABLE,
            };
            if trouble.is_cut() && harmless && cuts < CUTS {
                cuts += 1;
                continue;
            }
            // An error in place of the confirmation is clear too: the server has rolled back.
            let unclear = stage == Stage::Committing && !is_refusal(&trouble);
            return Err(Failed { fault: trouble.into(), unclear: outcome.filter(|_| unclear) });
        }
    }

    /// One try. Dropped in the middle it closes the connection, which rolls back what was not committed.
    async fn attempt<O: Operation>(
        &self,
        operation: &O,
        stage: &mut Stage,
        outcome: &mut Option<O::Output>,
    ) -> Result<(), Trouble> {
        let mut lease = self.connections.lease().await?;
        *stage = Stage::Working;
        let now = self.clock.as_ref().map(|clock| clock.now().unix_millis());
        let conn = &mut lease.connection;
        if O::ALONE {
            if !O::REPEATABLE {
                // As BEGIN does, it shows that the connection works.
                conn.ping().await?;
            }
            *stage = Stage::Committing;
        } else if !O::READS {
            conn.execute(BEGIN).await?;
        }
        let end = match operation.run(conn, now).await {
            Ok(output) if O::keeps(&output) => {
                *outcome = Some(output);
                Ok("COMMIT")
            }
            Ok(output) => {
                *outcome = Some(output);
                Ok("ROLLBACK")
            }
            Err(trouble) if trouble.is_cut() => return Err(trouble),
            Err(trouble) => Err(trouble),
        };
        if !O::READS && !O::ALONE {
            let (statement, committing) = match &end {
                Ok(statement) => (*statement, *statement == "COMMIT"),
                Err(_) => ("ROLLBACK", false),
            };
            if committing {
                *stage = Stage::Committing;
            }
            conn.execute(statement).await?;
        }
        lease.give_back();
        end.map(drop)
    }

    /// Tells waiters of other processes, through the server.
    async fn tell(&self, topics: Topics, first: bool) {
        if topics != Topics::NONE {
            self.ringer.announce(topics, first).await;
        }
    }

    fn late(&self) -> Fault {
        let problem = format!(
            "no answer within {} s; is the server frozen, or the network cut?",
            self.deadline.as_secs_f32()
        );
        Fault::new(ErrorClass::Transient, problem)
    }
}

/// Whether the server has answered that it does not do it.
fn is_refusal(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Sql(sqlx::Error::Database(_))) && !trouble.is_cut()
}

pub(super) fn gone() -> Fault {
    Fault::new(ErrorClass::Transient, "the runtime that opened it has ended")
}
