//! `stem module key new|show FILE`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use stem_engine::signing::PublisherKey;

use crate::args::Key;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};

pub(super) fn run(command: &Key) -> Outcome {
    match command {
        Key::New { file, json } => {
            let key = PublisherKey::generate()
                .map_err(|problem| CliError::failed(problem, "check the system's randomness"))?;
            write(file, &key)?;
            tell(file, &key, json.json)?;
            say(format!(
                "note: {} is secret; workers trust what it signs once the key above and a name stand in the file that --trust names",
                file.display()
            ));
        }
        Key::Show { file, json } => tell(file, &read(file)?, json.json)?,
    }
    Ok(Ending::Done)
}

fn tell(file: &Path, key: &PublisherKey, json: bool) -> Result<(), CliError> {
    let document = json!({ "file": file.display().to_string(), "publicKey": key.public() });
    Printer::new(json).print(&document, || key.public()).map(|_| ())
}

/// A publisher's key from its file, which nobody else may read.
pub(super) fn read(file: &Path) -> Result<PublisherKey, CliError> {
    PublisherKey::open(file).map_err(|problem| {
        CliError::usage(
            format!("the key {} cannot be used: {problem}", file.display()),
            "`stem module key new FILE` makes a key, which is for its owner alone (mode 0600)",
        )
    })
}

fn write(file: &Path, key: &PublisherKey) -> Result<(), CliError> {
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => CliError::failed(
            format!("{} is there already, and no key is written over", file.display()),
            "choose another name, or move it away",
        ),
        _ => CliError::usage(
            format!("the key cannot be written to {}: {error}", file.display()),
            "name a file in a directory that this user can write to",
        ),
    };
    let mut opened =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(cannot)?;
    opened.write_all(key.to_file().as_bytes()).and_then(|()| opened.sync_all()).map_err(cannot)
}
