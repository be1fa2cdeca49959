use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use stem_core::time::Clock;

use super::file::aside;
use super::read::{Chain, Snapshot};
use super::*;

/// Stands still unless it is moved.
#[derive(Debug, Default)]
struct Still(Mutex<Timestamp>);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

fn entry(what: &str) -> Entry {
    let at = Timestamp::from_unix_millis(1_795_305_600_000);
    Entry::new(at, Side::Worker, "w", Verdict::Accepted, what)
}

fn read(log: &Path) -> (Vec<String>, Chain) {
    let mut words = Vec::new();
    let chain = Snapshot::take(log).unwrap().unwrap();
    let chain =
        { chain }.read(|record| words.push(format!("{} {}", record.seq, record.entry.what)));
    (words, chain.unwrap())
}

/// A log with five entries.
fn five() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditFile::open(&path).unwrap();
    for n in 1..=5 {
        assert_eq!(log.append(&[entry(&format!("e{n}"))]), Ok(n));
    }
    (dir, path)
}

fn broken(log: &Path) -> Vec<(u64, String)> {
    read(log).1.broken.into_iter().map(|found| (found.line, found.problem)).collect()
}

#[test]
fn what_is_written_is_read_and_a_line_is_as_programs_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    assert!(Snapshot::take(&path).unwrap().is_none());
    let log = AuditFile::open(&path).unwrap();
    assert_eq!(read(&path), (vec![], Chain { vouched: true, ..Chain::default() }));
    let about = json!({"tasks": ["t"], "terminate": true});
    let full = Entry {
        namespace: Some(Namespace::new("stem").unwrap()),
        request: Some(RequestId::new("r").unwrap()),
        requester: Some("ann\n".to_owned()),
        key: Some(KeyId::new("ops").unwrap()),
        about: Some(about),
        ..entry("revoke")
    };
    assert_eq!(log.append(&[full, entry("shutdown")]), Ok(2));
    let text = std::fs::read_to_string(&path).unwrap();
    let first = r#"{"seq":1,"at":"2026-11-22T00:00:00.000Z","side":"worker","by":"w","verdict":"accepted","what":"revoke","namespace":"stem","request":"r","requester":"ann\\n","key":"ops","about":{"tasks":["t"],"terminate":true},"sum":""#;
    assert!(text.starts_with(first), "{text}");
    assert_eq!(text.lines().count(), 2);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (words, chain) = read(&path);
    assert_eq!(words, ["1 revoke", "2 shutdown"]);
    let expected =
        Chain { entries: 2, first: Some(1), last: Some(2), vouched: true, ..Chain::default() };
    assert_eq!(chain, expected);
}

#[test]
fn a_line_that_was_changed_taken_out_or_put_in_is_found_where_it_was() {
    let (_dir, path) = five();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    // Every byte of the third line that is not the line feed; where it is no entry any more, the next does not go on from it.
    for place in 0..lines[2].len() - 1 {
        let mut changed = text.clone().into_bytes();
        changed[lines[0].len() + lines[1].len() + place] ^= 1;
        std::fs::write(&path, changed).unwrap();
        let found = broken(&path);
        assert!(
            found.iter().all(|(line, _)| (3..=5).contains(line)) && !found.is_empty(),
            "{place}: {found:?}"
        );
    }
    for (without, line, words) in [
        (0, 1, "the entries before 2 are missing"),
        (1, 2, "after entry 1 comes 3"),
        (3, 4, "after entry 3 comes 5"),
        (4, 5, "the entries after 4 are missing; 5 was the last"),
    ] {
        let left: String = lines
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != without)
            .map(|(_, line)| *line)
            .collect();
        std::fs::write(&path, left).unwrap();
        assert_eq!(broken(&path), [(line, words.to_owned())]);
    }
    std::fs::write(&path, [lines[0], lines[1], lines[1], lines[2], lines[3], lines[4]].concat())
        .unwrap();
    assert_eq!(broken(&path)[0], (3, "after entry 2 comes 2".to_owned()));
    // Nonsense between lines is told, and hides nothing.
    std::fs::write(
        &path,
        [lines[0], "nonsense\n", lines[1], lines[2], lines[3], lines[4]].concat(),
    )
    .unwrap();
    let (words, chain) = read(&path);
    assert_eq!((words.len(), chain.unreadable, chain.broken), (5, 1, vec![]));
    std::fs::write(&path, &text).unwrap();
    assert!(broken(&path).is_empty());
    // All of it, sums included, made anew by somebody who forgot the lock.
    let mut link = Link::START;
    let mut forged = Vec::new();
    (1..=5).for_each(|n| link.append(&entry(&format!("f{n}")), &mut forged));
    std::fs::write(&path, forged).unwrap();
    assert_eq!(broken(&path), [(5, "entry 5 was changed".to_owned())]);
}

