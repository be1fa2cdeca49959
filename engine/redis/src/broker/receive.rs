//! Taking deliveries under a lease, and giving back what was taken for somebody who has gone.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use stem_core::backend::broker::{Delivery, ReceiveRequest};
use stem_core::backend::dead_letter::RAW_BYTES;
use stem_core::envelope::{Envelope, wire};
use stem_core::id::{LeaseToken, QueueName, TaskId};
use stem_core::machine::share::Shares;
use stem_core::outcome::{Failure, FailureKind};
use stem_core::settlement::Receipt;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::flag;
use super::settle::{self, Unreadable};
use crate::bell::Topic;
use crate::fault::Fault;
use crate::link::Hears;
use crate::read::{self, Fields};
use crate::{Inner, LOOK_AGAIN, script};

/// The most that one script leases, so that none keeps the server for long.
const ITEMS: usize = 500;

pub(super) async fn receive(
    inner: &Arc<Inner>,
    request: &ReceiveRequest,
) -> Result<Vec<Delivery>, Fault> {
    let started = Instant::now();
    if !request.wait.is_zero() {
        inner.link.listen(Hears::BELL).await?;
    }
    loop {
        // Made before looking, so that a ring between the look and the wait is not missed.
        let ring = inner.bells.next(Topic::Work);
        let claimed = claim(inner, request).await?;
        if !claimed.deliveries.is_empty() {
            return Ok(claimed.deliveries);
        }
        let left = request.wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(Vec::new());
        }
        let until_due = claimed.due.map_or(LOOK_AGAIN, |due| claimed.now.until(due));
        // The timer's resolution is a millisecond; a shorter sleep would only spin.
        let patience = left.min(until_due.max(Duration::from_millis(1))).min(LOOK_AGAIN);
        let _ = tokio::time::timeout(patience, ring).await;
    }
}

struct Claimed {
    deliveries: Vec<Delivery>,
    now: Timestamp,
    /// When the next delay or lease is over.
    due: Option<Timestamp>,
}

async fn claim(inner: &Arc<Inner>, request: &ReceiveRequest) -> Result<Claimed, Fault> {
    let mut deliveries = Vec::new();
    // Again after bytes that cannot be read: they must not hide what lies behind them.
    loop {
        let unanswered = Unanswered::new(inner, request);
        let max = (request.max - deliveries.len()).min(ITEMS);
        // What cannot be read was nobody's share.
        let shares = request.shares.as_ref().map(|shares| {
            shares.without(deliveries.iter().map(|it: &Delivery| (&it.receipt.queue, &it.tenant)))
        });
        let once = async {
            let (claimed, unreadable) =
                claim_once(inner, request, shares.as_ref(), &unanswered.ticket, max).await?;
            if !unreadable.is_empty() {
                settle::bury(inner, &unreadable, request.records).await?;
            }
            Ok((claimed, unreadable))
        };
        let (mut claimed, unreadable) = match once.await {
            Ok(claimed) => claimed,
            // What came before is the caller's: dropped, it would count as lost when its leases end.
            Err(fault) if deliveries.is_empty() => return Err(fault),
            Err(_) => return Ok(Claimed { deliveries, now: Timestamp::default(), due: None }),
        };
        // From here on the caller has them: there is nothing to wait for any more.
        unanswered.has_come(!claimed.deliveries.is_empty() || !unreadable.is_empty());
        deliveries.append(&mut claimed.deliveries);
        if unreadable.is_empty() {
            return Ok(Claimed { deliveries, ..claimed });
        }
    }
}

async fn claim_once(
    inner: &Inner,
    request: &ReceiveRequest,
    shares: Option<&Shares>,
    ticket: &str,
    max: usize,
) -> Result<(Claimed, Vec<Unreadable>), Fault> {
    let come = inner.take_come();
    let script = if shares.is_some() { &script::RECEIVE_TURNS } else { &script::RECEIVE };
    let mut call = inner.call(script);
    call.arg(flag(request.records))
        .arg(max)
        .arg(i64::try_from(request.lease.as_millis()).unwrap_or(i64::MAX))
        .arg(request.owner.to_string())
        .arg(request.worker.as_str())
        .arg(ticket)
        .arg(u8::from(!request.wait.is_zero()))
        .arg(come.len())
        .arg(request.queues.len())
        .arg(request.names.len());
    for ticket in &come {
        call.arg(ticket);
    }
    for queue in &request.queues {
        call.arg(queue.as_str());
    }
    for name in &*request.names {
        call.arg(name.as_str());
    }
    if let Some(shares) = shares {
        call.arg(serde_json::to_string(shares)?).arg(shares.looked_at(request.names.len()));
    }
    let mut answer = Fields::of(inner.run(script, &call).await?)?;
    let now = read::time(answer.next()?)?;
    let due = read::int(answer.next()?)?;
    let mut claimed = Claimed {
        deliveries: Vec::new(),
        now,
        due: (due >= 0).then(|| Timestamp::from_unix_millis(due)),
    };
    let mut unreadable = Vec::new();
    for row in answer.rest() {
        let mut row = Fields::of(row)?;
        let task = TaskId::new(&read::text(row.next()?)?)?;
        let queue = QueueName::new(&read::text(row.next()?)?)?;
        let Hold { token, deliveries, retries, losses } = Hold::of(&read::text(row.next()?)?)?;
        let receipt = Receipt { task, queue, token, owner: request.owner };
        let bytes = read::bytes(row.next()?)?.unwrap_or_default();
        let tenant = row.rest().next().map(read::text).transpose()?;
        match decode(&bytes, &receipt, &request.names) {
            Ok(envelope) => claimed.deliveries.push(Delivery {
                tenant: tenant
                    .map_or_else(|| Tenant::of(&envelope.headers), |it| Tenant::stored(&it)),
                envelope,
                receipt,
                lease_until: now.after(request.lease),
                attempt: retries.saturating_add(1),
                deliveries,
                losses,
            }),
            Err(error) => {
                let failure =
                    Failure::new(FailureKind::BadModule, error.reason(), &error.to_string());
                unreadable.push(Unreadable { receipt, failure, keep: RAW_BYTES });
            }
        }
    }
    Ok((claimed, unreadable))
}

