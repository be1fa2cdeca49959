//! Exit codes and documents: every command that operates workers, revocations and queues, in every world it may meet.
//!
//! The table is the interface. What cannot happen stands in it with the reason.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::broker::Pause;
use stem_core::backend::control::Position;
use stem_core::control::wire::{self, ReplyFrame};
use stem_core::control::{Answer, ControlError, Reply};
use stem_core::envelope::Payload;
use stem_core::id::{Namespace, QueueName, TaskId, TaskName, WorkerId};
use stem_core::release::{Push, PushId, Rollout};
use stem_core::revoke::{RevokeRequest, module_key};
use stem_core::time::Clock;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use support::{BUILD, Live, Place, Ran, appear, assert_keys, fill};

/// What the world is like when a command runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum World {
    /// A live worker, and something of everything in the stores.
    Answered,
    /// An empty store.
    Nobody,
    /// A worker with a fresh heartbeat that answers nothing.
    Silent,
    /// A live worker and one that is silent.
    Partial,
    /// A worker that answers with an error.
    Refused,
    /// Stores that cannot be opened.
    Unreadable,
    /// Stores with all of this that can be read and refuse to write.
    Unwritable,
    /// A flag that there is not.
    Misused,
}

use World::{Answered, Misused, Nobody, Partial, Refused, Silent, Unreadable, Unwritable};

const WORLDS: [World; 8] =
    [Answered, Nobody, Silent, Partial, Refused, Unreadable, Unwritable, Misused];

/// What a command does in a world.
#[derive(Clone, Copy, Debug)]
enum Cell {
    /// Ends with this code.
    Code(i32),
    /// With these words more, it ends with this code.
    With(&'static [&'static str], i32),
    /// Cannot happen, because …
    Never(&'static str),
}

use Cell::{Code, Never, With};

/// One command, its document and its cells in the order of [`WORLDS`].
struct Row {
    words: &'static [&'static str],
    /// The document's keys, those that may be absent with a `?`; `[]` first: of each item of a list.
    keys: &'static str,
    /// Whether there is a document where nothing is there (code 3).
    tells_nothing: bool,
    cells: [Cell; 8],
}

const ENVELOPE: &str = "requestId namespace expected missing elapsedMs replies";
const REVOKED: &str =
    "requestId namespace expected missing elapsedMs replies persisted store acknowledgedBy";
const HEARTBEAT: &str = "[] status silentMs worker bootId namespace state host pid startedAt seenAt intervalMs concurrency queues tasks inflight oldestWithoutProgress?";
const RECORD: &str = "[] namespace taskId version issuedAt terminate cooperative graceMs? reason? requestedBy? expiresAt?";
const RELEASE: &str =
    "[] name version digest size pushedAt pushedBy? signatures recalled canaryPercent";
const QUEUE: &str =
    "[] name depth delayed inflight paused pausedSince? pauseReason? unroutable tasks";

const CONTROL: [Cell; 8] = [Code(0), Code(3), Code(3), Code(4), Code(1), Code(5), Code(5), Code(2)];
const ASKS_NOBODY: Cell = Never("it reads a store and asks no worker");
const ALL_OR_NOTHING: Cell = Never("one store gives one answer");