#[test]
fn whoever_writes_next_says_that_the_end_was_cut_and_so_it_stays_known() {
    type Harm = fn(&Path);
    let cut: Harm = |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let kept: Vec<&str> = text.split_inclusive('\n').take(3).collect();
        std::fs::write(path, kept.concat()).unwrap();
    };
    let emptied: Harm = |path| std::fs::write(path, "").unwrap();
    let removed: Harm = |path| std::fs::remove_file(path).unwrap();
    let unlocked: Harm = |path| std::fs::remove_file(lock::path_of(path)).unwrap();
    for (harm, words) in [
        (cut, "the entries after 3 were taken away; 5 was the last"),
        (emptied, "the entries after 0 were taken away; 5 was the last"),
        (removed, "the entries after 0 were taken away; 5 was the last"),
        (unlocked, "nothing vouches for its end"),
    ] {
        let (_dir, path) = five();
        harm(&path);
        let log = AuditFile::open(&path).unwrap();
        assert_eq!(log.append(&[entry("next")]), Ok(7), "the marker is one more");
        log.append(&[entry("later")]).unwrap();
        let (written, chain) = read(&path);
        assert_eq!(&written[written.len() - 3..], ["6 audit", "7 next", "8 later"]);
        let told: Vec<&String> = chain.broken.iter().map(|found| &found.problem).collect();
        assert!(told.iter().any(|problem| problem.contains(words)), "{told:?}");
    }
}

#[test]
fn what_a_write_left_that_was_broken_off_is_closed_off_and_nothing_is_missing() {
    let (_dir, path) = five();
    let text = std::fs::read_to_string(&path).unwrap();
    let last = text.lines().last().unwrap();
    for part in [1, 40, last.len() - 1] {
        std::fs::write(&path, format!("{text}{}", &last[..part])).unwrap();
        assert!(broken(&path).is_empty());
        let log = AuditFile::open(&path).unwrap();
        assert_eq!(log.append(&[entry("next")]), Ok(6));
        let (words, chain) = read(&path);
        assert_eq!((words.len(), chain.unreadable, chain.broken), (6, 1, vec![]));
        // For the next one.
        std::fs::write(&path, &text).unwrap();
        let lock = lock::Lock::for_writing(&path).unwrap();
        let (_, link, _) = Link::read(last.as_bytes()).unwrap();
        lock.set_head(link).unwrap();
    }
    // On disk, and the lock does not say so yet: as if the machine had stopped there.
    let mut link = Link::read(last.as_bytes()).unwrap().1;
    let mut more = text.into_bytes();
    link.append(&entry("sixth"), &mut more);
    std::fs::write(&path, more).unwrap();
    AuditFile::open(&path).unwrap().append(&[entry("seventh")]).unwrap();
    let (words, chain) = read(&path);
    assert_eq!((words.len(), chain.broken), (7, vec![]));
}

/// Killed in its first write after the full file was moved aside.
#[test]
fn a_write_that_was_broken_off_at_the_beginning_of_a_file_loses_nothing_of_the_one_before() {
    let (_dir, path) = five();
    let last = std::fs::read_to_string(&path).unwrap().lines().last().unwrap().to_owned();
    std::fs::rename(&path, aside(&path, 1)).unwrap();
    std::fs::write(&path, &last[..40]).unwrap();
    assert_eq!(AuditFile::open(&path).unwrap().append(&[entry("next")]), Ok(6));
    let (words, chain) = read(&path);
    assert_eq!((words.len(), chain.unreadable, chain.broken), (6, 1, vec![]));
}

