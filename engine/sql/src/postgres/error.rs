//! SQLSTATEs as classes, each with what to do about it. <https://www.postgresql.org/docs/current/errcodes-appendix.html>

use std::io;

use stem_core::backend::ErrorClass;

use crate::fault::Fault;

/// What stops a statement or the code around it. Kept apart from [`Fault`] until it is known whether to try again.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server or the way to it.
    Sql(sqlx::Error),
    /// Something that was read makes no sense.
    Fault(Fault),
    /// What was read has changed before it was written; the transaction has to begin again.
    Moved,
}

/// What a prepared statement that is missing, or there twice, tells of.
const POOLER: &str =
    "a pooler hands each statement to another connection; connect directly, or pool whole sessions";

/// Classes of SQLSTATEs, as the longest beginnings that tell them apart, and advice.
const CODES: [(&str, ErrorClass, &str); 30] = {
    use ErrorClass::{Corrupt, Refused, Transient, Unsupported};
    [
        // What poolers say of all that they do not do.
        (
            "08P01",
            Refused,
            "a pooler, or whatever else is between, does not pass this on; connect directly, or pool whole sessions and let \
             startup options through",
        ),
        ("08", Transient, "the connection broke; try again"),
        ("0A000", Transient, "its tables have just been changed; try again"),
        ("25006", Refused, "it is read-only; connect to the primary, or make it writable"),
        ("25P03", Transient, "this process was too slow to go on; try again"),
        ("26000", Refused, POOLER),
        ("28", Refused, "it does not accept this user or password; check the URL"),
        ("3D000", Refused, "create the database, or check the URL"),
        ("3F000", Corrupt, "the schema of its tables is gone; restore it, or open it again"),
        ("40", Transient, "other calls are changing the same tasks; try again"),
        ("42P05", Refused, POOLER),
        ("42501", Refused, "this user is not permitted; grant it the rights on the schema"),
        ("42", Corrupt, "its tables are not what this Stem expects; were they changed by hand?"),
        ("53100", Refused, "its disk is full; free some space"),
        (
            "53300",
            Transient,
            "it has no connection left; raise its max_connections, or start fewer processes",
        ),
        ("53400", Refused, "one of its limits is reached; raise it"),
        ("53", Transient, "it has no memory left; try again"),
        ("54", Unsupported, "it is larger than Postgres can hold"),
        ("55P03", Transient, "somebody holds a lock for too long; look at pg_stat_activity"),
        ("55", Transient, "it is in use; try again"),
        ("57014", Transient, "it took too long, or an operator cancelled it; try again"),
        ("57P04", Refused, "the database was dropped; create it again"),
        ("57", Transient, "the server is stopping or starting; try again"),
        ("58", Transient, "its system reports an error; check its disk and its log"),
        ("72", Transient, "its snapshot is too old; try again"),
        ("F0", Refused, "its configuration file cannot be used; see its log"),
        ("XX001", Corrupt, "its data are damaged; restore them from a backup"),
        ("XX002", Corrupt, "an index is damaged; rebuild it with REINDEX"),
        ("XX", Corrupt, "the server reports an internal error; see its log"),
        ("", Corrupt, "its content is not what this Stem expects"),
    ]
};

/// The class of a SQLSTATE, and advice.
fn classify(code: &str) -> (ErrorClass, &'static str) {
    let known = CODES.iter().find(|(start, ..)| code.starts_with(start));
    known.map_or((ErrorClass::Corrupt, ""), |(_, class, advice)| (*class, advice))
}

/// What a server whose disk is full says of a session that begins, under the code of an internal error.
const NO_ROOM_TO_BEGIN: &str = "could not write init file";

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

