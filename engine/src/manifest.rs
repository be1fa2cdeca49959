//! `stem.toml`: what a module asks for. Unknown keys are refused with the nearest known one.

pub(crate) mod grants;
pub(crate) mod limits;
pub(crate) mod part;

use std::collections::BTreeMap;
use std::path::Path;

use stem_core::grants::Grants;
use stem_core::id::{Digest, TaskName};
use stem_core::limits::Limits;
use stem_core::release::MANIFEST_BYTES;
use stem_isolate::{ModuleKind, OnFailure, is_scratch_file};
use toml::{Table, Value};

use self::grants::Side;
pub use self::grants::is_workers_own;
use self::part::Part;

/// One handler as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerManifest {
    /// The task name it serves.
    pub name: TaskName,
    /// The module's file, relative to the manifest.
    pub source: String,
    /// The module must have this digest.
    pub digest: Option<Digest>,
    /// The module must be of this kind.
    pub kind: Option<ModuleKind>,
    /// What its author calls this version.
    pub version: Option<String>,
    /// What a failure without words means.
    pub on_failure: OnFailure,
    /// What it may use, as it asks.
    pub limits: Limits,
    /// What it may reach, as it asks.
    pub grants: Grants,
    /// Arguments of a command after its name.
    pub arguments: Vec<String>,
    /// The file in the scratch directory in which a command finds its payload.
    pub input_file: Option<String>,
    /// The file in the scratch directory in which a command leaves its result.
    pub result_file: Option<String>,
}

