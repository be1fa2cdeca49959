//! Time, CPU time and memory, of this process and of others.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process, user and system.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall and CPU time of some work.
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Cost {
    pub(crate) async fn of(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Self> {
        let (cpu, wall) = (process_cpu(), Instant::now());
        work.await?;
        Ok(Self { wall: wall.elapsed(), cpu: process_cpu().saturating_sub(cpu) })
    }
}

/// User and system time of a process, in steps of 10 ms; its children are left out.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    // The name before it may hold anything, spaces and parentheses too.
    let (_, fields) = text.rsplit_once(')').context("stat has no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks = ticks.sum::<Result<f64, _>>()?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred, on nearly every machine")]
    let each = rustix::param::clock_ticks_per_second() as f64;
    Ok(ticks / each)
}

/// What of a process is in memory now, shared pages too.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/statm");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    let pages: f64 =
        text.split_whitespace().nth(1).context("statm has no second field")?.parse()?;
    #[expect(clippy::cast_precision_loss, reason = "a page has 4,096 bytes, or some such number")]
    let page = rustix::param::page_size() as f64;
    Ok(pages * page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_seen_from_outside_too() {
        let pid = std::process::id();
        let before = process_cpu();
        while process_cpu().saturating_sub(before) < Duration::from_millis(30) {}
        assert!(cpu_seconds(pid).unwrap() >= 0.02);
        assert!(resident_bytes(pid).unwrap() > 1e5);
    }
}
