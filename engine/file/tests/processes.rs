//! Several processes with one file: killed, stopped, out of space. A test runs itself again as each of its processes.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use stem_conformance::ManualClock;
use stem_core::backend::{BackendError, ErrorClass, RevokeStore};
use stem_core::revoke::{RevocationChange, RevokeRequest, Version};
use stem_file::FileStore;
use stem_services::{Power, cut_power, synced};
use support::*;

/// What a process is to do, and with which file.
const ROLE: &str = "STEM_FILE_TEST_ROLE";
const FILE: &str = "STEM_FILE_TEST_FILE";

/// The role of this process, if a test started it.
fn role() -> Option<(String, PathBuf)> {
    Some((env::var(ROLE).ok()?, env::var_os(FILE)?.into()))
}

/// A process of this test, which talks in lines.
struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
    tell: ChildStdin,
}

impl Other {
    /// `test` is the one that calls.
    fn start(test: &str, role: &str, file: &Path) -> Self {
        Self::start_with(test, role, file, None)
    }

    /// With what notes how much it has synced, or without.
    fn start_with(test: &str, role: &str, file: &Path, power: Option<&Power>) -> Self {
        // A shell makes it ignore the signal that goes with the limit of file sizes, as services are set up to.
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .envs([(ROLE, role.as_ref()), (FILE, file.as_os_str())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(power) = power {
            power.load(&mut command);
        }
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let tell = child.stdin.take().unwrap();
        Self { child, said, tell }
    }

    /// The next line that is for us; `None` at the end.
    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if let Some(at) = line.find("say ") {
                return line[at..].strip_prefix("say ")?.strip_suffix('\n').map(str::to_owned);
            }
            line.clear();
        }
        None
    }

