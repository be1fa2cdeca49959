//! The backlog: tasks come at a steady rate, then none, and again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use stem_core::envelope::Payload;
use stem_core::observe::Gauges;
use stem_engine::{Client, EnqueueOptions};

use crate::decisions::Decisions;

/// The task.
pub(crate) const NAME: &str = "wait";

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(100);

/// A square wave of tasks.
pub(crate) struct Wave {
    /// Tasks each second while they come.
    pub(crate) rate: u32,
    /// How long they come, and how long they do not.
    pub(crate) half: Duration,
    /// How often.
    pub(crate) waves: u32,
}

/// What there was to see at one moment.
pub(crate) struct Seen {
    /// Seconds since the beginning.
    pub(crate) at: f64,
    /// Tasks that wait.
    pub(crate) depth: u64,
    /// Attempts in hand.
    pub(crate) inflight: usize,
    /// Attempts that may run at once.
    pub(crate) concurrency: usize,
    /// Whether tasks come.
    pub(crate) high: bool,
}

impl Wave {
    /// Whether tasks come at this time.
    fn is_high(&self, at: Duration) -> bool {
        let half = at.as_nanos() / self.half.as_nanos().max(1);
        half.is_multiple_of(2) && half < u128::from(self.waves) * 2
    }

    /// Enqueues and looks until the last wave is over, and `settle` has passed since nothing was left; how many were enqueued.
    pub(crate) async fn run(
        &self,
        client: &Client,
        gauges: &impl Fn() -> Option<Gauges>,
        decisions: &Decisions,
        settle: Duration,
    ) -> Result<(Vec<Seen>, u64)> {
        let (started, mut seen, mut sent, mut due) = (Instant::now(), Vec::new(), 0_u64, 0.0);
        let (mut busy_at, mut looks) = (Duration::ZERO, tokio::time::interval(LOOK));
        loop {
            looks.tick().await;
            let at = started.elapsed();
            let high = self.is_high(at);
            if high {
                due += f64::from(self.rate) * LOOK.as_secs_f64();
                while due >= 1.0 {
                    let input = Payload::json(*b"null");
                    client.enqueue(NAME.parse()?, input, EnqueueOptions::default()).await?;
                    (due, sent) = (due - 1.0, sent + 1);
                }
            }
            let queues = client.backends().broker.queues().await?;
            let gauges = gauges().context("the worker ended by itself")?;
            let now = Seen {
                at: at.as_secs_f64(),
                depth: queues.iter().map(|queue| queue.ready).sum(),
                inflight: gauges.inflight,
                concurrency: gauges.concurrency,
                high,
            };
            decisions.print();
            if high || now.depth > 0 || now.inflight > 0 {
                busy_at = at;
            }
            seen.push(now);
            if at > self.half * self.waves * 2 && at > busy_at + settle {
                return Ok((seen, sent));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_come_in_the_first_half_of_each_wave_and_never_after_the_last() {
        let wave = Wave { rate: 1, half: Duration::from_secs(2), waves: 2 };
        let high: Vec<bool> =
            (0..10).map(|second| wave.is_high(Duration::from_secs(second))).collect();
        assert_eq!(high, [true, true, false, false, true, true, false, false, false, false]);
    }
}
