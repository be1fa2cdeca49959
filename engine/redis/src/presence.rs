//! [`Presence`] on Redis. A heartbeat is kept as one line: seen at, boot id, interval, 1 if it has stopped, the heartbeat as
//! JSON; the scripts read what stands before the JSON.

use async_trait::async_trait;
use redis::Cmd;
use stem_core::backend::presence::{Presence, Registered};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::{Heartbeat, WorkerState};
use stem_core::id::{Incarnation, Namespace, WorkerId};
use stem_core::text::printable;
use stem_core::time::Timestamp;

use crate::fault::Fault;
use crate::read::{self, Fields};
use crate::script::Script;
use crate::{Inner, Redis, script};

fn say(call: &mut Cmd, heartbeat: &Heartbeat) -> Result<(), Fault> {
    call.arg(heartbeat.namespace.as_str())
        .arg(heartbeat.worker.as_str())
        .arg(heartbeat.boot_id.to_string())
        .arg(heartbeat.interval_ms)
        .arg(u8::from(heartbeat.state == WorkerState::Stopped))
        .arg(serde_json::to_vec(heartbeat)?);
    Ok(())
}

fn heartbeat(kept: redis::Value) -> Result<Heartbeat, Fault> {
    let kept = read::text(kept)?;
    let mut parts = kept.splitn(5, ' ');
    let seen_at = parts.next().and_then(|at| at.parse().ok());
    let (Some(seen_at), Some(heartbeat)) = (seen_at, parts.nth(3)) else {
        return Err(Fault::corrupt("a heartbeat is not one"));
    };
    let heartbeat: Heartbeat = serde_json::from_str(heartbeat)?;
    Ok(Heartbeat { seen_at: Timestamp::from_unix_millis(seen_at), ..heartbeat })
}

impl Inner {
    async fn say(&self, script: &Script, heartbeat: &Heartbeat) -> Result<redis::Value, Fault> {
        let mut call = self.call(script);
        say(&mut call, heartbeat)?;
        self.run(script, &call).await
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, Fault> {
        let holder = read::list(self.say(&script::REGISTER, heartbeat).await?)?;
        let mut holder = holder.into_iter();
        let (Some(boot_id), Some(seen_at)) = (holder.next(), holder.next()) else {
            return Ok(Registered::Yes);
        };
        let boot_id = read::text(boot_id)?.parse().map_err(Fault::corrupt)?;
        Ok(Registered::NameTaken { boot_id: Incarnation(boot_id), seen_at: read::time(seen_at)? })
    }

    async fn workers(&self, namespace: &Namespace) -> Result<(Vec<Heartbeat>, Timestamp), Fault> {
        let mut call = self.call(&script::WORKERS);
        call.arg(namespace.as_str());
        let mut answer = Fields::of(self.run(&script::WORKERS, &call).await?)?;
        let now = read::time(answer.next()?)?;
        let mut workers = Vec::new();
        for kept in answer.rest() {
            // One that cannot be read hides no other.
            match heartbeat(kept) {
                Ok(heartbeat) => workers.push(heartbeat),
                Err(fault) => {
                    let problem = printable(&fault.problem, 200);
                    tracing::debug!(problem, "a heartbeat cannot be read");
                }
            }
        }
        workers.sort_by(|one, other| one.worker.cmp(&other.worker));
        Ok((workers, now))
    }

    async fn leave(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), Fault> {
        let mut call = self.call(&script::LEAVE);
        call.arg(namespace.as_str()).arg(worker.as_str()).arg(boot_id.to_string());
        self.run(&script::LEAVE, &call).await.map(|_| ())
    }
}

#[async_trait]
impl Presence for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        let registered = self.inner.register(heartbeat).await;
        registered.map_err(|fault| self.inner.during(fault, "register a worker"))
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        let beaten = self.inner.say(&script::BEAT, heartbeat).await;
        beaten.map(|_| ()).map_err(|fault| self.inner.during(fault, "write a heartbeat"))
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        let workers = self.inner.workers(namespace).await;
        workers.map_err(|fault| self.inner.during(fault, "list workers"))
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        let left = self.inner.leave(namespace, worker, boot_id).await;
        left.map_err(|fault| self.inner.during(fault, "remove a heartbeat"))
    }
}
