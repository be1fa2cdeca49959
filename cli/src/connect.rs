//! From a URL to a service. The only place that names concrete backends.
//!
//! | scheme | what it is |
//! |---|---|
//! | `sqlite:///path`, `sqlite://relative/path` | a SQLite file |
//! | `memory://` | this process's memory; gone when it ends |

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, Broker, ResultBackend, RevokeStore};
use stem_engine::{Backends, SystemClock, units};
use stem_memory::Memory;
use stem_sql::{Sqlite, SqliteOptions};
use url::Url;

use crate::error::CliError;
use crate::settings::{Setting, Settings};

/// How long to wait for a database's lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Schemes of the interface whose backends this build does not hold.
const NOT_YET: [&str; 5] = ["redis", "rediss", "postgres", "postgresql", "file"];
/// Schemes that work.
const WORKING: [&str; 2] = ["sqlite", "memory"];
/// Words that make a query parameter a secret.
const SECRETS: [&str; 6] = ["password", "passwd", "secret", "token", "key", "credential"];

/// Where a service is.
#[derive(Clone, PartialEq, Eq)]
pub enum ServiceUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// This process's memory.
    Memory,
    /// A scheme of the interface that this build cannot open; the URL is masked.
    NotYet(String),
}

impl fmt::Display for ServiceUrl {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Memory => f.write_str("memory://"),
            Self::NotYet(masked) => f.write_str(masked),
        }
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ServiceUrl {
    /// Reads the URL of a broker or result backend. Never repeats a secret in its refusal.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(format!(
                "{:?} has no scheme; write sqlite:///absolute/path, sqlite://relative/path or memory://",
                mask(text)
            ));
        };
        let rest = rest.strip_prefix("//");
        match (scheme, rest) {
            ("sqlite", Some(path)) => sqlite_path(path).map(Self::Sqlite),
            ("memory", Some("" | "/")) => Ok(Self::Memory),
            ("memory", Some(_)) => Err(format!("{:?} names a place; write memory://", mask(text))),
            (known, Some(_)) if NOT_YET.contains(&known) => Ok(Self::NotYet(mask(text))),
            (known, None) if WORKING.contains(&known) || NOT_YET.contains(&known) => {
                Err(format!("{:?} lacks // after {known}:", mask(text)))
            }
            (unknown, _) => Err(unknown_scheme(unknown)),
        }
    }

    /// Reads the URL of a revoke store, which may also be a bare path.
    pub fn parse_revoke_store(text: &str) -> Result<Self, String> {
        if text.contains(':') { Self::parse(text) } else { Ok(Self::NotYet(text.to_owned())) }
    }
}

fn unknown_scheme(unknown: &str) -> String {
    let known = || WORKING.into_iter().chain(NOT_YET);
    let near = units::nearest(unknown, known())
        .map_or_else(String::new, |near| format!("; did you mean {near}://?"));
    let shown = stem_core::text::printable(unknown, 40);
    format!(
        "the URL scheme {shown:?} is unknown{near} (known are {})",
        known().collect::<Vec<_>>().join(", ")
    )
}

fn sqlite_path(rest: &str) -> Result<PathBuf, String> {
    if rest.is_empty() {
        return Err(
            "sqlite:// lacks a path; write sqlite:///absolute/path or sqlite://relative/path"
                .to_owned(),
        );
    }
    if rest.contains('?') {
        return Err("a sqlite URL takes no parameters; write %3F for a ? in the path".to_owned());
    }
    let bytes = percent_decoded(rest).ok_or_else(|| {
        "a % in a sqlite URL must be followed by two hexadecimal digits; write %25 for a %"
            .to_owned()
    })?;
    Ok(PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes)))
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
            rest = &tail[2..];
        } else {
            decoded.push(*first);
        }
    }
    Some(decoded)
}

/// A URL without its secrets: the password, and parameters that sound like one. What cannot be read as a URL loses
/// everything that could be one.
pub fn mask(text: &str) -> String {
    let shown = |text: &str| stem_core::text::printable(text, 500);
    // An @ behind the host is part of a password with a / in it, which the parser took for a path.
    let whole = |url: &Url| {
        !url.cannot_be_a_base()
            && ![url.path(), url.fragment().unwrap_or_default()]
                .iter()
                .any(|part| part.contains('@'))
    };
    if let Some(mut url) = Url::parse(text).ok().filter(whole) {
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return "***".to_owned();
        }
        if url.query().is_some() {
            let pairs: Vec<(String, String)> = url
                .query_pairs()
                .map(|(name, value)| {
                    let secret =
                        SECRETS.iter().any(|word| name.to_ascii_lowercase().contains(word));
                    (name.into_owned(), if secret { "***".to_owned() } else { value.into_owned() })
                })
                .collect();
            url.query_pairs_mut().clear().extend_pairs(pairs);
        }
        return shown(url.as_str());
    }
    match text.rsplit_once('@') {
        None => shown(text.split(['?', '#']).next().unwrap_or_default()),
        Some((before, after)) => {
            let scheme = before
                .split_once("://")
                .map_or_else(String::new, |(scheme, _)| format!("{scheme}://"));
            shown(&format!("{scheme}***@{}", after.split(['?', '#']).next().unwrap_or_default()))
        }
    }
}

/// One opened service.
#[derive(Clone)]
enum Service {
    Sqlite(Arc<Sqlite>),
    Memory(Arc<Memory>),
}

