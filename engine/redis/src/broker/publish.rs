//! Storing envelopes: each one, its place and its record in one step, or the news that something is in the way.

use redis::Cmd;
use stem_core::backend::Records;
use stem_core::backend::broker::Published;
use stem_core::envelope::{Envelope, wire};
use stem_core::id::TaskId;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use super::flag;
use crate::fault::Fault;
use crate::{Inner, read, script};

/// The most that one script stores, so that none keeps the server for long.
const ITEMS: usize = 500;
/// The most bytes that one script takes; a single larger envelope still goes by itself.
pub(super) const BYTES: usize = 4 << 20;

/// What the script's `publish` reads.
pub(super) fn arguments(call: &mut Cmd, envelope: &Envelope, wire: Vec<u8>) {
    let not_before = envelope.not_before.map(Timestamp::unix_millis);
    call.arg(envelope.id.as_str())
        .arg(envelope.queue.as_str())
        .arg(envelope.name.as_str())
        .arg(envelope.priority.level())
        .arg(not_before.map_or_else(String::new, |at| at.to_string()))
        .arg(envelope.unique_key.as_ref().map_or("", |key| key.as_str()))
        .arg(wire)
        .arg(envelope.retry.max_retries)
        .arg(envelope.enqueued_at.unix_millis());
    family_arguments(call, envelope);
    let tenant = Tenant::of(&envelope.headers);
    call.arg(if tenant.is_unnamed() { "" } else { tenant.as_str() });
}

/// Where a task comes from, as records keep it.
pub(crate) fn family_arguments(call: &mut Cmd, envelope: &Envelope) {
    let (parent, root) =
        envelope.family().map_or(("", ""), |(parent, root)| (parent.as_str(), root.as_str()));
    call.arg(parent).arg(root);
}

pub(super) async fn publish(
    inner: &Inner,
    envelopes: &[Envelope],
    records: Records,
) -> Result<Vec<Published>, Fault> {
    let mut published = Vec::with_capacity(envelopes.len());
    let mut rest = envelopes;
    while !rest.is_empty() {
        let mut call = inner.call(&script::PUBLISH);
        let mut wires = Vec::new();
        let mut size = 0;
        for envelope in rest.iter().take(ITEMS) {
            let bytes = wire::encode(envelope);
            if !wires.is_empty() && size + bytes.len() > BYTES {
                break;
            }
            size += bytes.len();
            wires.push(bytes);
        }
        let (now, later) = rest.split_at(wires.len());
        rest = later;
        call.arg(flag(records)).arg(now.len());
        for (envelope, wire) in now.iter().zip(wires) {
            arguments(&mut call, envelope, wire);
        }
        for answer in read::list(inner.run(&script::PUBLISH, &call).await?)? {
            let existing = read::text(answer)?;
            published.push(if existing.is_empty() {
                Published::Stored
            } else {
                Published::Duplicate { existing: TaskId::new(&existing)? }
            });
        }
    }
    Ok(published)
}
