//! `stem keys new`, `rotate` and `retire`

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::json;
use stem_core::id::KeyId;
use stem_core::seal::{Purpose, Role};
use stem_core::time::{Clock, Timestamp};
use stem_engine::SystemClock;
use stem_engine::signing::edit::{self, NewKey, Rotation};
use stem_engine::signing::{Algorithm, KeyFiles, Keys};

use super::super::Context;
use super::files;
use crate::args::{NewArgs, RetireArgs, RotateArgs};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};

/// Length of a date without hyphens, and the hyphen before it.
const DATE: usize = 9;

pub(super) fn new(context: &Context, args: &NewArgs) -> Outcome {
    let (settings, files) = files(context, &args.files)?;
    let algorithm = args.algorithm.map_or(settings.signing.algorithm.value, Algorithm::from);
    let roles: Vec<Role> = args.role.iter().copied().map(Role::from).collect();
    for (given, flag, role) in [
        (!args.for_queue.is_empty(), "--for-queue", &[Role::Publish][..]),
        (!args.for_worker.is_empty(), "--for-worker", &[Role::Worker]),
        (
            !args.for_namespace.is_empty(),
            "--for-namespace",
            &[Role::Inspect, Role::Control, Role::Worker],
        ),
    ] {
        if given && !roles.iter().any(|it| role.contains(it)) {
            let words: Vec<_> = role.iter().map(|role| role.as_str()).collect();
            return Err(CliError::usage(
                format!("{flag} is for keys with the role {}", words.join(" or ")),
                format!("leave it out, or add --role {}", words[0]),
            ));
        }
    }
    let now = SystemClock.now();
    let new = NewKey {
        id: args.id.clone(),
        algorithm,
        roles: roles.clone(),
        namespaces: args.for_namespace.clone(),
        queues: args.for_queue.clone(),
        workers: args.for_worker.clone(),
        not_after: args.valid_for.map(|valid| now.after(valid)),
    };
    let written = edit::add(&files, &new).map_err(refused)?;
    let document = json!({
        "id": args.id,
        "algorithm": algorithm.as_str(),
        "roles": roles.iter().map(|role| role.as_str()).collect::<Vec<_>>(),
        "notAfter": new.not_after,
        "written": paths(&written),
    });
    Printer::new(args.json.json).print(&document, || lines(&args.id, &written))?;
    let commands = roles.iter().any(|role| role.purpose() == Purpose::Command);
    if algorithm == Algorithm::HmacSha256 && commands {
        say(
            "note: whoever checks commands by this secret can give them too; with ed25519 only who holds the private half can",
        );
    }
    warn(&files);
    Ok(Ending::Done)
}

pub(super) fn rotate(context: &Context, args: &RotateArgs) -> Outcome {
    let (_, files) = files(context, &args.files)?;
    let now = SystemClock.now();
    let new = match &args.as_id {
        Some(id) => id.clone(),
        None => successor(&args.id, now)?,
    };
    let rotation = Rotation { lead: args.lead, overlap: args.overlap };
    let rotated = edit::rotate(&files, &args.id, &new, rotation, now).map_err(refused)?;
    let document = json!({
        "id": new,
        "signsFrom": rotated.signs_from,
        "old": args.id,
        "oldUntil": rotated.old_until,
        "written": paths(&rotated.written),
    });
    Printer::new(args.json.json).print(&document, || {
        let (from, until) = (rotated.signs_from, rotated.old_until);
        let lines = lines(&new, &rotated.written);
        format!("{lines}{new} signs from {from} on; {} is good until {until}", args.id)
    })?;
    if files.public.is_some() || files.shared.is_some() {
        say(format!(
            "note: bring what was written to everybody who checks before {}",
            rotated.signs_from
        ));
    }
    if rotated.old_until < rotated.signs_from {
        say(format!(
            "warning: {} ends at {}, before {new} signs: nothing is signed in between; a shorter --lead, for a key of another id, closes the gap",
            args.id, rotated.old_until
        ));
    }
    warn(&files);
    Ok(Ending::Done)
}

pub(super) fn retire(context: &Context, args: &RetireArgs) -> Outcome {
    let (_, files) = files(context, &args.files)?;
    let at = args.at.unwrap_or_else(|| SystemClock.now());
    let written = edit::retire(&files, &args.id, at).map_err(refused)?;
    let document = json!({ "id": args.id, "notAfter": at, "written": paths(&written) });
    Printer::new(args.json.json)
        .print(&document, || format!("{}{} ends at {at}", lines(&args.id, &written), args.id))?;
    warn(&files);
    Ok(Ending::Done)
}

/// The id without a date at its end, and this day's.
fn successor(old: &KeyId, now: Timestamp) -> Result<KeyId, CliError> {
    let text = old.as_str();
    let has_date = text.len() > DATE && {
        let (_, date) = text.split_at(text.len() - DATE);
        date.starts_with('-') && date[1..].bytes().all(|byte| byte.is_ascii_digit())
    };
    let stem = if has_date { &text[..text.len() - DATE] } else { text };
    let day: String = now.to_string().chars().take(10).filter(char::is_ascii_digit).collect();
    KeyId::new(format!("{stem}-{day}"))
        .map_err(|error| CliError::usage(error, "choose the new key's id with --as"))
}

fn paths(written: &[PathBuf]) -> Vec<String> {
    written.iter().map(|path| path.display().to_string()).collect()
}

fn lines(id: &KeyId, written: &[PathBuf]) -> String {
    let mut text = String::new();
    for path in written {
        let _ = writeln!(text, "{id} is written to {}", path.display());
    }
    text
}

/// What the files are now may be something no worker starts with.
fn warn(files: &KeyFiles) {
    if let Err(problem) = Keys::open(files.clone()) {
        say(format!("warning: {problem}"));
    }
}

fn refused(problem: String) -> CliError {
    CliError::failed(
        problem,
        "`stem keys list` shows what the files hold; --public, --private and --shared name others",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_the_day_in_place_of_the_old_one() {
        let now = "2026-11-22T23:59:59.999Z".parse().unwrap();
        for (old, new) in [
            ("ops", "ops-20261122"),
            ("ops-20250101", "ops-20261122"),
            ("ops-2025", "ops-2025-20261122"),
        ] {
            assert_eq!(successor(&KeyId::new(old).unwrap(), now).unwrap().as_str(), new);
        }
    }
}
