//! Exit codes and documents: every command that operates workers, revocations and queues, in every world it may meet.
//!
//! The table is the interface. What cannot happen stands in it with the reason.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::broker::Pause;
use stem_core::backend::control::Position;
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::control::{Answer, ControlError, Reply};
use stem_core::envelope::Payload;
use stem_core::id::{Namespace, QueueName, RequestId, TaskId, TaskName, WorkerId};
use stem_core::release::{Push, PushId, Rollout};
use stem_core::revoke::{RevokeRequest, module_key};
use stem_core::time::Clock;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use stem_services::count;
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

/// Where commands are tried.
#[derive(Clone)]
struct Trial {
    world: World,
    /// The one place of the world where nothing can be changed.
    full: Option<Arc<(Place, Backends)>>,
    /// The bug that the program has in every other world.
    planted: Option<&'static str>,
}

impl Trial {
    async fn of(world: World) -> Self {
        let full = if world == Unwritable { Some(Arc::new(full().await)) } else { None };
        Self { world, full, planted: None }
    }
}

/// Runs a command in a world of its own, or in the one where nothing can be changed.
async fn run(trial: &Trial, words: &[&str]) -> Ran {
    let world = trial.world;
    let place = trial.planted.map_or_else(Place::new, Place::with_planted);
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
            let (place, backends) = trial.full.as_deref().expect("it was made for this world");
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
    let trial = Trial::of(world).await;
    // A few at once: most of the time of some of them is waiting for who does not answer.
    for rows in TABLE.chunks(5) {
        let mut running = tokio::task::JoinSet::new();
        for row in rows {
            let trial = trial.clone();
            running.spawn(async move { try_one(&trial, row).await });
        }
        running.join_all().await;
    }
}