    fn tell(&mut self, text: &str) {
        writeln!(self.tell, "{text}").unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::CONT);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// To the test that started this process. One write, so that a kill leaves no half of it unnoticed.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("say {text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn told() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

const WRITERS: usize = 8;
const EACH: usize = 500;

/// Revokes its part, from where it is told to go on; says what was acknowledged.
async fn write(role: &str, path: &Path) {
    let store = store(path);
    let start: usize = told().parse().unwrap();
    for n in start..EACH {
        // Every eighth task is taken back and revoked again, so that there is something to compact.
        let id = format!("{role}-{n}");
        let stored = revoke(&store, &id).await.unwrap();
        say(&format!("{n} {}", stored.version.0));
        if n % 8 == 0 {
            let undone = store.undo(&space(), &stored.task_id).await.unwrap().unwrap();
            let again = revoke(&store, &id).await.unwrap();
            say(&format!("{n} {}", undone.0));
            say(&format!("{n} {}", again.version.0));
        }
    }
    say("done");
}

async fn compact(path: &Path) {
    let store = store(path);
    for count in 1.. {
        store.prune(&space()).await.unwrap();
        // Any reader at any time can read everything.
        let listed = listed(&store).await.unwrap();
        say(&format!("{count} {}", listed.len()));
        // Often, but not so often that the writers do nothing but read the file again.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

/// The newest version of each task.
fn versions(changes: &[RevocationChange]) -> BTreeMap<String, u64> {
    changes.iter().map(|change| (change.task().to_string(), change.version().0)).collect()
}

/// What was acknowledged and is not there, or only as it was before.
fn lost(acknowledged: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) -> Vec<String> {
    let behind = |task: &String, version: &u64| found.get(task) < Some(version);
    let behind = acknowledged.iter().filter(|(task, version)| behind(task, version));
    behind
        .map(|(task, version)| format!("{task} was {version}, and is {:?}", found.get(task)))
        .collect()
}

/// The cut is a real one where a file is cut at a sync that came before: then what was acknowledged after that is gone.
#[test]
fn what_was_acknowledged_survives_a_cut_of_the_power() {
    const TEST: &str = "what_was_acknowledged_survives_a_cut_of_the_power";
    const CUTS: usize = 40;
    if let Some((role, path)) = role() {
        return block(write(&role, &path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("revokes");
    let power = Power::make(directory.path()).unwrap();
    let known = |path: &Path| versions(&block(listed(&store(path))).unwrap());
    let (mut acknowledged, mut before, mut taken) = (BTreeMap::<String, u64>::new(), 0, 0);
    for cut in 0..CUTS {
        let role = format!("w{cut}");
        let mut process = Other::start_with(TEST, &role, &path, Some(&power));
        process.tell("0");
        before = synced(&path).unwrap();
        for _ in 0..(3 + cut * 7 % 30) {
            let line = process.next().expect("it goes on until it is killed");
            let (n, version) = line.split_once(' ').unwrap();
            acknowledged.insert(format!("{role}-{n}"), version.parse().unwrap());
        }
        // It writes on meanwhile: after other times each, so that some cuts fall within a write.
        thread::sleep(Duration::from_micros(u64::try_from(cut).unwrap() * 97));
        drop(process);
        taken += cut_power(&path).unwrap();
        let lost = lost(&acknowledged, &known(&path));
        assert!(lost.is_empty(), "after cut {cut}: {lost:#?}");
    }
    println!(
        "{CUTS} cuts took {taken} bytes; all of {} acknowledged are there",
        acknowledged.len()
    );
    let copy = directory.path().join("cut-too-early");
    std::fs::write(&copy, &content(&path)[..usize::try_from(before).unwrap()]).unwrap();
    let known = known(&copy);
    assert!(acknowledged.keys().any(|task| !known.contains_key(task)));
    assert!(!lost(&acknowledged, &known).is_empty());
}

#[test]
fn writers_that_are_killed_and_compactions_lose_nothing() {
    const TEST: &str = "writers_that_are_killed_and_compactions_lose_nothing";
    match role() {
        Some((role, path)) if role == "compact" => return block(compact(&path)),
        Some((role, path)) => return block(write(&role, &path)),
        None => {}
    }
    let started = Instant::now();
    let (_directory, path) = {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("revokes");
        (directory, path)
    };
    // Acknowledged versions by task; all versions.
    let acknowledged = Arc::new(Mutex::new((BTreeMap::<String, u64>::new(), HashSet::new())));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (path, acknowledged) = (path.clone(), Arc::clone(&acknowledged));
            thread::spawn(move || {
                let role = format!("w{writer}");
                let (mut next, mut kills) = (0, 0);
                loop {
                    let mut process = Other::start(TEST, &role, &path);
                    process.tell(&next.to_string());
                    // Three are killed in the middle of what they do, after other counts each; then one may finish.
                    let lives = (kills < 3).then(|| 40 + (writer * 37 + kills * 53) % 90);
                    for heard in 0.. {
                        if lives == Some(heard) {
                            process.child.kill().unwrap();
                        }
                        let Some(line) = process.next() else { break };
                        if line == "done" {
                            return kills;
                        }
                        let (n, version) = line.split_once(' ').unwrap();
                        let (n, version): (usize, u64) =
                            (n.parse().unwrap(), version.parse().unwrap());
                        let mut acknowledged = acknowledged.lock().unwrap();
                        assert!(acknowledged.1.insert(version), "{version} was given out twice");
                        acknowledged.0.insert(format!("{role}-{n}"), version);
                        next = next.max(n + 1);
                    }
                    assert!(lives.is_some(), "a writer ended without being killed");
                    kills += 1;
                }
            })
        })
        .collect();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let compactors: Vec<_> = (0..2)
        .map(|compactor| {
            let (path, stop) = (path.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut rounds = 0;
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let mut process = Other::start(TEST, "compact", &path);
                    for heard in 0..(3 + compactor) {
                        if stop.load(std::sync::atomic::Ordering::SeqCst) {
                            break;
                        }
                        assert!(process.next().is_some(), "compaction {heard} failed");
                        rounds += 1;
                    }
                    // Killed in the middle of the next.
                }
                rounds
            })
        })
        .collect();
    let kills: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let rounds: i32 = compactors.into_iter().map(|compactor| compactor.join().unwrap()).sum();
    let found = versions(&block(listed(&store(&path))).unwrap());
    let acknowledged = acknowledged.lock().unwrap();
    let lost = lost(&acknowledged.0, &found);
    assert!(lost.is_empty(), "{lost:#?}");
    assert!(acknowledged.0.len() >= WRITERS * EACH - kills, "{}", acknowledged.0.len());
    println!(
        "{} acknowledged changes, {kills} kills, {rounds} compactions or listings in {:?}",
        acknowledged.1.len(),
        started.elapsed()
    );
    assert_eq!(kills, WRITERS * 3);
    assert!(rounds > 5, "{rounds}");
}

/// What two have added, each a task of its own, which read all and write all.
fn added_by_two_without_a_lock(reads_before_the_other_writes: bool) -> Vec<String> {
    let (_directory, path) = place();
    block(async { revoke(&store(&path), "before").await.unwrap() });
    // The time that a line begins with is later than that of the one before it.
    let next = versions(&block(listed(&store(&path))).unwrap())["before"] + 1;
    let add = |mut all: Vec<u8>, task: &str, version: u64| {
        writeln!(all, r#"{{"namespace":"n","taskId":"{task}","version":{version}}}"#).unwrap();
        std::fs::write(&path, all).unwrap();
        (task.to_owned(), version)
    };
    let read_by_a = content(&path);
    let read_by_b = reads_before_the_other_writes.then(|| content(&path));
    let a = add(read_by_a, "a", next);
    let b = add(read_by_b.unwrap_or_else(|| content(&path)), "b", next + 1);
    lost(&BTreeMap::from([a, b]), &versions(&block(listed(&store(&path))).unwrap()))
}

#[test]
fn planted_writers_without_a_lock_are_found() {
    assert_eq!(added_by_two_without_a_lock(false), [""; 0], "one after the other");
    let lost = added_by_two_without_a_lock(true);
    println!("{lost:?}");
    assert!(lost.len() == 1 && lost[0].starts_with("a was "), "{lost:?}");
    stem_services::count("plants", 1);
}

#[test]
fn a_holder_of_the_lock_that_is_stopped_holds_others_up_for_a_bounded_time() {
    const TEST: &str = "a_holder_of_the_lock_that_is_stopped_holds_others_up_for_a_bounded_time";
    if let Some((_, path)) = role() {
        // The lock as a writer in the middle of its work has it.
        let lock = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        lock.lock().unwrap();
        say("held");
        told();
        drop(lock);
        say("free");
        told();
        return;
    }
    let (_directory, path) = place();
    let patience = Duration::from_millis(200);
    let impatient = || with(&path, Arc::new(Wall), patience);
    let opened = impatient();
    block(async {
        revoke(&opened, "t").await.unwrap();
        let mut holder = Other::start(TEST, "hold", &path.with_extension("lock"));
        assert_eq!(holder.next().unwrap(), "held");
        kill_process(holder.pid(), Signal::STOP).unwrap();
        for store in [&opened, &impatient()] {
            let started = Instant::now();
            let error = revoke(store, "u").await.unwrap_err();
            let took = started.elapsed();
            println!("after {took:?}: {error}");
            assert_eq!(error.class(), ErrorClass::Transient);
            assert!(error.to_string().contains("lslocks"), "{error}");
            assert!(took >= patience && took < patience + Duration::from_secs(20), "{took:?}");
        }
        // Who has read the file already need not lock to see that nothing changed; who has not, waits.
        assert_eq!(tasks(&opened).await.unwrap(), ["t"]);
        assert_eq!(tasks(&impatient()).await.unwrap_err().class(), ErrorClass::Transient);
        // Calls of one process wait together, not one after the other, which would take 20 s.
        let started = Instant::now();
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let store = Arc::clone(&opened);
                tokio::spawn(async move { revoke(&store, "u").await })
            })
            .collect();
        for waiting in waiting {
            assert!(waiting.await.unwrap().is_err());
        }
        assert!(started.elapsed() < patience * 50, "{:?}", started.elapsed());
        kill_process(holder.pid(), Signal::CONT).unwrap();
        holder.tell("let go");
        assert_eq!(holder.next().unwrap(), "free");
        revoke(&opened, "u").await.unwrap();
        assert_eq!(tasks(&impatient()).await.unwrap(), ["t", "u"]);
    });
}

#[test]
fn a_follower_in_another_process_sees_changes_and_compactions() {
    const TEST: &str = "a_follower_in_another_process_sees_changes_and_compactions";
    if let Some((_, path)) = role() {
        return block(async {
            let store = store(&path);
            let mut after = Version(0);
            loop {
                for change in store.since(&space(), after, 100).await.unwrap() {
                    after = change.version();
                    say(&format!("{} {}", change.task(), after.0));
                }
                store.changed(Duration::from_mins(1)).await.unwrap();
            }
        });
    }
    let (_directory, path) = place();
    let store = store(&path);
    block(async {
        let mut follower = Other::start(TEST, "follow", &path);
        let mut inodes = HashSet::new();
        for n in 0..20 {
            let id = format!("t{}", n % 3);
            let version = revoke(&store, &id).await.unwrap().version;
            let written = Instant::now();
            assert_eq!(follower.next().unwrap(), format!("{id} {}", version.0));
            let took = written.elapsed();
            // Without a sign it looks after a minute.
            assert!(took < Duration::from_secs(20), "seen after {took:?}");
            if n % 4 == 3 {
                assert_eq!(store.prune(&space()).await.unwrap(), 0);
                inodes.insert(std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap()));
            }
        }
        assert!(inodes.len() > 1, "no compaction");
    });
}

