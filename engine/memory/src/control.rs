//! [`ControlPlane`] in memory.

use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::control::{ControlPlane, Position, REPLY_TTL};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::id::{Namespace, RequestId};

use crate::state::{Replies, State};
use crate::{Look, Memory};

#[async_trait]
impl ControlPlane for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn position(&self, _namespace: &Namespace) -> Result<Position, BackendError> {
        Ok(Position(self.state().position))
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        let mut state = self.state();
        let sent = state.commands.iter().find(|(_, sent)| {
            sent.request_id == command.request_id && sent.namespace == command.namespace
        });
        if let Some((position, _)) = sent {
            return Ok(*position);
        }
        let position = next_position(&mut state);
        state.commands.insert(position, command.clone());
        drop(state);
        self.bells.control.ring();
        Ok(position)
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let found = self
            .look_until(&self.bells.control, wait, |state, now| {
                let found: Vec<_> = state
                    .commands
                    .range((Bound::Excluded(after), Bound::Unbounded))
                    .filter(|(_, command)| {
                        command.namespace == *namespace && command.expires_at > now
                    })
                    .map(|(position, command)| (*position, command.text.clone()))
                    .collect();
                if found.is_empty() { Look::Nothing { due: None } } else { Look::Found(found) }
            })
            .await;
        Ok(found.unwrap_or_default())
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        let now = self.now();
        let mut state = self.state();
        let expires_at = state
            .commands
            .values()
            .find(|sent| sent.request_id == reply.request_id && sent.namespace == *namespace)
            .map_or(now, |command| command.expires_at);
        let position = next_position(&mut state);
        let channel = state
            .replies
            .entry((namespace.clone(), reply.request_id.clone()))
            .or_insert_with(|| Replies { until: expires_at.after(REPLY_TTL), replies: Vec::new() });
        if channel.replies.iter().all(|(_, known)| known.worker != reply.worker) {
            channel.replies.push((position, reply.clone()));
        }
        drop(state);
        self.bells.control.ring();
        Ok(())
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let key = (namespace.clone(), request.clone());
        let found = self
            .look_until(&self.bells.control, wait, |state, _| {
                let found: Vec<_> = state
                    .replies
                    .get(&key)
                    .into_iter()
                    .flat_map(|channel| &channel.replies)
                    .filter(|(position, _)| *position > after)
                    .map(|(position, reply)| (*position, reply.text.clone()))
                    .collect();
                if found.is_empty() { Look::Nothing { due: None } } else { Look::Found(found) }
            })
            .await;
        Ok(found.unwrap_or_default())
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let mut gone = state.commands.len() as u64;
        state.commands.retain(|_, command| command.expires_at > now);
        gone -= state.commands.len() as u64;
        state.replies.retain(|_, channel| {
            let kept = channel.until > now;
            if !kept {
                gone += channel.replies.len() as u64;
            }
            kept
        });
        Ok(gone)
    }
}

fn next_position(state: &mut State) -> Position {
    state.position += 1;
    Position(state.position)
}
