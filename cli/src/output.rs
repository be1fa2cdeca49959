//! Standard output is data: one JSON document, or text for people. Standard error is talk.
//!
//! A reader that goes away early (`| head`) is not an error: what is left is not written.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::{Value, json};
use stem_core::envelope::Payload;
use stem_core::id::TaskId;

use crate::error::CliError;
use crate::follow::above_the_bar;

/// What became of a write to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is on its way.
    All,
    /// Nobody reads any more.
    ReaderGone,
}

/// Writes what a command has to say.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// JSON or text for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether standard output is JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Writes the document, or the text for people, which need not end in a line feed.
    pub fn print(
        self,
        document: &impl Serialize,
        human: impl FnOnce() -> String,
    ) -> Result<Written, CliError> {
        let mut text = if self.json {
            serde_json::to_string(document).map_err(|error| {
                CliError::failed(
                    format!("the answer cannot be written as JSON: {error}"),
                    "report this as a bug",
                )
            })?
        } else {
            human()
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        write_stdout(text.as_bytes())
    }
}

/// Writes bytes to standard output.
pub fn write_stdout(bytes: &[u8]) -> Result<Written, CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Written::All),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Written::ReaderGone),
        Err(error) => Err(CliError::failed(
            format!("cannot write to standard output: {error}"),
            "check where it is directed to",
        )),
    }
}

/// Writes a line to standard error. Nobody can be told when that fails.
pub fn say(line: impl std::fmt::Display) {
    let _ = above_the_bar(|| writeln!(io::stderr().lock(), "{line}"));
}

/// An aligned table without borders; cells wider than the terminal are not wrapped, so that lines stay greppable.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A payload inside a JSON document: as it is when it is JSON, else with its media type in base64.
pub fn payload_json(payload: &Payload) -> Value {
    let value = payload.is_json().then(|| serde_json::from_slice(&payload.bytes).ok()).flatten();
    value.unwrap_or_else(
        || json!({"mediaType": payload.media_type, "base64": base64(&payload.bytes)}),
    )
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A payload in a line for people.
pub fn payload_line(payload: &Payload) -> String {
    match std::str::from_utf8(&payload.bytes) {
        Ok(text) if payload.is_json() || payload.media_type.starts_with("text/") => {
            stem_core::text::printable(text, 2_000)
        }
        _ => format!("{} bytes of {}", payload.bytes.len(), payload.media_type),
    }
}

/// Writes a result's bytes as they are; text gets a line feed at its end. A terminal is never given what is not text.
pub fn print_result(payload: &Payload, task: Option<&TaskId>) -> Result<(), CliError> {
    let text = std::str::from_utf8(&payload.bytes)
        .ok()
        .filter(|_| payload.is_json() || payload.media_type.starts_with("text/"));
    if !io::stdout().is_terminal()
        || text.is_some_and(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace()))
    {
        write_stdout(&payload.bytes)?;
        if text.is_some_and(|text| !text.ends_with('\n')) {
            write_stdout(b"\n")?;
        }
        return Ok(());
    }
    let task = task.map_or_else(
        || "redirect standard output to a file".to_owned(),
        |task| format!("stem task result {task} --output FILE"),
    );
    say(format!(
        "the result is {} and not for terminals; to keep it: {task}",
        payload_line(payload)
    ));
    Ok(())
}
