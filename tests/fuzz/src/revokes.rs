//! The file of revocations, which workers share and people edit. What it holds decides what does not run, so nothing of
//! it may be lost without a word, by reading, writing or mending.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use stem_core::backend::{BackendError, ErrorClass, RevokeStore};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{EXPIRY_GRACE, RevocationChange, RevokeRequest, Version};
use stem_core::time::{Clock, Timestamp};
use stem_file::{FileStore, FileStoreOptions};
use tokio::runtime::Runtime;

use crate::Met;
use crate::told::told;

/// Keys of the lines, and values at their bounds.
pub const WORDS: &[&str] = &[
    "{\"v\":1,\"namespace\":\"stem\",\"taskId\":\"t\"",
    "\"namespace\":\"stem\",",
    "\"namespace\":\"other\",",
    "\"taskId\":\"t\"",
    ",\"version\":",
    ",\"lastVersion\":",
    ",\"undoneAt\":\"2026-11-22T00:00:00Z\"",
    ",\"issuedAt\":\"2026-11-22T00:00:00Z\"",
    ",\"expiresAt\":\"2027-01-01T00:00:00Z\"",
    ",\"expiresAt\":\"2026-01-01T00:00:00Z\"",
    ",\"terminate\":true",
    ",\"cooperative\":true",
    ",\"graceMs\":1",
    ",\"reason\":\"\\u001b[2J\"",
    ",\"requestedBy\":\"ann\"",
    ",\"crc\":\"00000000\"}",
    "9007199254740991",
    "9007199254740992",
    "null",
    "}\n",
    "\r\n",
    "\n\n",
    "\"v\":2,",
];

/// The longest that is said of a file.
const TOLD: usize = 600;

/// When all of this happens.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(1_795_305_600_000)
    }
}

/// A revocation that is in force, or the trace of one that was taken back.
type Known = BTreeMap<String, (u64, bool)>;

/// Where files are put, and what runs the store.
struct Desk {
    place: tempfile::TempDir,
    runtime: Runtime,
}

