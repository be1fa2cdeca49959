//! `stem module rollback`, `promote` and `canary`: what serves a task name. Each changes it only if it still is as it was
//! seen.

use stem_core::release::{Assignment, Canary};

use super::super::Context;
use super::shelf::Shelf;
use crate::args::{CanaryArgs, PromoteArgs, RollbackArgs};
use crate::error::{CliError, Outcome};

/// Back to a version before.
pub(super) async fn rollback(context: &Context, args: RollbackArgs) -> Outcome {
    let shelf = Shelf::open(context, args.name).await?;
    let version = match args.to {
        Some(version) => version,
        None => before(&shelf)?,
    };
    shelf.refuse_unfit(version)?;
    shelf.assign(Assignment { version, canary: None }, args.dry.dry_run, args.json.json).await
}

/// The version that a rollback goes to where none is named.
fn before(shelf: &Shelf) -> Result<u32, CliError> {
    let now = shelf.assignment()?;
    if now.canary.is_some() {
        return Ok(now.version);
    }
    let may_run = |version: &&u32| {
        shelf.release(**version).is_ok_and(|it| !shelf.recalled.contains(&it.digest))
    };
    shelf.history.before.iter().rev().find(may_run).copied().ok_or_else(|| {
        CliError::nothing(
            format!(
                "no version of {} that may run served before version {}",
                shelf.name, now.version
            ),
            format!("choose one with --to; `stem module show {}` shows all there are", shelf.name),
        )
    })
}

/// What was on trial, or another version, for every task.
pub(super) async fn promote(context: &Context, args: PromoteArgs) -> Outcome {
    let shelf = Shelf::open(context, args.name).await?;
    let version = match args.version {
        Some(version) => version,
        None => trial(&shelf)?,
    };
    shelf.refuse_unfit(version)?;
    shelf.assign(Assignment { version, canary: None }, args.dry.dry_run, args.json.json).await
}

/// A trial, or a greater or smaller part of the tasks for one.
pub(super) async fn canary(context: &Context, args: CanaryArgs) -> Outcome {
    let shelf = Shelf::open(context, args.name).await?;
    let serving = shelf.assignment()?;
    let version = match args.version {
        Some(version) => version,
        None => trial(&shelf)?,
    };
    if version == serving.version {
        return Err(CliError::usage(
            format!("version {version} of {} serves every task already", shelf.name),
            "choose another with --version",
        ));
    }
    shelf.refuse_unfit(version)?;
    let canary = Some(Canary { version, percent: args.percent });
    shelf.assign(Assignment { canary, ..serving }, args.dry.dry_run, args.json.json).await
}

fn trial(shelf: &Shelf) -> Result<u32, CliError> {
    let canary = shelf.history.assignment.and_then(|serving| serving.canary);
    canary.map(|canary| canary.version).ok_or_else(|| {
        CliError::nothing(
            format!("no version of {} is on trial", shelf.name),
            format!(
                "name one with --version; `stem module show {}` shows all there are",
                shelf.name
            ),
        )
    })
}