impl Service {
    fn backends(&self) -> Backends {
        match self {
            Self::Sqlite(service) => Backends::all_in_one(Arc::clone(service)),
            Self::Memory(service) => Backends::all_in_one(Arc::clone(service)),
        }
    }
}

/// Opens services; equal URLs give one service.
#[derive(Default)]
struct Opener {
    opened: Vec<(ServiceUrl, Service)>,
}

impl Opener {
    async fn open(&mut self, setting: &Setting<ServiceUrl>) -> Result<Service, CliError> {
        let url = &setting.value;
        if let Some((_, service)) = self.opened.iter().find(|(opened, _)| opened == url) {
            return Ok(service.clone());
        }
        let service = match url {
            ServiceUrl::Memory => Service::Memory(Memory::new(Arc::new(SystemClock))),
            ServiceUrl::Sqlite(path) => Service::Sqlite(open_sqlite(path).await?),
            ServiceUrl::NotYet(masked) => {
                return Err(CliError::usage(
                    format!("{masked} ({}) is not supported by this build yet", setting.source),
                    "this build supports sqlite:///path and memory://",
                ));
            }
        };
        self.opened.push((url.clone(), service.clone()));
        Ok(service)
    }
}

async fn open_sqlite(path: &Path) -> Result<Arc<Sqlite>, BackendError> {
    let options = SqliteOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        create: true,
        busy_timeout: BUSY_TIMEOUT,
    };
    Sqlite::open(options).await
}

/// Opens broker, result backend and revoke store. Presence lies with the results; control and dead letters with the broker.
pub async fn connect(settings: &Settings) -> Result<Backends, CliError> {
    let mut opener = Opener::default();
    let broker = opener.open(&settings.broker_url).await?.backends();
    let results = opener.open(&settings.result_backend_url).await?.backends();
    let revokes = opener.open(&settings.revoke_store_url).await?.backends();
    Ok(Backends {
        results: results.results,
        presence: results.presence,
        revokes: revokes.revokes,
        ..broker
    })
}

/// Refuses what would be lost when this process ends.
pub fn refuse_memory(url: &Setting<ServiceUrl>, what: &str) -> Result<(), CliError> {
    if url.value != ServiceUrl::Memory {
        return Ok(());
    }
    Err(CliError::usage(
        format!(
            "memory:// ({}) is this process's own memory, so {what} would be gone when this command ends",
            url.source
        ),
        "use a store that outlives the process, for instance STEM_BROKER_URL=sqlite:///path/to/stem.db",
    ))
}

/// Opens the broker alone.
pub async fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, CliError> {
    Ok(Opener::default().open(&settings.broker_url).await?.backends().broker)
}

/// Opens the result backend alone.
pub async fn results(settings: &Settings) -> Result<Arc<dyn ResultBackend>, CliError> {
    Ok(Opener::default().open(&settings.result_backend_url).await?.backends().results)
}

/// Opens the revoke store alone.
pub async fn revokes(settings: &Settings) -> Result<Arc<dyn RevokeStore>, CliError> {
    Ok(Opener::default().open(&settings.revoke_store_url).await?.backends().revokes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_services() {
        let path = |path: &str| Ok(ServiceUrl::Sqlite(PathBuf::from(path)));
        assert_eq!(ServiceUrl::parse("sqlite:///var/lib/stem.db"), path("/var/lib/stem.db"));
        assert_eq!(ServiceUrl::parse("sqlite://stem.db"), path("stem.db"));
        assert_eq!(ServiceUrl::parse("sqlite:///a%20b%3F.db"), path("/a b?.db"));
        assert_eq!(ServiceUrl::parse("memory://"), Ok(ServiceUrl::Memory));
        assert!(matches!(ServiceUrl::parse("redis://localhost"), Ok(ServiceUrl::NotYet(_))));
        assert!(matches!(
            ServiceUrl::parse_revoke_store("/var/revokes"),
            Ok(ServiceUrl::NotYet(_))
        ));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (url, words) in [
            ("sqlit:///x", "did you mean sqlite://"),
            ("postgre://x", "did you mean postgres://"),
            ("ftp://x", "known are"),
            ("stem.db", "no scheme"),
            ("sqlite:stem.db", "lacks //"),
            ("sqlite::memory:", "lacks //"),
            ("sqlite://", "lacks a path"),
            ("sqlite:///x?mode=ro", "takes no parameters"),
            ("sqlite:///x%zz", "hexadecimal"),
            ("sqlite:///x%00", "hexadecimal"),
            ("memory://name", "write memory://"),
        ] {
            let problem = ServiceUrl::parse(url).unwrap_err();
            assert!(problem.contains(words), "{url}: {problem}");
        }
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        assert_eq!(mask("redis://user:hunter2@host:6379/1"), "redis://user:***@host:6379/1");
        for url in [
            "redis://:hunter2@host",
            "postgres://u:hunter2@host/db?sslmode=require",
            "postgres://host/db?user=u&password=hunter2",
            "postgres://host/db?sslKey=hunter2",
            "redis://u:hunter2@host:port/",
            "u:hunter2@host",
            "postgres://u:12/hunter2@host",
            "redis://u:1#hunter2@host",
            "redis://a b?token=hunter2",
        ] {
            assert!(!mask(url).contains("hunter2"), "{}", mask(url));
            assert!(!format!("{:?}", ServiceUrl::parse(url)).contains("hunter2"));
        }
    }
}
