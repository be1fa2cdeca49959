//! SQLite's result codes as classes, each with what to do about it. <https://www.sqlite.org/rescode.html>

use stem_core::backend::ErrorClass;

use crate::fault::Fault;

/// The primary result code of a database error.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether another connection holds the lock: `SQLITE_BUSY` or `SQLITE_LOCKED`.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(5 | 6))
}

/// The class of a primary result code, and advice.
fn classify(code: i32) -> (ErrorClass, &'static str) {
    match code {
        5 | 6 => (ErrorClass::Transient, "another process holds its lock; try again"),
        7 => (ErrorClass::Transient, "there is no memory left"),
        10 => (ErrorClass::Transient, "the disk reports an error; check it"),
        15 | 17 => (ErrorClass::Transient, "another process is changing it; try again"),
        3 | 23 => (ErrorClass::Refused, "access is not permitted; check who owns the file"),
        8 => (ErrorClass::Refused, "it is read-only; make the file and its directory writable"),
        13 => (ErrorClass::Refused, "the disk is full; free some space"),
        14 => (ErrorClass::Refused, "it cannot be opened; check the path and its permissions"),
        18 => (ErrorClass::Unsupported, "it is larger than SQLite can hold"),
        11 => (ErrorClass::Corrupt, "the file is damaged; restore it from a backup"),
        26 => (ErrorClass::Corrupt, "the file is not a SQLite database; use another path"),
        _ => (ErrorClass::Corrupt, "its content is not what this Stem expects"),
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        if let Some(code) = primary_code(&error) {
            let (class, advice) = classify(code);
            let said = error.as_database_error().map_or("", |error| error.message());
            return Self::new(class, format!("{said}: {advice}"));
        }
        let class = match &error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::RowNotFound => ErrorClass::Corrupt,
            sqlx::Error::Configuration(_) => ErrorClass::Refused,
            // What is left concerns the connection: its thread ended, the pool is busy or closed.
            _ => ErrorClass::Transient,
        };
        Self::new(class, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_codes_say_what_a_caller_can_do() {
        for (codes, class) in [
            (&[5, 6, 7, 10, 15, 17][..], ErrorClass::Transient),
            (&[3, 8, 13, 14, 23], ErrorClass::Refused),
            (&[11, 26, 1], ErrorClass::Corrupt),
            (&[18], ErrorClass::Unsupported),
        ] {
            for code in codes {
                assert_eq!(classify(*code).0, class, "{code}");
            }
        }
    }
}
