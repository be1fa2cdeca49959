//! Where a request goes, read strictly: what one reader could take for something else than another is refused.

use std::fmt;
use std::net::Ipv6Addr;

use http::Uri;
use http::uri::Scheme;

/// Longest name of a host.
const HOST_BYTES: usize = 253;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// In lower case; an IPv6 address in its one short form, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Target {
    /// `None` for a name and a password in front of the host, which are a way to hide it, and for everything else that is
    /// not a host and perhaps a number in 1 to 65535.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let tls = uri.scheme() != Some(&Scheme::HTTP);
        let text = uri.authority()?.as_str();
        let (host, rest) = if let Some(text) = text.strip_prefix('[') {
            let (address, rest) = text.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.to_string(), rest)
        } else {
            let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let fits =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if !(1..=HOST_BYTES).contains(&host.len()) || !host.bytes().all(fits) {
                return None;
            }
            (host.to_ascii_lowercase(), rest)
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(digits) if digits.starts_with(|first: char| matches!(first, '1'..='9')) => {
                digits.parse().ok()?
            }
            _ => return None,
        };
        Some(Self { host, port, tls })
    }
}

impl fmt::Display for Target {
    /// As a grant names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use stem_core::grants::HostPattern;

    use super::*;

    fn of(scheme: &str, authority: &str) -> Option<Target> {
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query("/");
        Target::of(&uri.build().ok()?)
    }

    #[test]
    fn a_host_and_a_port_are_read_and_told_as_a_grant_has_them() {
        for (scheme, authority, told) in [
            ("https", "API.example.org", "api.example.org:443"),
            ("http", "api.example.org", "api.example.org:80"),
            ("https", "a_b.example.org:8443", "a_b.example.org:8443"),
            ("http", "127.0.0.1:65535", "127.0.0.1:65535"),
            ("http", "[::1]", "[::1]:80"),
            ("http", "[0:0:0:0:0:0:0:1]:8080", "[::1]:8080"),
        ] {
            let target = of(scheme, authority).unwrap();
            assert_eq!(target.to_string(), told);
            let pattern = HostPattern::new(told).unwrap();
            assert!(pattern.matches(&target.host, target.port), "{told}");
        }
    }

    #[test]
    fn what_leaves_doubt_is_refused() {
        for doubtful in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:+80",
            "a:-80",
            "a:65536",
            "a:99999",
            "a:http",
            "a:80:443",
            "a:80@b",
            "user@a",
            "@a",
            "user:word@a:80",
            "a%2e",
            "a%00b",
            "a!b",
            "a,b",
            "a;b",
            "a'b",
            "(a)",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]x:80",
            "[::1]80",
            "x[::1]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "[v1.a]",
            "[]",
            &"a".repeat(254),
        ] {
            assert_eq!(of("http", doubtful), None, "{doubtful}");
        }
    }
}
