//! Where a service is: reading its URL, and showing it without secrets.

use std::fmt;
use std::path::PathBuf;

use stem_engine::units;
use url::Url;

/// Every scheme; `file` for revocations and modules only.
const SCHEMES: [&str; 7] =
    ["sqlite", "redis", "rediss", "postgres", "postgresql", "memory", "file"];
/// Words that make a query parameter a secret.
const SECRETS: [&str; 6] = ["password", "passwd", "secret", "token", "key", "credential"];

/// Where a service is.
#[derive(Clone, PartialEq, Eq)]
pub enum ServiceUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// This process's memory.
    Memory,
    /// A file of revocations, or a directory of modules.
    File(PathBuf),
    /// A Redis, with its credentials.
    Redis(Secret),
    /// A Postgres database, with its credentials.
    Postgres(Secret),
}

/// A URL that may hold a password. Shown without it, however it is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The URL with its credentials, for whoever connects.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ServiceUrl {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Memory => f.write_str("memory://"),
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Redis(url) | Self::Postgres(url) => fmt::Display::fmt(url, f),
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
                "{:?} has no scheme; write sqlite:///absolute/path, sqlite://relative/path, redis://host or postgres://host/database",
                mask(text)
            ));
        };
        let rest = rest.strip_prefix("//");
        match (scheme, rest) {
            ("sqlite", Some(path)) => sqlite_path(path).map(Self::Sqlite),
            ("memory", Some("" | "/")) => Ok(Self::Memory),
            ("memory", Some(_)) => Err(format!("{:?} names a place; write memory://", mask(text))),
            ("file", Some(_)) => Err(format!(
                "{:?} is a file, which can hold revocations or modules and nothing else; write sqlite:///path/to/stem.db",
                mask(text)
            )),
            ("redis" | "rediss", Some(_)) => stem_redis::check_url(text)
                .map(|()| Self::Redis(Secret(text.to_owned())))
                .map_err(|problem| format!("{:?}: {problem}", mask(text))),
            ("postgres" | "postgresql", Some(_)) => stem_sql::check_url(text)
                .map(|()| Self::Postgres(Secret(text.to_owned())))
                .map_err(|problem| format!("{:?}: {problem}", mask(text))),
            (known, None) if SCHEMES.contains(&known) => {
                Err(format!("{:?} lacks // after {known}:", mask(text)))
            }
            (unknown, _) => Err(unknown_scheme(unknown)),
        }
    }

    /// Reads the URL of a revoke store, which may also be a bare path.
    pub fn parse_revoke_store(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => Ok(Self::File(PathBuf::from(text))),
            Some(("file", rest)) => match rest.strip_prefix("//") {
                Some(path) if path.starts_with('/') => decoded_path("file", path).map(Self::File),
                _ => Err(format!(
                    "{:?} is not file:///absolute/path; a bare path may be relative",
                    mask(text)
                )),
            },
            Some(_) => Self::parse(text),
        }
    }

    /// Reads the URL of a module store, which may also be a bare path, of a directory.
    pub fn parse_module_store(text: &str) -> Result<Self, String> {
        Self::parse_revoke_store(text)
    }
}

fn unknown_scheme(unknown: &str) -> String {
    let near = units::nearest(unknown, SCHEMES)
        .map_or_else(String::new, |near| format!("; did you mean {near}://?"));
    let shown = stem_core::text::printable(unknown, 40);
    format!("the URL scheme {shown:?} is unknown{near} (known are {})", SCHEMES.join(", "))
}

fn sqlite_path(rest: &str) -> Result<PathBuf, String> {
    if rest.is_empty() {
        return Err(
            "sqlite:// lacks a path; write sqlite:///absolute/path or sqlite://relative/path"
                .to_owned(),
        );
    }
    decoded_path("sqlite", rest)
}

fn decoded_path(scheme: &str, rest: &str) -> Result<PathBuf, String> {
    if rest.contains('?') {
        return Err(format!("a {scheme} URL takes no parameters; write %3F for a ? in the path"));
    }
    let bytes = percent_decoded(rest).ok_or_else(|| {
        format!(
            "a % in a {scheme} URL must be followed by two hexadecimal digits; write %25 for a %"
        )
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
        for url in ["redis://localhost", "rediss://u:p@h:7000/3?prefix=blue"] {
            assert!(matches!(ServiceUrl::parse(url), Ok(ServiceUrl::Redis(_))), "{url}");
        }
        for url in ["postgres://localhost/stem", "postgresql://u:p@h/d?sslmode=require&schema=blue"]
        {
            assert!(matches!(ServiceUrl::parse(url), Ok(ServiceUrl::Postgres(_))), "{url}");
        }
        let file = |path: &str| Ok(ServiceUrl::File(PathBuf::from(path)));
        for (text, path) in [
            ("/var/revokes", "/var/revokes"),
            ("revokes.jsonl", "revokes.jsonl"),
            ("file:///var/a%20b", "/var/a b"),
        ] {
            assert_eq!(ServiceUrl::parse_revoke_store(text), file(path));
        }
        assert_eq!(ServiceUrl::parse_revoke_store("memory://"), Ok(ServiceUrl::Memory));
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
            ("redis://", "names no host"),
            ("postgres:///d", "names no host"),
            ("postgres://u:hunter2@h", "names no database"),
            ("postgres://u:hunter2@h:port/d", "cannot be read"),
            ("postgres://u:hunter2@h/d?sslmod=require", "did you mean sslmode?"),
            ("postgres://h/d?schema=No", "not valid"),
            ("redis://h?nonsense=1", "known are prefix"),
            ("redis://h/x", "cannot be used"),
            ("file:///var/revokes", "revocations or modules and nothing else"),
        ] {
            let problem = ServiceUrl::parse(url).unwrap_err();
            assert!(problem.contains(words), "{url}: {problem}");
        }
        for (url, words) in [
            ("file://host/path", "file:///absolute/path"),
            ("file:path", "file:///absolute/path"),
            ("file:///a?b", "takes no parameters"),
            ("file:///a%", "hexadecimal"),
            ("fil:///a", "did you mean file://"),
        ] {
            let problem = ServiceUrl::parse_revoke_store(url).unwrap_err();
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