#[test]
fn files_are_bounded_and_the_chain_goes_on_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditFile::of(&path, 1_000).unwrap();
    let sizes = || -> Vec<u64> {
        let all = std::fs::read_dir(dir.path()).unwrap();
        all.map(|file| file.unwrap().metadata().unwrap().len()).collect()
    };
    for n in 1..=20 {
        assert_eq!(log.append(&[entry(&format!("e{n}"))]), Ok(n));
    }
    let (words, chain) = read(&path);
    assert_eq!((words.len(), chain.first, chain.broken), (20, Some(1), vec![]));
    assert!(sizes().iter().all(|size| *size <= 1_000) && aside(&path, 1).exists());
    // A file that is taken away is missed, wherever it was in the row.
    for number in [1, 2] {
        let kept = std::fs::read(aside(&path, number)).unwrap();
        std::fs::remove_file(aside(&path, number)).unwrap();
        assert_eq!(broken(&path).len(), 1);
        std::fs::write(aside(&path, number), kept).unwrap();
    }
    for n in 21..=200 {
        log.append(&[entry(&format!("e{n}"))]).unwrap();
    }
    // The one that is written, those that are kept, and the lock.
    assert_eq!(sizes().len(), 1 + usize::try_from(KEPT).unwrap() + 1);
    let (words, chain) = read(&path);
    assert_eq!((chain.last, chain.broken), (Some(200), vec![]));
    assert!(words.len() < 200 && words.last().unwrap() == "200 e200");
    std::fs::remove_file(aside(&path, KEPT)).unwrap();
    assert_eq!(broken(&path).len(), 1);
}

#[test]
fn several_processes_write_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            // Each with a lock of its own, as processes have.
            let log = AuditFile::of(&path, 20_000).unwrap();
            scope.spawn(move || {
                for n in 0..50 {
                    log.append(&[entry(&format!("{writer}-{n}"))]).unwrap();
                }
            });
        }
    });
    let (words, chain) = read(&path);
    assert_eq!((words.len(), chain.broken), (200, vec![]));
}

#[test]
fn a_file_that_others_could_change_or_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let refused = |words: &str| {
        let error = AuditFile::open(&path).unwrap_err();
        assert!(error.contains("audit.jsonl") && error.contains(words), "{error}");
        let looked = AuditFile::look(&path).unwrap();
        assert!(error.ends_with(&looked) || words.contains("os error"), "{error}: {looked}");
    };
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    std::fs::write(&path, "").unwrap();
    mode(&path, 0o620);
    refused("mode 0620");
    mode(&path, 0o640);
    AuditFile::open(&path).unwrap();
    let other = dir.path().join("other");
    std::fs::hard_link(&path, &other).unwrap();
    refused("2 names");
    std::fs::remove_file(&path).unwrap();
    symlink(&other, &path).unwrap();
    refused("os error");
    std::fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused("no plain file");
    std::fs::remove_file(&path).unwrap();
    mode(dir.path(), 0o777);
    refused("everybody may change the directory");
    mode(dir.path(), 0o700);
    assert_eq!(AuditFile::look(&path), None);
    let log = AuditFile::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    log.append(&[entry("e")]).unwrap_err();
}

#[test]
fn what_others_chose_is_bounded_and_printable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditFile::open(&path).unwrap();
    let many: Vec<String> = (0..5_000).map(|n| format!("task-{n}")).collect();
    let about = json!({ "tasks": many, "reason": "\u{1b}[2J".repeat(1_000) });
    let long = Some("x".repeat(100_000));
    log.append(&[Entry {
        requester: long.clone(),
        reason: long,
        about: Some(about),
        ..entry("revoke")
    }])
    .unwrap();
    let wide: serde_json::Map<_, _> =
        (0..5_000).map(|n| (n.to_string(), "x".repeat(200).into())).collect();
    log.append(&[Entry { about: Some(wide.into()), ..entry("revoke") }]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| line.len() < 5_000) && !text.contains('\u{1b}'), "{text}");
    let tasks = |records: &[Record]| records[0].entry.about.as_ref().unwrap()["tasks"].clone();
    let mut records = Vec::new();
    Snapshot::take(&path).unwrap().unwrap().read(|record| records.push(record)).unwrap();
    assert_eq!(tasks(&records).as_array().unwrap().len(), LISTED + 1);
    assert_eq!(tasks(&records)[LISTED], "and 4900 more");
    assert_eq!(records[1].entry.about, Some("more than an entry holds".into()));
}

