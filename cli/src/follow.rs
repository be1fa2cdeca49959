//! A task followed to its end: a bar on terminals, plain lines elsewhere, both on standard error.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stem_core::id::TaskId;
use stem_core::task::{Progress, TaskRecord, TaskState};
use stem_engine::Client;

use crate::error::CliError;
use crate::output::say;
use crate::view::progress_text;

/// The bar that is drawn now, if any; whatever else goes to standard error must go above it.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn drawn() -> MutexGuard<'static, Option<ProgressBar>> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes to standard error without tearing a bar.
pub fn above_the_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = drawn().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Shows progress.
#[derive(Debug)]
pub struct ProgressDisplay {
    bar: Option<ProgressBar>,
    shown: String,
}

impl ProgressDisplay {
    /// A bar where standard error is a terminal that may be drawn upon, else lines.
    pub fn new(lively: bool) -> Self {
        let bar = lively.then(|| {
            let bar = ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} [{bar:30}] {percent:>3}% {elapsed} {msg}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            *drawn() = Some(bar.clone());
            bar
        });
        Self { bar, shown: String::new() }
    }

    /// Shows what a task is doing, if that is news.
    pub fn show(&mut self, state: &str, progress: Option<&Progress>) {
        let words = progress.map_or_else(String::new, progress_text);
        let line = if words.is_empty() { state.to_owned() } else { format!("{state}: {words}") };
        if line == self.shown {
            return;
        }
        match &self.bar {
            None => say(&line),
            Some(bar) => {
                let fraction =
                    progress.and_then(|progress| progress.fraction).unwrap_or(0.0).clamp(0.0, 1.0);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is between 0 and 1000"
                )]
                bar.set_position((fraction * 1_000.0) as u64);
                let message =
                    progress.and_then(|progress| progress.message.as_deref()).unwrap_or_default();
                bar.set_message(format!("{state} {message}"));
            }
        }
        self.shown = line;
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            *drawn() = None;
            bar.finish_and_clear();
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        self.finish();
    }
}

fn state_text(record: &TaskRecord) -> String {
    match (record.state, &record.worker) {
        (TaskState::Running, Some(worker)) if record.attempt > 1 => {
            format!("running on {worker}, attempt {}", record.attempt)
        }
        (TaskState::Running, Some(worker)) => format!("running on {worker}"),
        (TaskState::Retrying, _) => match &record.failure {
            Some(failure) => format!("retrying after attempt {} ({failure})", record.attempt),
            None => "retrying".to_owned(),
        },
        (state, _) => state.to_string(),
    }
}

/// Follows a task until it has ended, or for so long. `None` if there is no such task. Ctrl-C ends the following and
/// leaves the task alone.
pub async fn to_the_end(
    client: &Client,
    task: &TaskId,
    timeout: Option<Duration>,
    lively: bool,
) -> Result<Option<TaskRecord>, CliError> {
    let mut display = ProgressDisplay::new(lively);
    let waiting = client.wait(task, timeout, |record| {
        if !record.state.is_final() {
            display.show(&state_text(record), record.progress.as_ref());
        }
    });
    tokio::select! {
        record = waiting => Ok(record?),
        interrupted = tokio::signal::ctrl_c() => Err(match interrupted {
            Ok(()) => CliError::failed(
                format!("stopped waiting; task {task} was left alone and goes on"),
                format!("`stem task wait {task}` follows it again, `stem worker revoke --task {task} --terminate` stops it"),
            ),
            Err(error) => CliError::failed(format!("cannot listen for Ctrl-C: {error}"), "try again without waiting"),
        }),
    }
}
