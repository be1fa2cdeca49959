//! `[…grants]`: what a manifest asks for, and in a policy the most that a handler gets.
//!
//! ```toml
//! scratch = { bytes = "64MiB", files = 1000 }     # or true, or "64MiB"
//! inputs = ["models"]
//! env = ["LANG"]
//! config = ["SIZE"]
//! secrets = ["API_KEY@api.example.org", { name = "DB", reveal = true }]
//! http = [{ hosts = ["api.example.org"], methods = ["GET", "POST"], timeout = "10s" }]
//! children = ["thumb.*"]
//! kv = ["thumbs:rw", "settings"]
//! ```

use std::collections::BTreeSet;

use stem_core::grants::{
    ANY, BucketGrant, Grants, HTTP_BYTES, HTTP_METHODS, HTTP_REQUESTS, HTTP_TIMEOUT, HostPattern,
    HttpGrant, NamePattern, SCRATCH_BYTES, SCRATCH_FILES, Scratch, SecretGrant,
};
use stem_core::id::NAME_BYTES;
use toml::Value;

use super::part::Part;
use crate::units;

/// Every kind of grant.
pub const KEYS: [&str; 8] =
    ["scratch", "inputs", "env", "config", "secrets", "http", "children", "kv"];

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A manifest, which names each thing.
    Manifest,
    /// A policy, where `*` stands for all things that have no value of the policy's own.
    Policy,
}

/// Reads a table of grants.
pub(crate) fn read(at: impl Into<String>, value: &Value, side: Side) -> Result<Grants, String> {
    let part = Part::of(at, value, &KEYS)?;
    Ok(Grants {
        scratch: scratch(&part)?,
        inputs: names(&part, "inputs", side, is_file_name, FILE_NAME)?,
        env: names(&part, "env", side, is_foreign_variable, FOREIGN)?,
        config: names(&part, "config", side, is_variable, VARIABLE)?,
        secrets: secrets(&part)?,
        http: http(&part)?,
        children: children(&part)?,
        kv: kv(&part, side)?,
    })
}

const FILE_NAME: &str =
    "a name of the characters A-Z a-z 0-9 . _ - that begins with none of . and -";
const VARIABLE: &str = "a name of the characters A-Z a-z 0-9 _ that begins with no digit, nor with STEM_, which is the worker's own";

const FOREIGN: &str = "a name of the characters A-Z a-z 0-9 _ that begins with no digit, nor one of the variables that the worker itself reads (STEM_…, OTEL_…, PGPASSWORD and the like): those hold what opens its services";

/// Beginnings of the variables that the worker reads, directly or through the libraries that reach its services.
const OWN_BEGINNINGS: [&str; 3] = ["STEM_", "STEMD_", "OTEL_"];
/// The others in full; Postgres's are those of its client library.
const OWN: [&str; 17] = [
    "TRACEPARENT",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLMODE",
    "PGAPPNAME",
    "PGOPTIONS",
];

/// Whether the worker reads this variable for itself, so that no guest is given it.
pub fn is_workers_own(variable: &str) -> bool {
    OWN_BEGINNINGS.iter().any(|own| variable.starts_with(own)) || OWN.contains(&variable)
}

fn is_foreign_variable(name: &str) -> bool {
    is_variable(name) && !is_workers_own(name)
}

/// What can be one part of a path, and the name of a bucket or a secret.
pub(crate) fn is_file_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(fits)
}

/// What can be a variable of a guest. Those of the contract tell it of its task.
pub(crate) fn is_variable(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.starts_with("STEM_")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Refuses what stands in a list twice.
struct Once<'a>(BTreeSet<&'a str>);

impl<'a> Once<'a> {
    fn new() -> Self {
        Self(BTreeSet::new())
    }

    fn take(&mut self, at: &str, name: &'a str) -> Result<(), String> {
        if self.0.insert(name) {
            Ok(())
        } else {
            Err(format!("{at} names {name:?} a second time; leave one out"))
        }
    }
}

fn names(
    part: &Part<'_>,
    key: &str,
    side: Side,
    fits: fn(&str) -> bool,
    rule: &str,
) -> Result<Vec<String>, String> {
    let mut once = Once::new();
    part.texts(key)?
        .into_iter()
        .map(|(at, name)| {
            if !(fits(name) || side == Side::Policy && name == ANY) {
                return Err(format!("{at} {name:?} is not {rule}"));
            }
            once.take(&at, name)?;
            Ok(name.to_owned())
        })
        .collect()
}

fn scratch(part: &Part<'_>) -> Result<Option<Scratch>, String> {
    let at = part.place("scratch");
    let scratch = match part.get("scratch") {
        None | Some(Value::Boolean(false)) => return Ok(None),
        Some(Value::Boolean(true)) => Scratch::DEFAULT,
        Some(Value::String(text)) => {
            let bytes = units::bytes(text).map_err(|error| format!("{at}: {error}"))?;
            Scratch { bytes, files: SCRATCH_FILES }
        }
        Some(value @ Value::Table(_)) => {
            let part = Part::of(at.as_str(), value, &["bytes", "files"])?;
            Scratch {
                bytes: part.bytes("bytes")?.unwrap_or(SCRATCH_BYTES),
                files: part.count("files")?.unwrap_or(SCRATCH_FILES),
            }
        }
        Some(other) => {
            return Err(format!(
                "{at} is {}; write true, a size as \"64MiB\", or {{ bytes = \"64MiB\", files = 1000 }}",
                other.type_str()
            ));
        }
    };
    if scratch.bytes == 0 {
        return Err(format!("{at} has room for 0 bytes; write false to ask for none"));
    }
    Ok(Some(scratch))
}

