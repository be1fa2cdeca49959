//! The tasks: their inputs, and what must come of each.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use stem_core::time::Timestamp;

use crate::board::Board;
use crate::programs::Stem;
use crate::seconds;

/// Items that `crunch` adds up, so slowly that there is time to look.
const ITEMS: u64 = 200;
const DELAY_MS: u64 = 15;

/// A task that was enqueued.
pub(crate) struct Task {
    pub(crate) name: &'static str,
    pub(crate) id: String,
    pub(crate) about: String,
}

/// The photograph that is rendered.
pub(crate) fn photo(root: &Path) -> PathBuf {
    root.join("example-tasks/render-image/data/photo.jpg")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn text(root: &Path) -> Result<String> {
    Ok(String::from_utf8(read(&root.join("README.md"))?)?)
}

/// Enqueues all of them.
pub(crate) fn enqueue(stem: &Stem, root: &Path, dir: &Path, width: u32) -> Result<Vec<Task>> {
    let photo = read(&photo(root))?;
    let text = text(root)?;
    let tasks = [
        (
            "crunch",
            json!({ "items": (1..=ITEMS).collect::<Vec<_>>(), "delayMs": DELAY_MS }),
            format!("adds up 1 to {ITEMS}, {DELAY_MS} ms each"),
        ),
        ("spin", json!({}), "computes for ever and listens to nobody".to_owned()),
        (
            "render-image",
            json!({ "image": BASE64_STANDARD.encode(&photo), "width": width }),
            format!("a photograph of {} bytes, to be {width} pixels wide", photo.len()),
        ),
        ("report", json!({}), "four years of weather, in the worker with native code".to_owned()),
        ("word-count", json!({ "text": text }), "this repository's README.md".to_owned()),
    ];
    let mut enqueued = Vec::new();
    for (name, args, about) in tasks {
        let file = dir.join(format!("{name}.json"));
        std::fs::write(&file, serde_json::to_vec(&args)?)?;
        let file = file.display().to_string();
        let id = stem.run(["task", "enqueue", name, "--args-file", &file])?;
        enqueued.push(Task { name, id: id.trim().to_owned(), about });
    }
    Ok(enqueued)
}

/// One task's end and its times.
pub(crate) fn took(record: &Value) -> Result<String> {
    let time = |key: &str| -> Result<Timestamp> {
        let text = record[key].as_str().with_context(|| format!("the record has no {key}"))?;
        text.parse().map_err(anyhow::Error::msg)
    };
    let (enqueued, started, finished) =
        (time("enqueuedAt")?, time("startedAt")?, time("finishedAt")?);
    Ok(format!(
        "{:<13} {:<9} waited {:>8}, ran {:>8}, on {}",
        record["name"].as_str().unwrap_or_default(),
        record["state"].as_str().unwrap_or_default(),
        seconds(started.since(enqueued)),
        seconds(finished.since(started)),
        record["worker"].as_str().unwrap_or_default(),
    ))
}

/// Compares every result with what is known by other means; returns what can be said of them.
pub(crate) fn check(board: &Board<'_>, root: &Path) -> Result<Vec<String>> {
    for name in ["crunch", "render-image", "report", "word-count"] {
        let record = board.record(name)?;
        ensure!(record["state"] == "succeeded", "{name} did not succeed: {record}");
        ensure!(record["attempt"] == 1, "{name} took more than one attempt: {record}");
    }
    let crunch = &board.record("crunch")?["result"];
    ensure!(crunch["sum"] == ITEMS * (ITEMS + 1) / 2, "crunch: {crunch}");

    let words = &board.record("word-count")?["result"];
    let text = text(root)?;
    ensure!(words["words"] == text.split_whitespace().count(), "word-count: {words}");
    ensure!(words["characters"] == text.chars().count(), "word-count: {words}");

    let report = &board.record("report")?["result"];
    let csv = read(&root.join("example-tasks/report/data/seattle-weather.csv"))?;
    let lines = String::from_utf8_lossy(&csv).lines().count();
    ensure!(report["days"] == lines - 1, "report: {report}");
    let year = &report["years"][0];

    let spin = board.record("spin")?;
    let end = &spin["revocation"];
    ensure!(spin["state"] == "revoked" && end["how"] == "preempted", "spin: {spin}");

    Ok(vec![
        format!("crunch        {crunch}"),
        format!(
            "spin          {} {:.2} ms after the order by {} ({})",
            end["how"].as_str().unwrap_or_default(),
            end["elapsedMs"].as_f64().unwrap_or(f64::NAN),
            end["requestedBy"].as_str().unwrap_or("nobody"),
            end["reason"].as_str().unwrap_or_default(),
        ),
        format!("word-count    {words}"),
        format!(
            "report        {} days; {}: {} mm of rain, {} °C on {}",
            report["days"],
            year["year"],
            year["precipitationMm"],
            year["warmest"]["value"],
            year["warmest"]["date"].as_str().unwrap_or_default(),
        ),
    ])
}
