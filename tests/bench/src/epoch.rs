//! What a guest pays for being stoppable anywhere: compiled code looks at the epoch at each loop and each call. The same
//! attempts with and without, in turns: tasks on real inputs, which have a goal, and the loops that pay most, which have none.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use stem_core::envelope::Payload;
use stem_core::outcome::Outcome;
use stem_isolate::measure::EpochChecks;
use stem_isolate::{AttemptHost, AttemptSpec, Exit};

use crate::attempts::{Nobody, spec};
use crate::kernels;
use crate::{Row, row, spread};

/// Pairs of turns of which the middle is told.
const ROUNDS: usize = 11;
/// CPU time of one turn: so many attempts as fill it.
const TURN_MS: f64 = 50.0;
/// What the issue allows a task to pay.
const GOAL: f64 = 15.0;

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let image = crate::example("render-image")?;
    let command = crate::bench_guest()?;
    let photo = kept("example-tasks/render-image/data/photo.jpg")?;
    let weather = kept("example-tasks/report/data/seattle-weather.csv")?;
    let board = kept("docs/grafana.json")?;
    let tasks = [
        ("render-image, a photograph to 256 pixels", &image, arguments(&photo)),
        ("the report over daily weather, CSV of four years", &command, ordered("report", &weather)),
        ("JSON of 23 kB, parsed and written again", &command, ordered("json", &board)),
        ("SHA-256 of a photograph of 71 kB", &command, ordered("hash", &photo)),
    ];
    for (what, wasm, input) in tasks {
        let cost = Cost::of(wasm, &input).await.with_context(|| what)?;
        rows.push(row(format!("{what}: CPU of an attempt"), cost.with_ms, "ms"));
        rows.push(row(format!("{what}: epoch checks add"), cost.added, "%").at_most(GOAL));
    }
    for kernel in kernels::all() {
        let wasm = wat::parse_str(&kernel.text).with_context(|| kernel.what)?;
        let cost = Cost::of(&wasm, b"null").await.with_context(|| kernel.what)?;
        rows.push(row(format!("{}: epoch checks add", kernel.what), cost.added, "%"));
    }
    Ok(rows)
}

#[derive(Debug)]
struct Cost {
    /// CPU time of an attempt as workers have it.
    with_ms: f64,
    /// What of it the checks are, in hundredths of an attempt without them.
    added: f64,
}

impl Cost {
    async fn of(wasm: &[u8], input: &[u8]) -> anyhow::Result<Self> {
        let checks = EpochChecks::prepare(wasm)?;
        let host: Arc<dyn AttemptHost> = Arc::new(Nobody);
        let spec = || AttemptSpec { input: Payload::json(input), ..spec("null") };
        let with = async || cpu_ms(&checks.with_checks(spec(), Arc::clone(&host)).await);
        let without = async || cpu_ms(&checks.without_checks(spec(), Arc::clone(&host)).await);
        // Once each, so that both have their pages; the second says how many fill a turn.
        without().await?;
        with().await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let attempts = (TURN_MS / with().await?).ceil().clamp(1.0, 1_000.0) as u32;
        let (mut costs, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (mut one, mut other) = (0.0, 0.0);
            for _ in 0..attempts {
                one += with().await?;
                other += without().await?;
            }
            costs.push(one / f64::from(attempts));
            ratios.push(one / other);
        }
        let (with_ms, ..) = spread(&mut costs);
        let (ratio, ..) = spread(&mut ratios);
        Ok(Self { with_ms, added: (ratio - 1.0) * 100.0 })
    }
}

/// CPU time of the guest's thread within the attempt.
fn cpu_ms(exit: &Exit) -> anyhow::Result<f64> {
    anyhow::ensure!(matches!(exit.outcome, Outcome::Succeeded(_)), "{:?}", exit.outcome);
    Ok(exit.usage.cpu_ms)
}

/// A file of the repository.
fn kept(path: &str) -> anyhow::Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
}

/// What `render-image` takes.
fn arguments(photo: &[u8]) -> Vec<u8> {
    let image = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, photo);
    serde_json::json!({ "image": image, "width": 256 }).to_string().into_bytes()
}

/// What the benchmarks' own guest takes.
fn ordered(what: &str, input: &[u8]) -> Vec<u8> {
    [what.as_bytes(), b"\n", input].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_kinds_of_code_do_the_same() {
        let text = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (local $i i32)
            (local.set $i (i32.const 1000)) (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1))))) (local.get $i)))"#;
        let cost = Cost::of(&wat::parse_str(text).unwrap(), b"null").await.unwrap();
        assert!(cost.with_ms > 0.0 && cost.added > -100.0, "{cost:?}");
    }

    #[test]
    fn every_kernel_is_a_module() {
        for kernel in kernels::all() {
            wat::parse_str(&kernel.text).unwrap_or_else(|error| panic!("{}: {error}", kernel.what));
        }
    }
}
