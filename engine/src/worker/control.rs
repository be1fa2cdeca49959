//! Obeys operators: reads the log of commands from its own position, does what is asked once, and replies. Goes on until
//! the last delivery is settled, so that a worker that drains answers and can be hurried.

mod admission;
mod answers;
mod audit;
mod quotas;

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::ErrorClass;
use stem_core::backend::control::Position;
use stem_core::control::wire::ReplyFrame;
use stem_core::control::{Answer, Command, ControlError, Order, Reply};
use stem_core::id::KeyId;
use stem_core::observe::{Seen, Service};
use stem_core::seal::{Level, Purpose, Role};
use stem_core::time::Timestamp;
use tokio::task::JoinSet;

use self::admission::{Admission, Admitted};
pub(super) use self::audit::refused_task;
use super::shared::Shared;

/// How long one look at the log waits.
const WAIT: Duration = Duration::from_secs(1);
/// The pause after a look that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads and obeys until dropped.
pub(super) async fn obey(shared: Arc<Shared>, from: Position) {
    let mut position = from;
    let mut admission = Admission::new(&shared);
    let namespace = shared.config.namespace.as_str();
    if shared.keys.level(Purpose::Reply) != Level::Unchecked
        && shared.keys.signer(Role::Worker, namespace, shared.wall()).is_none()
    {
        tracing::warn!(
            "this worker has no key to sign replies with: who checks them does not hear it"
        );
    }
    let mut replies = JoinSet::new();
    loop {
        // Finished ones are let go; those under way stay with us.
        while replies.try_join_next().is_some() {}
        let read = shared.backends.control.commands(&shared.config.namespace, position, WAIT).await;
        let texts = match read {
            Ok(texts) => texts,
            Err(error) => {
                shared.saw_failure(Service::Control, &error);
                tracing::debug!(%error, "the log of commands cannot be read");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        for (at, read) in admission::read_all(&shared, texts).await {
            position = position.max(at);
            let command = match admission.admit(&shared, read) {
                None => continue,
                Some(Admitted::Act(command)) => command,
                Some(Admitted::NotAllowed(command, key)) => {
                    let (reply, worker) =
                        (not_allowed(&shared, &command, &key), Arc::clone(&shared));
                    shared.replying.send_modify(|count| *count += 1);
                    replies.spawn(async move { write(&worker, &reply, command.expires_at).await });
                    continue;
                }
            };
            shared.replying.send_modify(|count| *count += 1);
            let expires_at = command.expires_at;
            let worker = Arc::clone(&shared);
            if matches!(command.order, Order::Pause { .. } | Order::Resume { .. }) {
                // In the order of the log: what was said last must hold.
                let reply = answer(&shared, command).await;
                replies.spawn(async move { write(&worker, &reply, expires_at).await });
            } else {
                // An answer may wait (for a guest to end); the next command must not.
                replies.spawn(async move {
                    let reply = answer(&worker, command).await;
                    write(&worker, &reply, expires_at).await;
                });
            }
        }
    }
}

/// Waits until no reply is under way.
pub(super) async fn finish(shared: &Shared) {
    // Only fails when the sender is gone, and then nothing is under way.
    let _ = shared.replying.subscribe().wait_for(|count| *count == 0).await;
}

/// Does what is asked; answers what came of it.
async fn answer(shared: &Arc<Shared>, command: Command) -> Reply {
    let request_id = command.request_id.clone();
    let order = command.order.as_str();
    let executed = answers::execute(shared, command).await;
    shared.observer.saw(Seen::Commanded { order, ok: executed.is_ok() });
    let answer = match executed {
        Ok(payload) => Answer::Ok { payload },
        Err(error) => {
            let code = match error.class() {
                ErrorClass::Transient => "unavailable",
                ErrorClass::Refused => "refused",
                ErrorClass::Corrupt => "corrupt",
                ErrorClass::Unsupported => "unsupported",
            };
            Answer::Error {
                error: ControlError { code: code.to_owned(), message: error.to_string() },
            }
        }
    };
    Reply { request_id, worker: shared.config.id.clone(), answer }
}

/// What the holder of a key hears that may not order this.
fn not_allowed(shared: &Shared, command: &Command, key: &KeyId) -> Reply {
    let message = format!("key {key} may not order {}", command.order.as_str());
    let error = ControlError { code: "not-allowed".to_owned(), message };
    let (request_id, worker) = (command.request_id.clone(), shared.config.id.clone());
    Reply { request_id, worker, answer: Answer::Error { error } }
}

/// Writes a reply, and tries again while that can help: whoever asked counts on hearing what was done. A second reply of
/// the same worker is dropped, so trying again does no harm; nobody waits longer than the command holds. Until then the
/// command counts as under way.
async fn write(shared: &Shared, reply: &Reply, expires_at: Timestamp) {
    let plain = ReplyFrame::plain(reply);
    let namespace = shared.config.namespace.as_str();
    let body = plain.text.clone().into_bytes();
    // Without a key it is sent as it is: an operator who does not check replies hears it.
    let sealed = shared.keys.seal(Role::Worker, namespace, body, shared.wall());
    let sealed = sealed.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let frame = ReplyFrame { text: sealed.unwrap_or_else(|| plain.text.clone()), ..plain };
    loop {
        let written = shared.backends.control.reply(&shared.config.namespace, &frame).await;
        let Err(error) = written else { break };
        shared.saw_failure(Service::Control, &error);
        if error.class() != ErrorClass::Transient || shared.wall() >= expires_at {
            tracing::warn!(%error, request = %reply.request_id, "a reply was not written");
            break;
        }
        tracing::debug!(%error, request = %reply.request_id, "a reply was not written; it is tried again");
        tokio::time::sleep(PAUSE).await;
    }
    shared.replying.send_modify(|count| *count -= 1);
}
