//! What went wrong inside a call, before it is known which call it belongs to: Redis's errors as classes, each with what
//! to do about it.

use redis::{ErrorKind, RedisError, ServerErrorKind};
use stem_core::backend::{BackendError, ErrorClass, ServiceId};

/// A class, and words for people. Never holds a password: neither Redis nor its client puts one into an error.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) class: ErrorClass,
    pub(crate) problem: String,
}

impl Fault {
    pub(crate) fn new(class: ErrorClass, problem: impl Into<String>) -> Self {
        Self { class, problem: problem.into() }
    }

    /// Something that no Stem wrote, or that was damaged.
    pub(crate) fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorClass::Corrupt, format!("what is stored cannot be read: {what}"))
    }

    /// The error of one call.
    pub(crate) fn during(self, service: &ServiceId, action: &'static str) -> BackendError {
        BackendError::new(self.class, &service.0, action, self.problem)
    }
}

/// The class of a code that the server sends in front of its error, and advice.
fn classify(code: &str) -> Option<(ErrorClass, &'static str)> {
    Some(match code {
        "LOADING" => (ErrorClass::Transient, "it reads its data after a start; wait"),
        "BUSY" => (ErrorClass::Transient, "another script keeps it busy; wait"),
        "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "MOVED" | "ASK" => {
            (ErrorClass::Transient, "the cluster is changing; wait")
        }
        "NOREPLICAS" => (
            ErrorClass::Refused,
            "too few replicas follow it for min-replicas-to-write; start them or lower the setting",
        ),
        "READONLY" => (
            ErrorClass::Refused,
            "it is a replica; give the address of the primary, or wait for the failover",
        ),
        "MISCONF" => (
            ErrorClass::Refused,
            "it cannot write its data to disk; free some space or repair the disk, its log says more",
        ),
        "OOM" => (
            ErrorClass::Refused,
            "its memory is full; raise maxmemory, or let workers finish what waits",
        ),
        "NOPERM" => (ErrorClass::Refused, "its ACL does not permit this; see docs/operations.md"),
        "NOAUTH" => (ErrorClass::Refused, "it asks for a password; put one into the URL"),
        "WRONGPASS" => (ErrorClass::Refused, "user or password is wrong; correct the URL"),
        "NOPROTO" => (ErrorClass::Unsupported, "it is older than Redis 6; use Redis 7 or newer"),
        "WRONGTYPE" => (
            ErrorClass::Corrupt,
            "a key holds something else than Stem put there; give Stem a database or prefix of its own",
        ),
        _ => return None,
    })
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        // The code of an error inside a script stands in its text, and some versions leave that of the ACL's out.
        let text = error.to_string();
        let code = error.code().map(str::to_owned);
        let denied = text.contains("The user executing the script can't").then_some("NOPERM");
        let codes = code.as_deref().into_iter().chain(text.split([' ', ':', '\'', '"']));
        for code in denied.into_iter().chain(codes) {
            if let Some((class, advice)) = classify(code) {
                return Self::new(class, format!("{}: {advice}", shown(&text)));
            }
        }
        let class = match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => ErrorClass::Refused,
            ErrorKind::RESP3NotSupported => ErrorClass::Unsupported,
            // The connection broke in the middle of an answer. The client has no kind for it but this and its parser's words.
            ErrorKind::Parse if text.contains("end of input") => ErrorClass::Transient,
            ErrorKind::Parse
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::Server(ServerErrorKind::ResponseError) => ErrorClass::Corrupt,
            // What is left concerns the connection.
            _ => ErrorClass::Transient,
        };
        Self::new(class, shown(&text))
    }
}

fn shown(text: &str) -> String {
    stem_core::text::printable(text, 500)
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::corrupt(error)
    }
}

impl From<stem_core::id::NameError> for Fault {
    fn from(error: stem_core::id::NameError) -> Self {
        Self::corrupt(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_a_caller_can_do() {
        for (codes, class) in [
            (
                &["LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "MOVED"][..],
                ErrorClass::Transient,
            ),
            (
                &["READONLY", "MISCONF", "OOM", "NOPERM", "NOAUTH", "WRONGPASS", "NOREPLICAS"],
                ErrorClass::Refused,
            ),
            (&["WRONGTYPE"], ErrorClass::Corrupt),
            (&["NOPROTO"], ErrorClass::Unsupported),
        ] {
            for code in codes {
                assert_eq!(classify(code).map(|(class, _)| class), Some(class), "{code}");
            }
        }
        assert_eq!(classify("ERR").map(|(class, _)| class), None);
    }

    #[test]
    fn half_an_answer_is_a_broken_connection_and_another_protocol_is_not() {
        // As its client says it of a stream that has ended.
        let half = "Parse error at 1\nUnexpected end of input\nexpected 14 more elements\n";
        let half = RedisError::from(redis::ParsingError::from(half));
        assert_eq!(Fault::from(half).class, ErrorClass::Transient);
        let other = redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n").unwrap_err();
        assert_eq!(Fault::from(other).class, ErrorClass::Corrupt);
    }
}
