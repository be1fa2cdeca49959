//! Commands and replies as they travel: what a log must know of one to keep and to find it, and text that it carries from
//! one end to the other without reading it. So an entry that nobody can read is the reader's to step over, and keeps
//! no other back; and whoever is to trust a text can judge the very bytes that were sent.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::{Answer, Command, Reply};
use crate::id::{Namespace, RequestId, WorkerId};
use crate::text::printable;
use crate::time::Timestamp;

/// What a problem quotes at most, in bytes: the words are partly those of who sent the text.
const PROBLEM_BYTES: usize = 200;

/// A command on its way. What stands beside the text is for the log alone; a worker goes by the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandFrame {
    /// By which a command that is sent twice is stored once.
    pub request_id: RequestId,
    /// Whose log.
    pub namespace: Namespace,
    /// Returned to nobody later.
    pub expires_at: Timestamp,
    /// Never parsed on the way.
    pub text: String,
}

impl CommandFrame {
    /// The command as JSON.
    pub fn plain(command: &Command) -> Self {
        Self {
            request_id: command.request_id.clone(),
            namespace: command.namespace.clone(),
            expires_at: command.expires_at,
            text: json(command),
        }
    }
}

/// A reply on its way; see [`CommandFrame`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyFrame {
    /// The command it answers.
    pub request_id: RequestId,
    /// By which a second reply of the same worker is dropped.
    pub worker: WorkerId,
    /// Never parsed on the way.
    pub text: String,
}

impl ReplyFrame {
    /// The reply as JSON.
    pub fn plain(reply: &Reply) -> Self {
        let (request_id, worker) = (reply.request_id.clone(), reply.worker.clone());
        Self { request_id, worker, text: json(reply) }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our own types have string keys and cannot fail")
}

/// Text that is no command, or no reply; says why, in at most 200 printable bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

/// Reads a command.
pub fn command(text: &[u8]) -> Result<Command, Unreadable> {
    read(text)
}

/// Reads a reply.
pub fn reply(text: &[u8]) -> Result<Reply, Unreadable> {
    let reply: Reply = read(text)?;
    // An object with this key first is read as something else, and the order of keys is not kept: what was read now could
    // not be read again.
    if let Answer::Ok { payload } = &reply.answer
        && has_kept_key(payload)
    {
        return Err(Unreadable(format!("a key of its payload is {KEPT}")));
    }
    Ok(reply)
}

/// What the reader of JSON keeps for itself (`serde_json`, feature `raw_value`).
const KEPT: &str = "$serde_json::private::RawValue";

/// As deep as the reader of JSON goes, which is 128.
fn has_kept_key(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(has_kept_key),
        Value::Object(map) => map.iter().any(|(key, value)| key == KEPT || has_kept_key(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(text)
        .map_err(|error| Unreadable(printable(&error.to_string(), PROBLEM_BYTES)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::control::{Drain, Order};

    #[test]
    fn a_reply_that_could_not_be_read_again_is_none() {
        let text = |payload: &str| {
            format!(
                "{{\"requestId\":\"r\",\"worker\":\"w\",\"status\":\"ok\",\"payload\":{payload}}}"
            )
        };
        let good = reply(text("{\"e\":[{\"a\":1}]}").as_bytes()).unwrap();
        assert_eq!(reply(json(&good).as_bytes()).unwrap(), good);
        for payload in ["{\"e\":1,\"K\":8}", "[{\"e\":1,\"K\":\"8\"}]"] {
            let said = reply(text(&payload.replace('K', KEPT)).as_bytes()).unwrap_err();
            assert!(said.to_string().contains(KEPT), "{said}");
        }
    }

    fn shutdown() -> Command {
        let at = Timestamp::from_unix_millis(1_795_305_600_000);
        Command {
            request_id: RequestId::new("r").unwrap(),
            namespace: Namespace::new("stem").unwrap(),
            targets: Some(vec![WorkerId::new("w").unwrap()]),
            order: Order::Shutdown { mode: Drain::Soft, grace_ms: Some(100) },
            issued_at: at,
            expires_at: at.after(Duration::from_secs(30)),
            requester: "ann".to_owned(),
        }
    }

    /// Processes of other versions write and read it.
    const SHUTDOWN: &str = r#"{"requestId":"r","namespace":"stem","targets":["w"],"type":"shutdown","payload":{"mode":"soft","graceMs":100},"issuedAt":"2026-11-22T00:00:00.000Z","expiresAt":"2026-11-22T00:00:30.000Z","requester":"ann"}"#;

    #[test]
    fn the_text_is_the_json_that_every_version_reads() {
        let frame = CommandFrame::plain(&shutdown());
        assert_eq!(frame.text, SHUTDOWN);
        assert_eq!((frame.request_id.as_str(), frame.namespace.as_str()), ("r", "stem"));
        assert_eq!(frame.expires_at, shutdown().expires_at);
        assert_eq!(command(frame.text.as_bytes()), Ok(shutdown()));
        let pong = Reply {
            request_id: RequestId::new("r").unwrap(),
            worker: WorkerId::new("w").unwrap(),
            answer: Answer::Ok { payload: json!({"state": "running"}) },
        };
        let frame = ReplyFrame::plain(&pong);
        let text = r#"{"requestId":"r","worker":"w","status":"ok","payload":{"state":"running"}}"#;
        assert_eq!((frame.text.as_str(), frame.worker.as_str()), (text, "w"));
        assert_eq!(reply(frame.text.as_bytes()), Ok(pong));
    }

    #[test]
    fn what_is_no_command_is_told_in_few_printable_words() {
        let unknown = SHUTDOWN.replace("shutdown", &format!("\\u001b[2J{}", "x".repeat(9_999)));
        let mode = SHUTDOWN.replace("soft", "gentle");
        let twice = SHUTDOWN.replacen('{', r#"{"requestId":"q","#, 1);
        let name = SHUTDOWN.replace(r#""r""#, r#""../r""#);
        let deep = "[".repeat(100_000);
        for text in
            ["", "nonsense", "{}", "null", "\u{fffd}", &unknown, &mode, &twice, &name, &deep]
        {
            let problem = command(text.as_bytes()).unwrap_err().to_string();
            assert!(!problem.is_empty() && problem.len() <= PROBLEM_BYTES + 10, "{problem}");
            assert!(!problem.contains(char::is_control), "{problem}");
            reply(text.as_bytes()).unwrap_err();
        }
        command(&SHUTDOWN.as_bytes()[..SHUTDOWN.len() - 1]).unwrap_err();
        command(format!("{SHUTDOWN}x").as_bytes()).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(place in 0..SHUTDOWN.len(), byte: u8, cut in 0..SHUTDOWN.len()) {
            let mut changed = SHUTDOWN.as_bytes().to_vec();
            changed[place] = byte;
            let _ = command(&changed);
            let _ = command(&changed[..cut]);
            let _ = reply(&changed);
        }
    }
}
