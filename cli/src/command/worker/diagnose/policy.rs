//! The policy, and what a worker that goes by it leaves of what modules ask for: those of its directory, and those that were pushed.

use std::collections::BTreeSet;
use std::path::Path;

use stem_core::id::TaskName;
use stem_core::release::Release;
use stem_engine::manifest::{self, HandlerManifest};
use stem_engine::modules;
use stem_engine::policy::{Origin, Policy};

use super::Findings;
use crate::settings::Settings;
use crate::{connect, sandbox};

/// Grants of one module that are named when it does not get them.
const NAMED: usize = 16;

/// What the directory came to, for the look at the store.
pub(super) struct Asked {
    policy: Policy,
    /// Names that the worker serves itself, whatever is pushed.
    own: BTreeSet<TaskName>,
}

/// Looks at the policy if there is one, and at the modules of a directory if one is named; `None` if a worker would not start.
pub(super) fn look(
    settings: &Settings,
    modules: Option<&Path>,
    findings: &mut Findings,
) -> Option<Asked> {
    let policy = match &settings.policy.value {
        None => Policy::none(),
        Some(path) => match Policy::open(path) {
            Ok(policy) => {
                findings.fine("policy", format!("{} can be used", path.display()));
                for warning in policy.warnings() {
                    findings.warn("policy", warning, "a worker starts all the same");
                }
                policy
            }
            Err(error) => {
                findings.fail(
                    "policy",
                    error,
                    "correct the file; docs/operations.md has a whole one",
                );
                return None;
            }
        },
    };
    let mut asked = Asked { policy, own: BTreeSet::new() };
    let Some(dir) = modules else { return Some(asked) };
    let found = match modules::find(dir) {
        Ok(found) => found,
        Err(error) => {
            let error = sandbox::refused(error);
            findings.fail("modules", error.what, &error.hint);
            return None;
        }
    };
    let shown = dir.display();
    findings.fine("modules", format!("{shown} has {} task names", found.len()));
    for found in found.values() {
        asked.judge("modules", &found.manifest, Origin::Local, findings);
    }
    asked.own = found.into_keys().collect();
    Some(asked)
}

impl Asked {
    /// Looks at what was pushed and serves. A store that does not answer is a finding of its own.
    pub(super) async fn of_releases(&self, settings: &Settings, findings: &mut Findings) {
        const CHECK: &str = "releases";
        let catalogue = async {
            Ok::<_, crate::error::CliError>(connect::modules(settings).await?.catalogue().await?)
        };
        let Ok(catalogue) = catalogue.await else { return };
        let releases = catalogue.served.iter().flat_map(|served| &served.releases);
        for release in releases.filter(|release| !self.own.contains(&release.name)) {
            match of_release(release) {
                Ok(manifest) => self.judge(CHECK, &manifest, Origin::Pushed, findings),
                Err(problem) => findings.warn(
                    CHECK,
                    format!(
                        "version {} of {} is refused by workers: {problem}",
                        release.version, release.name
                    ),
                    "push it again with a manifest that is right",
                ),
            }
        }
    }

    /// Says what is asked for and not given.
    fn judge(
        &self,
        check: &'static str,
        manifest: &HandlerManifest,
        origin: Origin,
        findings: &mut Findings,
    ) {
        let name = &manifest.name;
        let resolved = self.policy.resolve(manifest, origin, &sandbox::limits_cap());
        for refused in resolved.refused.iter().take(NAMED) {
            let why = refused.why.words();
            let what = format!("{name}: {} is asked for and not given: {why}", refused.grant);
            findings.warn(check, what, &refused.remedy);
        }
        let more = resolved.refused.len().saturating_sub(NAMED);
        if more > 0 {
            let what = format!("{name}: {more} grants more are asked for and not given");
            findings.warn(check, what, "`stem module check` names all");
        }
    }
}

fn of_release(release: &Release) -> Result<HandlerManifest, String> {
    let file = Path::new("its manifest");
    let handlers = manifest::read(file, &release.manifest).map_err(|error| error.to_string())?;
    let mut ours = handlers.into_iter().filter(|handler| handler.name == release.name);
    ours.next().ok_or_else(|| "its manifest does not describe it".to_owned())
}
