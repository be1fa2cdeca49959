//! Carries an order out, by the same functions as the commands `worker revoke`, `queue pause` and `worker shutdown`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stem_core::backend::broker::Pause;
use stem_core::control::{Drain, Order, WorkerState};
use stem_core::id::{Incarnation, Namespace, QueueName, TaskId, WorkerId};
use stem_core::revoke::RevokeRequest;
use stem_core::seal::Role;
use stem_core::time::Clock;
use stem_engine::audit::Verdict;
use stem_engine::revocations::time_to_count_from;
use stem_engine::signing::Keys;
use stem_engine::{Backends, SystemClock};
use tokio::task::spawn_blocking;

use super::deed::{Deed, Report};
use super::rows::Tone;
use crate::args::Expiry;
use crate::audit::AuditLog;
use crate::command::{queue, worker};
use crate::control::{Request, ask, may_order};
use crate::error::CliError;

/// What an order needs.
#[derive(Clone, Debug)]
pub(super) struct Hand {
    pub(super) backends: Backends,
    pub(super) namespace: Namespace,
    /// How long to wait for answers.
    pub(super) timeout: Duration,
    /// Who orders.
    pub(super) requester: String,
    /// What the order is signed with.
    pub(super) keys: Arc<Keys>,
    /// Where it is written down before it is given.
    pub(super) audit_log: AuditLog,
}

impl Hand {
    /// Does it, and says what became of it. Nothing is done that cannot be written down where that is wanted.
    pub(super) async fn carry_out(&self, deed: Deed, reason: Option<String>) -> Report {
        let (what, about) = noted(&deed, reason.as_deref());
        let (audit_log, namespace) = (self.audit_log.clone(), self.namespace.clone());
        let ask = spawn_blocking(move || audit_log.ask(what, Some(namespace), about));
        let asked = match ask.await {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => return Report::failed(&deed, &error.what),
            Err(error) => return Report::failed(&deed, &error.to_string()),
        };
        let mut report = self.obey(deed, reason).await;
        let failed = (report.tone != Tone::Plain).then(|| report.text.clone());
        let verdict = if failed.is_some() { Verdict::Failed } else { Verdict::Done };
        let end = spawn_blocking(move || asked.end(verdict, None, failed.as_deref()));
        if let Ok(Err(problem)) = end.await {
            report.text = format!("{}; {problem}", report.text);
        }
        report
    }

    async fn obey(&self, deed: Deed, reason: Option<String>) -> Report {
        let done = match &deed {
            Deed::Revoke { task, terminate } => {
                let request = RevokeRequest {
                    terminate: *terminate,
                    reason,
                    requested_by: Some(self.requester.clone()),
                    ..RevokeRequest::default()
                };
                self.revoke(&deed, (task.clone(), request)).await
            }
            Deed::Pause(name) => {
                let pause = Pause { reason, since: SystemClock.now() };
                self.set_paused(&deed, name, Some(&pause)).await
            }
            Deed::Resume(name) => self.set_paused(&deed, name, None).await,
            Deed::Drain { worker, boot_id } => self.drain(&deed, worker, *boot_id).await,
        };
        done.unwrap_or_else(|error| Report::failed(&deed, &error.what))
    }

    async fn revoke(
        &self,
        deed: &Deed,
        (task, mut request): (TaskId, RevokeRequest),
    ) -> Result<Report, CliError> {
        let tell = async |order| {
            let request = Request { send_to_nobody: true, ..self.request(order) };
            ask(&self.backends, request).await
        };
        may_order(&self.keys, Role::Control, &self.namespace)?;
        let revokes = &*self.backends.revokes;
        let now = time_to_count_from(revokes, &SystemClock).await?;
        request.expires_at = Expiry::DEFAULT.counted_from(now);
        let (_, told) =
            worker::store_then_tell(revokes, &self.namespace, &[(task, request)], tell).await?;
        Ok(match told {
            Ok(answers) => Report::told(deed, &["stored".to_owned()], &answers),
            Err(error) => {
                let what = format!(
                    "stored, and workers follow the store; they could not be told: {}",
                    error.what
                );
                Report::failed(deed, &what)
            }
        })
    }