thread_local! {
    static DESK: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

/// A file that is read says what its lines say, and keeps it when it is written to, pruned and read by others. One that is
/// refused keeps its lines until it is repaired: then it is read.
pub fn check(bytes: &[u8]) -> Met {
    DESK.with_borrow_mut(|desk| {
        let desk = desk.get_or_insert_with(|| Desk {
            place: crate::place(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime of one thread can be made"),
        });
        let path = desk.place.path().join("revokes");
        std::fs::write(&path, bytes).expect("a small file can be written");
        let met = desk.runtime.block_on(whole(&path, bytes));
        for left in std::fs::read_dir(desk.place.path()).expect("it was made").flatten() {
            let _ = std::fs::remove_file(left.path());
        }
        met
    })
}

/// As a process that has just started has it.
fn open(path: &Path) -> Arc<FileStore> {
    FileStore::open(FileStoreOptions {
        path: path.to_owned(),
        clock: Arc::new(Still),
        lock_timeout: FileStoreOptions::DEFAULT_LOCK_TIMEOUT,
    })
}

fn namespace() -> Namespace {
    Namespace::new("stem").expect("it is a name")
}

fn on_disk(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the file is there")
}

/// What somebody who has not seen the file yet reads.
async fn known(path: &Path) -> Result<Known, BackendError> {
    let changes = open(path).since(&namespace(), Version(0), usize::MAX).await?;
    let mut last = 0;
    let mut known = Known::new();
    for change in changes {
        let (task, version) = (change.task().to_string(), change.version().0);
        assert!(version > last, "version {version} comes after {last}");
        last = version;
        let undone = matches!(change, RevocationChange::Undone { .. });
        let other = known.insert(task, (version, undone));
        assert_eq!(other, None, "two changes of one task are listed");
    }
    Ok(known)
}

/// What of it is in force.
fn in_force(known: &Known) -> Vec<&str> {
    known.iter().filter(|(_, (_, undone))| !undone).map(|(task, _)| task.as_str()).collect()
}

/// What ends as a line does is as it was; of what follows a writer's torn end may have been mended.
fn keeps_the_lines(path: &Path, before: &[u8]) {
    let lines = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    assert!(on_disk(path).starts_with(&before[..lines]), "a line was changed");
}

async fn whole(path: &Path, bytes: &[u8]) -> Met {
    let before = match known(path).await {
        Ok(known) => known,
        Err(error) => return refused(path, bytes, &error).await,
    };
    keeps_the_lines(path, bytes);
    assert_eq!(before, lines_say(bytes), "what is listed is not what the lines say");

    let task = TaskId::new("added").expect("it is a name");
    let store = open(path);
    let added = store.revoke(&namespace(), &[(task.clone(), RevokeRequest::default())]).await;
    let mut shape = format!("{} known", before.len().min(3));
    match added {
        Ok(stored) => {
            let version = stored.first().map_or(0, |one| one.version.0);
            assert!(before.values().all(|(other, _)| *other < version), "{version} is not new");
            let mut expected = before.clone();
            expected.insert(task.to_string(), (version, false));
            assert_eq!(known(path).await.expect("it was read"), expected, "after a revocation");
            keeps_the_lines(path, bytes);
        }
        Err(error) => {
            // Where the numbers are used up; nothing is lost then.
            assert_eq!(error.class(), ErrorClass::Refused, "{error}");
            told(&error.problem, TOLD);
            shape.push_str(", no number left");
        }
    }

    let now = known(path).await.expect("it was read");
    if let Some(first) = in_force(&now).first() {
        let task = TaskId::new(first).expect("it was read as one");
        let undone = store.undo(&namespace(), &task).await;
        let mut expected = now.clone();
        if let Ok(version) = undone {
            let version = version.expect("it was in force").0;
            expected.insert(task.to_string(), (version, true));
            shape.push_str(", taken back");
        }
        assert_eq!(known(path).await.expect("it was read"), expected, "after one was taken back");
    }

    let now = known(path).await.expect("it was read");
    if store.prune(&namespace()).await.is_ok_and(|removed| removed > 0) {
        shape.push_str(", pruned");
    }
    let pruned = known(path).await.expect("it was read");
    assert_eq!(in_force(&pruned), in_force(&now), "pruning has changed what is in force");
    Met::Read(shape)
}

async fn refused(path: &Path, bytes: &[u8], error: &BackendError) -> Met {
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    let words = told(&error.problem, TOLD);
    keeps_the_lines(path, bytes);
    match open(path).repair().await {
        Ok(repaired) => {
            let aside = repaired.path_of_set_aside.as_deref().expect("something was unreadable");
            assert!(!on_disk(aside).is_empty() && repaired.set_aside > 0, "{repaired:?}");
            if let Err(error) = known(path).await {
                panic!("it was repaired and cannot be read: {error}");
            }
        }
        // A newer version wrote a line of it.
        Err(error) => {
            assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
            keeps_the_lines(path, bytes);
            told(&error.problem, TOLD);
        }
    }
    Met::Refused(words)
}

/// What the lines of a file that is read say, by the rules of the format alone: the last word on a task counts, a version
/// that is not above what its namespace had is replaced by the next, and what is old news of its task says nothing.
fn lines_say(bytes: &[u8]) -> Known {
    let mut last = 0;
    let mut said: BTreeMap<String, (u64, bool, bool)> = BTreeMap::new();
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    // Without an end it is a record if it is whole, else the beginning of one, which nobody has been told is stored.
    let rest = lines.pop().unwrap_or_default();
    let rest = serde_json::from_slice::<Value>(rest).is_ok().then_some(rest);
    for line in lines.into_iter().chain(rest) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let line: Map<String, Value> =
            serde_json::from_slice(line).expect("a file that is read has JSON on each line");
        let number = |key: &str| line.get(key).and_then(Value::as_u64);
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        if text("namespace") != Some("stem") {
            continue;
        }
        if let Some(mark) = number("lastVersion") {
            last = last.max(mark);
            continue;
        }
        let task = text("taskId").expect("a change is one of a task");
        let version = match number("version") {
            Some(version) if version > last => version,
            Some(version) if said.get(task).is_some_and(|(known, ..)| version <= *known) => {
                continue;
            }
            _ => last + 1,
        };
        last = version;
        let expires: Option<Timestamp> = text("expiresAt").and_then(|at| at.parse().ok());
        let undone = text("undoneAt").is_some();
        let gone = !undone && expires.is_some_and(|at| at.after(EXPIRY_GRACE) <= Still.now());
        said.insert(task.to_owned(), (version, undone, gone));
    }
    let shown = said.into_iter().filter(|(_, (.., gone))| !gone);
    shown.map(|(task, (version, undone, _))| (task, (version, undone))).collect()
}
