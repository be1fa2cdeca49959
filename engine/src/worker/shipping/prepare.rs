//! One release, from the store to a module that can be started.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, ErrorClass, ModuleStore};
use stem_core::id::{Digest, TaskName};
use stem_core::observe::Service;
use stem_core::release::Release;
use stem_isolate::compile::CompileError;
use stem_isolate::{IsolateRuntime, LoadError, admission};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::super::builder::Publishers;
use super::super::handler::Serving;
use super::super::shared::Shared;
use crate::manifest::{self, HandlerManifest};
use crate::modules::{self, Found, ModuleHandler, ModulesError};
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
            // Whoever asks again may have pushed or signed it meanwhile.
            Self::Unknown(_) | Self::Untrusted(_) => None,
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
    trusted(source, &release)?;
    let manifest = manifest_of(&release).map_err(Trouble::Refused)?;
    let fetched = source.store.get(&release.digest).await;
    let Some(wasm) = fetched.map_err(|error| unavailable(shared, &error))? else {
        let problem = format!("the store does not hold the module {}", release.digest);
        return Err(Trouble::Unavailable(problem));
    };
    // What it is given in the end is decided, and told, when it takes its place.
    let policy = shared.config.policy.current();
    let resolved = policy.resolve(&manifest, Origin::Pushed, &shared.config.limits_cap);
    let found = Found { path: PathBuf::from(called(&release)), manifest };
    let (runtime, wanted) = (Arc::clone(&source.runtime), release.digest);
    let handler = aside(async move {
        let digest = admission::digest(&wasm);
        if digest != wanted {
            // Whoever pushes it again puts it right.
            let problem = format!("the store holds something else, {digest}, as {wanted}");
            return Err(Trouble::Unavailable(problem));
        }
        let handler = modules::prepare(&runtime, &found, &wasm, resolved).await;
        handler.map_err(|error| match &error {
            // That says something of this machine, and nothing of the module.
            ModulesError::Load {
                source: LoadError::Compile(CompileError::Unavailable(_)), ..
            } => Trouble::Unavailable(error.to_string()),
            _ => Trouble::Refused(error.to_string()),
        })
    });
    Ok(Serving::of_release(handler.await?, release))
}

/// Does what keeps a thread busy for long (a hundred milliseconds for a large module) on one that nobody waits for: this
/// runtime renews leases. Dropped, it is given up where it waits next.
async fn aside<T: Send + 'static>(
    work: impl Future<Output = Result<T, Trouble>> + Send + 'static,
) -> Result<T, Trouble> {
    let here = Handle::current();
    let (_wanted, given_up) = oneshot::channel::<()>();
    let done = tokio::task::spawn_blocking(move || {
        here.block_on(async {
            tokio::select! {
                done = work => done,
                _ = given_up => Err(Trouble::Unavailable("nobody waits for it".to_owned())),
            }
        })
    });
    done.await
        .unwrap_or_else(|broken| Err(Trouble::Refused(format!("preparing it broke: {broken}"))))
}

/// Whether a release may run as the trust list is now.
pub(super) fn trusted(source: &Source, release: &Release) -> Result<(), Trouble> {
    let checked = source.publishers.check(release);
    checked.map_err(|untrusted| Trouble::Untrusted(untrusted.to_string()))
}

/// The same build with what the policy gives it now, with a warning of what that is not; `None` if that cannot be told.
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

/// The newest release of a name that is this build and may run: somebody may have pushed it again without a signature.
pub(super) async fn find(
    shared: &Shared,
    source: &Source,
    name: &TaskName,
    digest: &Digest,
) -> Result<Arc<Release>, Trouble> {
    let history = source.store.history(name).await;
    let history = history.map_err(|error| unavailable(shared, &error))?;
    let releases = history.map(|history| history.releases).unwrap_or_default();
    let mut these: Vec<_> =
        releases.into_iter().filter(|release| release.digest == *digest).collect();
    let may_run = these.iter().position(|release| trusted(source, release).is_ok());
    let release = (!these.is_empty()).then(|| these.swap_remove(may_run.unwrap_or(0)));
    release.map(Arc::new).ok_or_else(|| {
        Trouble::Unknown(format!("only {digest} may run it, and that is no release of {name}"))
    })
}

/// Whether trying again can help by itself.
pub(super) fn may_pass(error: &BackendError) -> bool {
    error.class() == ErrorClass::Transient
}
