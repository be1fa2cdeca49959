//! Where a Redis is, read from its URL, and what to call it without secrets.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    TlsCertificates,
};
use stem_core::backend::{ErrorClass, ServiceId};
use stem_core::id::Namespace;
use stem_core::time::Clock;
use url::Url;

use crate::fault::Fault;

/// The prefix of every key unless the URL names another.
pub const PREFIX: &str = "stem";

/// How to reach a Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[user[:password]@]host[:port][/database][?prefix=name]`, or `rediss://` for TLS, which also takes
    /// `ca=/path` (PEM; else the system's certificates), and `cert=/path` with `key=/path` for a client's own.
    pub url: String,
    /// The store's clock. `None` is the server's own, and what everything but a test wants.
    pub clock: Option<Arc<dyn Clock>>,
}

impl fmt::Debug for RedisOptions {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions").finish_non_exhaustive()
    }
}

/// What a URL says.
pub(crate) struct Place {
    pub(crate) info: ConnectionInfo,
    pub(crate) certificates: Option<TlsCertificates>,
    /// In braces and with a slash: Redis Cluster keeps all keys with equal text in braces in one slot.
    pub(crate) prefix: String,
    pub(crate) service: ServiceId,
    pub(crate) encrypted: bool,
    pub(crate) loopback: bool,
}

/// Checks a URL without connecting.
pub fn check_url(url: &str) -> Result<(), String> {
    place(url).map(|_| ()).map_err(|fault| fault.problem)
}

pub(crate) fn place(text: &str) -> Result<Place, Fault> {
    let refused = |problem: String| Fault::new(ErrorClass::Refused, problem);
    // The parser's own words may repeat parts of the URL.
    let mut url = Url::parse(text).map_err(|_| refused("its URL cannot be read".to_owned()))?;
    let encrypted = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return Err(refused("its URL begins with neither redis:// nor rediss://".to_owned())),
    };
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| refused("its URL names no host".to_owned()))?.to_owned();
    let mut prefix = PREFIX.to_owned();
    let (mut ca, mut cert, mut key) = (None, None, None);
    for (name, value) in url.query_pairs() {
        match &*name {
            "prefix" => {
                Namespace::new(&value).map_err(|error| refused(format!("prefix: {error}")))?;
                prefix = value.into_owned();
            }
            "ca" if encrypted => ca = Some(PathBuf::from(&*value)),
            "cert" if encrypted => cert = Some(PathBuf::from(&*value)),
            "key" if encrypted => key = Some(PathBuf::from(&*value)),
            other => {
                let known = if encrypted {
                    "prefix, ca, cert and key"
                } else {
                    "prefix (rediss:// also takes ca, cert and key)"
                };
                let other = stem_core::text::printable(other, 40);
                return Err(refused(format!(
                    "its URL has the parameter {other:?}; known are {known}"
                )));
            }
        }
    }
    let certificates = certificates(ca, cert, key)?;
    url.set_query(None);
    let info = url
        .as_str()
        .into_connection_info()
        .map_err(|error| refused(format!("its URL cannot be used: {}", error.category())))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let service = ServiceId(format!("redis:{}/{}/{prefix}", shown(info.addr()), settings.db()));
    let loopback = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    Ok(Place {
        info: info.set_redis_settings(settings),
        certificates,
        prefix: format!("{{{prefix}}}/"),
        service,
        encrypted,
        loopback,
    })
}

fn shown(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            format!("{host}:{port}")
        }
        other => other.to_string(),
    }
}

fn certificates(
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<TlsCertificates>, Fault> {
    let read = |path: PathBuf| {
        std::fs::read(&path).map_err(|error| {
            Fault::new(ErrorClass::Refused, format!("{} cannot be read: {error}", path.display()))
        })
    };
    let client_tls = match (cert, key) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let problem = "its URL names one of cert and key; a client's certificate needs both";
            return Err(Fault::new(ErrorClass::Refused, problem));
        }
    };
    let root_cert = ca.map(read).transpose()?;
    let any = client_tls.is_some() || root_cert.is_some();
    Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(url: &str) -> String {
        place(url).map_or_else(|fault| fault.problem, |place| place.service.0)
    }

    #[test]
    fn a_service_is_named_by_place_and_not_by_credentials() {
        for (url, name) in [
            ("redis://localhost", "redis:localhost:6379/0/stem"),
            ("redis://user:hunter2@db:7000/3", "redis:db:7000/3/stem"),
            ("redis://:hunter2@db/1?prefix=blue", "redis:db:6379/1/blue"),
            ("rediss://db", "redis:db:6379/0/stem"),
        ] {
            assert_eq!(service(url), name);
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_secrets() {
        for (url, words) in [
            ("redis://", "names no host"),
            ("redis://h:port", "cannot be read"),
            ("http://h", "neither redis:// nor rediss://"),
            ("redis://u:hunter2@h/one", "cannot be used"),
            ("redis://u:hunter2@h?prefix=a%20b", "prefix"),
            ("redis://u:hunter2@h?ca=/x", "known are prefix"),
            ("rediss://u:hunter2@h?cert=/x", "needs both"),
            ("rediss://u:hunter2@h?ca=/nowhere/ca.pem", "cannot be read"),
        ] {
            let problem = check_url(url).unwrap_err();
            assert!(problem.contains(words), "{url}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