/// Lets no file of this process grow beyond so many bytes; beyond none, as before.
fn limit_files(bytes: Option<u64>) {
    let hard = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(hard), maximum: hard }).unwrap();
}

/// Whether tasks `no…` were refused, so that nothing of them is in the file, which was read before and after, or in
/// force.
async fn refused(
    error: &BackendError,
    (before, after): (&[u8], &[u8]),
    store: &FileStore,
) -> Result<(), String> {
    if error.class() != ErrorClass::Refused || !error.to_string().contains("not stored") {
        return Err(format!("no refusal: {error}"));
    }
    if before != after {
        return Err(format!("a file of {} bytes has {}", before.len(), after.len()));
    }
    let tasks = tasks(store).await.map_err(|error| error.to_string())?;
    if tasks.iter().any(|id| id.starts_with("no")) {
        return Err(format!("it is in force: {tasks:?}"));
    }
    Ok(())
}

#[test]
fn a_full_disk_refuses_and_leaves_no_trace() {
    const TEST: &str = "a_full_disk_refuses_and_leaves_no_trace";
    if let Some((_, path)) = role() {
        return block(async {
            let store = store(&path);
            let mut before = content(&path);
            // Room for nothing, for a part of a line, for all but its end, for a part of a batch.
            for room in [0, 1, 36, 100, 150, 300] {
                limit_files(Some(before.len() as u64 + room));
                let batch: Vec<_> =
                    (0..3).map(|n| (task(&format!("no{n}")), RevokeRequest::default())).collect();
                let error = store.revoke(&space(), &batch).await.unwrap_err();
                let done = refused(&error, (&before, &content(&path)), &store).await;
                assert_eq!(done, Ok(()), "with room for {room} bytes");
                limit_files(None);
                revoke(&store, "t").await.unwrap();
                before = content(&path);
                // A compaction that does not fit leaves the file as it is.
                limit_files(Some(100));
                assert_eq!(store.prune(&space()).await.unwrap_err().class(), ErrorClass::Refused);
                limit_files(None);
                assert_eq!(content(&path), before);
                assert!(!path.with_extension("new").exists());
            }
            say("works again");
        });
    }
    let (_directory, path) = place();
    block(async {
        let store = store(&path);
        for n in 0..20 {
            revoke(&store, if n % 2 == 0 { "t" } else { "u" }).await.unwrap();
            if n % 2 == 1 {
                store.undo(&space(), &task("u")).await.unwrap();
            }
        }
    });
    let clock = ManualClock::new();
    let mut writer = Other::start(TEST, "write", &path);
    assert_eq!(writer.next().as_deref(), Some("works again"));
    let reader = with(&path, clock, Duration::from_secs(1));
    assert_eq!(block(tasks(&reader)).unwrap(), ["u", "t"]);
}

