//! A worker process from its start until it says that it is ready: its modules are compiled already, and it reads what is
//! revoked first.

use std::time::Instant;

use crate::process::Place;
use crate::{Row, row, spread};

const MODULES: u32 = 20;
const REVOCATIONS: usize = 100_000;
const STARTS: usize = 20;

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let server = stem_services::RedisServer::start();
    let place = Place::new(server.url())?;
    let modules = place.modules(MODULES)?.display().to_string();
    let store = crate::redis(&server.url()).await?;
    crate::revocations::fill(&*store, REVOCATIONS).await?;
    let start = || place.worker(&["--modules", &modules]);
    let at = Instant::now();
    // Compiles them all, into the place's cache.
    let worker = start()?;
    let compiling = at.elapsed();
    worker.stop()?;
    let mut figures = Vec::new();
    for _ in 0..STARTS {
        let at = Instant::now();
        let worker = start()?;
        figures.push(at.elapsed().as_secs_f64() * 1e3);
        worker.stop()?;
    }
    let (p50, _, max) = spread(&mut figures);
    let what = "worker start → ready, 20 modules, 100,000 revocations, Redis, AOF everysec";
    Ok(vec![
        row(format!("{what}: compiling"), compiling.as_secs_f64(), "s"),
        row(format!("{what}: p50"), p50, "ms").at_most(150.0),
        row(format!("{what}: max"), max, "ms"),
    ])
}
