//! `stem module push FILE`: the module is admitted and compiled here first, so that nothing is shipped that no worker takes.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use stem_core::backend::modules::{MODULE_BYTES, Pushed};
use stem_core::backend::{ErrorClass, ModuleStore};
use stem_core::id::TaskName;
use stem_core::release::{Push, PushId, Release, Rollout};
use stem_engine::manifest::{self, HandlerManifest};
use stem_engine::modules::{self, Found};
use stem_engine::policy::{Origin, Policy};
use stem_engine::units;
use stem_isolate::admission;

use super::super::Context;
use super::key;
use super::shelf::{document, recalled, refuse_recalled, short, words};
use crate::args::PushArgs;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};
use crate::{connect, identity, sandbox};

pub(super) async fn run(context: &Context, args: PushArgs) -> Outcome {
    let settings = context.settings(|_| {})?;
    connect::refuse_memory(&settings.module_store_url, "the module")?;
    let trust = sandbox::trust(&settings)?;
    let keys = args.sign_key.iter().map(|file| key::read(file)).collect::<Result<Vec<_>, _>>()?;
    let (found, text) = found(&args)?;
    let name = found.manifest.name.clone();
    let wasm = read(&found.path)?;
    check(&found, &wasm).await?;
    let mut push = Push {
        id: PushId::fresh(),
        name: name.clone(),
        digest: admission::digest(&wasm),
        size: wasm.len() as u64,
        manifest: text,
        pushed_by: Some(identity::user()),
        signatures: Vec::new(),
    };
    push.signatures = keys.iter().map(|key| key.sign(&push)).collect();
    push.check()
        .map_err(|problem| CliError::failed(problem, "make the module or its manifest smaller"))?;
    match &trust {
        Some(trust) => {
            if let Err(untrusted) = trust.current().publisher_of_push(&push) {
                say(format!("warning: workers with this trust list will not run it: {untrusted}"));
            }
        }
        None if push.signatures.is_empty() => {
            say("note: it is not signed, so workers with a trust list (--trust) will not run it");
        }
        None => {}
    }
    let recalled = recalled(&settings).await?;
    refuse_recalled(&recalled, &push.digest, &args.file.display().to_string())?;
    let rollout = match (args.canary, args.hold) {
        (Some(percent), _) => Rollout::Canary(percent),
        (None, true) => Rollout::Held,
        (None, false) => Rollout::Whole,
    };
    let store = connect::modules(&settings).await?;
    let printer = Printer::new(args.json.json);
    if args.dry.dry_run {
        let document = json!({
            "dryRun": true, "name": name, "digest": push.digest, "size": push.size, "manifest": push.manifest,
            "signedBy": push.signatures.iter().map(|it| &it.key).collect::<Vec<_>>(),
        });
        printer.print(&document, String::new)?;
        say(format!(
            "dry run: would push {} as {name} ({}); nothing was done",
            args.file.display(),
            short(&push.digest)
        ));
        return Ok(Ending::Done);
    }
    let release = send(&*store, &push, &wasm, rollout).await?;
    let assignment = store.history(&name).await?.and_then(|history| history.assignment);
    let mut document = document(&release, &recalled);
    document.insert("dryRun".to_owned(), json!(false));
    document.insert("assignment".to_owned(), json!(assignment));
    printer.print(&document, || {
        let serves = assignment.map_or_else(|| "no version serves".to_owned(), words);
        format!(
            "{name} version {} is {} ({}); {serves}",
            release.version,
            release.digest,
            units::write_bytes(release.size)
        )
    })?;
    Ok(Ending::Done)
}

/// So often a push is sent whose answer does not come.
const TRIES: u32 = 3;
/// The pause before it is sent again.
const PAUSE: Duration = Duration::from_millis(500);

