//! [`Line`]: the host's end of the network. Every call of a worker or client becomes a packet, and waits for its answer.

mod broker;
mod stores;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, ErrorClass, ServiceId};
use stem_core::id::TaskId;
use stem_engine::Backends;
use tokio::sync::oneshot;

use crate::desk::Desk;
use crate::dice;
use crate::fact::{Method, ServiceKind};
use crate::net::{Deliver, Packet, Remote, Trouble, service_of};
use crate::plan::Layout;
use crate::ready::ready;

type Made<R> = Pin<Box<dyn Future<Output = Result<R, BackendError>> + Send>>;
type Answer<R> = Result<Result<R, BackendError>, Trouble>;

/// The process id in every heartbeat: of no process there is, so that a name whose holder was killed is taken over.
const PID: u32 = 2_000_000_000;

/// One process's connections.
#[derive(Debug)]
pub struct Line {
    desk: Arc<Desk>,
    limit: Duration,
    services: [ServiceId; 3],
}

/// Connections of a process to services that lie as `layout` says; each call is given up after `limit` milliseconds
/// beside what it asked to wait. What has no line goes to `direct`, which is not called in simulations.
pub fn line(desk: &Arc<Desk>, layout: Layout, limit: u64, direct: Backends) -> Backends {
    let id = |name: &str| ServiceId(name.to_owned());
    let apart = |is_apart: bool, name: &str| if is_apart { id(name) } else { id("broker") };
    let line = Arc::new(Line {
        desk: Arc::clone(desk),
        limit: Duration::from_millis(limit),
        services: [
            id("broker"),
            apart(matches!(layout, Layout::RecordsApart | Layout::AllApart), "records"),
            apart(matches!(layout, Layout::RevokesApart | Layout::AllApart), "revokes"),
        ],
    });
    Backends {
        broker: Arc::clone(&line) as _,
        results: Arc::clone(&line) as _,
        revokes: Arc::clone(&line) as _,
        control: Arc::clone(&line) as _,
        presence: Arc::clone(&line) as _,
        dead_letters: line,
        ..direct
    }
}

fn salt(task: &TaskId, more: u64) -> u64 {
    dice::hash(task.as_str()) ^ more.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Of calls that answer at once, whatever there is.
fn never<R>(_: &R) -> bool {
    false
}

/// A method whose answer does not wait: the call is made with copies of its arguments, as often as it arrives.
macro_rules! remote {
    ($line:ident, $method:literal, $salt:expr, [$($argument:ident),*], |$backends:ident| $call:expr) => {
        $line.call($method, $salt, Duration::ZERO, never, move |$backends: Backends| {
            $(let $argument = $argument.clone();)*
            Box::pin(async move { $call.await })
        }).await
    };
}
use remote;

impl Line {
    fn service(&self, kind: ServiceKind) -> &ServiceId {
        match kind {
            ServiceKind::Broker => &self.services[0],
            ServiceKind::Records => &self.services[1],
            ServiceKind::Revokes => &self.services[2],
        }
    }

    async fn call<R, Make>(
        &self,
        method: Method,
        salt: u64,
        wait: Duration,
        empty: fn(&R) -> bool,
        make: Make,
    ) -> Result<R, BackendError>
    where
        R: Send + 'static,
        Make: Fn(Backends) -> Made<R> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // The second call of these gives what is in the store at the end.
        let last_counts = method == "revokes.revoke";
        let call = Call { make, empty, last_counts, kept: None, answer: Some(answer) };
        self.desk.send(Packet {
            caller: self.desk.caller,
            method,
            salt,
            nth: self.desk.count(method, salt),
            sent: self.desk.now(),
            wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            remote: Box::new(call),
        });
        let answer = tokio::time::timeout(self.limit + wait, async {
            match answered.await {
                Ok(answer) => answer,
                // It was lost, which nobody tells.
                Err(_) => std::future::pending().await,
            }
        });
        match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Trouble::Reset)) => {
                Err(self.failed(method, ErrorClass::Transient, "the connection was reset"))
            }
            Ok(Err(Trouble::Refused)) => {
                Err(self.failed(method, ErrorClass::Refused, "the service is read-only"))
            }
            Err(_) => Err(self.failed(method, ErrorClass::Transient, "no answer in time")),
        }
    }

    fn failed(&self, method: Method, class: ErrorClass, problem: &str) -> BackendError {
        BackendError::new(class, &self.service(service_of(method)).0, "answer a call", problem)
    }
}

/// The far end of one call.
struct Call<R, Make> {
    make: Make,
    empty: fn(&R) -> bool,
    last_counts: bool,
    kept: Option<Result<R, BackendError>>,
    answer: Option<oneshot::Sender<Answer<R>>>,
}

impl<R, Make> Remote for Call<R, Make>
where
    R: Send + 'static,
    Make: Fn(Backends) -> Made<R> + Send + 'static,
{
    fn execute(&mut self, backends: &Backends) -> bool {
        let made = ready((self.make)(backends.clone()));
        let found = made.as_ref().map_or(true, |out| !(self.empty)(out));
        // A look that found nothing is followed by another.
        let replace = match &self.kept {
            None => true,
            Some(Ok(kept)) => self.last_counts || (self.empty)(kept),
            Some(Err(_)) => self.last_counts,
        };
        if replace {
            self.kept = Some(made);
        }
        found
    }

    fn answer(&mut self, trouble: Option<Trouble>) -> Option<Deliver> {
        let (answer, kept) = (self.answer.take()?, self.kept.take());
        let word = match (trouble, kept) {
            (Some(trouble), _) => Err(trouble),
            (None, Some(kept)) => Ok(kept),
            (None, None) => Err(Trouble::Reset),
        };
        Some(Box::new(move || {
            // Who no longer waits is not told.
            let _ = answer.send(word);
        }))
    }

    fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}
