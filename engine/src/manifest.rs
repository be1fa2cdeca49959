//! `stem.toml`: what a module asks for. Unknown keys are refused with the nearest known one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use stem_core::id::{Digest, TaskName};
use stem_core::limits::Limits;
use stem_isolate::{ModuleKind, OnFailure};
use toml::{Table, Value};

use crate::units;

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
    /// What it asks for.
    pub limits: Limits,
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

const HANDLER_KEYS: [&str; 7] =
    ["source", "digest", "kind", "version", "on-failure", "limits", "description"];
const LIMIT_KEYS: [&str; 8] =
    ["memory", "tables", "cpu", "soft", "hard", "result", "log", "host-calls"];

/// Reads the `[handlers]` part of a `stem.toml`. Other parts are the command line's settings.
pub fn read(file: &Path, text: &str) -> Result<Vec<HandlerManifest>, ManifestError> {
    let refuse = |problem: String| ManifestError { file: file.display().to_string(), problem };
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| refuse(error.to_string().trim_end().to_owned()))?;
    let Some(handlers) = table.get("handlers") else { return Ok(Vec::new()) };
    let handlers =
        handlers.as_table().ok_or_else(|| refuse("handlers is not a table".to_owned()))?;
    handlers
        .iter()
        .map(|(name, value)| {
            let at = format!("handlers.{name}");
            let name = TaskName::new(name).map_err(|error| error.to_string())?;
            let table = value.as_table().ok_or_else(|| format!("{at} is not a table"))?;
            handler(name, &at, table)
        })
        .collect::<Result<_, String>>()
        .map_err(refuse)
}

fn known_keys(at: &str, table: &Table, known: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) if key == "grants" => {
            Err(format!("{at}.grants: this version of Stem has no grants to give"))
        }
        Some(key) => Err(match units::nearest(key, known.iter().copied()) {
            Some(near) => format!("{at} has an unknown key {key:?}; did you mean {near:?}?"),
            None => format!("{at} has an unknown key {key:?}; known are {}", known.join(", ")),
        }),
    }
}

fn text<'a>(at: &str, table: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{at}.{key} is {}, not text in quotes", other.type_str())),
    }
}

fn handler(name: TaskName, at: &str, table: &Table) -> Result<HandlerManifest, String> {
    known_keys(at, table, &HANDLER_KEYS)?;
    text(at, table, "description")?;
    let source = text(at, table, "source")?.ok_or_else(|| format!("{at} has no source"))?;
    let source = source.strip_prefix("file:").ok_or_else(|| {
        format!("{at}.source {source:?} is not \"file:\" and a path relative to this manifest")
    })?;
    let escapes =
        Path::new(source).components().any(|part| !matches!(part, std::path::Component::Normal(_)));
    if source.is_empty() || escapes {
        return Err(format!("{at}.source {source:?} leaves the manifest's directory"));
    }
    let kind = match text(at, table, "kind")? {
        None => None,
        Some("component") => Some(ModuleKind::Component),
        Some("command") => Some(ModuleKind::Command),
        Some("raw") => Some(ModuleKind::Raw),
        Some(other) => return Err(format!("{at}.kind {other:?} is not component, command or raw")),
    };
    let on_failure = match text(at, table, "on-failure")? {
        None | Some("retry") => OnFailure::Retry,
        Some("fail") => OnFailure::Fail,
        Some(other) => return Err(format!("{at}.on-failure {other:?} is not retry or fail")),
    };
    let digest = text(at, table, "digest")?
        .map(str::parse)
        .transpose()
        .map_err(|error| format!("{at}.digest: {error}"))?;
    let version =
        text(at, table, "version")?.map(|version| stem_core::text::printable(version, 64));
    let limits = match table.get("limits") {
        None => Limits::DEFAULT,
        Some(Value::Table(table)) => limits(&format!("{at}.limits"), table)?,
        Some(other) => return Err(format!("{at}.limits is {}, not a table", other.type_str())),
    };
    Ok(HandlerManifest {
        name,
        source: source.to_owned(),
        digest,
        kind,
        version,
        on_failure,
        limits,
    })
}

