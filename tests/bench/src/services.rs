//! Connections to the services, and where built things lie.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use stem_engine::SystemClock;
use stem_redis::{Redis, RedisOptions};
use stem_sql::{Postgres, PostgresOptions, Sqlite, SqliteOptions};

/// Where the workspace's build directory is.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
            root.unwrap_or(Path::new(".")).join("target")
        },
        PathBuf::from,
    )
}

/// A connection of its own to a SQLite file.
pub(crate) async fn sqlite(path: &Path) -> anyhow::Result<Arc<Sqlite>> {
    let options = SqliteOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        create: true,
        busy_timeout: Duration::from_secs(5),
    };
    Ok(Sqlite::open(options).await?)
}

/// A connection of its own to a Redis.
pub(crate) async fn redis(url: &str) -> anyhow::Result<Arc<Redis>> {
    Ok(Redis::open(RedisOptions { url: url.to_owned(), clock: None }).await?)
}

/// A connection of its own to a Postgres database.
pub(crate) async fn postgres(url: &str) -> anyhow::Result<Arc<Postgres>> {
    Ok(Postgres::open(PostgresOptions::new(url)).await?)
}

/// An example task's module.
pub(crate) fn example(name: &str) -> anyhow::Result<Vec<u8>> {
    built(&target_dir().join("stem-modules").join(name).join(format!("{name}.wasm")))
}

/// The module of `tests/bench/guest`.
pub(crate) fn bench_guest() -> anyhow::Result<Vec<u8>> {
    built(&target_dir().join("guests/wasm32-wasip2/release/bench-guest.wasm"))
}

fn built(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| {
        format!("{} is not there; build the guests first: cargo xtask guests", path.display())
    })
}
