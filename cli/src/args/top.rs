//! `stem top`

use std::time::Duration;

use clap::Args;
use stem_core::id::{QueueName, WorkerId};
use stem_engine::units::{duration, write_duration};

use super::NamespaceArg;

/// Workers are asked no more often than that.
const SHORTEST: Duration = Duration::from_millis(250);
/// A picture that is older than that helps nobody.
const LONGEST: Duration = Duration::from_hours(1);

/// `stem top`
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Look so often (250ms to 1h)
    #[arg(long, value_name = "D", value_parser = interval, default_value = "1s")]
    pub interval: Duration,
    /// Only this worker and what it runs (repeatable, or with commas)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub worker: Vec<WorkerId>,
    /// Only this queue, its tasks, and the workers that serve it (repeatable, or with commas)
    #[arg(long, value_name = "Q", value_delimiter = ',')]
    pub queue: Vec<QueueName>,
    /// Which scope.
    #[command(flatten)]
    pub namespace: NamespaceArg,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if (SHORTEST..=LONGEST).contains(&interval) {
        return Ok(interval);
    }
    let (shortest, longest) = (write_duration(SHORTEST), write_duration(LONGEST));
    Err(format!("{text} is not from {shortest} to {longest}"))
}