fn hosts(part: &Part<'_>) -> Result<Vec<HostPattern>, String> {
    let mut once = Once::new();
    part.texts("hosts")?
        .into_iter()
        .map(|(at, text)| {
            once.take(&at, text)?;
            host(&at, text)
        })
        .collect()
}

fn host(at: &str, text: &str) -> Result<HostPattern, String> {
    HostPattern::new(text).map_err(|error| format!("{at}: {text:?} is not a host: {error}"))
}

fn secrets(part: &Part<'_>) -> Result<Vec<SecretGrant>, String> {
    let mut secrets: Vec<SecretGrant> = Vec::new();
    for (at, value) in part.list("secrets")? {
        let secret = match value {
            Value::String(text) => short_secret(&at, text)?,
            value => {
                let part = Part::of(at.as_str(), value, &["name", "hosts", "reveal"])?;
                let name = part.text("name")?.ok_or_else(|| format!("{at} has no name"))?;
                let (hosts, reveal) = (hosts(&part)?, part.flag("reveal")?);
                if hosts.is_empty() && !reveal {
                    return Err(format!(
                        "{at} can do nothing with {name:?}: name the hosts that it is sent to, or write reveal = true"
                    ));
                }
                SecretGrant { name: name.to_owned(), hosts, reveal }
            }
        };
        if !is_file_name(&secret.name) {
            return Err(format!("{at} {:?} is not {FILE_NAME}", secret.name));
        }
        if secrets.iter().any(|other| other.name == secret.name) {
            return Err(format!(
                "{at} names {0:?} a second time; write it once, as {{ name = {0:?}, hosts = [\"…\", \"…\"] }}",
                secret.name
            ));
        }
        secrets.push(secret);
    }
    Ok(secrets)
}

/// `NAME@HOST`
fn short_secret(at: &str, text: &str) -> Result<SecretGrant, String> {
    let (name, to) = text.split_once('@').ok_or_else(|| {
        format!(
            "{at} does not say what may be done with {text:?}: write \"{text}@HOST\" to send it to a host, or {{ name = {text:?}, reveal = true }}"
        )
    })?;
    Ok(SecretGrant { name: name.to_owned(), hosts: vec![host(at, to)?], reveal: false })
}

const HTTP_KEYS: [&str; 7] =
    ["hosts", "methods", "plain", "private", "requests", "bytes", "timeout"];

fn http(part: &Part<'_>) -> Result<Vec<HttpGrant>, String> {
    part.list("http")?
        .into_iter()
        .map(|(at, value)| {
            let part = Part::of(at.as_str(), value, &HTTP_KEYS)?;
            let hosts = hosts(&part)?;
            if hosts.is_empty() {
                return Err(format!("{at} names no hosts; write hosts = [\"api.example.org\"]"));
            }
            let requests = part.count("requests")?.map_or(Ok(HTTP_REQUESTS), |requests| {
                u32::try_from(requests)
                    .map_err(|_| format!("{at}.requests {requests} is above {}", u32::MAX))
            })?;
            Ok(HttpGrant {
                hosts,
                methods: methods(&part)?,
                plain: part.flag("plain")?,
                private: part.flag("private")?,
                requests,
                bytes: part.bytes("bytes")?.unwrap_or(HTTP_BYTES),
                timeout: part.duration("timeout")?.unwrap_or(HTTP_TIMEOUT),
            })
        })
        .collect()
}

fn methods(part: &Part<'_>) -> Result<Vec<String>, String> {
    let mut once = Once::new();
    let named = part.texts("methods")?;
    if named.is_empty() {
        return match part.get("methods") {
            None => Ok(HTTP_METHODS.map(str::to_owned).to_vec()),
            Some(_) => Err(format!(
                "{} is empty; leave it out for {}",
                part.place("methods"),
                HTTP_METHODS.join(" and ")
            )),
        };
    }
    named
        .into_iter()
        .map(|(at, method)| {
            let token = (1..=32).contains(&method.len())
                && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            if !token || method == "CONNECT" {
                let near = method.to_ascii_uppercase();
                let near = if near != method && near.bytes().all(|byte| byte.is_ascii_uppercase()) {
                    format!("; did you mean {near:?}?")
                } else {
                    String::new()
                };
                return Err(format!("{at} {method:?} is not a method such as \"GET\"{near}"));
            }
            once.take(&at, method)?;
            Ok(method.to_owned())
        })
        .collect()
}

fn children(part: &Part<'_>) -> Result<Vec<NamePattern>, String> {
    let mut once = Once::new();
    part.texts("children")?
        .into_iter()
        .map(|(at, text)| {
            once.take(&at, text)?;
            NamePattern::new(text)
                .map_err(|error| format!("{at}: {text:?} is not a pattern of task names: {error}"))
        })
        .collect()
}

fn kv(part: &Part<'_>, side: Side) -> Result<Vec<BucketGrant>, String> {
    let mut once = Once::new();
    part.texts("kv")?
        .into_iter()
        .map(|(at, text)| {
            let (bucket, write) = match text.split_once(':') {
                None => (text, false),
                Some((bucket, "ro")) => (bucket, false),
                Some((bucket, "rw")) => (bucket, true),
                Some((bucket, other)) => {
                    return Err(format!(
                        "{at}: {other:?} is neither ro nor rw; write \"{bucket}\" to read and \"{bucket}:rw\" to write too"
                    ));
                }
            };
            if !(is_file_name(bucket) || side == Side::Policy && bucket == ANY) {
                return Err(format!("{at}: the bucket {bucket:?} is not {FILE_NAME}"));
            }
            once.take(&at, bucket)?;
            Ok(BucketGrant { bucket: bucket.to_owned(), write })
        })
        .collect()
}

#[cfg(test)]
mod tests;
