//! [`Script`]: what a simulated task does. Its handler is an ordinary native one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName};
use stem_engine::{Child, Release, TaskContext, TaskError};

use crate::desk::Desk;
use crate::fact::{End, Fact, Held};

/// The name by which the handler of scripts is known.
pub const NAME: &str = "sim";
/// What a handler that panics as its script says has to say.
pub const SCRIPTED: &str = "scripted panic";
/// Between two checkpoints of a step that works.
const CHECK: u64 = 50;

/// One thing that a task does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Works for so many milliseconds, with a checkpoint each 50.
    Work(u64),
    /// Works for so many milliseconds without one.
    Stubborn(u64),
    /// Publishes progress.
    Progress,
    /// Saves a checkpoint.
    Save,
    /// Enqueues a child at once, under this key.
    ChildNow(u8),
    /// Enqueues a child with its success, under this key.
    ChildOnSuccess(u8),
    /// Asks for so many milliseconds more on its lease.
    Extend(u64),
    /// Fails before this attempt.
    FailUnless {
        /// The first that does not.
        attempt: u32,
        /// Asks for so many milliseconds until the next.
        after: Option<u64>,
        /// Is never tried again.
        fatal: bool,
    },
    /// Panics, in the first attempt.
    Panic,
    /// Takes the process down.
    KillWorker,
}

/// What a task does, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script(pub Vec<Step>);

impl Script {
    /// Whether it takes its process down.
    pub fn kills(&self) -> bool {
        self.0.contains(&Step::KillWorker)
    }

    /// How long one attempt may take, in milliseconds.
    pub fn longest(&self) -> u64 {
        let of = |step: &Step| match step {
            Step::Work(ms) | Step::Stubborn(ms) => *ms,
            _ => 0,
        };
        self.0.iter().map(of).sum()
    }

    /// As a task's arguments.
    pub fn payload(&self) -> Payload {
        Payload::json(serde_json::to_vec(self).expect("a script is JSON"))
    }
}

/// Tells that a handler was dropped, unless it told how it ended.
struct Running {
    desk: Arc<Desk>,
    held: Held,
    told: bool,
}

impl Running {
    fn end(mut self, end: End) {
        self.told = true;
        self.desk.tell(Fact::HandlerEnded { held: self.held.clone(), end });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.told {
            let end = if std::thread::panicking() { End::Panicked } else { End::Dropped };
            self.desk.tell(Fact::HandlerEnded { held: self.held.clone(), end });
        }
    }
}

/// The handler. Its result names the task, the attempt and the token.
pub async fn run(
    desk: Arc<Desk>,
    context: TaskContext,
    script: Script,
) -> Result<String, TaskError> {
    let task = TaskId::new(&context.info().task_id).expect("a task's id");
    let held = desk.start(&task);
    let attempt = context.info().attempt;
    desk.tell(Fact::Started { held: held.clone(), attempt });
    let running = Running { desk: Arc::clone(&desk), held: held.clone(), told: false };
    let script = if desk.is_calm() { Script(vec![Step::Work(5)]) } else { script };
    for step in script.0 {
        if let Err((error, end)) = perform(&desk, &context, attempt, step).await {
            running.end(end);
            return Err(error);
        }
    }
    let result = format!("{task}/{attempt}/{}", held.token);
    running.end(End::Succeeded(serde_json::to_vec(&result).expect("a text is JSON")));
    Ok(result)
}

async fn perform(
    desk: &Desk,
    context: &TaskContext,
    attempt: u32,
    step: Step,
) -> Result<(), (TaskError, End)> {
    let interrupted = |error| (TaskError::from(error), End::Interrupted);
    // Whether a refused call means an interrupt only the worker knows; for the judge the handler gave up.
    let refused = |error: TaskError| (error, End::Interrupted);
    match step {
        Step::Work(ms) => {
            let mut left = ms;
            while left > 0 {
                let now = left.min(CHECK);
                tokio::time::sleep(Duration::from_millis(now)).await;
                left -= now;
                context.heartbeat().map_err(interrupted)?;
            }
        }
        Step::Stubborn(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Step::Progress => context.progress(0.5, "half").map_err(interrupted)?,
        Step::Save => context.save_checkpoint(b"half".to_vec()).await.map_err(refused)?,
        Step::ChildNow(key) => enqueue(context, key, Release::Now).await.map_err(refused)?,
        Step::ChildOnSuccess(key) => {
            enqueue(context, key, Release::OnSuccess).await.map_err(refused)?;
        }
        Step::Extend(ms) => {
            context.extend_lease(Duration::from_millis(ms)).await.map_err(interrupted)?;
        }
        Step::FailUnless { attempt: first, after, fatal } if attempt < first => {
            let error = match after {
                _ if fatal => TaskError::fatal("scripted", "for good"),
                Some(ms) => TaskError::retry_after("scripted", "later", Duration::from_millis(ms)),
                None => TaskError::retryable("scripted", "again"),
            };
            return Err((error, End::Failed { fatal }));
        }
        Step::Panic if attempt == 1 => panic!("{SCRIPTED}"),
        Step::FailUnless { .. } | Step::Panic => {}
        Step::KillWorker => {
            desk.doom();
            // Until the world has seen it.
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

async fn enqueue(context: &TaskContext, key: u8, release: Release) -> Result<(), TaskError> {
    let script = Script(vec![Step::Work(20)]);
    let name = TaskName::new(NAME).expect("a constant that follows the rules");
    let child = Child { dedup_key: Some(format!("k{key}")), ..Child::new(name, script.payload()) };
    context.enqueue(vec![child], release).await.map(drop)
}