/// What the field `h` of a delivery says; see `lib_queue.lua`.
#[derive(Debug, PartialEq)]
struct Hold {
    token: LeaseToken,
    deliveries: u32,
    retries: u32,
    losses: u32,
}

impl Hold {
    fn of(said: &str) -> Result<Self, Fault> {
        let words: Vec<&str> = said.split(' ').collect();
        let read = |words: &[&str]| {
            let [_phase, token, _at, deliveries, retries, losses] = words else { return None };
            Some(Self {
                token: LeaseToken(token.parse().ok()?),
                deliveries: deliveries.parse().ok()?,
                retries: retries.parse().ok()?,
                losses: losses.parse().ok()?,
            })
        };
        read(&words).ok_or_else(|| Fault::corrupt(format!("a delivery says {said:?}")))
    }
}

/// Reads one envelope. One that says it is another task is damaged too.
fn decode(
    bytes: &[u8],
    receipt: &Receipt,
    names: &[stem_core::id::TaskName],
) -> Result<Envelope, wire::WireError> {
    let envelope = wire::decode(bytes)?;
    if envelope.id != receipt.task
        || envelope.queue != receipt.queue
        || !names.contains(&envelope.name)
    {
        let problem = format!(
            "it says task {}, name {}, queue {}; it was stored as {} in {}",
            envelope.id, envelope.name, envelope.queue, receipt.task, receipt.queue
        );
        return Err(wire::WireError::Malformed(problem));
    }
    Ok(envelope)
}

/// Tickets that one request tells the server to forget. What is not told ends by itself.
const COME: usize = 100;

impl Inner {
    /// Tickets whose answer has come since the last request.
    fn take_come(&self) -> Vec<String> {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = come.len().saturating_sub(COME);
        come.split_off(keep)
    }
}

/// A server that was stopped executes what lies in its sockets when it goes on. So long beyond a lease the undoing of a
/// request is tried; later its deliveries come back by the end of their leases.
const FROZEN: Duration = Duration::from_mins(5);

/// A request whose answer has not come. Dropped so, because its caller has gone or because the connection broke, it sees
/// to it that what the request took goes back, however late the server comes to execute it.
struct Unanswered {
    inner: Arc<Inner>,
    ticket: String,
    owner: String,
    records: u8,
    patience: Duration,
    open: bool,
}

impl Unanswered {
    fn new(inner: &Arc<Inner>, request: &ReceiveRequest) -> Self {
        Self {
            inner: Arc::clone(inner),
            ticket: Uuid::now_v7().simple().to_string(),
            owner: request.owner.to_string(),
            records: flag(request.records),
            patience: request.lease + FROZEN,
            open: true,
        }
    }

    /// The answer is here. If it took something, the server may forget what.
    fn has_come(mut self, took_something: bool) {
        self.open = false;
        if took_something {
            self.inner
                .come
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(std::mem::take(&mut self.ticket));
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.open {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let mut call = inner.call(&script::GIVE_BACK);
        call.arg(self.records).arg(&self.ticket).arg(&self.owner);
        let patience = self.patience;
        // Bounded, and nobody needs to wait for it: at worst the leases end by themselves.
        runtime.spawn(async move {
            let started = Instant::now();
            while let Err(fault) = inner.run(&script::GIVE_BACK, &call).await {
                if started.elapsed() > patience {
                    let problem = fault.problem;
                    tracing::debug!(
                        problem,
                        "what an unanswered request took was not given back; its lease ends"
                    );
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_delivery_says_is_read_whole_or_not_at_all() {
        let hold = Hold::of("2 7 1795305600000 3 1 2").unwrap();
        assert_eq!(hold, Hold { token: LeaseToken(7), deliveries: 3, retries: 1, losses: 2 });
        for said in
            ["", "2 7 1 3 1", "2 7 1 3 1 2 5", "2 x 1 3 1 2", "2 7 1 -3 1 2", "2 7 1  3 1 2"]
        {
            assert!(Hold::of(said).is_err(), "{said:?}");
        }
    }
}
