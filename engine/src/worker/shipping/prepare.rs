//! One release, from the store to a module that can be started.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, ErrorClass, ModuleStore};
use stem_core::id::{Digest, TaskName};
use stem_core::observe::Service;
use stem_core::release::Release;
use stem_isolate::{IsolateRuntime, admission};

use super::super::builder::Publishers;
use super::super::handler::Serving;
use super::super::shared::Shared;
use crate::manifest::{self, HandlerManifest};
use crate::modules::{self, Found, ModuleHandler};
use crate::policy::Origin;

/// Where releases come from, and whose may run.
#[derive(Debug)]
pub(in crate::worker) struct Source {
    pub(in crate::worker) store: Arc<dyn ModuleStore>,
    pub(in crate::worker) runtime: Arc<IsolateRuntime>,
    pub(in crate::worker) publishers: Publishers,
}

/// Why a release cannot be started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The store cannot be asked, or does not hold it: that may pass.
    Unavailable(String),
    /// It is no module that runs here.
    Refused(String),
    /// Nobody who is trusted signed it.
    Untrusted(String),
    /// The task name has no such release.
    Unknown(String),
}

impl Trouble {
    /// As a word, which is also the code of a task that fails by it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "module-unavailable",
            Self::Refused(_) => "module-refused",
            Self::Untrusted(_) => "module-untrusted",
            Self::Unknown(_) => "module-unknown",
        }
    }

    /// For people.
    pub(super) fn problem(&self) -> &str {
        match self {
            Self::Unavailable(problem)
            | Self::Refused(problem)
            | Self::Untrusted(problem)
            | Self::Unknown(problem) => problem,
        }
    }

    /// The pause before it is tried again, after so many failures; `None` if that cannot help. What is refused costs a
    /// compilation each time, and only another worker's version, or a mended store, would make a difference.
    pub(super) fn pause(&self, tries: u32) -> Option<Duration> {
        let doubled = |first: u64, most: u64| {
            Duration::from_secs(first.saturating_mul(1 << tries.min(16)).min(most))
        };
        match self {
            Self::Unavailable(_) => Some(doubled(1, 30)),
            Self::Refused(_) => Some(doubled(5, 600)),
            Self::Unknown(_) => Some(Duration::from_secs(1)),
            Self::Untrusted(_) => None,
        }
    }
}

fn unavailable(shared: &Shared, error: &BackendError) -> Trouble {
    shared.saw_failure(Service::Modules, error);
    Trouble::Unavailable(error.to_string())
}

/// A release in a sentence.
pub(super) fn called(release: &Release) -> String {
    format!("release {} of {}", release.version, release.name)
}

/// Fetches, checks and prepares a release. Nothing of one that is not trusted is fetched.
pub(super) async fn prepare(
    shared: &Shared,
    source: &Source,
    release: Arc<Release>,
) -> Result<Arc<Serving>, Trouble> {
    if let Publishers::Listed(trust) = &source.publishers {
        trust
            .publisher_of(&release)
            .map_err(|untrusted| Trouble::Untrusted(untrusted.to_string()))?;
    }
    let refused = |problem: &dyn std::fmt::Display| Trouble::Refused(problem.to_string());
    let manifest = manifest_of(&release).map_err(|problem| refused(&problem))?;
    let fetched = source.store.get(&release.digest).await;
    let Some(wasm) = fetched.map_err(|error| unavailable(shared, &error))? else {
        let problem = format!("the store does not hold the module {}", release.digest);
        return Err(Trouble::Unavailable(problem));
    };
    let digest = admission::digest(&wasm);
    if digest != release.digest {
        return Err(refused(&format!(
            "the store holds something else, {digest}, as {}",
            release.digest
        )));
    }
    let policy = shared.config.policy.current();
    let resolved = policy.resolve(&manifest, Origin::Pushed, &shared.config.limits_cap);
    resolved.warn(&release.name);
    let found = Found { path: PathBuf::from(called(&release)), manifest };
    let handler = modules::prepare(&source.runtime, &found, &wasm, resolved)
        .await
        .map_err(|error| refused(&error))?;
    Ok(Serving::of_release(handler, release))
}

/// The same build with what the policy gives it now; `None` if that cannot be told.
pub(super) fn with_policy_of_now(shared: &Shared, build: &Serving) -> Option<Arc<Serving>> {
    let release = build.release.as_ref()?;
    let manifest = manifest_of(release).ok()?;
    let policy = shared.config.policy.current();
    let resolved = policy.resolve(&manifest, Origin::Pushed, &shared.config.limits_cap);
    resolved.warn(&release.name);
    let handler = ModuleHandler::new(&manifest, Arc::clone(&build.module), resolved);
    Some(Serving::of_release(handler, Arc::clone(release)))
}

/// The handler that a release describes. Its version is `r` and the number of the release, then what its author calls it.
fn manifest_of(release: &Release) -> Result<HandlerManifest, String> {
    let file = PathBuf::from(format!("the manifest of {}", called(release)));
    let handlers =
        manifest::read(Path::new(&file), &release.manifest).map_err(|it| it.to_string())?;
    let mut handler = handlers
        .into_iter()
        .find(|handler| handler.name == release.name)
        .ok_or_else(|| format!("{} does not describe {}", file.display(), release.name))?;
    let number = format!("r{}", release.version);
    handler.version = Some(match handler.version {
        Some(label) => format!("{number} {label}"),
        None => number,
    });
    Ok(handler)
}

/// The newest release of a name that is this build.
pub(super) async fn find(
    shared: &Shared,
    source: &Source,
    name: &TaskName,
    digest: &Digest,
) -> Result<Arc<Release>, Trouble> {
    let history = source.store.history(name).await;
    let history = history.map_err(|error| unavailable(shared, &error))?;
    let releases = history.map(|history| history.releases).unwrap_or_default();
    let release = releases.into_iter().find(|release| release.digest == *digest);
    release.map(Arc::new).ok_or_else(|| {
        Trouble::Unknown(format!("only {digest} may run it, and that is no release of {name}"))
    })
}

/// Whether trying again can help by itself.
pub(super) fn may_pass(error: &BackendError) -> bool {
    error.class() == ErrorClass::Transient
}