fn limits(at: &str, table: &Table) -> Result<Limits, String> {
    known_keys(at, table, &LIMIT_KEYS)?;
    let duration = |key: &str| -> Result<Option<Duration>, String> {
        let read = text(at, table, key)?
            .map(units::duration)
            .transpose()
            .map_err(|error| format!("{at}.{key}: {error}"))?;
        if read.is_some_and(|duration| duration.is_zero()) {
            return Err(format!("{at}.{key} must be above 0"));
        }
        Ok(read)
    };
    let bytes = |key: &str, default: u64| -> Result<u64, String> {
        Ok(text(at, table, key)?
            .map(units::bytes)
            .transpose()
            .map_err(|error| format!("{at}.{key}: {error}"))?
            .unwrap_or(default))
    };
    let count = |key: &str, default: u64| match table.get(key) {
        None => Ok(default),
        Some(Value::Integer(count)) if *count > 0 => Ok(count.unsigned_abs()),
        Some(other) => Err(format!("{at}.{key} is {other}, not a whole number above 0")),
    };
    let hard = duration("hard")?.unwrap_or(Limits::DEFAULT.hard);
    let soft = duration("soft")?;
    if soft.is_some_and(|soft| soft >= hard) {
        return Err(format!("{at}.soft is not shorter than hard, {}", units::write_duration(hard)));
    }
    Ok(Limits {
        memory_bytes: bytes("memory", Limits::DEFAULT.memory_bytes)?,
        table_entries: count("tables", Limits::DEFAULT.table_entries)?,
        cpu: duration("cpu")?.unwrap_or(Limits::DEFAULT.cpu),
        soft,
        hard,
        result_bytes: bytes("result", Limits::DEFAULT.result_bytes)?,
        log_bytes: bytes("log", Limits::DEFAULT.log_bytes)?,
        host_calls_per_second: count("host-calls", Limits::DEFAULT.host_calls_per_second)?,
    })
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
    use super::*;

    fn problem(text: &str) -> String {
        read(Path::new("stem.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_full_manifest_is_read() {
        let text = r#"
            [handlers.resize]
            source = "file:resize.wasm"
            kind = "component"
            version = "1.2"
            on-failure = "fail"
            [handlers.resize.limits]
            memory = "64MiB"
            cpu = "10s"
            soft = "50s"
            hard = "60s"
            result = "2MiB"
            host-calls = 1000
        "#;
        let handlers = read(Path::new("stem.toml"), text).unwrap();
        let [handler] = &handlers[..] else { panic!("{handlers:?}") };
        assert_eq!((handler.source.as_str(), handler.on_failure), ("resize.wasm", OnFailure::Fail));
        assert_eq!(handler.limits.memory_bytes, 64 << 20);
        assert_eq!(handler.limits.soft, Some(Duration::from_secs(50)));
        assert_eq!(handler.limits.host_calls_per_second, 1000);
        assert_eq!(handler.limits.log_bytes, Limits::DEFAULT.log_bytes);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("[handlers.x", "stem.toml"),
            ("[handlers.x]", "has no source"),
            ("[handlers.x]\nsource = \"file:x.wasm\"\nkinds = \"raw\"", "did you mean \"kind\""),
            (
                "[handlers.x]\nsource = \"file:x.wasm\"\n[handlers.x.limits]\nmemry = \"1MiB\"",
                "did you mean \"memory\"",
            ),
            (
                "[handlers.x]\nsource = \"file:x.wasm\"\n[handlers.x.limits]\nmemory = 5",
                "not text in quotes",
            ),
            (
                "[handlers.x]\nsource = \"file:x.wasm\"\n[handlers.x.limits]\nhard = \"5\"",
                "not a duration",
            ),
            (
                "[handlers.x]\nsource = \"file:x.wasm\"\n[handlers.x.limits]\nsoft = \"2h\"",
                "not shorter than hard",
            ),
            ("[handlers.x]\nsource = \"file:../x.wasm\"", "leaves the manifest's directory"),
            ("[handlers.x]\nsource = \"http://x\"", "file:"),
            ("[handlers.\"a b\"]\nsource = \"file:x.wasm\"", "task name"),
            ("handlers = 3", "not a table"),
        ] {
            assert!(problem(text).contains(words), "{}", problem(text));
        }
    }
}