/// Runs one command as text and as JSON.
async fn try_one(trial: &Trial, row: &Row) {
    let world = trial.world;
    let at = WORLDS.iter().position(|known| *known == world).unwrap();
    let (more, code) = match row.cells[at] {
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
    let text = run(trial, &words).await;
    words.push("--json");
    let json = run(trial, &words).await;
    assert_eq!((text.code, json.code), (code, code), "{what}: {text:#?}\n{json:#?}");

    let has_document = matches!(code, 0 | 1 | 4) || code == 3 && row.tells_nothing;
    if has_document {
        assert_eq!(json.stdout.lines().count(), 1, "{what}: one document in one line: {json:#?}");
        assert_keys(&json.json(), row.keys, &what);
    } else {
        let is_silent = json.stdout.is_empty() && text.stdout.is_empty();
        assert!(is_silent, "{what}: a document of nothing: {json:#?} {text:#?}");
    }
    assert!(!text.stdout.starts_with(['{', '[']), "{what}: text is for people: {text:#?}");
    for ran in [text, json] {
        let all = format!("{}{}", ran.stdout, ran.stderr);
        for words in ["panicked", "stack backtrace", "RUST_BACKTRACE", ".rs:", "\u{1b}["] {
            assert!(!all.contains(words), "{what}: never told: {words:?}: {ran:#?}");
        }
        if code == 0 {
            assert!(!all.is_empty(), "{what}: it went well and nothing is told");
            let is_error = ran.stderr.contains("error: ");
            assert!(!is_error, "{what}: it went well and tells an error: {ran:#?}");
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

/// What the check says of the first row that begins with these words; empty if it finds nothing.
async fn found(trial: Trial, words: &[&str]) -> String {
    let row = TABLE.iter().find(|row| row.words.starts_with(words)).unwrap();
    let tried = tokio::spawn(async move { try_one(&trial, row).await }).await;
    let Err(error) = tried else { return String::new() };
    *error.into_panic().downcast().expect("it says what it found")
}

/// What the check says of `worker ping` by a program with this bug.
async fn found_of(planted: &'static str, world: World) -> String {
    found(Trial { planted: Some(planted), ..Trial::of(world).await }, &["worker", "ping"]).await
}

/// A bug, a world that shows it, and how the check puts it.
async fn each_is_found(bugs: &[(&'static str, World, &str)]) {
    for &(planted, world, says) in bugs {
        let said = found_of(planted, world).await;
        assert!(said.contains(says), "{planted} when {world:?}: {says:?} is not in {said:?}");
    }
    count("plants", bugs.len().try_into().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_where_no_bug_is_planted() {
    for world in [Nobody, Silent, Answered, Unreadable] {
        assert_eq!(found_of(r#""$0" "$@""#, world).await, "", "{world:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_exit_code_that_lies_is_found() {
    let always_fine = r#""$0" "$@"; exit 0"#;
    let always_failed = r#""$0" "$@"; exit 1"#;
    let some_are_all = r#""$0" "$@" || { code=$?; [ $code -eq 4 ] || exit $code; }"#;
    let nobody_is_an_error = r#""$0" "$@" || { code=$?; [ $code -ne 3 ] || exit 1; exit $code; }"#;
    each_is_found(&[
        (always_fine, Nobody, "left: (0, 0)\n right: (3, 3)"),
        (always_fine, Silent, "left: (0, 0)\n right: (3, 3)"),
        (always_fine, Refused, "left: (0, 0)\n right: (1, 1)"),
        (always_fine, Unreadable, "left: (0, 0)\n right: (5, 5)"),
        (always_fine, Misused, "left: (0, 0)\n right: (2, 2)"),
        (always_failed, Answered, "left: (1, 1)\n right: (0, 0)"),
        (some_are_all, Partial, "left: (0, 0)\n right: (4, 4)"),
        (nobody_is_an_error, Nobody, "left: (1, 1)\n right: (3, 3)"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_output_that_lies_is_found() {
    let no_output = r#"exec "$0" "$@" >/dev/null"#;
    let no_error = r#"exec "$0" "$@" 2>/dev/null"#;
    let no_text = r#"case "$*" in *--json) ;; *) exec >/dev/null 2>&1; esac; exec "$0" "$@""#;
    let no_hint = r#"{ "$0" "$@" 2>&1 >&3 | sed '/^hint: /d' >&2; } 3>&1; exit 3"#;
    let twice = r#""$0" "$@" | sed p; exit 3"#;
    let other_key = r#""$0" "$@" | sed 's/"missing"/"lost"/'; exit 3"#;
    let always_json = r#"case "$*" in *--json) ;; *) set -- "$@" --json; esac; exec "$0" "$@""#;
    let output_of_none = r#"echo '{}'; exec "$0" "$@""#;
    let error_of_none = r#"echo 'error: none' >&2; exec "$0" "$@""#;
    let panic = r#"echo 'it panicked' >&2; exec "$0" "$@""#;
    each_is_found(&[
        (no_output, Nobody, "one document in one line"),
        (no_error, Nobody, "no error is told"),
        (no_text, Answered, "it went well and nothing is told"),
        (no_hint, Nobody, "no hint is at the end"),
        (twice, Nobody, "one document in one line"),
        (other_key, Nobody, "missing is missing in"),
        (always_json, Answered, "text is for people"),
        (output_of_none, Unreadable, "a document of nothing"),
        (error_of_none, Answered, "it went well and tells an error"),
        (panic, Answered, "never told: \"panicked\""),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_broadcast_is_found_where_nothing_may_be_sent() {
    let trial = Trial::of(Unwritable).await;
    let ping = ["worker", "ping"];
    assert_eq!(found(trial.clone(), &ping).await, "", "nothing is sent yet");
    let (_, backends) = trial.full.as_deref().unwrap();
    let frame = CommandFrame {
        request_id: RequestId::new("r").unwrap(),
        namespace: Namespace::new("stem").unwrap(),
        expires_at: SystemClock.now().after(Duration::from_mins(10)),
        text: "{}".into(),
    };
    backends.control.send(&frame).await.unwrap();
    let said = found(trial, &ping).await;
    assert!(said.contains("it was sent all the same"), "{said}");
    count("plants", 1);
}
