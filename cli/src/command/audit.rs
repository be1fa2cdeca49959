//! `stem audit`: the audit log of this machine's user, read, followed, and held against its sums.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use stem_core::text::printable;
use stem_core::time::{Clock, Timestamp};
use stem_engine::SystemClock;
use stem_engine::audit::read::{Chain, Snapshot};
use stem_engine::audit::{Record, Verdict};

use super::Context;
use crate::args::{AuditArgs, Since};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, Written, say, table};

/// How often the log is looked at while it is followed.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn run(context: &Context, args: &AuditArgs) -> Outcome {
    let settings = context.settings(|_| {})?;
    let path = args.file.clone().or(settings.audit_log.value).ok_or_else(|| {
        CliError::usage("no audit log is set", "name one with --file, or set audit-log (STEM_AUDIT_LOG) for workers and for those who steer them")
    })?;
    let snapshot = Snapshot::take(&path).map_err(unreadable)?;
    let mut snapshot = snapshot.ok_or_else(|| {
        CliError::nothing(
            format!("there is no audit log {}", path.display()),
            "it is made by the first worker or command that is set to write there",
        )
    })?;
    let printer = Printer::new(args.json.json);
    if args.verify {
        return verify(&path, &mut snapshot, printer);
    }
    let filter = Filter::of(args, SystemClock.now());
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut newest = VecDeque::new();
    let chain = snapshot.read(|record| {
        if filter.takes(&record) {
            if newest.len() == limit {
                newest.pop_front();
            }
            newest.push_back(record);
        }
    });
    let chain = chain.map_err(unreadable)?;
    if args.follow {
        warn(&chain);
        return follow(snapshot, &filter, newest, printer);
    }
    let document = json!({ "file": path, "entries": newest, "intact": chain.broken.is_empty() });
    printer.print(&document, || text(&newest))?;
    warn(&chain);
    if newest.is_empty() {
        return Err(CliError::nothing(
            "no entry of the audit log fits",
            "ask for less, or read another log with --file",
        ));
    }
    Ok(Ending::Done)
}

fn unreadable(problem: String) -> CliError {
    CliError::failed(problem, "only its owner and root may read it; name another with --file")
}

fn warn(chain: &Chain) {
    if let Some(found) = chain.broken.first() {
        let (file, line) = (found.file.display(), found.line);
        say(format!(
            "warning: {file}, line {line}: {}; `stem audit --verify` says all",
            found.problem
        ));
    }
}

fn verify(path: &Path, snapshot: &mut Snapshot, printer: Printer) -> Outcome {
    let chain = snapshot.read(drop).map_err(unreadable)?;
    let intact = chain.broken.is_empty();
    let document = json!({
        "file": path,
        "files": snapshot.files(),
        "intact": intact,
        "entries": chain.entries,
        "first": chain.first,
        "last": chain.last,
        "unreadable": chain.unreadable,
        "vouched": chain.vouched,
        "broken": chain.broken,
    });
    printer.print(&document, || {
        let broken = chain.broken.iter().map(|found| {
            format!(
                "{}, line {}: {}\n",
                found.file.display(),
                found.line,
                printable(&found.problem, 400)
            )
        });
        let range = match (chain.first, chain.last) {
            (Some(first), Some(last)) => format!("entries {first} to {last}"),
            _ => "no entry".to_owned(),
        };
        let end = if intact { "as they were written" } else { "not all as they were written" };
        format!("{}{range}: {end}", broken.collect::<String>())
    })?;
    if chain.unreadable > 0 {
        let lines = if chain.unreadable == 1 { "line is" } else { "lines are" };
        say(format!(
            "note: {} {lines} no entry, as a write leaves that was broken off; no entry is missing for it",
            chain.unreadable
        ));
    }
    if !chain.vouched {
        say(
            "note: nothing beside the log says which entry was the last, so its end may have been cut",
        );
    }
    if intact {
        return Ok(Ending::Done);
    }
    Err(CliError::failed(
        format!("the audit log {} is not as it was written", path.display()),
        "compare it with what was sent away or saved; who can write the file can change it",
    ))
}

/// Which entries are wanted.
struct Filter<'a> {
    args: &'a AuditArgs,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl<'a> Filter<'a> {
    fn of(args: &'a AuditArgs, now: Timestamp) -> Self {
        let time = |since| match since {
            Since::At(time) => time,
            Since::Ago(span) => {
                let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_unix_millis(now.unix_millis().saturating_sub(span))
            }
        };
        Self { args, since: args.since.map(time), until: args.until.map(time) }
    }

    fn takes(&self, Record { entry, .. }: &Record) -> bool {
        let is_meant = |word: &String| {
            entry.what == *word
                || entry.what.strip_suffix(word.as_str()).is_some_and(|group| group.ends_with(' '))
        };
        self.since.is_none_or(|since| since <= entry.at)
            && self.until.is_none_or(|until| entry.at < until)
            && self.args.what.as_ref().is_none_or(is_meant)
            && self.args.key.as_ref().is_none_or(|key| entry.key.as_ref() == Some(key))
            && (!self.args.refused || entry.verdict == Verdict::Refused)
    }
}

/// Writes what there is and what comes, until nobody reads any more or a signal ends the program.
fn follow(
    snapshot: Snapshot,
    filter: &Filter<'_>,
    newest: VecDeque<Record>,
    printer: Printer,
) -> Outcome {
    let mut tail = snapshot.tail();
    let mut records: Vec<Record> = newest.into();
    loop {
        for record in records.iter().filter(|record| filter.takes(record)) {
            if printer.print(record, || line(record).join("  "))? == Written::ReaderGone {
                return Ok(Ending::Done);
            }
        }
        std::thread::sleep(LOOK);
        records = tail.look().map_err(unreadable)?;
    }
}

fn text(records: &VecDeque<Record>) -> String {
    if records.is_empty() {
        return String::new();
    }
    table(
        &["ENTRY", "TIME", "SIDE", "BY", "VERDICT", "WHAT", "KEY", "MORE"],
        records.iter().map(line),
    )
}

fn line(Record { seq, entry }: &Record) -> Vec<String> {
    let more = [
        entry.asked.map(|asked| format!("of entry {asked}")),
        entry.exit.map(|exit| format!("exit {exit}")),
        entry.namespace.as_ref().map(|namespace| format!("in {namespace}")),
        entry.requester.as_ref().map(|requester| format!("asked by {requester}")),
        entry.request.as_ref().map(|request| format!("request {request}")),
        entry.reason.clone(),
        entry.about.as_ref().map(ToString::to_string),
        entry.more.map(|more| format!("{more} more")),
    ];
    let more: Vec<String> = more.into_iter().flatten().map(|text| printable(&text, 500)).collect();
    vec![
        seq.to_string(),
        entry.at.to_string(),
        entry.side.as_str().to_owned(),
        printable(&entry.by, 100),
        entry.verdict.as_str().to_owned(),
        printable(&entry.what, 100),
        entry.key.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        more.join("; "),
    ]
}
