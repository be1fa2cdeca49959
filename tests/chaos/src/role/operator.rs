//! [`Operator`]: revokes tasks, and writes down what the store says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stem_core::backend::ErrorClass;
use stem_core::control::wire::CommandFrame;
use stem_core::control::{Command, Order};
use stem_core::id::{Namespace, RequestId, TaskId};
use stem_core::revoke::RevokeRequest;
use stem_core::task::TaskState;
use stem_core::time::Clock as _;
use stem_engine::{Client, SystemClock};

use crate::history::{Event, Journal};
use crate::record::revoked;

/// Before a revocation is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks whether a task runs.
const LOOK: Duration = Duration::from_millis(50);
/// A task that has not begun after so long is revoked all the same.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a command holds.
const LIFE: Duration = Duration::from_secs(10);

/// When a task is revoked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Before there is one.
    Before,
    /// Once it is enqueued; workers are told.
    AtOnce,
    /// While it runs, by force. Workers find out for themselves.
    Unheard,
    /// While it runs, which it may.
    Gently,
}

impl When {
    pub(super) const ALL: [Self; 4] = [Self::Before, Self::AtOnce, Self::Unheard, Self::Gently];
}

/// A process that revokes.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    process: String,
    client: Arc<Client>,
    journal: Arc<Journal>,
    namespace: Namespace,
    sent: Arc<AtomicU64>,
}

impl Operator {
    pub(super) fn new(process: &str, client: &Arc<Client>, journal: &Arc<Journal>) -> Self {
        Self {
            process: process.to_owned(),
            client: Arc::clone(client),
            journal: Arc::clone(journal),
            namespace: Namespace::new("stem").expect("a constant that follows the rules"),
            sent: Arc::default(),
        }
    }

    /// Waits until a task runs, or has ended, or for long.
    async fn until_it_runs(&self, task: &TaskId) {
        let runs = async {
            loop {
                // Who cannot say is asked again.
                if let Ok(Some(record)) = self.client.show(task).await
                    && (record.state == TaskState::Running || record.state.is_final())
                {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        // It is only to be likely.
        let _ = tokio::time::timeout(LONGEST, runs).await;
    }

    /// Revokes a task, however long that takes; then tells the workers, if they can be told.
    pub(super) async fn revoke(&self, task: TaskId, when: When) -> anyhow::Result<()> {
        if matches!(when, When::Unheard | When::Gently) {
            self.until_it_runs(&task).await;
        }
        let terminate = when != When::Gently;
        let request = RevokeRequest { terminate, ..RevokeRequest::default() };
        self.journal.write(Event::RevokeTry(task.clone()));
        let revocations = loop {
            match self.client.revoke(&self.namespace, &[(task.clone(), request.clone())]).await {
                Ok(revocations) => break revocations,
                Err(error)
                    if matches!(error.class(), ErrorClass::Transient | ErrorClass::Refused) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        for revocation in &revocations {
            self.journal.write(Event::RevokeOk(revoked(revocation)));
        }
        if matches!(when, When::AtOnce | When::Gently) {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            let now = SystemClock.now();
            let command = Command {
                request_id: RequestId::new(format!("{}-{number}", self.process))?,
                namespace: self.namespace.clone(),
                targets: None,
                order: Order::Revoke { revocations },
                issued_at: now,
                expires_at: now.after(LIFE),
                requester: self.process.clone(),
            };
            // It only makes them faster: a command that is lost harms nothing.
            let _ = self.client.backends().control.send(&CommandFrame::plain(&command)).await;
        }
        Ok(())
    }
}