const TABLE: &[Row] = &[
    control(&["worker", "ping"]),
    control(&["worker", "inspect"]),
    control(&["worker", "inspect", "--no-revoked"]),
    control(&["worker", "stats"]),
    control(&["worker", "shutdown"]),
    control(&["worker", "shutdown", "--mode", "soft", "--grace", "1s"]),
    control(&["worker", "pause", "--queue", "p"]),
    control(&["worker", "resume", "--queue", "p"]),
    Row {
        words: &["worker", "revoke", "--task", "t"],
        keys: REVOKED,
        tells_nothing: true,
        // What is stored is done, also where nobody is there to be told.
        cells: [Code(0), Code(0), Code(3), Code(4), Code(1), Code(5), Code(5), Code(2)],
    },
    Row {
        words: &["worker", "revoke", "--module", BUILD],
        keys: REVOKED,
        tells_nothing: true,
        cells: [Code(0), Code(0), Code(3), Code(4), Code(1), Code(5), Code(5), Code(2)],
    },
    Row {
        words: &["worker", "status"],
        keys: HEARTBEAT,
        tells_nothing: true,
        cells: [
            Code(0),
            Code(3),
            Code(0),
            With(&["--worker", "a,zz"], 4),
            ASKS_NOBODY,
            Code(5),
            Code(0),
            Code(2),
        ],
    },
    Row { words: &["revokes", "list"], keys: RECORD, tells_nothing: false, cells: reader(Code(0)) },
    Row {
        words: &["revokes", "undo", "--task", "t"],
        keys: "taskId namespace version undone",
        tells_nothing: false,
        cells: writer(Code(3)),
    },
    Row {
        words: &["revokes", "undo", "--module", BUILD],
        keys: "taskId namespace version undone",
        tells_nothing: false,
        cells: writer(Code(3)),
    },
    Row { words: &["module", "list"], keys: RELEASE, tells_nothing: false, cells: reader(Code(0)) },
    Row {
        words: &["revokes", "prune"],
        keys: "namespace pruned",
        tells_nothing: false,
        cells: writer(Code(0)),
    },
    Row {
        // It is for a store that is a file of lines, which these are not.
        words: &["revokes", "repair"],
        keys: "",
        tells_nothing: false,
        cells: [
            Code(2),
            Code(2),
            ASKS_NOBODY,
            ALL_OR_NOTHING,
            ASKS_NOBODY,
            Code(2),
            Code(2),
            Code(2),
        ],
    },
    Row { words: &["queue", "list"], keys: QUEUE, tells_nothing: false, cells: reader(Code(0)) },
    Row {
        words: &["queue", "pause", "q"],
        keys: "updated paused",
        tells_nothing: false,
        cells: writer(Code(0)),
    },
    Row {
        words: &["queue", "resume", "held"],
        keys: "updated paused",
        tells_nothing: false,
        cells: writer(Code(0)),
    },
    Row {
        words: &["queue", "purge", "q", "--yes"],
        keys: "queue dryRun matched purged",
        tells_nothing: false,
        cells: writer(Code(3)),
    },
];

const fn control(words: &'static [&'static str]) -> Row {
    Row { words, keys: ENVELOPE, tells_nothing: true, cells: CONTROL }
}

const fn reader(empty: Cell) -> [Cell; 8] {
    [Code(0), empty, ASKS_NOBODY, ALL_OR_NOTHING, ASKS_NOBODY, Code(5), Code(0), Code(2)]
}

const fn writer(empty: Cell) -> [Cell; 8] {
    [Code(0), empty, ASKS_NOBODY, ALL_OR_NOTHING, ASKS_NOBODY, Code(5), Code(5), Code(2)]
}

/// `t` is revoked and a build recalled, a revocation has expired, queue `q` holds a task that nobody takes, queue `held`
/// is paused, and a release serves.
async fn furnish(backends: &Backends) {
    let expired = RevokeRequest { expires_at: Some(SystemClock.now()), ..RevokeRequest::default() };
    let tasks = [("t", RevokeRequest::default()), ("gone", expired)];
    let mut tasks = tasks.map(|(task, request)| (TaskId::new(task).unwrap(), request)).to_vec();
    tasks.push((module_key(&BUILD.parse().unwrap()), RevokeRequest::default()));
    backends.revokes.revoke(&Namespace::new("stem").unwrap(), &tasks).await.unwrap();
    let push = Push {
        id: PushId::fresh(),
        name: TaskName::new("job").unwrap(),
        digest: BUILD.parse().unwrap(),
        size: 11,
        manifest: String::new(),
        pushed_by: Some("ann".into()),
        signatures: Vec::new(),
    };
    backends.modules.put(&push.digest, b"hello world").await.unwrap();
    backends.modules.push(&push, Rollout::Whole).await.unwrap();
    let pause = Pause { reason: None, since: SystemClock.now() };
    backends.broker.set_paused(&QueueName::new("held").unwrap(), Some(pause)).await.unwrap();
    let options =
        EnqueueOptions { queue: QueueName::new("q").unwrap(), ..EnqueueOptions::default() };
    let client = Client::new(backends.clone(), Arc::new(SystemClock));
    client.enqueue(TaskName::new("x").unwrap(), Payload::json("{}"), options).await.unwrap();
}

