//! Finds the programs of the servers on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The Redis server. Valkey is the same to us, and what some distributions have in its place.
pub(crate) fn redis_server() -> Result<PathBuf> {
    ["redis-server", "valkey-server"].iter().find_map(|name| on_path(name)).with_context(
        || "there is no redis-server on this machine (hint: `cargo xtask setup` installs it)",
    )
}

/// A program of Prometheus: the server itself, or `promtool`.
pub(crate) fn prometheus(program: &str) -> Result<PathBuf> {
    on_path(program).with_context(|| {
        format!("there is no {program} on this machine (hint: `cargo xtask setup` installs it)")
    })
}

/// The directory that holds `initdb`, `postgres` and `psql` of one version.
///
/// Debian keeps all but a wrapper of `psql` off the path, so the newest version is looked for where Debian puts it.
pub(crate) fn postgres_programs() -> Result<PathBuf> {
    let beside = on_path("initdb")
        .and_then(|initdb| fs::canonicalize(initdb).ok())
        .and_then(|initdb| initdb.parent().map(Path::to_owned));
    beside.into_iter().chain(debian_versions()).find(|place| is_complete(place)).with_context(|| {
        "there are no initdb, postgres and psql on this machine (hint: `cargo xtask setup` installs them)"
    })
}

fn is_complete(place: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| place.join(program).is_file())
}

/// The newest first.
fn debian_versions() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, path)| path.join("bin")).collect()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|place| place.join(program)).find(|file| file.is_file())
}