impl HandlerManifest {
    /// A handler that no manifest describes: the defaults.
    pub fn plain(name: TaskName, source: String) -> Self {
        Self {
            name,
            source,
            digest: None,
            kind: None,
            version: None,
            on_failure: OnFailure::default(),
            limits: Limits::DEFAULT,
            grants: Grants::default(),
            arguments: Vec::new(),
            input_file: None,
            result_file: None,
        }
    }
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ManifestError {
    /// Which file.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Longest problem, in bytes: it partly repeats the file, which may come with a module from anybody.
pub(crate) const PROBLEM_BYTES: usize = 1_000;

impl ManifestError {
    fn new(file: &Path, problem: &str) -> Self {
        let problem = stem_core::text::printable(problem, PROBLEM_BYTES);
        Self { file: file.display().to_string(), problem }
    }
}

/// Most arguments of a command.
const ARGUMENTS: usize = 64;
/// Longest of them, in bytes.
const ARGUMENT_BYTES: usize = 4 << 10;

const HANDLER_KEYS: [&str; 11] = [
    "source",
    "digest",
    "kind",
    "version",
    "on-failure",
    "limits",
    "grants",
    "arguments",
    "input-file",
    "result-file",
    "description",
];

/// Reads the `[handlers]` part of a `stem.toml`. Other parts are the command line's settings.
pub fn read(file: &Path, text: &str) -> Result<Vec<HandlerManifest>, ManifestError> {
    handlers(text)
        .and_then(|handlers| {
            handlers.iter().map(|(name, value)| handler(name, value)).collect::<Result<_, _>>()
        })
        .map_err(|problem| ManifestError::new(file, &problem))
}

/// The part of a `stem.toml` that describes one handler, as a manifest of its own; `None` if it describes none of this
/// name. The same description gives the same text, whatever its order, comments and neighbours.
pub fn part_of(file: &Path, text: &str, name: &TaskName) -> Result<Option<String>, ManifestError> {
    let refuse = |problem: String| ManifestError::new(file, &problem);
    let mut handlers = handlers(text).map_err(refuse)?;
    let Some(value) = handlers.remove(name.as_str()) else { return Ok(None) };
    handler(name.as_str(), &value).map_err(refuse)?;
    let text = written(name, value);
    if text.len() > MANIFEST_BYTES {
        return Err(refuse(format!(
            "handlers.{name} has {} bytes; at most {MANIFEST_BYTES} are allowed",
            text.len()
        )));
    }
    Ok(Some(text))
}

/// The manifest of a handler that none describes.
pub fn plain_text(name: &TaskName, source: &str) -> String {
    let mut handler = Table::new();
    handler.insert("source".to_owned(), format!("file:{source}").into());
    written(name, handler.into())
}

fn written(name: &TaskName, handler: Value) -> String {
    let mut handlers = Table::new();
    handlers.insert(name.to_string(), handler);
    let mut manifest = Table::new();
    manifest.insert("handlers".to_owned(), handlers.into());
    manifest.to_string()
}

/// What a `stem.toml` may hold: the command line's settings, how a module is built, and handlers.
pub const TABLES: [&str; 3] = ["settings", "handlers", "build"];

fn handlers(text: &str) -> Result<Table, String> {
    let mut table = part::table(text)?;
    Part::new("", &table, &TABLES)?;
    match table.remove("handlers") {
        None => Ok(Table::new()),
        Some(Value::Table(handlers)) => Ok(handlers),
        Some(_) => Err("handlers is not a table".to_owned()),
    }
}

fn handler(name: &str, value: &Value) -> Result<HandlerManifest, String> {
    let at = format!("handlers.{name}");
    let name = TaskName::new(name).map_err(|error| error.to_string())?;
    let part = Part::of(at.as_str(), value, &HANDLER_KEYS)?;
    part.text("description")?;
    let source = part.text("source")?.ok_or_else(|| format!("{at} has no source"))?;
    let source = source.strip_prefix("file:").ok_or_else(|| {
        format!("{at}.source {source:?} is not \"file:\" and a path relative to this manifest")
    })?;
    let escapes =
        Path::new(source).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
    if source.is_empty() || escapes {
        return Err(format!("{at}.source {source:?} leaves the manifest's directory"));
    }
    let kind = match part.text("kind")? {
        None => None,
        Some("component") => Some(ModuleKind::Component),
        Some("command") => Some(ModuleKind::Command),
        Some("raw") => Some(ModuleKind::Raw),
        Some(other) => return Err(format!("{at}.kind {other:?} is not component, command or raw")),
    };
    let on_failure = match part.text("on-failure")? {
        None | Some("retry") => OnFailure::Retry,
        Some("fail") => OnFailure::Fail,
        Some(other) => return Err(format!("{at}.on-failure {other:?} is not retry or fail")),
    };
    let digest = part
        .text("digest")?
        .map(str::parse)
        .transpose()
        .map_err(|error| format!("{at}.digest: {error}"))?;
    let version = part.text("version")?.map(|version| stem_core::text::printable(version, 64));
    let limits = match part.get("limits") {
        None => Limits::DEFAULT,
        Some(table) => limits::read(part.place("limits"), table, &Limits::DEFAULT)?,
    };
    let grants = match part.get("grants") {
        None => Grants::default(),
        Some(table) => grants::read(part.place("grants"), table, Side::Manifest)?,
    };
    let file = |key| scratch_file(&part, key, kind, &grants);
    let (input_file, result_file) = (file("input-file")?, file("result-file")?);
    Ok(HandlerManifest {
        name,
        source: source.to_owned(),
        digest,
        kind,
        version,
        on_failure,
        limits,
        grants,
        arguments: arguments(&part, kind)?,
        input_file,
        result_file,
    })
}

/// A file for a command's payload or result.
fn scratch_file(
    part: &Part<'_>,
    key: &str,
    kind: Option<ModuleKind>,
    grants: &Grants,
) -> Result<Option<String>, String> {
    let Some(path) = part.text(key)? else { return Ok(None) };
    let at = part.place(key);
    if let Some(kind) = kind.filter(|kind| *kind != ModuleKind::Command) {
        return Err(format!("{at} is for a command, and kind is {}", kind.as_str()));
    }
    if !is_scratch_file(path) {
        return Err(format!("{at} {path:?} is not /scratch/ and one name"));
    }
    if grants.scratch.is_none() {
        return Err(format!("{at} is in the scratch directory; grants.scratch asks for none"));
    }
    Ok(Some(path.to_owned()))
}

fn arguments(part: &Part<'_>, kind: Option<ModuleKind>) -> Result<Vec<String>, String> {
    let arguments = part.texts("arguments")?;
    let at = part.place("arguments");
    if let Some(kind) = kind.filter(|kind| *kind != ModuleKind::Command && !arguments.is_empty()) {
        return Err(format!("{at} are for a command, and kind is {}", kind.as_str()));
    }
    if arguments.len() > ARGUMENTS {
        return Err(format!("{at} are {}; at most {ARGUMENTS} are allowed", arguments.len()));
    }
    arguments
        .into_iter()
        .map(|(at, argument)| {
            if argument.len() > ARGUMENT_BYTES {
                Err(format!(
                    "{at} has {} bytes; at most {ARGUMENT_BYTES} are allowed",
                    argument.len()
                ))
            } else if argument.contains('\0') {
                Err(format!("{at} has a NUL character, which no argument can have"))
            } else {
                Ok(argument.to_owned())
            }
        })
        .collect()
}

/// Handlers by name; refuses two of one name.
pub fn unique(
    handlers: Vec<HandlerManifest>,
) -> Result<BTreeMap<TaskName, HandlerManifest>, String> {
    let mut unique = BTreeMap::new();
    for handler in handlers {
        let name = handler.name.clone();
        if unique.insert(name.clone(), handler).is_some() {
            return Err(format!("two manifests describe the handler {name}"));
        }
    }
    Ok(unique)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn problem(text: &str) -> String {
        read(Path::new("stem.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_full_manifest_is_read() {
        let text = r#"
            [handlers.resize]
            source = "file:resize.wasm"
            kind = "command"
            version = "1.2"
            on-failure = "fail"
            arguments = ["--quality", "80"]
            [handlers.resize.limits]
            memory = "64MiB"
            cpu = "10s"
            soft = "50s"
            hard = "60s"
            result = "2MiB"
            host-calls = 1000
            [handlers.resize.grants]
            http = [{ hosts = ["api.example.org:443"], methods = ["GET"] }]
            kv = ["thumbs:rw"]
            children = ["thumb.*"]
            config = ["SIZE"]
            secrets = ["API_KEY@api.example.org"]
            scratch = true
            [handlers.draw]
            source = "file:draw.wasm"
            arguments = ["/scratch/in.svg", "/scratch/out.png"]
            input-file = "/scratch/in.svg"
            result-file = "/scratch/out.png"
            grants.scratch = "1MiB"
        "#;
        let handlers = read(Path::new("stem.toml"), text).unwrap();
        let [draw, handler] = &handlers[..] else { panic!("{handlers:?}") };
        assert_eq!(draw.input_file.as_deref(), Some("/scratch/in.svg"));
        assert_eq!(draw.result_file.as_deref(), Some("/scratch/out.png"));
        assert_eq!((handler.input_file.as_ref(), handler.result_file.as_ref()), (None, None));
        assert_eq!((handler.source.as_str(), handler.on_failure), ("resize.wasm", OnFailure::Fail));
        assert_eq!(handler.limits.memory_bytes, 64 << 20);
        assert_eq!(handler.limits.soft, Some(Duration::from_secs(50)));
        assert_eq!(handler.limits.host_calls_per_second, 1000);
        assert_eq!(handler.limits.log_bytes, Limits::DEFAULT.log_bytes);
        assert_eq!(handler.arguments, ["--quality", "80"]);
        assert_eq!(handler.grants.config, ["SIZE"]);
        assert!(handler.grants.kv[0].write && handler.grants.scratch.is_some());
    }

    #[test]
    fn the_example_of_a_published_program_is_one_that_is_read() {
        let text = include_str!("../../example-tasks/svg-to-png/stem.toml");
        let handlers = read(Path::new("stem.toml"), text).unwrap();
        let [handler] = &handlers[..] else { panic!("{handlers:?}") };
        assert!(handler.digest.is_some() && handler.result_file.is_some());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let source = "[handlers.x]\nsource = \"file:x.wasm\"\n";
        for (text, words) in [
            ("[handlers.x", "stem.toml: line 1"),
            (
                "[handler.x]\nsource = \"file:x.wasm\"",
                "unknown key \"handler\"; did you mean \"handlers\"",
            ),
            ("[handlers.x]", "has no source"),
            ("[handlers.x]\nsource = \"file:x.wasm\"\nkinds = \"raw\"", "did you mean \"kind\""),
            (&format!("{source}[handlers.x.limits]\nmemry = \"1MiB\""), "did you mean \"memory\""),
            (&format!("{source}[handlers.x.limits]\nmemory = 5"), "not text in quotes"),
            (&format!("{source}[handlers.x.limits]\nhard = \"5\""), "not a duration"),
            (&format!("{source}[handlers.x.limits]\nsoft = \"2h\""), "not shorter than hard"),
            (
                &format!("{source}[handlers.x.grants]\nconfg = []"),
                "handlers.x.grants has an unknown key \"confg\"; did you mean \"config\"",
            ),
            (&format!("{source}grants = 3"), "handlers.x.grants is integer, not a table"),
            (&format!("{source}arguments = \"a b\""), "not a list"),
            (&format!("{source}arguments = [1]"), "handlers.x.arguments[0] is integer"),
            (&format!("{source}arguments = [\"a\\u0000\"]"), "NUL"),
            (&format!("{source}kind = \"raw\"\narguments = [\"a\"]"), "are for a command"),
            (&format!("{source}kind = \"raw\"\ninput-file = \"/scratch/a\""), "is for a command"),
            (&format!("{source}input-file = \"/scratch/a\""), "grants.scratch asks for none"),
            (&format!("{source}result-file = \"/scratch/a/b\""), "is not /scratch/ and one name"),
            (&format!("{source}result-file = \"/scratch/..\""), "is not /scratch/ and one name"),
            (&format!("{source}result-file = \"out.png\""), "is not /scratch/ and one name"),
            (&format!("{source}result-fil = \"\""), "did you mean \"result-file\""),
            ("[handlers.x]\nsource = \"file:../x.wasm\"", "leaves the manifest's directory"),
            ("[handlers.x]\nsource = \"http://x\"", "file:"),
            ("[handlers.\"a b\"]\nsource = \"file:x.wasm\"", "task name"),
            ("handlers = 3", "not a table"),
        ] {
            assert!(problem(text).contains(words), "{}", problem(text));
        }
        let secret = "[settings]\nbroker-url = \"redis://u:hunter2@h\" oops";
        assert!(!problem(secret).contains("hunter2"), "{}", problem(secret));
    }

    #[test]
    fn a_handlers_part_is_a_manifest_of_its_own_and_always_the_same() {
        let file = Path::new("stem.toml");
        let name = TaskName::new("thumb.make").unwrap();
        let text = r#"
            [settings]
            broker-url = "redis://u:hunter2@h"
            [handlers.other]
            source = "file:other.wasm"
            [handlers."thumb.make"]     # a comment
            version = "2"
            source = "file:make.wasm"
            grants.http = [{ methods = ["GET"], hosts = ["a.example.org"] }]
            grants.scratch = true
        "#;
        let shuffled = r#"
            [handlers."thumb.make".grants]
            scratch = true
            [[handlers."thumb.make".grants.http]]
            hosts = [ "a.example.org" ]
            methods = ["GET"]
            [handlers."thumb.make"]
            source = 'file:make.wasm'
            version = "2"
        "#;
        let part = part_of(file, text, &name).unwrap().unwrap();
        assert_eq!(Some(&part), part_of(file, shuffled, &name).unwrap().as_ref());
        assert_eq!(Some(&part), part_of(file, &part, &name).unwrap().as_ref());
        assert!(!part.contains("hunter2") && !part.contains("other.wasm"), "{part}");
        let whole = read(file, text).unwrap();
        assert_eq!(read(file, &part).unwrap(), whole[1..]);
        assert_eq!(part_of(file, text, &TaskName::new("none").unwrap()).unwrap(), None);

        let plain = plain_text(&name, "make.wasm");
        let described = read(file, &plain).unwrap();
        assert_eq!(described, [HandlerManifest::plain(name.clone(), "make.wasm".to_owned())]);
        let long = format!("{plain}description = \"{}\"", "x".repeat(MANIFEST_BYTES));
        assert!(part_of(file, &long, &name).unwrap_err().problem.contains("at most"));
    }
}