/// Answers the next command with an error.
async fn refuse_next(backends: Backends) -> tokio::task::JoinHandle<()> {
    let namespace = Namespace::new("stem").unwrap();
    let position = backends.control.position(&namespace).await.unwrap();
    tokio::spawn(async move {
        let command = loop {
            let wait = Duration::from_secs(1);
            let seen = backends.control.commands(&namespace, position, wait).await.unwrap();
            if let Some((_, text)) = seen.first() {
                break wire::command(text.as_bytes()).unwrap();
            }
        };
        let error =
            ControlError { code: "unavailable".into(), message: "the broker is away".into() };
        let worker = WorkerId::new("a").unwrap();
        let reply =
            Reply { request_id: command.request_id, worker, answer: Answer::Error { error } };
        backends.control.reply(&namespace, &ReplyFrame::plain(&reply)).await.unwrap();
    })
}

/// Stores that can be read and refuse to write, as long as the backends are kept.
async fn full() -> (Place, Backends) {
    let place = Place::new();
    let backends = place.backends().await;
    appear(&backends, "a").await;
    furnish(&backends).await;
    fill(&backends).await;
    (place, backends)
}

/// Runs a command in a world of its own, or in the one where nothing can be changed.
async fn run(world: World, full: Option<&(Place, Backends)>, words: &[&str]) -> Ran {
    let place = Place::new();
    let asks = words[0] == "worker" && words[1] != "status";
    let mut words = words.to_vec();
    let off = |run: &dyn Fn() -> Ran| tokio::task::block_in_place(run);
    match world {
        Nobody => off(&|| place.stem(&words)),
        Misused => {
            words.push("--no-such-flag");
            off(&|| place.stem(&words))
        }
        Unreadable => {
            place.write("bad.db", vec![7_u8; 8192]);
            off(&|| place.stem_env(&[("STEM_BROKER_URL", "sqlite://bad.db")], &words))
        }
        Unwritable => {
            let (place, backends) = full.expect("it was made for this world");
            let ran = off(&|| place.stem_with_small_files(&[], &words));
            let namespace = Namespace::new("stem").unwrap();
            let commands =
                backends.control.commands(&namespace, Position::default(), Duration::ZERO);
            assert!(commands.await.unwrap().is_empty(), "{words:?}: it was sent all the same");
            ran
        }
        Silent => {
            appear(&place.backends().await, "a").await;
            words.extend(["--timeout", "200ms"].iter().filter(|_| asks));
            off(&|| place.stem(&words))
        }
        Refused => {
            let backends = place.backends().await;
            appear(&backends, "a").await;
            let refusing = refuse_next(backends).await;
            words.extend(["--timeout", "1m"]);
            let ran = off(&|| place.stem(&words));
            refusing.await.unwrap();
            ran
        }
        Answered | Partial => {
            let backends = place.backends().await;
            furnish(&backends).await;
            let live = Live::start(backends.clone(), "a").await;
            if world == Partial {
                appear(&backends, "ghost").await;
                words.extend(["--timeout", "5s"].iter().filter(|_| asks));
            }
            let ran = off(&|| place.stem(&words));
            drop(live);
            ran
        }
    }
}

async fn walk(world: World) {
    let at = WORLDS.iter().position(|known| *known == world).unwrap();
    let full = Arc::new(if world == Unwritable { Some(full().await) } else { None });
    // A few at once: most of the time of some of them is waiting for who does not answer.
    for rows in TABLE.chunks(5) {
        let mut running = tokio::task::JoinSet::new();
        for row in rows {
            let full = Arc::clone(&full);
            running.spawn(async move {
                try_one(world, full.as_ref().as_ref(), row, row.cells[at]).await;
            });
        }
        running.join_all().await;
    }
}

