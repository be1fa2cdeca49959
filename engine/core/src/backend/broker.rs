//! [`Broker`]: carries envelopes from producers to workers, at least once.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{BackendError, Health, Records, ServiceId};
use crate::envelope::Envelope;
use crate::id::{Incarnation, QueueName, TaskId, TaskName, WorkerId};
use crate::machine::share::Shares;
use crate::settlement::{Receipt, Settle};
use crate::tenant::Tenant;
use crate::time::Timestamp;

/// The most deliveries that one [`Broker::purge`] removes, so that no step holds up a store for seconds.
pub const PURGED: usize = 10_000;

/// What became of one published envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Stored, durably.
    Stored,
    /// A task with this id exists, or one with this unique key is not final: nothing was stored.
    Duplicate {
        /// The task that is already there.
        existing: TaskId,
    },
}

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// From these queues, in this order of preference. Paused ones give nothing.
    pub queues: Vec<QueueName>,
    /// Only tasks with these names; others wait for a worker that knows them.
    pub names: Arc<[TaskName]>,
    /// At most so many deliveries.
    pub max: usize,
    /// For so long.
    pub lease: Duration,
    /// For this process.
    pub owner: Incarnation,
    /// Known to operators by this id.
    pub worker: WorkerId,
    /// Waits so long for the first delivery.
    pub wait: Duration,
    /// Who keeps the records.
    pub records: Records,
    /// What each tenant and queue may have of it; absent, tenants count for nothing. Only where the broker
    /// [knows them](Broker::knows_shares).
    pub shares: Option<Arc<Shares>>,
}

/// An envelope in a worker's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What to do.
    pub envelope: Envelope,
    /// The proof of holding it.
    pub receipt: Receipt,
    /// When the lease ends, by the broker's clock.
    pub lease_until: Timestamp,
    /// The attempt this delivery is for: 1 for the first. A delivery after a crash is for the same attempt again.
    pub attempt: u32,
    /// Deliveries so far, this one included, those that a shutdown gave back excluded.
    pub deliveries: u32,
    /// Leases of this task that ran out unsettled.
    pub losses: u32,
    /// On whose account it is: the one that [`Shares`] were applied to. The [envelope's](Tenant::of), but for brokers that
    /// keep a bounded number of tenants apart and take the others for the unnamed one.
    pub tenant: Tenant,
}

/// Asks for more time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The proof.
    pub receipt: Receipt,
    /// The lease then ends this much after now. A renewal never shortens a lease.
    pub lease: Duration,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// Held until then, by the broker's clock.
    Until(Timestamp),
    /// The token is not the newest, or the delivery is gone: nothing was changed.
    Stale,
}

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It happened.
    Done,
    /// The token is not the newest, or the delivery is gone: nothing was changed.
    Stale,
}

/// Why a queue gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// In the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// One queue as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub name: QueueName,
    /// Deliveries that could be taken now.
    pub ready: u64,
    /// Tasks whose time has not come.
    pub delayed: u64,
    /// Deliveries under a lease.
    pub inflight: u64,
    /// Whether and why it is paused.
    pub paused: Option<Pause>,
    /// Task names among the ready ones, with counts; for telling which no worker knows.
    pub names: Vec<(TaskName, u64)>,
}

/// A store's clock that shows this much less than it did was set back. Anything smaller is somebody who looked at it earlier.
pub const LEAST_STEP: Duration = Duration::from_secs(1);

/// Carries envelopes from producers to workers, at least once.
///
/// Every method is one atomic step for each element of its batch. Deliveries of one queue come by priority, the
/// highest first, then in the order of enqueueing; a retried or released task keeps its place by that order.
/// A lease that ran out is a loss: the delivery becomes available again by itself, with a higher token.
///
/// Leases are told by the store's clock. Set forward it ends them early. Where it is [set back](LEAST_STEP), leases end as much
/// earlier by it, so that they last about as long as they were given for; whoever asks for deliveries, or renews, sees to that.
/// Delays, and retries among them, are moments and not lengths, and wait until the clock is there again.
/// Implementations are held to the cases of `tests/conformance/src/broker.rs`.
#[async_trait]
pub trait Broker: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Whether [`receive`](Self::receive) goes by [shares](ReceiveRequest::shares). Where not, there must be none.
    fn knows_shares(&self) -> bool {
        false
    }

    /// Stores envelopes durably, or says which task is in the way. The envelopes have passed [`Envelope::check`].
    /// With [`Records::Here`] the record `queued` is stored in the same step.
    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError>;

    /// Leases up to `max` deliveries; waits up to `wait` for the first, and returns an empty list after that.
    /// Bytes that are not an envelope become dead letters here and are never delivered.
    ///
    /// With [shares](ReceiveRequest::shares) a tenant gets at most its room and a queue gives at most its own, and again
    /// and again one goes of the tenant that has the fewest in hand, of several such the next in turn
    /// ([`Shares::choose`]), and in the answer they stand so; priority and the order of enqueueing count within a tenant.
    /// What is passed over is not touched. [`Shares::looked_at`] tenants of a queue and name are looked at in one claim,
    /// from the one whose turn it is on, so what a claim costs grows neither with their number nor with their backlogs.
    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError>;

    /// Extends leases in place.
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError>;

    /// Settles deliveries. With [`Records::Here`] the record changes in the same step.
    ///
    /// What a settlement [publishes](Settle::publishes) is stored in that step too, if it is [`Settled::Done`], with its
    /// records if they are kept here. With [`Records::Elsewhere`] the records are the caller's, as in
    /// [`publish`](Self::publish). A caller that writes the record of a success first, and settles after, must have
    /// published the children before: dying in between leaves a final record, whose delivery is discarded.
    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError>;

    /// Gives up deliveries that have been ready since before `since` and whose name is not in `known`; says how many.
    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError>;

    /// Every queue that holds or held something, sorted by name.
    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError>;

    /// Removes deliveries of a queue that are not under a lease, at most [`PURGED`] of them, and with [`Records::Here`]
    /// their records in the same step; answers which. Fewer than [`PURGED`] means that none is left. With
    /// [`Records::Elsewhere`] the caller hands them to [`forget`](super::ResultBackend::forget).
    async fn purge(&self, queue: &QueueName, records: Records)
    -> Result<Vec<TaskId>, BackendError>;

    /// Pauses or resumes a queue for every worker; says whether that changed anything.
    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError>;

    /// Whether it can be written to, and what is unsafe about it.
    async fn health(&self) -> Result<Health, BackendError>;
}