#[test]
fn what_is_written_later_is_followed_over_a_file_that_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = AuditFile::of(&path, 600).unwrap();
    log.append(&[entry("before")]).unwrap();
    let mut tail = Snapshot::take(&path).unwrap().unwrap().tail();
    assert_eq!(tail.look(), Ok(vec![]));
    let mut seen = Vec::new();
    for n in 2..=9 {
        log.append(&[entry("later")]).unwrap();
        let news = tail.look().unwrap();
        seen.extend(news.iter().map(|record| record.seq));
        assert_eq!(seen.last(), Some(&n));
    }
    assert_eq!(seen, (2..=9).collect::<Vec<_>>());
    assert!(aside(&path, 2).exists());
}

fn auditor(path: &Path) -> Arc<Auditor> {
    Auditor::start(AuditFile::open(path).unwrap(), "w", Arc::new(Still::default())).unwrap()
}

#[test]
fn a_worker_notes_without_waiting_and_all_of_it_is_written_by_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let auditor = auditor(&path);
    for n in 0..500 {
        auditor.note(auditor.entry(Verdict::Accepted, &format!("e{n}")));
    }
    auditor.close();
    let (words, chain) = read(&path);
    assert_eq!((words.len(), chain.broken, auditor.lost()), (500, vec![], 0));
    assert_eq!(words[499], "500 e499");
    auditor.note(auditor.entry(Verdict::Accepted, "late"));
    assert_eq!(auditor.lost(), 1);
}

#[test]
fn a_flood_of_refusals_is_noted_by_its_number_and_keeps_nothing_else_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let auditor = auditor(&path);
    let at = |millis| Timestamp::from_unix_millis(millis);
    for n in 0..10_000 {
        // A thousand in each second, for ten.
        auditor.note_refused(at(n), || auditor.entry(Verdict::Refused, "command"));
    }
    auditor.note(auditor.entry(Verdict::Accepted, "shutdown"));
    auditor.close();
    let (mut refused, mut entries, mut accepted) = (0, 0, 0);
    let read = |record: Record| match record.entry.verdict {
        Verdict::Refused => {
            entries += 1;
            refused += record.entry.more.unwrap_or(0) + u64::from(record.entry.what != "more");
        }
        Verdict::Accepted => accepted += 1,
        other => panic!("{other:?}"),
    };
    Snapshot::take(&path).unwrap().unwrap().read(read).unwrap();
    assert_eq!((refused, accepted), (10_000, 1));
    assert!(entries <= 210, "{entries}");
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_mins(1), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As a disk that is full: nothing can be written until it can.
#[test]
fn what_cannot_be_written_is_kept_and_what_there_was_no_room_for_is_counted_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let auditor = auditor(&path);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    auditor.note(auditor.entry(Verdict::Accepted, "kept"));
    until("it cannot be written", || auditor.problem().is_some());
    assert!(auditor.problem().unwrap().contains("cannot be written"));
    let mut noted = 1;
    while auditor.lost() < 5 {
        auditor.note(auditor.entry(Verdict::Accepted, "more"));
        noted += 1;
    }
    std::fs::remove_dir(&path).unwrap();
    until("it can be written again", || auditor.problem().is_none());
    auditor.close();
    let (mut kept, mut lost) = (0, 0);
    let read = |record: Record| match record.entry.verdict {
        Verdict::Accepted => kept += 1,
        Verdict::Lost => lost += record.entry.more.unwrap(),
        other => panic!("{other:?}"),
    };
    let chain = Snapshot::take(&path).unwrap().unwrap().read(read).unwrap();
    assert_eq!((kept + lost, lost), (noted, auditor.lost()));
    assert!(chain.broken.is_empty(), "{chain:?}");
}
