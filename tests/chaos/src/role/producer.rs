//! A producer that is killed: enqueues tasks with ids that follow from its name, and goes on where its last life was
//! acknowledged. Some of them it revokes, as an operator would. Ends when all are, when it is told to enqueue no more, or
//! with its standard input.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use stem_core::backend::ErrorClass;
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{TaskId, TaskName};
use stem_engine::{Client, EnqueueError, EnqueueOptions, SystemClock};
use tokio::time::Instant;

use super::operator::{Operator, When};
use crate::history::{self, Event, Journal};
use crate::place::Place;
use crate::{CAREFUL, STOP};

/// Before a batch is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two questions how many tasks wait.
const ASK: Duration = Duration::from_millis(500);

/// A careful task takes so long, at least.
const CAREFUL_LEAST: u64 = 300;
/// And so much longer, at most.
const CAREFUL_MORE: u64 = 600;

/// Its settings.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The producer's name, with which its ids begin.
    #[arg(long)]
    name: String,
    /// Which start of it this is.
    #[arg(long)]
    life: u32,
    /// Where the history goes.
    #[arg(long)]
    directory: PathBuf,
    /// How many tasks, in all its lives.
    #[arg(long)]
    count: u64,
    /// Tasks a second, at most.
    #[arg(long)]
    rate: u32,
    /// Tasks of one call. Few, so that a producer that is killed is often killed within one.
    #[arg(long, default_value_t = 3)]
    batch: u64,
    /// While more tasks than this wait for a worker, none is added.
    #[arg(long, default_value_t = 2_000)]
    ahead: u64,
    /// The longest task.
    #[arg(long, default_value_t = 20)]
    longest_ms: u64,
    /// One of so many tasks is a careful one, and one of twice as many is revoked; none if 0.
    #[arg(long, default_value_t = 0)]
    careful: u64,
    #[command(flatten)]
    place: Place,
}

impl Args {
    fn is_careful(&self, number: u64) -> bool {
        self.careful > 0 && number.is_multiple_of(self.careful)
    }

    /// How and when this task is revoked, if it is.
    fn revoked(&self, number: u64) -> Option<When> {
        if !self.is_careful(number) || !(number / self.careful).is_multiple_of(2) {
            return None;
        }
        let nth = number / self.careful / 2 % 4;
        When::ALL.get(usize::try_from(nth).ok()?).copied()
    }
}

fn id(name: &str, number: u64) -> anyhow::Result<TaskId> {
    Ok(TaskId::new(format!("{name}-{number}"))?)
}

/// The first number that no life of this producer has been told is stored. Numbers go up one after the other, so the
/// last that was acknowledged says it.
fn next(args: &Args) -> anyhow::Result<u64> {
    let lives = format!("{}.", args.name);
    let histories = history::read_all(&args.directory, |process| process.starts_with(&lives))?;
    let lines = histories.iter().flat_map(|history| &history.lines);
    let acknowledged = lines.filter_map(|line| match &line.2 {
        Event::EnqOk(tasks) => tasks.last(),
        _ => None,
    });
    let mut next = 1;
    for task in acknowledged {
        let number = task.as_str().rsplit('-').next().and_then(|number| number.parse().ok());
        let number: u64 = number.context("an id of ours ends with its number")?;
        next = next.max(number + 1);
    }
    Ok(next)
}

fn envelope(client: &Client, args: &Args, number: u64) -> anyhow::Result<Envelope> {
    // Lengths that follow from the number alone, and that neighbours do not share.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (name, ms) = match mixed % (args.longest_ms + 1) {
        _ if args.is_careful(number) => (CAREFUL, CAREFUL_LEAST + mixed % CAREFUL_MORE),
        0 => ("noop", 0),
        ms => ("sleepy", ms),
    };
    let name = TaskName::new(name)?;
    let options = EnqueueOptions { id: Some(id(&args.name, number)?), ..EnqueueOptions::default() };
    let payload = Payload::json(format!(r#"{{"ms":{ms}}}"#));
    Ok(client.envelope(name, payload, options)?)
}

/// Tries until the store says that all are stored, by this call or by an earlier one.
async fn enqueue(client: &Client, journal: &Journal, envelopes: &[Envelope]) -> anyhow::Result<()> {
    loop {
        let answers = client.enqueue_all(envelopes).await;
        if let Err(EnqueueError::Backend(error)) = &answers {
            journal.note(error);
        }
        match answers {
            Ok(answers) => {
                for (envelope, answer) in envelopes.iter().zip(answers) {
                    if answer.id != envelope.id {
                        bail!("{} was taken for {}", envelope.id, answer.id);
                    }
                }
                return Ok(());
            }
            Err(EnqueueError::Backend(error))
                if matches!(error.class(), ErrorClass::Transient | ErrorClass::Refused) =>
            {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until workers have caught up. How fast they are is not what is tested. A broker that cannot say is not waited for.
async fn wait_for_workers(client: &Client, ahead: u64) {
    while let Ok(queues) = client.backends().broker.queues().await {
        if queues.iter().map(|queue| queue.ready).sum::<u64>() <= ahead {
            return;
        }
        tokio::time::sleep(2 * PAUSE).await;
    }
}

/// Enqueues until all are.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let process = format!("{}.{}", args.name, args.life);
    let mut next = next(&args)?;
    let journal = Arc::new(Journal::open(&args.directory, &process)?);
    let backends = args.place.open_patiently().await?;
    let client = Arc::new(Client::new(backends, Arc::new(SystemClock)));
    let operator = Operator::new(&process, &client, &journal);
    let (start, first) = (Instant::now(), next);
    let mut asked = start;
    while next <= args.count && !args.directory.join(STOP).exists() {
        if asked.elapsed() >= ASK {
            wait_for_workers(&client, args.ahead).await;
            asked = Instant::now();
        }
        let due = Duration::from_secs(next - first) / args.rate;
        tokio::time::sleep_until(start + due).await;
        let numbers = next..(next + args.batch).min(args.count + 1);
        next = numbers.end;
        let envelopes: anyhow::Result<Vec<_>> =
            numbers.clone().map(|number| envelope(&client, &args, number)).collect();
        let envelopes = envelopes?;
        let times = numbers.map(|number| args.revoked(number)).zip(&envelopes);
        let revoked = times.filter_map(|(when, one)| Some((when?, one.id.clone())));
        let (before, later): (Vec<_>, Vec<_>) =
            revoked.partition(|(when, _)| *when == When::Before);
        for (when, task) in before {
            operator.revoke(task, when).await?;
        }
        let tasks = || envelopes.iter().map(|envelope| envelope.id.clone()).collect();
        journal.write(Event::EnqTry(tasks()));
        enqueue(&client, &journal, &envelopes).await?;
        journal.write(Event::EnqOk(tasks()));
        for (when, task) in later {
            let operator = operator.clone();
            // What it comes to is in the history.
            drop(tokio::spawn(async move { operator.revoke(task, when).await }));
        }
    }
    Ok(())
}
