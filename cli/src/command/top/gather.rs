//! Looks again and again, one round at a time: heartbeats and queues, then what the workers say themselves.
//!
//! A worker that does not answer holds up one round, not every one: it is asked again when its heartbeat has moved on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stem_core::control::{Heartbeat, Order};
use stem_core::id::{Namespace, WorkerId};
use stem_core::time::Timestamp;
use stem_engine::Backends;
use stem_engine::signing::Keys;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::picture::{Asked, News};
use super::rows::Narrow;
use crate::control::{Answers, Request, ask};
use crate::error::CliError;

/// How long a round waits for answers. They take milliseconds; a machine with much to do may take more.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where to look, and how often.
#[derive(Debug)]
pub(super) struct Gatherer {
    pub(super) backends: Backends,
    pub(super) namespace: Namespace,
    pub(super) narrow: Narrow,
    pub(super) interval: Duration,
    /// Who asks, for the workers' logs.
    pub(super) requester: String,
    pub(super) keys: Arc<Keys>,
    /// Looks again at once.
    pub(super) nudge: Arc<Notify>,
    pub(super) news: mpsc::Sender<News>,
}

/// Nobody looks at the picture any more.
struct Closed;

impl Gatherer {
    /// Goes on until nobody listens.
    pub(super) async fn run(self) {
        let mut silent = Silent::default();
        let mut known = Vec::new();
        loop {
            let started = Instant::now();
            if self.round(&mut known, &mut silent).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(started + self.interval) => {}
                () = self.nudge.notified() => {}
                () = self.news.closed() => return,
            }
        }
    }

    async fn round(&self, known: &mut Vec<Fresh>, silent: &mut Silent) -> Result<(), Closed> {
        let (heartbeats, queues) = tokio::join!(
            self.backends.presence.workers(&self.namespace),
            self.backends.broker.queues()
        );
        if let Ok((heartbeats, now)) = &heartbeats {
            // With none to be had, those that were there last are asked.
            *known = fresh(heartbeats, *now, &self.narrow);
        }
        self.tell(News::Heartbeats(heartbeats.map_err(|error| error.to_string()))).await?;
        self.tell(News::Queues(queues.map_err(|error| error.to_string()))).await?;
        let wanted = silent.without(known);
        let asked = tokio::try_join!(
            self.ask(&wanted, Order::Inspect { include_revoked: false }),
            self.ask(&wanted, Order::Stats {}),
        );
        if let Ok((inspected, _)) = &asked {
            silent.remember(known, inspected);
        }
        let asked = asked.map(|(inspected, counted)| Box::new(Asked { inspected, counted }));
        self.tell(News::Answers(asked.map_err(|error| error.what))).await
    }

    async fn ask(&self, workers: &[WorkerId], order: Order) -> Result<Answers, CliError> {
        if workers.is_empty() {
            // With no name a command is for everyone.
            return Ok(Answers::nobody_asked(&self.namespace));
        }
        let request = Request {
            order,
            workers: workers.to_vec(),
            namespace: self.namespace.clone(),
            timeout: PATIENCE,
            requester: self.requester.clone(),
            keys: Arc::clone(&self.keys),
            send_to_nobody: false,
        };
        ask(&self.backends, request).await
    }

    async fn tell(&self, news: News) -> Result<(), Closed> {
        self.news.send(news).await.map_err(|_| Closed)
    }
}

/// A worker that can be expected to answer, and when it was heard.
type Fresh = (WorkerId, Timestamp);

fn fresh(heartbeats: &[Heartbeat], now: Timestamp, narrow: &Narrow) -> Vec<Fresh> {
    heartbeats
        .iter()
        .filter(|heartbeat| heartbeat.is_fresh(now) && narrow.wants(heartbeat))
        .map(|heartbeat| (heartbeat.worker.clone(), heartbeat.seen_at))
        .collect()
}

/// Who did not answer, and when it had been heard last by then.
#[derive(Debug, Default)]
struct Silent(BTreeMap<WorkerId, Timestamp>);

impl Silent {
    fn without(&self, known: &[Fresh]) -> Vec<WorkerId> {
        let may_answer = |(worker, seen): &&Fresh| self.0.get(worker) != Some(seen);
        known.iter().filter(may_answer).map(|(worker, _)| worker.clone()).collect()
    }

    fn remember(&mut self, known: &[Fresh], answers: &Answers) {
        for reply in &answers.replies {
            self.0.remove(&reply.worker);
        }
        let missing = answers.missing();
        let missing = known.iter().filter(|(worker, _)| missing.contains(&worker));
        self.0.extend(missing.cloned());
        self.0.retain(|worker, _| known.iter().any(|(known, _)| known == worker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::testing::{answers, worker};

    #[test]
    fn a_silent_worker_is_asked_again_when_it_was_heard_again() {
        let at = Timestamp::from_unix_millis;
        let (a, b) = (worker("a"), worker("b"));
        let mut silent = Silent::default();
        let known = vec![(a.clone(), at(1)), (b.clone(), at(1))];
        assert_eq!(silent.without(&known), [a.clone(), b.clone()]);
        silent.remember(&known, &answers(&["a", "b"], &["a"]));
        assert_eq!(silent.without(&known), std::slice::from_ref(&a));
        // Nobody asked it, so nothing is known to be better.
        silent.remember(&known, &answers(&["a"], &["a"]));
        assert_eq!(silent.without(&known), std::slice::from_ref(&a));
        let later = vec![(a.clone(), at(1)), (b.clone(), at(2))];
        assert_eq!(silent.without(&later), [a.clone(), b.clone()]);
        silent.remember(&later, &answers(&["a", "b"], &["b", "a"]));
        assert_eq!(silent.without(&later), [a.clone(), b]);
        // Who is gone is forgotten.
        silent.remember(&[(a.clone(), at(1))], &answers(&["a"], &[]));
        silent.remember(&[], &answers(&[], &[]));
        assert!(silent.0.is_empty());
    }
}
