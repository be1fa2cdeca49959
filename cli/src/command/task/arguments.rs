//! A task's arguments as they come from a flag, a file or standard input.

use std::io::Read;
use std::path::Path;

use stem_core::envelope::{JSON, PAYLOAD_BYTES, Payload};

use crate::error::CliError;

/// What a task gets that is given no arguments.
const NONE: &str = "{}";

/// Where arguments come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    /// This text.
    Text(&'a str),
    /// This file; `-` is standard input.
    File(&'a Path),
    /// Nowhere.
    Nowhere,
}

/// Reads them. What says that it is JSON must be, so that a slip is told here, with its place, and not by a worker.
pub(super) fn read(origin: Origin<'_>, media_type: Option<&str>) -> Result<Payload, CliError> {
    let (bytes, place) = match origin {
        Origin::Text(text) => (text.as_bytes().to_vec(), "the arguments".to_owned()),
        Origin::Nowhere => (NONE.as_bytes().to_vec(), "the arguments".to_owned()),
        Origin::File(path) if path == Path::new("-") => {
            (limited(std::io::stdin().lock(), "standard input")?, "standard input".to_owned())
        }
        Origin::File(path) => {
            let place = path.display().to_string();
            let file = std::fs::File::open(path).map_err(unreadable(&place))?;
            (limited(file, &place)?, place)
        }
    };
    if bytes.len() > PAYLOAD_BYTES {
        return Err(CliError::usage(
            format!(
                "{place}: more than {PAYLOAD_BYTES} bytes, which is the most a task's arguments may have"
            ),
            "put the data where the task can fetch it and pass a reference",
        ));
    }
    let payload = Payload { media_type: media_type.unwrap_or(JSON).to_owned(), bytes };
    if payload.is_json()
        && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload.bytes)
    {
        return Err(CliError::usage(
            format!("{place}: not JSON: {error}"),
            "give one JSON value, for instance '{\"text\":\"a b a\"}' in single quotes; for other bytes say what they are with --media-type",
        ));
    }
    Ok(payload)
}
/// One byte more than is allowed is enough to know.
fn limited(source: impl Read, place: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    source.take(PAYLOAD_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable(place))?;
    Ok(bytes)
}

fn unreadable(place: &str) -> impl FnOnce(std::io::Error) -> CliError {
    let place = place.to_owned();
    move |error| {
        CliError::usage(
            format!("{place}: the arguments cannot be read: {error}"),
            "name a file with one JSON value, or - for standard input",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_with_its_place() {
        let problem = read(Origin::Text("{\"a\":\n oops}"), None).unwrap_err();
        assert!(problem.what.contains("line 2 column 2"), "{}", problem.what);
        assert_eq!(read(Origin::Nowhere, None).unwrap(), Payload::json(*b"{}"));
        assert_eq!(read(Origin::Text(" [1] "), None).unwrap().bytes, b" [1] ");
        let long = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES));
        assert!(read(Origin::Text(&long), None).unwrap_err().what.contains("more than"));
    }

    #[test]
    fn only_what_says_so_must_be_json() {
        let image = read(Origin::Text("no JSON"), Some("image/png")).unwrap();
        assert_eq!((image.media_type.as_str(), &image.bytes[..]), ("image/png", &b"no JSON"[..]));
        for json in ["application/json", "application/JSON; charset=utf-8", "application/ld+json"] {
            let problem = read(Origin::Text("no JSON"), Some(json)).unwrap_err();
            assert!(problem.what.contains("not JSON"), "{}", problem.what);
        }
    }
}
