//! Calls of one kind that meet become one transaction, so that many single settlements cost what one costs.
//!
//! What a call costs is mostly its round trips and its commit, whatever it carries. While one transaction is on its way
//! others line up, and the next takes all of them: the more callers, the larger the batches, and nobody waits for
//! company.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::{BackendError, ErrorClass};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::Trouble;
use super::transact::{Core, Operation, gone};
use crate::bells::Topics;
use crate::fault::Fault;

/// Items in one transaction; the rest goes into the next. One caller's items stay together up to [`WEIGHT`].
const BATCH: usize = 512;

/// Bytes in one transaction, as [`Batch::weight`] counts them.
const WEIGHT: usize = 8 << 20;

/// What a caller waits longer than a transaction may take, so that it hears what became of its own.
const GRACE: Duration = Duration::from_millis(500);

/// Transactions of one lane on their way at once: while one waits for the disk, another can work.
const AT_ONCE: usize = 2;

/// A change that is defined item by item, so that the batches of several callers can be made as one.
#[async_trait]
pub(super) trait Batch: Clone + Send + Sync + 'static {
    type Item: Clone + Send + Sync + 'static;
    type Answer: Send + 'static;
    /// What is tried, completing "failed to …".
    const ACTION: &'static str;
    /// See [`Operation::SENDS_NEWS_FIRST`].
    const SENDS_NEWS_FIRST: bool;

    /// Runs inside the transaction. One answer for each item, in order, and who is to look again.
    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
        items: &[Self::Item],
    ) -> Result<(Vec<Self::Answer>, Topics), Trouble>;

    /// How many bytes an item brings.
    fn weight(item: &Self::Item) -> usize;
}

type Answers<B> = Result<Vec<<B as Batch>::Answer>, Fault>;

/// One caller's items.
struct Waiting<B: Batch> {
    items: Vec<B::Item>,
    caller: oneshot::Sender<Answers<B>>,
    /// When it gives up. Nothing may happen to its items after that.
    end: Instant,
}

struct Line<B: Batch> {
    waiting: Vec<Waiting<B>>,
    /// Tasks that take from the line.
    takers: usize,
}

/// Where calls of one kind line up.
pub(super) struct Lane<B: Batch> {
    batch: B,
    line: Arc<Mutex<Line<B>>>,
}

impl<B: Batch> Lane<B> {
    pub(super) fn new(batch: B) -> Self {
        Self { batch, line: Arc::new(Mutex::new(Line { waiting: Vec::new(), takers: 0 })) }
    }

    /// Lines up, and waits until the items are done. Dropped meanwhile, they may be done or not, each as a whole.
    pub(super) async fn join(
        &self,
        core: &Arc<Core>,
        items: &[B::Item],
    ) -> Result<Vec<B::Answer>, BackendError> {
        let mut answers = Vec::with_capacity(items.len());
        for items in portions::<B>(items) {
            let (caller, answer) = oneshot::channel();
            let start = {
                let mut line = lock(&self.line);
                let end = Instant::now() + core.deadline;
                line.waiting.push(Waiting { items: items.to_vec(), caller, end });
                let start = line.takers < AT_ONCE;
                line.takers += usize::from(start);
                start
            };
            if start {
                let taker = Taker { line: Arc::clone(&self.line), counts: true };
                core.runtime.spawn(taker.run(self.batch.clone(), Arc::clone(core)));
            }
            // The transaction ends in time by itself; this is for a line that does not move.
            let bounded = tokio::time::timeout(core.deadline + GRACE, answer).await;
            let answer = bounded.map_err(|_| {
                let problem = "the calls before it take too long; is the server overloaded?";
                Fault::new(ErrorClass::Transient, problem)
            });
            let answer = answer.and_then(|answer| answer.unwrap_or_else(|_| Err(gone())));
            answers.extend(answer.map_err(|fault| fault.during(&core.service, B::ACTION))?);
        }
        Ok(answers)
    }
}