/// The bytes first, then the release that names them.
async fn send(
    store: &dyn ModuleStore,
    push: &Push,
    wasm: &[u8],
    rollout: Rollout,
) -> Result<Release, CliError> {
    store.put(&push.digest, wasm).await?;
    let mut tries = 1;
    let pushed = loop {
        match store.push(push, rollout).await {
            Ok(pushed) => break pushed,
            // It may have been made: only the answer can be lost. Sent again it is the same push.
            Err(error) if error.class() == ErrorClass::Transient && tries < TRIES => {
                tracing::debug!(%error, tries, "the push is sent again");
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if error.class() == ErrorClass::Transient => {
                let error = CliError::from(error);
                let look = format!("stem module show {}", push.name);
                return Err(CliError {
                    what: format!("whether the release was made is not known: {}", error.what),
                    hint: format!("look (`{look}`) before you push again; {}", error.hint),
                    ..error
                });
            }
            Err(error) => return Err(error.into()),
        }
    };
    match pushed {
        Pushed::Release(release) => Ok(release),
        Pushed::NoSuchModule => Err(CliError::failed(
            format!("the module {} was removed from the store before it was pushed", push.digest),
            "push it again",
        )),
    }
}

/// The module's bytes, if they are not more than a store takes.
fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    let unreadable = |error: std::io::Error| unreadable(file, &error);
    // A FIFO would be waited for, and a device may have no end.
    let about = std::fs::metadata(file).map_err(unreadable)?;
    if !about.is_file() {
        return Err(CliError::usage(
            format!("{} is not a file", file.display()),
            "give the path of a .wasm file",
        ));
    }
    let mut wasm = Vec::new();
    let most = MODULE_BYTES as u64;
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(most + 1).read_to_end(&mut wasm).map_err(unreadable)?;
    if wasm.len() as u64 > most {
        return Err(CliError::failed(
            format!(
                "{} has more than {}, which is all that a store takes",
                file.display(),
                units::write_bytes(most)
            ),
            "make the module smaller",
        ));
    }
    Ok(wasm)
}

/// Admits, compiles and links it as a worker would, and says what a worker without a policy will not give it.
async fn check(found: &Found, wasm: &[u8]) -> Result<(), CliError> {
    let runtime = sandbox::start(1)?;
    let cap = sandbox::limits_cap();
    let resolved = Policy::none().resolve(&found.manifest, Origin::Pushed, &cap);
    for refused in &resolved.refused {
        say(format!(
            "note: pushed modules get {} only from workers whose policy allows it",
            refused.grant
        ));
    }
    let loaded = modules::load_with(&runtime, found, resolved).await;
    let handler = loaded.map_err(|error| {
        // A wrong argument elsewhere; here it is what was asked to be shipped.
        CliError { ending: Ending::Failed, ..sandbox::refused(error) }
    })?;
    if handler.module.digest() != admission::digest(wasm) {
        return Err(CliError::failed(
            format!("{} was changed while it was read", found.path.display()),
            "push it again when it is written",
        ));
    }
    Ok(())
}

fn unreadable(file: &Path, error: &std::io::Error) -> CliError {
    CliError::usage(
        format!("cannot read {}: {error}", file.display()),
        "give the path of a file that this user can read",
    )
}

/// The module with its manifest, and the part of the manifest that is shipped with it.
fn found(args: &PushArgs) -> Result<(Found, String), CliError> {
    let source = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (found, beside) = if let Some(path) = &args.manifest {
        (described(args, path, &source)?, Some(path.clone()))
    } else {
        let found = sandbox::find(&args.file, args.name.as_ref())?;
        let beside = args.file.with_file_name("stem.toml");
        (found, Some(beside).filter(|path| path.exists()))
    };
    let name = &found.manifest.name;
    let unnamed = args.name.is_none()
        && found.manifest == HandlerManifest::plain(name.clone(), source.clone());
    if unnamed
        && TaskName::new(&*args.file.file_stem().unwrap_or_default().to_string_lossy()).is_err()
    {
        return Err(CliError::usage(
            format!("the name of {} is not a task name", args.file.display()),
            "say which task it serves with --name",
        ));
    }
    let part = match &beside {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
            let part = manifest::part_of(path, &text, name);
            part.map_err(|error| sandbox::refused(error.into()))?
        }
    };
    let text = part.unwrap_or_else(|| manifest::plain_text(name, &source));
    Ok((found, text))
}

