//! `stem dlq replay` and `stem dlq purge`: first what is meant, then consent, then the deed.

use serde_json::{Map, Value, json};
use stem_core::backend::dead_letter::{DeadLetter, Replayed};
use stem_core::id::TaskId;
use stem_engine::{Backends, Client, SystemClock};

use super::super::Context;
use super::super::consent::{self, Consent, count};
use super::{document, filter, text};
use crate::args::DeadChange;
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};

/// Dead letters that are changed in one step.
const BATCH: usize = 500;

/// What is meant, and whether it may be done.
struct Meant {
    backends: Backends,
    letters: Vec<DeadLetter>,
    /// Named by the operator, and not there.
    absent: Vec<TaskId>,
    consent: Consent,
    printer: Printer,
}

impl Meant {
    async fn find(context: &Context, args: DeadChange, verb: &str) -> Result<Self, CliError> {
        let settings = context.settings(|_| {})?;
        let backends = connect::connect(&settings).await?;
        let mut args_filter = args.filter;
        args_filter.id.extend(args.ids);
        let mut named = args_filter.id.clone();
        named.sort();
        named.dedup();
        let letters = backends.dead_letters.list(&filter(args_filter)).await?;
        let absent: Vec<TaskId> = named
            .into_iter()
            .filter(|id| letters.iter().all(|letter| letter.task != *id))
            .collect();
        if letters.is_empty() && !absent.is_empty() {
            let names: Vec<&str> = absent.iter().map(TaskId::as_str).collect();
            return Err(CliError::nothing(
                format!("there is no dead letter {} that fits", names.join(", ")),
                "`stem dlq list` shows what there is",
            ));
        }
        let consent = if letters.is_empty() {
            Consent::Given
        } else {
            consent::ask(
                args.consent,
                &format!("{verb} {}", count(letters.len() as u64, "dead letter")),
            )?
        };
        Ok(Self { backends, letters, absent, consent, printer: Printer::new(args.json.json) })
    }

    /// Only says what is meant.
    fn dry_run(&self, verb: &str) -> Outcome {
        let documents: Vec<Map<String, Value>> = self.letters.iter().map(document).collect();
        let document = json!({"dryRun": true, "matched": self.letters.len(), "absent": self.absent, "deadLetters": documents});
        self.printer.print(&document, || text(&self.letters))?;
        say(format!(
            "dry run: would {verb} {}; nothing was done",
            count(self.letters.len() as u64, "dead letter")
        ));
        Ok(Ending::Done)
    }

    fn tasks(&self) -> Vec<TaskId> {
        self.letters.iter().map(|letter| letter.task.clone()).collect()
    }
}

pub(super) async fn replay(context: &Context, args: DeadChange) -> Outcome {
    let meant = Meant::find(context, args, "replay").await?;
    if meant.consent == Consent::DryRun {
        return meant.dry_run("replay");
    }
    let client = Client::new(meant.backends.clone(), std::sync::Arc::new(SystemClock));
    let (mut replayed, mut absent, mut unreadable) = (Vec::new(), meant.absent.clone(), Vec::new());
    for batch in meant.tasks().chunks(BATCH) {
        let outcomes = client.replay(batch).await?;
        for (task, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Replayed::Queued => replayed.push(task.clone()),
                Replayed::Absent => absent.push(task.clone()),
                Replayed::Unreadable => unreadable.push(task.clone()),
            }
        }
    }
    let document = json!({
        "dryRun": false, "matched": meant.letters.len(), "replayed": replayed, "absent": absent, "unreadable": unreadable,
    });
    meant.printer.print(&document, || {
        let mut lines: Vec<String> =
            replayed.iter().map(|task| format!("{task} is queued again")).collect();
        lines.push(format!("{} replayed", count(replayed.len() as u64, "dead letter")));
        lines.join("\n")
    })?;
    for (tasks, problem) in [
        (&absent, "not there any more"),
        (&unreadable, "not replayed: its envelope cannot be read"),
    ] {
        for task in tasks {
            say(format!("error: dead letter {task}: {problem}"));
        }
    }
    if !absent.is_empty() || !unreadable.is_empty() {
        say(
            "hint: `stem dlq list` shows what is left; `stem dlq purge` removes what cannot be read",
        );
    }
    Ok(match (replayed.is_empty(), absent.is_empty() && unreadable.is_empty()) {
        (_, true) => Ending::Done,
        (false, false) => Ending::Partial,
        (true, false) if unreadable.is_empty() => Ending::Nothing,
        (true, false) => Ending::Failed,
    })
}

pub(super) async fn purge(context: &Context, args: DeadChange) -> Outcome {
    let meant = Meant::find(context, args, "remove").await?;
    if meant.consent == Consent::DryRun {
        return meant.dry_run("remove");
    }
    let mut purged = 0;
    for batch in meant.tasks().chunks(BATCH) {
        purged += meant.backends.dead_letters.purge(batch).await?;
    }
    let document = json!({"dryRun": false, "matched": meant.letters.len(), "purged": purged, "absent": meant.absent});
    meant.printer.print(&document, || format!("{} removed", count(purged, "dead letter")))?;
    for task in &meant.absent {
        say(format!("error: dead letter {task}: not there"));
    }
    if !meant.absent.is_empty() {
        say("hint: `stem dlq list` shows what is left");
    }
    Ok(if meant.absent.is_empty() { Ending::Done } else { Ending::Partial })
}
