//! What an attempt may use, and what it did use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of one attempt. The manifest asks, the worker's policy caps: the smaller value holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, summed over all memories of the isolate, in bytes.
    pub memory_bytes: u64,
    /// Table entries, summed over all tables of the isolate.
    pub table_entries: u64,
    /// CPU time of the guest, host calls included, waiting not.
    pub cpu: Duration,
    /// Time after which a stop notice asks the handler to finish.
    pub soft: Option<Duration>,
    /// Time after which the attempt is stopped by force.
    pub hard: Duration,
    /// Size of the result, in bytes.
    pub result_bytes: u64,
    /// Log lines and standard error together, in bytes.
    pub log_bytes: u64,
    /// Host calls per second, sustained; a burst of one second's worth is free.
    pub host_calls_per_second: u64,
}

impl Limits {
    /// What an attempt gets when its manifest asks for nothing.
    ///
    /// 128 MiB is what Go, JavaScript and Python guests start in; an hour of wall time and ten minutes of CPU stop what
    /// was forgotten; ten million host calls a second is above what a guest can make (a heartbeat costs about 100 ns),
    /// so the rate bites only where a manifest or a policy asks for less.
    pub const DEFAULT: Self = Self {
        memory_bytes: 128 << 20,
        table_entries: 100_000,
        cpu: Duration::from_mins(10),
        soft: None,
        hard: Duration::from_hours(1),
        result_bytes: 1 << 20,
        log_bytes: 1 << 20,
        host_calls_per_second: 10_000_000,
    };

    /// The smaller of both, field by field.
    #[must_use]
    pub fn capped_by(&self, cap: &Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(cap.memory_bytes),
            table_entries: self.table_entries.min(cap.table_entries),
            cpu: self.cpu.min(cap.cpu),
            soft: match (self.soft, cap.soft) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            },
            hard: self.hard.min(cap.hard),
            result_bytes: self.result_bytes.min(cap.result_bytes),
            log_bytes: self.log_bytes.min(cap.log_bytes),
            host_calls_per_second: self.host_calls_per_second.min(cap.host_calls_per_second),
        }
    }
}

/// What one attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// CPU time of the guest in milliseconds, with microsecond resolution.
    pub cpu_ms: f64,
    /// The most linear memory the isolate held, in bytes.
    pub peak_memory_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_only_ever_lowers_a_limit() {
        let cap = Limits { memory_bytes: 1, soft: Some(Duration::from_secs(5)), ..Limits::DEFAULT };
        let capped = Limits { cpu: Duration::from_secs(1), ..Limits::DEFAULT }.capped_by(&cap);
        assert_eq!(capped.memory_bytes, 1);
        assert_eq!(capped.cpu, Duration::from_secs(1));
        assert_eq!(capped.soft, Some(Duration::from_secs(5)));
        assert_eq!(Limits::DEFAULT.capped_by(&Limits::DEFAULT), Limits::DEFAULT);
    }
}