impl Trouble {
    /// Whether the connection is of no use any more.
    pub(super) fn is_cut(&self) -> bool {
        match self {
            Self::Fault(_) | Self::Moved => false,
            Self::Sql(error) => match code(error) {
                Some(code) => {
                    let fatal = ["08", "57P", "25P03", "26000", "42P05", "0A000"];
                    fatal.iter().any(|start| code.starts_with(start))
                }
                None => !matches!(
                    error,
                    sqlx::Error::ColumnDecode { .. }
                        | sqlx::Error::Decode(_)
                        | sqlx::Error::Encode(_)
                        | sqlx::Error::ColumnNotFound(_)
                        | sqlx::Error::ColumnIndexOutOfBounds { .. }
                        | sqlx::Error::TypeNotFound { .. }
                        | sqlx::Error::RowNotFound
                ),
            },
        }
    }

    /// Whether an operator, or a server that stops, has ended the connection.
    pub(super) fn is_termination(&self) -> bool {
        matches!(self, Self::Sql(error) if code(error).as_deref() == Some("57P01"))
    }

    /// Whether nothing has happened, and the same again may well succeed.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Moved => true,
            Self::Fault(_) => false,
            Self::Sql(error) => code(error).is_some_and(|code| code.starts_with("40")),
        }
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<stem_core::id::NameError> for Trouble {
    fn from(error: stem_core::id::NameError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Fault(fault) => fault,
            Trouble::Moved => {
                let (class, advice) = classify("40001");
                Self::new(class, advice)
            }
            Trouble::Sql(error) => of(&error),
        }
    }
}

/// Says what an error of the server, or of the way to it, means. No message of these holds a password: the server does
/// not repeat one, and the settings of a connection are never printed.
fn of(error: &sqlx::Error) -> Fault {
    if let Some(code) = code(error) {
        let said = error.as_database_error().map_or("", |error| error.message());
        let (class, advice) =
            classify(if said == NO_ROOM_TO_BEGIN { "53100" } else { code.as_str() });
        return Fault::new(class, format!("{said} ({code}): {advice}"));
    }
    match error {
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::RowNotFound => Fault::new(ErrorClass::Corrupt, error.to_string()),
        sqlx::Error::Configuration(_) => {
            Fault::new(ErrorClass::Refused, format!("{error}: check the URL"))
        }
        sqlx::Error::Tls(_) => untrusted(error),
        // What a handshake ends with.
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => untrusted(error),
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let problem = "nobody listens there: is the server running, and is the URL right?";
            Fault::new(ErrorClass::Transient, problem)
        }
        // What is left concerns the connection.
        _ => Fault::new(ErrorClass::Transient, error.to_string()),
    }
}

fn untrusted(error: &dyn std::error::Error) -> Fault {
    let advice = "check sslmode and sslrootcert in the URL, and the server's certificate";
    Fault::new(ErrorClass::Refused, format!("{error}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_say_what_a_caller_can_do() {
        for (codes, class) in [
            (
                &[
                    "08006", "40001", "40P01", "53300", "53200", "55P03", "57014", "57P01",
                    "57P02", "57P03", "25P03", "58030",
                ][..],
                ErrorClass::Transient,
            ),
            (
                &[
                    "08P01", "25006", "26000", "28P01", "28000", "3D000", "42P05", "42501",
                    "53100", "57P04",
                ],
                ErrorClass::Refused,
            ),
            (&["42P01", "42703", "42883", "3F000", "23505", "22021", "XX001"], ErrorClass::Corrupt),
            (&["54000"], ErrorClass::Unsupported),
        ] {
            for code in codes {
                let (found, advice) = classify(code);
                assert_eq!(found, class, "{code}");
                assert!(!advice.is_empty(), "{code}");
            }
        }
    }

    #[test]
    fn what_a_pooler_breaks_says_what_to_do_about_the_pooler() {
        for code in ["08P01", "26000", "42P05"] {
            let (_, advice) = classify(code);
            assert!(
                advice.contains("connect directly, or pool whole sessions"),
                "{code}: {advice}"
            );
        }
    }

    #[test]
    fn the_first_beginning_that_fits_is_the_longest() {
        for (index, (start, ..)) in CODES.iter().enumerate() {
            let hidden = CODES[..index].iter().any(|(earlier, ..)| start.starts_with(earlier));
            assert!(!hidden, "{start} is never reached");
        }
    }
}
