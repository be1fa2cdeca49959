//! `[…limits]`: the same words in a manifest, which asks, and in a policy, which caps.

use std::time::Duration;

use stem_core::limits::Limits;
use toml::Value;

use super::part::Part;
use crate::units;

/// What a table of limits may hold.
pub(crate) const KEYS: [&str; 8] =
    ["memory", "tables", "cpu", "soft", "hard", "result", "log", "host-calls"];

/// What a policy that says nothing caps.
pub(crate) const UNCAPPED: Limits = Limits {
    memory_bytes: u64::MAX,
    table_entries: u64::MAX,
    cpu: Duration::MAX,
    soft: None,
    hard: Duration::MAX,
    result_bytes: u64::MAX,
    log_bytes: u64::MAX,
    host_calls_per_second: u64::MAX,
};

/// Reads a table; what it does not name is as in `unless`.
pub(crate) fn read(
    at: impl Into<String>,
    value: &Value,
    unless: &Limits,
) -> Result<Limits, String> {
    let part = Part::of(at, value, &KEYS)?;
    let hard = part.duration("hard")?.unwrap_or(unless.hard);
    let soft = part.duration("soft")?;
    if soft.is_some_and(|soft| soft >= hard) {
        return Err(format!(
            "{}.soft is not shorter than hard, {}",
            part.at(),
            units::write_duration(hard)
        ));
    }
    Ok(Limits {
        memory_bytes: part.bytes("memory")?.unwrap_or(unless.memory_bytes),
        table_entries: part.count("tables")?.unwrap_or(unless.table_entries),
        cpu: part.duration("cpu")?.unwrap_or(unless.cpu),
        soft: soft.or(unless.soft),
        hard,
        result_bytes: part.bytes("result")?.unwrap_or(unless.result_bytes),
        log_bytes: part.bytes("log")?.unwrap_or(unless.log_bytes),
        host_calls_per_second: part.count("host-calls")?.unwrap_or(unless.host_calls_per_second),
    })
}