/// What fits of three lines is appended, and not taken back.
fn append_as_fits(path: &Path) -> BackendError {
    let line = |n| format!("{{\"namespace\":\"n\",\"taskId\":\"no{n}\",\"terminate\":true}}\n");
    let lines: String = [0, 1, 2].map(line).concat();
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    let error = file.write_all(lines.as_bytes()).unwrap_err();
    BackendError::new(ErrorClass::Refused, "planted", "revoke", format!("not stored: {error}"))
}

#[test]
fn a_planted_writer_that_leaves_a_torn_line_on_a_full_disk_is_found() {
    const TEST: &str = "a_planted_writer_that_leaves_a_torn_line_on_a_full_disk_is_found";
    const ROOMS: [u64; 5] = [0, 1, 36, 55, 100];
    if let Some((_, path)) = role() {
        return block(async {
            let store = store(&path);
            for room in ROOMS {
                let before = content(&path);
                limit_files(Some(before.len() as u64 + room));
                let error = append_as_fits(&path);
                let done = refused(&error, (&before, &content(&path)), &store).await;
                limit_files(None);
                say(&format!("{done:?}"));
                std::fs::write(&path, before).unwrap();
            }
        });
    }
    let (_directory, path) = place();
    block(async { revoke(&store(&path), "t").await.unwrap() });
    let whole = content(&path).len() as u64;
    let mut writer = Other::start(TEST, "write", &path);
    for room in ROOMS {
        let said = writer.next().unwrap();
        println!("with room for {room} bytes: {said}");
        let left = format!("Err(\"a file of {whole} bytes has {}\")", whole + room);
        // Where nothing fits, there is nothing to take back.
        assert_eq!(said, if room == 0 { "Ok(())" } else { &left });
    }
    stem_services::count("plants", 1);
}
