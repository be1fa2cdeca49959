//! What is meant from the directory of this command, told so that it holds in the directories of nodes as well.

use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::error::CliError;
use crate::settings::FILE;

/// The settings file of this directory, unless another was told or there is none.
pub(super) fn settings_file(told: bool) -> Option<&'static Path> {
    let file = Path::new(FILE);
    // One that cannot be looked at is the worker's to refuse.
    (!told && file.try_exists().unwrap_or(true)).then_some(file)
}

/// A service's URL with its path from the root, if it is a path from here.
pub(super) fn absolute(url: &str) -> Result<String, CliError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| {
            CliError::failed(
                format!("the current directory cannot be found: {error}"),
                "give the services' paths from the root",
            )
        })
    };
    Ok(match (url.strip_prefix("sqlite://"), url.contains(':')) {
        // Its path is escaped as it stands.
        (Some(path), _) if !path.is_empty() && !path.starts_with('/') => {
            format!("sqlite://{}/{path}", escaped(&absolute(Path::new("."))?))
        }
        // A bare path is a file of revocations.
        (None, false) if !url.is_empty() && !url.starts_with('/') => {
            format!("file://{}", escaped(&absolute(Path::new(url))?))
        }
        _ => url.to_owned(),
    })
}

/// A path as it is written in a URL.
fn escaped(path: &Path) -> impl Display {
    const PLAIN: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encode(path.as_os_str().as_bytes(), PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::ServiceUrl;

    #[test]
    fn paths_from_here_hold_elsewhere() {
        let here = std::path::absolute(".").unwrap();
        let broker = absolute("sqlite://a%20b/s.db").unwrap();
        assert_eq!(ServiceUrl::parse(&broker), Ok(ServiceUrl::Sqlite(here.join("a b/s.db"))));
        let store = absolute("r %.jsonl").unwrap();
        let parsed = ServiceUrl::parse_revoke_store(&store);
        assert_eq!(parsed, Ok(ServiceUrl::File(here.join("r %.jsonl"))));
        for same in ["sqlite:///s.db", "sqlite://", "/r.jsonl", "", "redis://u:p@h/0", "memory://"]
        {
            assert_eq!(absolute(same).unwrap(), same);
        }
    }
}
