//! What the commands that look at releases and change what serves have in common.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use stem_core::backend::ModuleStore;
use stem_core::backend::modules::{Assigned, History};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{Assignment, Release};
use stem_core::revoke::judged_at;
use stem_core::time::Clock;
use stem_engine::SystemClock;

use super::super::Context;
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};
use crate::settings::Settings;

/// The module store, and everything that is known of one task name in it.
pub(super) struct Shelf {
    pub(super) name: TaskName,
    pub(super) store: Arc<dyn ModuleStore>,
    pub(super) history: History,
    pub(super) recalled: BTreeSet<Digest>,
}

/// The builds that are recalled.
pub(super) async fn recalled(settings: &Settings) -> Result<BTreeSet<Digest>, CliError> {
    let store = connect::revokes(settings).await?;
    let known = stem_engine::revocations::read_all(&store, &settings.namespace.value).await?;
    Ok(known.recalled(judged_at(store.time().await?, SystemClock.now())))
}

/// Refuses to let a build serve that is recalled.
pub(super) fn refuse_recalled(
    recalled: &BTreeSet<Digest>,
    digest: &Digest,
    what: &str,
) -> Result<(), CliError> {
    if !recalled.contains(digest) {
        return Ok(());
    }
    Err(CliError::failed(
        format!("{what} is the build {digest}, which is recalled, so no worker would run it"),
        format!(
            "choose another build, or take the recall back: stem revokes undo --module {digest}"
        ),
    ))
}

/// A digest for people: enough of it to tell it from others.
pub(super) fn short(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").chars().take(12).collect()
}

impl Shelf {
    /// Looks a name up.
    pub(super) async fn open(context: &Context, name: TaskName) -> Result<Self, CliError> {
        let settings = context.settings(|_| {})?;
        let store = connect::modules(&settings).await?;
        let Some(history) = store.history(&name).await? else {
            return Err(CliError::nothing(
                format!("no module was pushed for the task name {name}"),
                "`stem module list` shows what there is; `stem module push` ships a module",
            ));
        };
        Ok(Self { name, store, history, recalled: recalled(&settings).await? })
    }

    /// One of its releases.
    pub(super) fn release(&self, version: u32) -> Result<&Release, CliError> {
        let found = self.history.releases.iter().find(|release| release.version == version);
        found.ok_or_else(|| self.no_version(version))
    }

    pub(super) fn no_version(&self, version: u32) -> CliError {
        let there: Vec<String> =
            self.history.releases.iter().map(|release| release.version.to_string()).collect();
        CliError::nothing(
            format!("{} has no version {version}", self.name),
            format!("there are {}; `stem module show {}` says more", there.join(", "), self.name),
        )
    }

    /// What serves now.
    pub(super) fn assignment(&self) -> Result<Assignment, CliError> {
        self.history.assignment.ok_or_else(|| {
            CliError::nothing(
                format!("no version of {} serves", self.name),
                format!("choose one: stem module promote {} --version VERSION", self.name),
            )
        })
    }

    /// Refuses versions that are not there or are recalled.
    pub(super) fn refuse_unfit(&self, version: u32) -> Result<(), CliError> {
        let release = self.release(version)?;
        refuse_recalled(
            &self.recalled,
            &release.digest,
            &format!("version {version} of {}", self.name),
        )
    }

    /// Changes what serves, and tells.
    pub(super) async fn assign(&self, wanted: Assignment, dry_run: bool, json: bool) -> Outcome {
        let before = self.history.assignment;
        if !dry_run {
            match self.store.assign(&self.name, before, Some(wanted)).await? {
                Assigned::Done => {}
                Assigned::NoSuchVersion => return Err(self.no_version(wanted.version)),
                Assigned::Conflict => {
                    return Err(CliError::failed(
                        format!(
                            "what serves {} was changed by somebody else meanwhile; nothing was done",
                            self.name
                        ),
                        format!("look again (`stem module show {}`) and decide anew", self.name),
                    ));
                }
            }
        }
        let document = json!({
            "name": self.name, "dryRun": dry_run, "before": before, "assignment": wanted,
        });
        Printer::new(json).print(&document, || {
            let was = before.map_or_else(|| "nothing".to_owned(), words);
            format!("{}: {} (before: {was})", self.name, words(wanted))
        })?;
        if dry_run {
            say("dry run: nothing was done");
        }
        Ok(Ending::Done)
    }
}

/// What serves, for people.
pub(super) fn words(assignment: Assignment) -> String {
    match assignment.canary {
        None => format!("version {} serves", assignment.version),
        Some(canary) => format!(
            "version {} serves, with version {} on trial for {}%",
            assignment.version,
            canary.version,
            canary.percent.get()
        ),
    }
}

/// A release as JSON.
pub(super) fn document(release: &Release, recalled: &BTreeSet<Digest>) -> Map<String, Value> {
    let mut document = match serde_json::to_value(release) {
        Ok(Value::Object(document)) => document,
        _ => Map::new(),
    };
    // Only the store needs that.
    document.remove("push");
    document.insert("signatures".to_owned(), json!(release.signatures));
    document.insert("recalled".to_owned(), json!(recalled.contains(&release.digest)));
    document
}
