//! A worker process that has nothing to do, on each service that one is likely to have: they wait side by side, and each
//! is charged for what it uses itself.

use std::time::{Duration, Instant};

use crate::measure::{cpu_seconds, resident_bytes};
use crate::process::Place;
use crate::{Row, row};

/// What a start leaves to do is done by then.
const SETTLE: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let (redis, postgres) =
        (stem_services::RedisServer::start(), stem_services::PostgresServer::start());
    let dir = tempfile::tempdir()?;
    let sqlite = format!("sqlite://{}", dir.path().join("stem.db").display());
    let mut workers = Vec::new();
    for (what, url) in [
        ("Redis, AOF everysec", redis.url()),
        ("SQLite, durable", sqlite),
        ("Postgres, durable", postgres.database()),
    ] {
        let place = Place::new(url)?;
        let modules = place.modules(1)?.display().to_string();
        // Once to fill the cache: a worker that has compiled has more memory.
        place.worker(&["--modules", &modules])?.stop()?;
        let worker = place.worker(&["--modules", &modules])?;
        workers.push((what, worker, place));
    }
    tokio::time::sleep(SETTLE).await;
    let mut before = Vec::new();
    for (_, worker, _) in &workers {
        before.push((Instant::now(), cpu_seconds(worker.pid())?));
    }
    tokio::time::sleep(WATCHED).await;
    let mut rows = Vec::new();
    for ((what, worker, _), (at, cpu)) in workers.iter().zip(before) {
        let share = (cpu_seconds(worker.pid())? - cpu) / at.elapsed().as_secs_f64();
        let name = format!("idle worker with one module, {what}");
        let resident = resident_bytes(worker.pid())? / 1e6;
        rows.push(row(format!("{name}: resident memory"), resident, "MB").at_most(40.0));
        let part = row(format!("{name}: CPU over 10 s"), share * 100.0, "% of a core");
        rows.push(part.at_most(0.5));
    }
    Ok(rows)
}
