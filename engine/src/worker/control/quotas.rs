//! What is said of quotas to those who ask.

use serde_json::{Map, Value, json};
use stem_core::machine::quota::{Holder, Row};

use crate::quotas;
use crate::worker::quota::Quotas;

/// The most rows of a reply; those that are held back first, then those with the most in hand.
const ROWS: usize = 100;

/// For `inspect`: who has what in hand, and by what the rest is held back.
pub(super) fn inspect(quotas: &Quotas, payload: &mut Value) {
    let mut rows = quotas.rows();
    payload["quotasCount"] = json!(rows.len());
    rows.sort_by_key(|row| (row.at.is_none(), std::cmp::Reverse(row.held)));
    payload["quotas"] = rows.iter().take(ROWS).map(row).collect();
}

fn row(row: &Row) -> Value {
    let (scope, name) = match &row.holder {
        Holder::Queue(queue) => ("queue", queue.as_str()),
        Holder::Tenant(tenant) => ("tenant", tenant.as_str()),
    };
    let mut shown = json!({ "scope": scope, "name": name, "inflight": row.held });
    if let Some(most) = row.quota.concurrency {
        shown["concurrency"] = json!(most);
    }
    if let Some(rate) = row.quota.rate {
        shown["rate"] = json!(quotas::write_rate(rate));
    }
    if let Some(most) = row.quota.memory_bytes {
        shown["memoryQuotaBytes"] = json!(most);
    }
    if row.reserved > 0 {
        shown["memoryBytes"] = json!(row.reserved);
    }
    if let Some(bound) = row.at {
        shown["heldBackBy"] = json!(bound.as_str());
    }
    shown
}

/// For `stats`: where the quotas are from, how many are held back, and how often each bound was reached.
pub(super) fn stats(quotas: &Quotas) -> Value {
    let held_back = quotas.rows().iter().filter(|row| row.at.is_some()).count();
    let reached: Map<_, _> = quotas
        .reached()
        .into_iter()
        .map(|(bound, count)| (bound.as_str().to_owned(), json!(count)))
        .collect();
    let mut shown = json!({ "heldBack": held_back, "reached": reached });
    if let Some(path) = quotas.file.path() {
        shown["file"] = json!(path.display().to_string());
    }
    if let Some(problem) = quotas.file.problem() {
        shown["problem"] = json!(problem);
    }
    shown
}
