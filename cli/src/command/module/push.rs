//! `stem module push FILE`: the module is admitted and compiled here first, so that nothing is shipped that no worker takes.

use std::path::Path;

use serde_json::json;
use stem_core::backend::modules::Pushed;
use stem_core::id::TaskName;
use stem_core::release::{Push, Release, Rollout};
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
    let wasm = std::fs::read(&found.path).map_err(|error| unreadable(&found.path, &error))?;
    check(&found, &wasm).await?;
    let mut push = Push {
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
            if let Err(untrusted) = trust.publisher_of_push(&push) {
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

/// The bytes first, then the release that names them.
async fn send(
    store: &dyn stem_core::backend::ModuleStore,
    push: &Push,
    wasm: &[u8],
    rollout: Rollout,
) -> Result<Release, CliError> {
    store.put(&push.digest, wasm).await?;
    match store.push(push, rollout).await? {
        Pushed::Release(release) => Ok(release),
        Pushed::NoSuchModule => Err(CliError::failed(
            format!("the module {} was removed from the store before it was pushed", push.digest),
            "push it again",
        )),
    }
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
