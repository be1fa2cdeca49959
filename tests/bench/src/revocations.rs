//! A million revocations: how long a worker reads them before it is ready, and what it keeps of them in memory.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use stem_core::backend::RevokeStore;
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::RevokeRequest;
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_file::{FileStore, FileStoreOptions};

use crate::measure::resident_bytes;
use crate::{Row, row};

const RECORDS: usize = 1_000_000;
/// Stored in one call.
const CHUNK: usize = 10_000;

/// The store at a place: a URL is a server's, a path that ends in `.db` is a SQLite file, another a file of lines.
async fn open(place: &str) -> anyhow::Result<Arc<dyn RevokeStore>> {
    if place.starts_with("redis:") {
        return Ok(crate::redis(place).await?);
    }
    if place.starts_with("postgres:") {
        return Ok(crate::postgres(place).await?);
    }
    let path = std::path::Path::new(place);
    if path.extension().is_some_and(|extension| extension == "db") {
        return Ok(crate::sqlite(path).await?);
    }
    let clock = Arc::new(SystemClock);
    let lock_timeout = FileStoreOptions::DEFAULT_LOCK_TIMEOUT;
    Ok(FileStore::open(FileStoreOptions { path: place.into(), clock, lock_timeout }))
}

fn namespace() -> anyhow::Result<Namespace> {
    Ok(Namespace::new("stem")?)
}

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let (redis, postgres) =
        (stem_services::RedisServer::start(), stem_services::PostgresServer::start());
    let file = |name| dir.path().join(name).display().to_string();
    for (what, place) in [
        ("SQLite, durable", file("revokes.db")),
        ("a file, synced", file("revokes.jsonl")),
        ("Redis, AOF everysec", redis.url()),
        ("Postgres, durable", postgres.database()),
    ] {
        let store = open(&place).await?;
        let at = Instant::now();
        fill(&*store, RECORDS).await?;
        let filled = at.elapsed();
        drop(store);
        // A process of its own, as a worker that starts has it: nothing that was used before hides what is used now.
        let said =
            Command::new(std::env::current_exe()?).args(["child", "hydrate", &place]).output()?;
        anyhow::ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let said: Value = serde_json::from_slice(&said.stdout)?;
        let figure = |key: &str| said[key].as_f64().context("a figure is missing");
        let name = format!("1,000,000 revocations in {what}");
        rows.push(row(format!("{name}: stored, {CHUNK} at once"), filled.as_secs_f64(), "s"));
        let read = row(format!("{name}: read at a worker's start"), figure("seconds")?, "s");
        rows.push(read.at_most(2.0));
        let each = figure("bytesEach")?;
        let each = row(format!("{name}: resident memory for each"), each, "bytes");
        rows.push(each.at_most(200.0));
    }
    Ok(rows)
}

/// Stores so many revocations, a multiple of [`CHUNK`].
pub(crate) async fn fill(store: &dyn RevokeStore, count: usize) -> anyhow::Result<()> {
    let namespace = namespace()?;
    let expires_at = Some(SystemClock.now().after(Duration::from_hours(24 * 30)));
    for chunk in 0..count / CHUNK {
        let requests: Vec<(TaskId, RevokeRequest)> = (0..CHUNK)
            .map(|n| {
                let request = RevokeRequest {
                    terminate: n % 2 == 0,
                    reason: Some(format!("incident {}", chunk % 7)),
                    requested_by: Some("operator".to_owned()),
                    expires_at,
                    ..RevokeRequest::default()
                };
                Ok((TaskId::new(uuid::Uuid::now_v7().to_string())?, request))
            })
            .collect::<anyhow::Result<_>>()?;
        store.revoke(&namespace, &requests).await?;
    }
    Ok(())
}

/// Reads everything as a worker does before it is ready, and prints what it took. Runs in a process of its own.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) async fn hydrate(place: &str) -> anyhow::Result<()> {
    let namespace = namespace()?;
    let resident = || resident_bytes(std::process::id());
    let (before, at) = (resident()?, Instant::now());
    let store = open(place).await?;
    let known = stem_engine::revocations::read_all(&store, &namespace).await?;
    let seconds = at.elapsed().as_secs_f64();
    let count = known.count();
    anyhow::ensure!(count == RECORDS, "{count} of {RECORDS} were read");
    #[expect(clippy::cast_precision_loss, reason = "a million is exact")]
    let each = (resident()? - before) / RECORDS as f64;
    println!("{}", json!({ "seconds": seconds, "bytesEach": each }));
    Ok(())
}