fn lock<B: Batch>(line: &Mutex<Line<B>>) -> MutexGuard<'_, Line<B>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller's items in portions that fit into a transaction.
fn portions<B: Batch>(items: &[B::Item]) -> Vec<&[B::Item]> {
    let mut portions = Vec::new();
    let (mut from, mut weight) = (0, 0);
    for (index, item) in items.iter().enumerate() {
        let adds = B::weight(item);
        if index > from && (index - from == BATCH || weight + adds > WEIGHT) {
            portions.push(&items[from..index]);
            (from, weight) = (index, 0);
        }
        weight += adds;
    }
    if from < items.len() {
        portions.push(&items[from..]);
    }
    portions
}

/// Takes from the line until it is empty.
struct Taker<B: Batch> {
    line: Arc<Mutex<Line<B>>>,
    /// Whether it still has a place among the takers.
    counts: bool,
}

impl<B: Batch> Taker<B> {
    async fn run(mut self, batch: B, core: Arc<Core>) {
        loop {
            // Those who are about to line up at this very moment get on too.
            tokio::task::yield_now().await;
            let boarded = self.board();
            if boarded.is_empty() {
                return;
            }
            carry(&batch, &core, boarded).await;
        }
    }

    /// As many callers as fit; those that have gone are left behind. With none left the taker gives up its place, under
    /// the same lock, so that nobody lines up for a taker that has gone.
    fn board(&mut self) -> Vec<Waiting<B>> {
        let mut line = lock(&self.line);
        line.waiting.retain(|waiting| !waiting.caller.is_closed());
        let (mut items, mut weight) = (0, 0);
        let fitting = line.waiting.iter().take_while(|waiting| {
            items += waiting.items.len();
            weight += waiting.items.iter().map(B::weight).sum::<usize>();
            items <= BATCH && weight <= WEIGHT
        });
        // A portion fits by itself.
        let count = fitting.count().max(1).min(line.waiting.len());
        if count == 0 {
            line.takers -= 1;
            self.counts = false;
        }
        line.waiting.drain(..count).collect()
    }
}

impl<B: Batch> Drop for Taker<B> {
    /// A taker that did not come to its end, by a panic or because the runtime has ended, still has its place.
    fn drop(&mut self) {
        if self.counts {
            lock(&self.line).takers -= 1;
        }
    }
}

/// The items of several callers.
struct Together<B: Batch> {
    batch: B,
    items: Vec<B::Item>,
}

#[async_trait]
impl<B: Batch> Operation for Together<B> {
    type Output = (Vec<B::Answer>, Topics);
    const ACTION: &'static str = B::ACTION;
    const SENDS_NEWS_FIRST: bool = B::SENDS_NEWS_FIRST;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        self.batch.run(conn, now, &self.items).await
    }

    fn rings((_, topics): &Self::Output) -> Topics {
        *topics
    }
}

/// Makes one transaction of what these callers want, and answers them.
async fn carry<B: Batch>(batch: &B, core: &Core, boarded: Vec<Waiting<B>>) {
    let alone = boarded.len() == 1;
    let mut sizes = Vec::with_capacity(boarded.len());
    let mut callers = Vec::with_capacity(boarded.len());
    let mut items = Vec::new();
    // The first of them to give up counts for all: what is not committed by then is rolled back.
    let end = boarded.iter().map(|waiting| waiting.end).min().unwrap_or_else(Instant::now);
    for waiting in boarded {
        sizes.push(waiting.items.len());
        items.extend(waiting.items);
        callers.push(waiting.caller);
    }
    let together = Together { batch: batch.clone(), items };
    let fault = match core.perform_until(end, &together).await {
        Ok((answers, _)) => {
            let mut answers = answers.into_iter();
            for (size, caller) in sizes.into_iter().zip(callers) {
                // A caller that has gone does not mind: what it asked for has happened.
                let _ = caller.send(Ok(answers.by_ref().take(size).collect()));
            }
            return;
        }
        Err(failed) => failed.fault,
    };
    if alone || fault.class != ErrorClass::Corrupt {
        for caller in callers {
            let _ = caller.send(Err(fault.clone()));
        }
        return;
    }
    // One item that cannot be stored or read must not spoil what others asked for.
    let mut items = together.items.into_iter();
    for (size, caller) in sizes.into_iter().zip(callers) {
        let apart = Together { batch: batch.clone(), items: items.by_ref().take(size).collect() };
        let done = core.perform_until(end, &apart).await;
        let _ = caller.send(done.map(|(answers, _)| answers).map_err(|failed| failed.fault));
    }
}
