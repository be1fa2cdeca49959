//! `stem worker ping` as somebody at a terminal has it: a process from its start to its exit.

use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

use crate::process::Place;
use crate::{Row, row, spread};

const WORKERS: usize = 10;
const ROUNDS: usize = 100;

#[expect(clippy::unused_async, reason = "each group is a future")]
pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let server = stem_services::RedisServer::start();
    let place = Place::new(server.url())?;
    let modules = place.modules(1)?.display().to_string();
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let name = format!("worker-{number}");
        workers.push(place.worker(&["--name", &name, "--modules", &modules])?);
    }
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = place.stem(&["worker", "ping", "--json"])?;
        let at = Instant::now();
        let said = command.output()?;
        figures.push(at.elapsed().as_secs_f64() * 1e3);
        let text = String::from_utf8_lossy(&said.stdout);
        anyhow::ensure!(said.status.success(), "{}: {text}", said.status);
        let said: Value = serde_json::from_str(&text)?;
        let replies = said["replies"].as_array().context("a ping has replies")?;
        anyhow::ensure!(replies.len() == WORKERS, "{} of {WORKERS} answered", replies.len());
    }
    drop(workers);
    let (p50, p99, max) = spread(&mut figures);
    let what = "worker ping, process start → exit, 10 workers, Redis, AOF everysec";
    Ok(vec![
        row(format!("{what}: p50"), p50, "ms").at_most(30.0),
        row(format!("{what}: p99"), p99, "ms"),
        row(format!("{what}: max"), max, "ms"),
    ])
}
