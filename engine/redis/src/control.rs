//! [`ControlPlane`] on Redis: a stream for each namespace, read by everybody from a place of their own.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::control::{ControlPlane, Position, REPLY_TTL};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::id::{Namespace, RequestId};
use tokio::time::Instant;

use crate::bell::Topic;
use crate::fault::Fault;
use crate::link::Hears;
use crate::read;
use crate::{Inner, LOOK_AGAIN, Redis, script};

/// Commands that one read returns; the reader comes again for more.
const PAGE: usize = 1_000;

/// A place in a stream is a time in milliseconds and a number within it; a position holds both.
const NUMBERS: u32 = 20;

fn position(place: &str) -> Result<Position, Fault> {
    let read = || {
        let (time, number) = place.split_once('-')?;
        let (time, number): (u64, u64) = (time.parse().ok()?, number.parse().ok()?);
        let time = time.min(u64::MAX >> NUMBERS);
        Some(Position((time << NUMBERS) | number.min((1 << NUMBERS) - 1)))
    };
    read().ok_or_else(|| Fault::corrupt(format!("{place:?} is no place in a stream")))
}

/// Somebody else may have put bytes into a field that are no text.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn place(position: Position) -> String {
    format!("{}-{}", position.0 >> NUMBERS, position.0 & ((1 << NUMBERS) - 1))
}

impl Inner {
    async fn end_of_log(&self, namespace: &Namespace) -> Result<Position, Fault> {
        let mut call = self.call(&script::COMMAND_END);
        call.arg(namespace.as_str());
        let end = read::text(self.run(&script::COMMAND_END, &call).await?)?;
        if end.is_empty() { Ok(Position::default()) } else { position(&end) }
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, Fault> {
        let mut call = self.call(&script::COMMAND_SEND);
        call.arg(command.namespace.as_str())
            .arg(command.request_id.as_str())
            .arg(command.expires_at.unix_millis())
            .arg(command.text.as_str());
        position(&read::text(self.run(&script::COMMAND_SEND, &call).await?)?)
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
    ) -> Result<Vec<(Position, String)>, Fault> {
        let mut call = self.call(&script::COMMAND_READ);
        call.arg(namespace.as_str()).arg(place(after)).arg(PAGE);
        let mut answer = read::list(self.run(&script::COMMAND_READ, &call).await?)?.into_iter();
        let from = answer.next().ok_or_else(|| Fault::corrupt("an answer is too short"))?;
        let from = position(&read::text(from)?)?;
        let mut commands = Vec::new();
        while let (Some(place), Some(command)) = (answer.next(), answer.next()) {
            let at = position(&read::text(place)?)?;
            // A place that somebody else chose may be one that no position can name.
            if at > from {
                commands.push((at, text(read::bytes(command)?.unwrap_or_default())));
            }
        }
        Ok(commands)
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), Fault> {
        let ttl = i64::try_from(REPLY_TTL.as_millis()).expect("a minute fits");
        let mut call = self.call(&script::REPLY);
        call.arg(namespace.as_str())
            .arg(reply.request_id.as_str())
            .arg(reply.worker.as_str())
            .arg(reply.text.as_str())
            .arg(ttl);
        self.run(&script::REPLY, &call).await.map(|_| ())
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
    ) -> Result<Vec<(Position, String)>, Fault> {
        let mut get = redis::cmd("HVALS");
        get.arg(format!("{}a/{namespace}/{request}", self.prefix));
        let mut replies = Vec::new();
        for kept in read::list(self.link.ask(&get).await?)? {
            let kept = text(read::bytes(kept)?.unwrap_or_default());
            // No script of ours writes one without a place.
            let placed = kept
                .split_once(' ')
                .and_then(|(place, reply)| Some((Position(place.parse().ok()?), reply.to_owned())));
            replies.extend(placed.filter(|(place, _)| *place > after));
        }
        replies.sort_by_key(|(place, _)| *place);
        Ok(replies)
    }

    /// Looks until there is something, at most `wait`.
    async fn look_until<T, F>(
        &self,
        wait: Duration,
        look: impl Fn() -> F + Send,
    ) -> Result<Vec<T>, Fault>
    where
        T: Send,
        F: Future<Output = Result<Vec<T>, Fault>> + Send,
    {
        let started = Instant::now();
        if !wait.is_zero() {
            self.link.listen(Hears::BELL).await?;
        }
        loop {
            // Made before looking, so that a ring between the look and the wait is not missed.
            let ring = self.bells.next(Topic::Control);
            let found = look().await?;
            let left = wait.saturating_sub(started.elapsed());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            let _ = tokio::time::timeout(left.min(LOOK_AGAIN), ring).await;
        }
    }

    async fn prune_commands(&self) -> Result<u64, Fault> {
        let call = self.call(&script::COMMAND_PRUNE);
        read::large(self.run(&script::COMMAND_PRUNE, &call).await?)
    }
}

#[async_trait]
impl ControlPlane for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        let end = self.inner.end_of_log(namespace).await;
        end.map_err(|fault| self.inner.during(fault, "find the end of the command log"))
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        let sent = self.inner.send(command).await;
        sent.map_err(|fault| self.inner.during(fault, "send a command"))
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let look = || self.inner.commands(namespace, after);
        let commands = self.inner.look_until(wait, look).await;
        commands.map_err(|fault| self.inner.during(fault, "read commands"))
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        let replied = self.inner.reply(namespace, reply).await;
        replied.map_err(|fault| self.inner.during(fault, "reply to a command"))
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let look = || self.inner.replies(namespace, request, after);
        let replies = self.inner.look_until(wait, look).await;
        replies.map_err(|fault| self.inner.during(fault, "read replies"))
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let pruned = self.inner.prune_commands().await;
        pruned.map_err(|fault| self.inner.during(fault, "remove expired commands"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_with_places_and_lead_back_to_them() {
        let places = ["0-1", "1795305600000-0", "1795305600000-7", "1795305600001-0"];
        let positions: Vec<_> = places.map(|place| position(place).expect("a place")).to_vec();
        assert!(positions.is_sorted());
        for (one, expected) in positions.into_iter().zip(places) {
            assert_eq!(place(one), expected);
        }
        assert!(position("nonsense").is_err());
        let end = position(&format!("{0}-{0}", u64::MAX)).expect("a place");
        assert_eq!(end, Position(u64::MAX));
    }
}
