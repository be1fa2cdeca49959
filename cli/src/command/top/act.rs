//! Carries an order out, by the same functions as the commands `worker revoke`, `queue pause` and `worker shutdown`.

use std::time::Duration;

use stem_core::backend::broker::Pause;
use stem_core::control::{Drain, Order};
use stem_core::id::{Namespace, QueueName, TaskId};
use stem_core::revoke::RevokeRequest;
use stem_core::time::Clock;
use stem_engine::{Backends, SystemClock};

use super::deed::{Deed, Report};
use crate::args::Expiry;
use crate::command::{queue, worker};
use crate::control::{Request, ask};
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
}

impl Hand {
    /// Does it, and says what became of it.
    pub(super) async fn carry_out(&self, deed: Deed, reason: Option<String>) -> Report {
        let done = match &deed {
            Deed::Revoke { task, terminate } => {
                let request = RevokeRequest {
                    terminate: *terminate,
                    reason,
                    requested_by: Some(self.requester.clone()),
                    expires_at: Expiry::DEFAULT.counted_from(SystemClock.now()),
                    ..RevokeRequest::default()
                };
                self.revoke(&deed, (task.clone(), request)).await
            }
            Deed::Pause(name) => {
                let pause = Pause { reason, since: SystemClock.now() };
                self.set_paused(&deed, name, Some(&pause)).await
            }
            Deed::Resume(name) => self.set_paused(&deed, name, None).await,
            Deed::Drain(worker) => {
                let order = Order::Shutdown { mode: Drain::Warm, grace_ms: None };
                let request = Request { workers: vec![worker.clone()], ..self.request(order) };
                let answers = ask(&self.backends, request).await.map_err(CliError::from);
                answers.map(|answers| Report::told(&deed, &[], &answers))
            }
        };
        done.unwrap_or_else(|error| Report::failed(&deed, &error.what))
    }

    async fn revoke(
        &self,
        deed: &Deed,
        request: (TaskId, RevokeRequest),
    ) -> Result<Report, CliError> {
        let tell = async |order| {
            let request = Request { send_to_nobody: true, ..self.request(order) };
            ask(&self.backends, request).await.map_err(CliError::from)
        };
        let (_, told) =
            worker::store_then_tell(&*self.backends.revokes, &self.namespace, &[request], tell)
                .await?;
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

    fn request(&self, order: Order) -> Request {
        Request {
            order,
            workers: Vec::new(),
            namespace: self.namespace.clone(),
            timeout: self.timeout,
            requester: self.requester.clone(),
            send_to_nobody: false,
        }
    }
}
