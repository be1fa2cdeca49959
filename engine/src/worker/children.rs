//! Tasks that an attempt enqueues: what each inherits, how many there may be, and those that wait for its success.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use stem_core::envelope::{DEPTH, Envelope, wire};
use stem_core::id::{QueueName, TaskId};
use stem_core::settlement::{CHILDREN, CHILDREN_BYTES};
use stem_core::tenant::{self, Tenant};
use stem_core::time::Timestamp;
use stem_core::trace::TraceParent;
use stem_isolate::{Child, Refusal};

use crate::client::new_task_id;
use crate::signing::Keys;

/// What the children of a task inherit.
#[derive(Debug)]
pub(super) struct Parent {
    task: TaskId,
    root: TaskId,
    depth: u32,
    queue: QueueName,
    trace: Option<String>,
    /// Whose all of them are; anybody's, where it is not known.
    tenant: Option<Tenant>,
}

impl Parent {
    /// Of this task, whose attempt is traced so, if it is; with its tenant where tenants have quotas, which a task would
    /// leave by enqueueing others as somebody else.
    pub(super) fn new(
        envelope: &Envelope,
        traced: Option<TraceParent>,
        tenant: Option<Tenant>,
    ) -> Self {
        Self {
            task: envelope.id.clone(),
            root: envelope.root_id.clone(),
            depth: envelope.depth,
            queue: envelope.queue.clone(),
            trace: traced
                .map(|traced| traced.to_string())
                .or_else(|| envelope.trace_parent.clone()),
            tenant: tenant.filter(|tenant| !tenant.is_unnamed()),
        }
    }

    /// The headers of a child: with its parent's tenant, and no other.
    fn headers(
        &self,
        mut own: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        if let Some(tenant) = &self.tenant {
            let named = own.entry(tenant::HEADER.to_owned()).or_insert_with(|| tenant.to_string());
            if named != tenant.as_str() {
                return Err(Refusal::Invalid(format!(
                    "header {:?}: the tasks that a task enqueues are its tenant's, {tenant}",
                    tenant::HEADER
                )));
            }
        }
        Ok(own)
    }

    /// The envelope of a child that is enqueued now.
    pub(super) fn envelope_of(&self, child: Child, now: Timestamp) -> Result<Envelope, Refusal> {
        let depth = self.depth.saturating_add(1);
        if depth > DEPTH {
            let problem = format!("depth: {DEPTH} tasks of the chain are above this one");
            return Err(Refusal::Quota(problem));
        }
        let id = child.dedup_key.map_or_else(new_task_id, |key| keyed_id(&self.task, &key));
        let queue = child.queue.unwrap_or_else(|| self.queue.clone());
        let envelope = Envelope {
            not_before: child.delay.map(|delay| now.after(delay)),
            trace_parent: self.trace.clone(),
            parent_id: Some(self.task.clone()),
            root_id: self.root.clone(),
            depth,
            headers: self.headers(child.headers)?,
            ..Envelope::new(id, child.name, queue, child.input, now)
        };
        envelope.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(envelope)
    }
}

/// The id of a child with a key, the same in every attempt: a version 8 UUID of the first bytes of the SHA-256 over a
/// word, the parent's id and the key, with line feeds between them, which no id holds.
fn keyed_id(parent: &TaskId, key: &str) -> TaskId {
    let digest = Sha256::digest(format!("stem child\n{parent}\n{key}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    let id = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    TaskId::new(id.to_string()).expect("a UUID follows the rules for names")
}

/// The children of one attempt.
#[derive(Debug, Default)]
pub(super) struct Children(Mutex<Family>);

#[derive(Debug, Default)]
struct Family {
    count: usize,
    bytes: usize,
    /// Those that come to be with the attempt's success.
    waiting: Vec<Envelope>,
    /// The attempt is over: no more are taken.
    over: bool,
}

impl Family {
    fn must_go_on(&self) -> Result<(), Refusal> {
        if self.over {
            return Err(Refusal::Unavailable("the attempt is over".to_owned()));
        }
        Ok(())
    }
}

/// What one call has added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    count: usize,
    bytes: usize,
}

impl Children {
    fn family(&self) -> MutexGuard<'_, Family> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts these, all or none, against what an attempt may enqueue.
    pub(super) fn count(&self, envelopes: &[Envelope]) -> Result<Counted, Refusal> {
        let more: usize = envelopes.iter().map(|envelope| wire::encode(envelope).len()).sum();
        let mut family = self.family();
        family.must_go_on()?;
        let (count, bytes) = (family.count + envelopes.len(), family.bytes + more);
        if count > CHILDREN {
            return Err(Refusal::Quota(format!(
                "children: an attempt enqueues at most {CHILDREN}"
            )));
        }
        if bytes > CHILDREN_BYTES {
            let most = CHILDREN_BYTES >> 20;
            return Err(Refusal::Quota(format!(
                "children: those of an attempt have at most {most} MiB together"
            )));
        }
        (family.count, family.bytes) = (count, bytes);
        Ok(Counted { count: envelopes.len(), bytes: more })
    }

    /// What was counted could not be enqueued; it may be asked for again.
    pub(super) fn take_back(&self, counted: Counted) {
        let mut family = self.family();
        family.count -= counted.count;
        family.bytes -= counted.bytes;
    }

    /// Keeps these for the attempt's success, unless it has come since they were counted.
    pub(super) fn keep(&self, envelopes: Vec<Envelope>) -> Result<(), Refusal> {
        let mut family = self.family();
        family.must_go_on()?;
        family.waiting.extend(envelopes);
        Ok(())
    }

    /// The attempt ended: those that waited for its success come to be now, signed as they are now, and their delays begin.
    /// A settlement that is tried again gets the same ones.
    pub(super) fn of_success(&self, now: Timestamp, keys: &Keys) -> Vec<Envelope> {
        let mut family = self.family();
        if !family.over {
            family.over = true;
            for child in &mut family.waiting {
                let waited = now.since(child.enqueued_at);
                child.enqueued_at = now;
                child.not_before = child.not_before.map(|at| at.after(waited));
                child.seal = None;
                // There was a key when it was asked for, and the handler is over: nobody else can be told.
                if let Err(problem) = keys.seal_task(child, now) {
                    tracing::error!(task = %child.id, %problem, "a task that waited for its parent's success is not signed");
                }
            }
        }
        family.waiting.clone()
    }

    /// The attempt ended without success: those that waited for it never come to be.
    pub(super) fn drop_all(&self) {
        let mut family = self.family();
        family.over = true;
        family.waiting = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use stem_core::envelope::Payload;
    use stem_core::id::TaskName;

    use super::*;

    /// A settlement that is made again must have the children of the first.
    #[test]
    fn what_is_asked_for_while_the_attempt_ends_is_refused_and_not_promised() {
        let at = Timestamp::from_unix_millis(0);
        let (name, queue) = (TaskName::new("leaf").unwrap(), QueueName::new("q").unwrap());
        let child = |id: &str| {
            let id = TaskId::new(id).unwrap();
            Envelope::new(id, name.clone(), queue.clone(), Payload::json("{}"), at)
        };
        let children = Children::default();
        for id in ["one", "two"] {
            children.count(&[child(id)]).unwrap();
        }
        children.keep(vec![child("one")]).unwrap();
        let born = children.of_success(at, &Keys::none());
        children.keep(vec![child("two")]).unwrap_err();
        assert_eq!(born.len(), 1);
        assert_eq!(children.of_success(at, &Keys::none()), born);
    }
}
