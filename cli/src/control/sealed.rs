//! What is signed on its way to the workers, and whose answers are believed.

use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Command, Reply};
use stem_core::id::Namespace;
use stem_core::seal::{Purpose, Refused, Role};
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_engine::signing::Keys;

use crate::error::CliError;

/// Opens and reads a reply to a command.
pub(super) fn read(keys: &Keys, command: &Command, text: &str) -> Result<Reply, Refused> {
    let (scope, now) = (command.namespace.as_str(), SystemClock.now());
    let opened = keys.open_sealed(Purpose::Reply, scope, text.as_bytes(), now)?;
    let reply = wire::reply(opened.body).map_err(|_| Refused::Malformed)?;
    if reply.request_id != command.request_id {
        return Err(Refused::Replayed);
    }
    let workers = opened.by.and_then(|by| by.workers);
    if workers.is_some_and(|workers| !workers.contains(&reply.worker)) {
        return Err(Refused::WrongScope);
    }
    Ok(reply)
}

/// The command as it goes out: signed, where a key here may sign it.
pub(super) fn frame(keys: &Keys, command: &Command) -> Result<CommandFrame, CliError> {
    let plain = CommandFrame::plain(command);
    let body = plain.text.clone().into_bytes();
    let (role, scope) = (command.order.role(), command.namespace.as_str());
    let sealed = keys.seal(role, scope, body, SystemClock.now())?;
    let text = String::from_utf8(sealed).expect("a seal and JSON are text");
    Ok(CommandFrame { text, ..plain })
}

/// Refuses an order that could not be signed and would have to be, before anything is done for it.
pub fn may_order(keys: &Keys, role: Role, namespace: &Namespace) -> Result<(), CliError> {
    keys.seal(role, namespace.as_str(), Vec::new(), SystemClock.now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use serde_json::json;
    use stem_core::control::wire::ReplyFrame;
    use stem_core::control::{Answer, Order};
    use stem_core::id::{KeyId, RequestId, WorkerId};
    use stem_engine::signing::edit::{self, NewKey};
    use stem_engine::signing::{Algorithm, KeyFiles};

    use super::*;
    use crate::exit::Ending;

    fn files(dir: &Path, private: &str) -> KeyFiles {
        let (public, private) = (Some(dir.join("signers.toml")), Some(dir.join(private)));
        KeyFiles { public, private, ..KeyFiles::default() }
    }

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    /// A key for commands and one for the replies of `w`; both must be signed.
    fn furnish(dir: &Path) {
        for (id, role, workers) in
            [("ops", Role::Control, vec![]), ("w", Role::Worker, vec![worker("w")])]
        {
            let new = NewKey {
                id: KeyId::new(id).unwrap(),
                algorithm: Algorithm::Ed25519,
                roles: vec![role],
                namespaces: Vec::new(),
                queues: Vec::new(),
                workers,
                not_after: None,
            };
            edit::add(&files(dir, &format!("{id}.toml")), &new).unwrap();
        }
        let public = dir.join("signers.toml");
        let text = std::fs::read_to_string(&public).unwrap();
        let text: Vec<String> = text
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some((level @ ("commands" | "replies"), _)) => format!("{level} = \"required\""),
                _ => line.to_owned(),
            })
            .collect();
        std::fs::write(public, text.join("\n")).unwrap();
    }

    fn shutdown() -> Command {
        let now = SystemClock.now();
        Command {
            request_id: RequestId::new("r").unwrap(),
            namespace: Namespace::new("stem").unwrap(),
            targets: None,
            order: Order::Shutdown { mode: stem_core::control::Drain::Warm, grace_ms: None },
            issued_at: now,
            expires_at: now.after(Duration::from_mins(10)),
            requester: "ann".to_owned(),
        }
    }

    fn reply(request: &str, by: &str) -> Reply {
        let request_id = RequestId::new(request).unwrap();
        Reply { request_id, worker: worker(by), answer: Answer::Ok { payload: json!({}) } }
    }

    #[test]
    fn a_reply_is_believed_by_its_key_for_its_worker_and_to_its_request() {
        let dir = tempfile::tempdir().unwrap();
        furnish(dir.path());
        let operator = Keys::open(files(dir.path(), "ops.toml")).unwrap();
        let signer = Keys::open(files(dir.path(), "w.toml")).unwrap();
        let plain = |reply: &Reply| ReplyFrame::plain(reply).text;
        let signed = |reply: &Reply, scope: &str| {
            let bytes =
                signer.seal(Role::Worker, scope, plain(reply).into_bytes(), SystemClock.now());
            String::from_utf8(bytes.unwrap()).unwrap()
        };
        let good = reply("r", "w");
        for (text, expected) in [
            (signed(&good, "stem"), Ok(good.clone())),
            (plain(&good), Err(Refused::Unsigned)),
            (signed(&good, "stem").replace("{}", "{\"a\":1}"), Err(Refused::WrongSignature)),
            (signed(&good, "staging"), Err(Refused::WrongScope)),
            (signed(&reply("r", "v"), "stem"), Err(Refused::WrongScope)),
            (signed(&reply("q", "w"), "stem"), Err(Refused::Replayed)),
            (frame(&operator, &shutdown()).unwrap().text, Err(Refused::WrongPurpose)),
        ] {
            assert_eq!(read(&operator, &shutdown(), &text), expected, "{text}");
        }
        assert_eq!(read(&Keys::none(), &shutdown(), &signed(&good, "stem")), Ok(good));
    }

    #[test]
    fn what_would_have_to_be_signed_and_cannot_be_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        furnish(dir.path());
        let namespace = Namespace::new("stem").unwrap();
        let operator = Keys::open(files(dir.path(), "ops.toml")).unwrap();
        assert!(
            frame(&operator, &shutdown()).unwrap().text.starts_with("{\"v\":2,\"for\":\"command\"")
        );
        may_order(&operator, Role::Control, &namespace).unwrap();
        let public = Some(dir.path().join("signers.toml"));
        let nobody = Keys::open(KeyFiles { public, ..KeyFiles::default() }).unwrap();
        for refused in
            [frame(&nobody, &shutdown()).map(drop), may_order(&nobody, Role::Control, &namespace)]
        {
            let error = refused.unwrap_err();
            assert_eq!(error.ending, Ending::Usage);
            assert_eq!(error.what, "no key here may sign this command now (role control)");
        }
        let plain = frame(&Keys::none(), &shutdown()).unwrap();
        assert_eq!(plain.text, CommandFrame::plain(&shutdown()).text);
    }
}