    async fn set_paused(
        &self,
        deed: &Deed,
        name: &QueueName,
        pause: Option<&Pause>,
    ) -> Result<Report, CliError> {
        let names = std::slice::from_ref(name);
        let updated = queue::set_paused(&*self.backends.broker, names, pause).await?;
        Ok(Report::set(deed, !updated.is_empty()))
    }

    /// Commands go to names, and a name may have gone to another process while the question was open.
    async fn drain(
        &self,
        deed: &Deed,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<Report, CliError> {
        let (heartbeats, _) = self.backends.presence.workers(&self.namespace).await?;
        let meanwhile = match heartbeats.iter().find(|heartbeat| heartbeat.worker == *worker) {
            Some(now) if now.boot_id != boot_id => Some("was restarted"),
            // The next process of that name would obey.
            Some(now) if now.state == WorkerState::Stopped => Some("ended"),
            None => Some("ended"),
            Some(_) => None,
        };
        if let Some(meanwhile) = meanwhile {
            return Ok(Report::overtaken(deed, meanwhile));
        }
        let order = Order::Shutdown { mode: Drain::Warm, grace_ms: None };
        let request = Request { workers: vec![worker.clone()], ..self.request(order) };
        let answers = ask(&self.backends, request).await?;
        Ok(Report::told(deed, &[], &answers))
    }

    fn request(&self, order: Order) -> Request {
        Request {
            order,
            workers: Vec::new(),
            namespace: self.namespace.clone(),
            timeout: self.timeout,
            requester: self.requester.clone(),
            keys: Arc::clone(&self.keys),
            send_to_nobody: false,
        }
    }
}

/// A deed as the same command would be noted.
fn noted(deed: &Deed, reason: Option<&str>) -> (&'static str, Value) {
    match deed {
        Deed::Revoke { task, terminate } => {
            ("worker revoke", json!({ "tasks": [task], "terminate": terminate, "reason": reason }))
        }
        Deed::Pause(queue) => ("queue pause", json!({ "queues": [queue], "reason": reason })),
        Deed::Resume(queue) => ("queue resume", json!({ "queues": [queue] })),
        Deed::Drain { worker, .. } => {
            ("worker shutdown", json!({ "mode": "warm", "workers": [worker] }))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use stem_core::control::Heartbeat;
    use stem_memory::Memory;

    use super::*;
    use crate::command::top::testing;

    /// Over an empty store.
    pub(in crate::command::top) fn hand() -> Hand {
        Hand {
            backends: Backends::all_in_one(Memory::new(Arc::new(SystemClock))),
            namespace: Namespace::new("stem").unwrap(),
            timeout: Duration::from_millis(10),
            requester: "operator".to_owned(),
            keys: Keys::none(),
            audit_log: AuditLog::default(),
        }
    }

    #[tokio::test]
    async fn only_the_process_that_the_question_named_is_drained() {
        let asked = testing::heartbeat("alpha", "running", 0);
        let other = Heartbeat { boot_id: Incarnation(uuid::Uuid::max()), ..asked.clone() };
        let ended = testing::heartbeat("alpha", "stopped", 0);
        for (now, said, orders) in [
            (Some(&asked), "NO ANSWER from alpha", 1),
            (Some(&other), "it was restarted meanwhile; NOTHING WAS ORDERED", 0),
            (Some(&ended), "it ended meanwhile; NOTHING WAS ORDERED", 0),
            (None, "it ended meanwhile; NOTHING WAS ORDERED", 0),
        ] {
            let hand = hand();
            let control = Arc::clone(&hand.backends.control);
            let before = control.position(&hand.namespace).await.unwrap();
            if let Some(now) = now {
                hand.backends.presence.register(now).await.unwrap();
            }
            let deed = Deed::Drain { worker: asked.worker.clone(), boot_id: asked.boot_id };
            let report = hand.carry_out(deed, None).await;
            assert_eq!(report.text, format!("drain worker alpha: {said}"));
            let sent = control.commands(&hand.namespace, before, Duration::ZERO).await.unwrap();
            assert_eq!(sent.len(), orders, "{said}");
        }
    }
}
