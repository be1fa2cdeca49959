//! Settling and renewing: only for the holder of the newest token, whose lease nobody has taken back.

use redis::Cmd;
use stem_core::backend::Records;
use stem_core::backend::broker::{Renewal, Renewed, Settled};
use stem_core::envelope::{Envelope, wire};
use stem_core::outcome::Failure;
use stem_core::settlement::{CHILDREN, Receipt, Settle, Settlement};
use stem_core::time::Timestamp;

use super::flag;
use super::publish::{self, BYTES};
use crate::fault::Fault;
use crate::{Inner, read, script};

/// The most that one script settles, so that none keeps the server for long.
const ITEMS: usize = 500;

/// A delivery whose bytes are not an envelope.
pub(super) struct Unreadable {
    pub(super) receipt: Receipt,
    pub(super) failure: Failure,
    pub(super) keep: usize,
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types have string keys and cannot fail")
}

/// The three arguments by which scripts know who holds a delivery.
pub(crate) fn prove(call: &mut Cmd, receipt: &Receipt) {
    call.arg(receipt.task.as_str()).arg(receipt.token.0).arg(receipt.owner.to_string());
}

/// The entry that a settlement adds to the task's history, or nothing.
fn failed_attempt(settle: &Settle) -> Vec<u8> {
    settle.failed_attempt().as_ref().map(json).unwrap_or_default()
}

/// What `settle_record` reads. The fields are those of a record; see `records`.
pub(crate) fn record_arguments(call: &mut Cmd, settle: &Settle) {
    record_arguments_with(call, settle, &failed_attempt(settle));
}

fn record_arguments_with(call: &mut Cmd, settle: &Settle, failed: &[u8]) {
    let mut fields: Vec<(&str, Vec<u8>)> = Vec::new();
    match &settle.settlement {
        Settlement::Succeed(result) => {
            fields.push(("rt", result.media_type.as_bytes().to_vec()));
            fields.push(("rs", result.bytes.clone()));
        }
        Settlement::Fail { failure, .. } => fields.push(("f", json(failure))),
        Settlement::Retry { failure, not_before } => {
            fields.push(("f", json(failure)));
            fields.push(("nb", not_before.unix_millis().to_string().into_bytes()));
        }
        Settlement::Revoke(end) => fields.push(("rv", json(end))),
        Settlement::Expire | Settlement::Discard | Settlement::Release => {}
    }
    if settle.settlement != Settlement::Release {
        if let Some(module) = &settle.module {
            // Short enough for the server's compact form of a hash.
            fields.push(("md", module.digest.0.to_vec()));
            if let Some(version) = &module.version {
                fields.push(("mv", version.clone().into_bytes()));
            }
        }
        if let Some(usage) = &settle.usage {
            fields.push(("us", json(usage)));
        }
    }
    call.arg(settle.settlement.state().map_or("", |state| state.as_str()))
        .arg(settle.at.unix_millis())
        .arg(settle.attempt)
        .arg(u8::from(settle.settlement.is_before_start()))
        .arg(failed)
        .arg(fields.len() * 2);
    for (field, value) in fields {
        call.arg(field).arg(value);
    }
}

pub(super) async fn settle(
    inner: &Inner,
    batch: &[Settle],
    records: Records,
) -> Result<Vec<Settled>, Fault> {
    let mut settled = Vec::with_capacity(batch.len());
    let mut rest = batch;
    while !rest.is_empty() {
        let (now, children) = portion(rest);
        let (batch, later) = rest.split_at(now);
        rest = later;
        // Storing more is refused while the memory is full, so what stores nothing has a script of its own.
        let script = if children.is_empty() { &script::SETTLE } else { &script::SETTLE_PUBLISH };
        let mut call = inner.call(script);
        call.arg(flag(records)).arg(batch.len());
        for settle in batch {
            arguments(&mut call, settle, records);
        }
        if !children.is_empty() {
            call.arg(children.len());
        }
        for Born { of, child, wire } in children {
            // Lua counts from 1.
            call.arg(of + 1);
            publish::arguments(&mut call, child, wire);
        }
        for answer in read::list(inner.run(script, &call).await?)? {
            let happened = read::int(answer)? == 1;
            settled.push(if happened { Settled::Done } else { Settled::Stale });
        }
    }
    Ok(settled)
}

/// A child, the number of its settlement in a script, and its wire form.
struct Born<'a> {
    of: usize,
    child: &'a Envelope,
    wire: Vec<u8>,
}

/// How many settlements one script makes, and their children: one settlement's stay together, and there are no more of
/// several than one may have.
fn portion(batch: &[Settle]) -> (usize, Vec<Born<'_>>) {
    let (mut children, mut size) = (Vec::new(), 0);
    for (of, settle) in batch.iter().enumerate().take(ITEMS) {
        let more = settle.publishes();
        if more.is_empty() {
            continue;
        }
        let wires: Vec<Vec<u8>> = more.iter().map(wire::encode).collect();
        size += wires.iter().map(Vec::len).sum::<usize>();
        if !children.is_empty() && (children.len() + more.len() > CHILDREN || size > BYTES) {
            return (of, children);
        }
        let born = more.iter().zip(wires).map(|(child, wire)| Born { of, child, wire });
        children.extend(born);
    }
    (batch.len().min(ITEMS), children)
}

fn arguments(call: &mut Cmd, settle: &Settle, records: Records) {
    prove(call, &settle.receipt);
    let failed = failed_attempt(settle);
    match &settle.settlement {
        Settlement::Succeed(_)
        | Settlement::Revoke(_)
        | Settlement::Expire
        | Settlement::Discard => {
            call.arg("gone");
        }
        Settlement::Fail { failure, reason } => {
            call.arg("dead").arg(reason.as_str()).arg(json(failure)).arg(&failed);
        }
        Settlement::Retry { not_before, .. } => {
            call.arg("retry").arg(not_before.unix_millis()).arg("").arg(&failed);
        }
        Settlement::Release => {
            call.arg("release");
        }
    }
    if records == Records::Here {
        record_arguments_with(call, settle, &failed);
    }
}

/// Moves deliveries that cannot be read to the dead letters, as if they had not been delivered.
pub(super) async fn bury(
    inner: &Inner,
    unreadable: &[Unreadable],
    records: Records,
) -> Result<(), Fault> {
    let mut call = inner.call(&script::SETTLE);
    call.arg(flag(records)).arg(unreadable.len());
    for one in unreadable {
        prove(&mut call, &one.receipt);
        call.arg("bury").arg(&one.failure.code).arg(json(&one.failure)).arg(one.keep);
        if records == Records::Here {
            call.arg("").arg(0).arg(0).arg(0).arg("").arg(0);
        }
    }
    inner.run(&script::SETTLE, &call).await?;
    Ok(())
}

pub(super) async fn renew(inner: &Inner, renewals: &[Renewal]) -> Result<Vec<Renewed>, Fault> {
    let mut renewed = Vec::with_capacity(renewals.len());
    for batch in renewals.chunks(ITEMS) {
        let mut call = inner.call(&script::RENEW);
        for renewal in batch {
            prove(&mut call, &renewal.receipt);
            call.arg(i64::try_from(renewal.lease.as_millis()).unwrap_or(i64::MAX));
        }
        for answer in read::list(inner.run(&script::RENEW, &call).await?)? {
            let until = read::int(answer)?;
            renewed.push(if until < 0 {
                Renewed::Stale
            } else {
                Renewed::Until(Timestamp::from_unix_millis(until))
            });
        }
    }
    Ok(renewed)
}