/// Runs one command as text and as JSON.
async fn try_one(world: World, full: Option<&(Place, Backends)>, row: &Row, cell: Cell) {
    let (more, code) = match cell {
        Code(code) => (&[][..], code),
        With(more, code) => (more, code),
        Never(reason) => {
            assert!(!reason.is_empty());
            return;
        }
    };
    let mut words = row.words.to_vec();
    words.extend(more);
    let what = format!("{world:?}: {words:?}");
    let text = run(world, full, &words).await;
    words.push("--json");
    let json = run(world, full, &words).await;
    assert_eq!((text.code, json.code), (code, code), "{what}: {text:#?}\n{json:#?}");

    let has_document = matches!(code, 0 | 1 | 4) || code == 3 && row.tells_nothing;
    if has_document {
        assert_eq!(json.stdout.lines().count(), 1, "{what}: one document in one line: {json:#?}");
        assert_keys(&json.json(), row.keys, &what);
    } else {
        assert!(json.stdout.is_empty() && text.stdout.is_empty(), "{what}: {json:#?} {text:#?}");
    }
    assert!(!text.stdout.starts_with(['{', '[']), "{what}: text is for people: {text:#?}");
    for ran in [text, json] {
        for words in ["panicked", "stack backtrace", "RUST_BACKTRACE", ".rs:", "\u{1b}["] {
            assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(words), "{what}: {ran:#?}");
        }
        if code == 0 {
            assert!(!ran.stderr.contains("error: "), "{what}: {ran:#?}");
        } else {
            ran.complains();
        }
    }
}

macro_rules! worlds {
    ($($name:ident = $world:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                walk($world).await;
            }
        )*
    };
}

worlds! {
    answered_by_all = Answered;
    nobody_is_there = Nobody;
    the_only_one_is_silent = Silent;
    some_answer_and_some_do_not = Partial;
    a_worker_answers_with_an_error = Refused;
    the_stores_cannot_be_opened = Unreadable;
    the_stores_refuse_to_write = Unwritable;
    the_usage_is_wrong = Misused;
}

#[test]
fn every_command_of_these_groups_is_in_the_table() {
    use clap::CommandFactory;
    let cli = stem_cli::args::Cli::command();
    for group in ["worker", "revokes", "queue"] {
        let commands = cli.find_subcommand(group).unwrap().get_subcommands();
        for command in commands.map(clap::Command::get_name) {
            // These run in the foreground or look at this machine, and have tables of their own.
            if ["start", "multi", "healthcheck", "diagnose"].contains(&command) {
                continue;
            }
            assert!(
                TABLE.iter().any(|row| row.words[..2] == [group, command]),
                "{group} {command} is not in the table"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_a_command_leaves_the_revocation_stored_and_says_so() {
    let place = Place::new();
    let broker = place.backends().await;
    appear(&broker, "a").await;
    fill(&broker).await;
    let elsewhere = [("STEM_REVOKE_STORE_URL", "sqlite://revokes.db")];
    for words in
        [&["worker", "revoke", "--task", "t"][..], &["worker", "revoke", "--task", "t", "--json"]]
    {
        let ran = tokio::task::block_in_place(|| place.stem_with_small_files(&elsewhere, words));
        let ran =
            ran.expect(5).complains().says("the revocation is stored").says("follow the store");
        if words.contains(&"--json") {
            let told = ran.json();
            assert_eq!(told["broadcast"], "pending", "{told}");
            assert_eq!(told["persisted"][0]["taskId"], "t", "{told}");
        }
    }
    let listed = tokio::task::block_in_place(|| {
        place.stem_env(&elsewhere, &["revokes", "list", "--json"]).expect(0).json()
    });
    assert_eq!(listed[0]["taskId"], "t", "{listed}");
}
