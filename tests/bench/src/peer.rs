//! Stem as one of the systems that `tests/bench/peers` measures side by side: what its harness starts and asks.
//!
//! `peer enqueue N`, `peer rounds`, `peer worker KIND CONCURRENCY PREFETCH`; the Redis is `REDIS_URL`. The
//! kinds: inline and isolate do nothing; component is the example task in Rust, which reports progress and looks for a checkpoint.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use stem_core::envelope::Payload;
use stem_core::id::TaskName;
use stem_core::limits::Limits;
use stem_engine::modules::ModuleHandler;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock, Worker, WorkerConfig};
use stem_isolate::OnFailure;

use crate::attempts::INPUT;

pub(crate) const NAME: &str = "noop";

/// A task that does nothing, in a sandbox of its own each time.
const NOOP: &str = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#;

/// Runs one mode; the words are those behind `peer`.
pub(crate) async fn run(words: &[&str]) -> anyhow::Result<()> {
    let url = std::env::var("REDIS_URL").context("REDIS_URL says which Redis")?;
    let backends = Backends::all_in_one(crate::redis(&url).await?);
    match *words {
        ["enqueue", count] => {
            let (client, count) = (client(backends), count.parse()?);
            crate::endtoend::push(&client, &NAME.parse()?, INPUT, count).await.map(drop)
        }
        ["rounds"] => rounds(backends).await,
        ["worker", kind, concurrency, prefetch] => {
            worker(backends, kind, concurrency.parse()?, prefetch.parse()?).await
        }
        _ => bail!("peer enqueue N | peer rounds | peer worker KIND CONCURRENCY PREFETCH"),
    }
}

fn client(backends: Backends) -> Client {
    Client::new(backends, Arc::new(SystemClock))
}

/// One task for each line that comes in, and one line with its milliseconds.
async fn rounds(backends: Backends) -> anyhow::Result<()> {
    let client = client(backends);
    let name: TaskName = NAME.parse()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let at = Instant::now();
        let task =
            client.enqueue(name.clone(), Payload::json(INPUT), EnqueueOptions::default()).await?;
        client.finished(&task.id, None).await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", at.elapsed().as_secs_f64() * 1e3)?;
        out.flush()?;
    }
    Ok(())
}

async fn worker(
    backends: Backends,
    kind: &str,
    concurrency: usize,
    prefetch: usize,
) -> anyhow::Result<()> {
    // Several may share a namespace.
    let id = format!("bench-{}", std::process::id()).parse()?;
    let config = WorkerConfig { concurrency, prefetch, ..WorkerConfig::new(id) };
    let builder = Worker::builder(backends, config);
    let builder = match kind {
        "inline" => builder.inline(NAME, |_, _: serde_json::Value| async move { Ok(()) })?,
        "isolate" | "component" => {
            let isolates = crate::attempts::runtime(u32::try_from(concurrency)?, 2)?;
            let wasm =
                if kind == "isolate" { wat::parse_str(NOOP)? } else { crate::example("crunch")? };
            let module = isolates.load(&wasm).await?;
            builder.isolates(isolates).module(ModuleHandler {
                name: NAME.parse()?,
                module,
                limits: Limits::DEFAULT,
                on_failure: OnFailure::Retry,
                granted: std::sync::Arc::default(),
                version: None,
            })
        }
        other => bail!("{other:?} is none of inline, isolate and component"),
    };
    builder.build()?.run().await?;
    Ok(())
}
