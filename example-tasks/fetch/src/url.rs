//! As much of URLs as this task needs.

/// The parts of a URL, as `wasi:http` takes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) tls: bool,
    pub(crate) authority: String,
    pub(crate) path: String,
}

/// Reads a URL; what the host may be is for the worker to say.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err(format!("{text:?} does not begin with http:// or https://")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Url { tls, authority: authority.to_owned(), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_three_parts() {
        let url = |tls, authority: &str, path: &str| {
            Ok(Url { tls, authority: authority.to_owned(), path: path.to_owned() })
        };
        assert_eq!(parse("https://example.org"), url(true, "example.org", "/"));
        assert_eq!(parse("http://[::1]:80/a?b#c"), url(false, "[::1]:80", "/a?b"));
        assert_eq!(parse("http://a?b"), url(false, "a", "/?b"));
        assert!(parse("example.org").is_err());
    }
}
