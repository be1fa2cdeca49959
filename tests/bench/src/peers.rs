//! Ours beside other task queues on Redis, in one run of `tests/bench/peers/run.py`, which says how each is measured.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::Deserialize;

use crate::figure::RATIO;
use crate::{Row, row};

/// Throughput runs of which the median is told.
const REPEAT: &str = "3";
/// Ours, of those that the script measures: a fresh sandbox for each task.
const OURS: &str = "isolate, concurrency=256, prefetch=64";

/// A line of the script.
#[derive(Debug, Deserialize)]
struct Line {
    peer: String,
    setting: String,
    tasks_per_s: f64,
    worker_cpu_s_per_1000: f64,
    redis_cpu_s_per_1000: f64,
    idle_p50_ms: f64,
    idle_p99_ms: f64,
}

impl Line {
    /// For 1,000 tasks, in seconds.
    fn cpu(&self) -> f64 {
        self.worker_cpu_s_per_1000 + self.redis_cpu_s_per_1000
    }
}

#[expect(clippy::unused_async, reason = "each group is a future")]
pub(crate) async fn run(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let setup = scripts.join("setup.sh");
    anyhow::ensure!(
        folder.join("sidekiq.version").is_file(),
        "{} holds no peers (hint: {} {0} gets them; --peers DIR names another folder)",
        folder.display(),
        setup.display()
    );
    let mut script = Command::new("python3");
    script.arg(scripts.join("run.py")).arg("--dir").arg(folder);
    script.args(["--own-redis", "--repeat", REPEAT]).stderr(std::process::Stdio::inherit());
    let said = script.output().context("python3 cannot be started")?;
    anyhow::ensure!(said.status.success(), "run.py ended with {}", said.status);
    let text = String::from_utf8(said.stdout)?;
    let lines: Vec<Line> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    rows(&lines)
}

fn rows(lines: &[Line]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in lines {
        let what = format!("{}, {}, Redis without AOF", line.peer, line.setting);
        rows.push(row(format!("{what}: throughput"), line.tasks_per_s, "tasks/s"));
        rows.push(row(format!("{what}: CPU of worker and Redis"), line.cpu(), "s per 1,000 tasks"));
        rows.push(row(format!("{what}: idle, enqueue → result: p50"), line.idle_p50_ms, "ms"));
        rows.push(row(format!("{what}: idle, enqueue → result: p99"), line.idle_p99_ms, "ms"));
    }
    let ours = lines.iter().find(|line| line.peer == "stem" && line.setting == OURS);
    let ours = ours.with_context(|| format!("stem was not measured with {OURS}"))?;
    let best = |peer: Option<&str>, figure: fn(&Line) -> f64, better: fn(f64, f64) -> f64| {
        let theirs = lines.iter().filter(|line| line.peer != "stem");
        let theirs = theirs.filter(|line| peer.is_none_or(|peer| line.peer == peer));
        theirs.map(figure).reduce(better).context("a peer was not measured")
    };
    let fastest = best(None, |line| line.tasks_per_s, f64::max)?;
    let celery = best(Some("celery"), |line| line.tasks_per_s, f64::max)?;
    let thriftiest = best(None, Line::cpu, f64::min)?;
    let p50 = best(Some("sidekiq"), |line| line.idle_p50_ms, f64::min)?;
    let p99 = best(Some("sidekiq"), |line| line.idle_p99_ms, f64::min)?;
    let rate = ours.tasks_per_s;
    rows.extend([
        row("isolates over the fastest peer: throughput", rate / fastest, RATIO).at_least(2.0),
        row("isolates over Celery: throughput", rate / celery, RATIO).at_least(20.0),
        row("isolates: CPU of worker and Redis", ours.cpu(), "s per 1,000 tasks").at_most(0.06),
        row("isolates over the thriftiest peer: CPU", ours.cpu() / thriftiest, RATIO).at_most(0.5),
        row("isolates over Sidekiq: idle, p50", ours.idle_p50_ms / p50, RATIO).at_most(1.0),
        row("isolates over Sidekiq: idle, p99", ours.idle_p99_ms / p99, RATIO).at_most(1.0),
    ]);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(peer: &str, setting: &str, tasks_per_s: f64, cpu: f64) -> Line {
        let text = format!(
            r#"{{"peer":"{peer}","setting":"{setting}","version":"1","tasks_per_s":{tasks_per_s},"worker_cpu_s_per_1000":{cpu},
            "redis_cpu_s_per_1000":0.0,"idle_p50_ms":1.0,"idle_p99_ms":2.0,"aof":"no"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn ours_is_held_against_the_best_of_the_others() {
        let lines = [
            line("stem", OURS, 30_000.0, 0.05),
            line("stem", "inline", 90_000.0, 0.01),
            line("bullmq", "100", 20_000.0, 0.2),
            line("celery", "2", 1_000.0, 2.0),
            line("sidekiq", "2", 10_000.0, 0.1),
        ];
        let rows = rows(&lines).unwrap();
        let value = |what: &str| rows.iter().find(|row| row.what.starts_with(what)).unwrap().value;
        let close = |what: &str, expected: f64| assert!((value(what) - expected).abs() < 1e-9);
        close("isolates over the fastest peer", 1.5);
        close("isolates over Celery", 30.0);
        close("isolates over the thriftiest peer", 0.5);
        close("isolates over Sidekiq: idle, p50", 1.0);
    }

    #[test]
    fn a_peer_that_is_missing_is_an_error() {
        assert!(rows(&[line("stem", OURS, 1.0, 1.0)]).is_err());
        assert!(rows(&[line("sidekiq", "2", 1.0, 1.0)]).is_err());
    }
}
