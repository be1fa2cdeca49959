//! The decisions, as the worker itself tells them in its log.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The messages of the worker that are decisions.
const CHANGED: &str = "concurrency changed";
const STAYS: &str = "concurrency stays";

/// A decision that changed something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    /// Seconds since the beginning.
    pub(crate) at: f64,
    /// How many may run from then on.
    pub(crate) to: f64,
}

#[derive(Default)]
struct Told {
    lines: Vec<String>,
    changes: Vec<Change>,
    /// Why nothing changed, as it was last told.
    why: String,
}

/// What was decided so far.
#[derive(Clone)]
pub(crate) struct Decisions {
    started: Instant,
    told: Arc<Mutex<Told>>,
}

impl Decisions {
    /// From now on, every decision of a worker of this process.
    pub(crate) fn listen() -> Self {
        let this = Self { started: Instant::now(), told: Arc::default() };
        tracing_subscriber::registry().with(this.clone()).init();
        this
    }

    /// Prints what came since the last time.
    #[expect(clippy::print_stdout, reason = "printing is what this program is for")]
    pub(crate) fn print(&self) {
        let lines = std::mem::take(&mut self.lock().lines);
        for line in lines {
            println!("{line}");
        }
    }

    /// Those that changed something.
    pub(crate) fn take(&self) -> Vec<Change> {
        self.print();
        std::mem::take(&mut self.lock().changes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fields of one line of the log, as text.
#[derive(Default)]
struct Fields(HashMap<&'static str, String>);

impl Fields {
    fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("unknown", String::as_str)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Decisions {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let at = self.started.elapsed().as_secs_f64();
        let inputs = format!("{} wait, {} in hand", fields.get("depth"), fields.get("inflight"));
        let mut told = self.lock();
        match fields.get("message") {
            CHANGED => {
                let (from, to) = (fields.get("from"), fields.get("to"));
                told.lines.push(format!("{at:6.1} s  {from:>2} -> {to:<2}  {inputs}"));
                told.why.clear();
                if let Ok(to) = to.parse() {
                    told.changes.push(Change { at, to });
                }
            }
            STAYS => {
                let (at_once, why) = (fields.get("at"), fields.get("why"));
                // Said once for each reason, not at each look.
                if told.why != why {
                    told.lines.push(format!("{at:6.1} s  {at_once:>2} stays   {inputs}: {why}"));
                    why.clone_into(&mut told.why);
                }
            }
            _ => {}
        }
    }
}
