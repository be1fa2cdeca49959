//! `stem worker stats`

use serde_json::Value;
use stem_core::control::Order;

use super::super::Context;
use super::{Control, cell};
use crate::args::ControlArgs;
use crate::control::ask;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, args: ControlArgs) -> Outcome {
    let control = Control::open(context, args).await?;
    let answers = ask(&control.backends, control.request(Order::Stats {})).await?;
    let header = [
        "STATE",
        "HOST",
        "PID",
        "UPTIME",
        "INFLIGHT",
        "CONCURRENCY",
        "STARTED",
        "SUCCEEDED",
        "FAILED",
        "RETRIED",
        "REVOKED",
        "TERMINATED",
        "LOST",
        "QUEUES",
    ];
    answers.report(control.printer, &header, row)
}

fn row(payload: &Value) -> Vec<String> {
    let counters = &payload["counters"];
    let uptime = payload["uptimeSeconds"]
        .as_f64()
        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0}s"));
    let queues: Vec<String> = payload["queues"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|queue| {
            let paused = if queue["paused"].as_bool() == Some(true) { " (paused)" } else { "" };
            format!("{}: {} waiting{paused}", cell(queue, "name"), cell(queue, "depth"))
        })
        .collect();
    vec![
        cell(payload, "state"),
        cell(payload, "host"),
        cell(payload, "pid"),
        uptime,
        cell(payload, "inflight"),
        cell(payload, "activeConcurrency"),
        cell(counters, "started"),
        cell(counters, "succeeded"),
        cell(counters, "failed"),
        cell(counters, "retried"),
        cell(counters, "revoked"),
        cell(counters, "terminated"),
        cell(counters, "leaseLost"),
        queues.join(", "),
    ]
}
