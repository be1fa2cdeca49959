//! Calls of one kind that meet at the writer become one batch, so that many single settlements cost what one costs.
//!
//! A savepoint and its statements are a handful of trips to SQLite's thread, whatever they carry. With 32 slots that
//! settle one task each, merging them is worth an order of magnitude.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::ErrorClass;
use stem_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::writer::{Job, Topics};
use crate::fault::Fault;

/// Items in one batch; the rest goes into the next.
const BATCH: usize = 1024;

/// A change that is defined item by item, so that the batches of several callers can be run as one.
#[async_trait]
pub(super) trait Batch: Clone + Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Answer: Send + 'static;
    /// What is tried, completing "failed to …".
    const ACTION: &'static str;
    /// Who is to look again when it has happened.
    const RINGS: Topics;

    /// Runs inside the writer's transaction. One answer for each item, in order.
    async fn run(
        &self,
        conn: &mut SqliteConnection,
        now: Timestamp,
        items: &[Self::Item],
    ) -> Result<Vec<Self::Answer>, Fault>;

    /// Whether this answer means a change that others wait for.
    fn wrote(answer: &Self::Answer) -> bool;
}

type Answers<B> = Result<Vec<<B as Batch>::Answer>, Fault>;

/// One caller's items.
struct Waiting<B: Batch> {
    items: Vec<B::Item>,
    caller: oneshot::Sender<Answers<B>>,
}

type Line<B> = Arc<Mutex<Vec<Waiting<B>>>>;

/// Where calls of one kind line up.
pub(super) struct Lane<B: Batch> {
    batch: B,
    waiting: Line<B>,
}

impl<B: Batch> Lane<B> {
    pub(super) fn new(batch: B) -> Self {
        Self { batch, waiting: Arc::default() }
    }

    /// Lines up, and calls the writer if nobody else in the line has. Dropped before it returns, it has done nothing.
    pub(super) async fn join(
        &self,
        jobs: &mpsc::Sender<Box<dyn Job>>,
        items: Vec<B::Item>,
    ) -> Option<oneshot::Receiver<Answers<B>>> {
        let place = jobs.reserve().await.ok()?;
        let (caller, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            place.send(Box::new(Drain {
                batch: self.batch.clone(),
                waiting: Arc::clone(&self.waiting),
                sizes: Vec::new(),
                callers: Vec::new(),
                items: Vec::new(),
                answers: Vec::new(),
            }));
        }
        waiting.push(Waiting { items, caller });
        Some(answer)
    }
}

/// Takes the line and runs it as one batch.
struct Drain<B: Batch> {
    batch: B,
    waiting: Line<B>,
    sizes: Vec<usize>,
    callers: Vec<oneshot::Sender<Answers<B>>>,
    items: Vec<B::Item>,
    answers: Vec<B::Answer>,
}

impl<B: Batch> Drain<B> {
    fn board(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for one in waiting.drain(..) {
            self.sizes.push(one.items.len());
            self.items.extend(one.items);
            self.callers.push(one.caller);
        }
    }

    /// Each caller's items as a job of its own.
    fn apart(self) -> Vec<Box<dyn Job>> {
        let mut items = self.items.into_iter();
        self.sizes
            .into_iter()
            .zip(self.callers)
            .map(|(size, caller)| {
                let items: Vec<B::Item> = items.by_ref().take(size).collect();
                let waiting = Arc::default();
                let job: Box<dyn Job> = Box::new(Self {
                    batch: self.batch.clone(),
                    waiting,
                    sizes: vec![size],
                    callers: vec![caller],
                    items,
                    answers: Vec::new(),
                });
                job
            })
            .collect()
    }
}

#[async_trait]
impl<B: Batch> Job for Drain<B> {
    fn is_pointless(&self) -> bool {
        false
    }

    fn is_fleeting(&self) -> bool {
        false
    }

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<(), Fault> {
        if self.callers.is_empty() {
            self.board();
        }
        let mut answers = Vec::with_capacity(self.items.len());
        for items in self.items.chunks(BATCH) {
            answers.extend(self.batch.run(conn, now, items).await?);
        }
        self.answers = answers;
        Ok(())
    }

    fn finish(mut self: Box<Self>, committed: Result<(), Fault>) -> (Topics, Vec<Box<dyn Job>>) {
        // It can fail before it ran, for instance when the lock cannot be had; those in the line must hear of it.
        if self.callers.is_empty() {
            self.board();
        }
        match committed {
            Ok(()) => {
                let rings = if self.answers.iter().any(B::wrote) { B::RINGS } else { Topics::NONE };
                let mut answers = self.answers.into_iter();
                for (size, caller) in self.sizes.into_iter().zip(self.callers) {
                    // A caller that has gone does not mind: what it asked for has happened.
                    let _ = caller.send(Ok(answers.by_ref().take(size).collect()));
                }
                (rings, Vec::new())
            }
            // One item that cannot be read must not spoil what others asked for.
            Err(fault) if fault.class == ErrorClass::Corrupt && self.callers.len() > 1 => {
                (Topics::NONE, self.apart())
            }
            Err(fault) => {
                for caller in self.callers {
                    let _ = caller.send(Err(fault.clone()));
                }
                (Topics::NONE, Vec::new())
            }
        }
    }
}