/// The handler that a manifest describes for this file.
fn described(args: &PushArgs, path: &Path, source: &str) -> Result<Found, CliError> {
    let handlers = modules::read_manifest(path).map_err(sandbox::refused)?;
    let named: Vec<_> = match &args.name {
        Some(name) => handlers.into_iter().filter(|handler| handler.name == *name).collect(),
        None if handlers.len() == 1 => handlers,
        None => handlers.into_iter().filter(|handler| handler.source == source).collect(),
    };
    let count = named.len();
    let mut named = named.into_iter();
    match (named.next(), count) {
        (Some(manifest), 1) => Ok(Found { path: args.file.clone(), manifest }),
        (_, count) => Err(CliError::usage(
            format!("{} describes {count} handlers that are meant", path.display()),
            "say which with --name",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use stem_core::backend::modules::{Assigned, History, Removed};
    use stem_core::backend::{BackendError, Health, ServiceId};
    use stem_core::id::Digest;
    use stem_core::release::{Assignment, Catalogue};
    use stem_engine::SystemClock;
    use stem_memory::Memory;

    use super::*;

    /// Makes pushes and loses so many of the answers; after the first, somebody else pushes too.
    #[derive(Debug)]
    struct Mute {
        store: Arc<Memory>,
        lost: AtomicU32,
    }

    fn push_of(n: u8) -> Push {
        Push {
            id: PushId::fresh(),
            name: TaskName::new("job").unwrap(),
            digest: Digest([n; 32]),
            size: 1,
            manifest: String::new(),
            pushed_by: None,
            signatures: Vec::new(),
        }
    }

    #[async_trait]
    impl ModuleStore for Mute {
        fn service(&self) -> &ServiceId {
            ModuleStore::service(&*self.store)
        }
        async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
            self.store.put(digest, bytes).await
        }
        async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
            self.store.get(digest).await
        }
        async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
            let pushed = self.store.push(push, rollout).await?;
            let left = self.lost.load(Ordering::Relaxed);
            if left == 0 {
                return Ok(pushed);
            }
            self.lost.store(left - 1, Ordering::Relaxed);
            self.store.put(&Digest([9; 32]), b"x").await?;
            self.store.push(&push_of(9), Rollout::Whole).await?;
            Err(BackendError::new(ErrorClass::Transient, "mute", "push a release", "no answer"))
        }
        async fn assign(
            &self,
            name: &TaskName,
            seen: Option<Assignment>,
            wanted: Option<Assignment>,
        ) -> Result<Assigned, BackendError> {
            self.store.assign(name, seen, wanted).await
        }
        async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
            ModuleStore::remove(&*self.store, name, version).await
        }
        async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
            self.store.history(name).await
        }
        async fn catalogue(&self) -> Result<Catalogue, BackendError> {
            self.store.catalogue().await
        }
        async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
            ModuleStore::changed(&*self.store, seen, wait).await
        }
        async fn health(&self) -> Result<Health, BackendError> {
            ModuleStore::health(&*self.store).await
        }
    }

    #[tokio::test]
    async fn a_push_whose_answer_is_lost_is_made_once_and_takes_nothing_back() {
        for lost in [1, TRIES] {
            let store = Memory::new(Arc::new(SystemClock));
            let mute = Mute { store: Arc::clone(&store), lost: AtomicU32::new(lost) };
            let push = push_of(1);
            let sent = send(&mute, &push, b"x", Rollout::Whole).await;
            match (lost, sent) {
                (1, Ok(release)) => assert_eq!((release.version, release.digest), (1, push.digest)),
                (_, Err(error)) => {
                    assert_eq!(error.ending, Ending::Unavailable);
                    assert!(error.what.contains("is not known"), "{error:?}");
                    assert!(error.hint.contains("stem module show job"), "{error:?}");
                }
                (lost, sent) => panic!("{lost} lost: {sent:?}"),
            }
            let history = store.history(&push.name).await.unwrap().unwrap();
            let versions: Vec<u32> = history.releases.iter().map(|it| it.version).collect();
            assert_eq!((versions, history.assignment.unwrap().version), (vec![2, 1], 2));
        }
    }
}
