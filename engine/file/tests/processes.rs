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
use stem_core::backend::{ErrorClass, RevokeStore};
use stem_core::revoke::{RevokeRequest, Version};
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
    let known = |path: &Path| -> BTreeMap<String, u64> {
        let changes = block(listed(&store(path))).unwrap();
        changes.iter().map(|change| (change.task().to_string(), change.version().0)).collect()
    };
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
        let known = known(&path);
        for (task, version) in &acknowledged {
            let there = known.get(task);
            assert!(
                there >= Some(version),
                "{task} was {version}, and is {there:?} after cut {cut}"
            );
        }
    }
    println!(
        "{CUTS} cuts took {taken} bytes; all of {} acknowledged are there",
        acknowledged.len()
    );
    let copy = directory.path().join("cut-too-early");
    std::fs::write(&copy, &content(&path)[..usize::try_from(before).unwrap()]).unwrap();
    assert!(acknowledged.keys().any(|task| !known(&copy).contains_key(task)));
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
    let listed = block(listed(&store(&path))).unwrap();
    let found: BTreeMap<_, _> =
        listed.iter().map(|change| (change.task().to_string(), change.version().0)).collect();
    let acknowledged = acknowledged.lock().unwrap();
    for (task, version) in &acknowledged.0 {
        let found = found.get(task).unwrap_or_else(|| panic!("{task} was lost"));
        assert!(found >= version, "{task} went back from {version} to {found}");
    }
    assert!(acknowledged.0.len() >= WRITERS * EACH - kills, "{}", acknowledged.0.len());
    println!(
        "{} acknowledged changes, {kills} kills, {rounds} compactions or listings in {:?}",
        acknowledged.1.len(),
        started.elapsed()
    );
    assert_eq!(kills, WRITERS * 3);
    assert!(rounds > 5, "{rounds}");
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

#[test]
fn a_full_disk_refuses_and_leaves_no_trace() {
    const TEST: &str = "a_full_disk_refuses_and_leaves_no_trace";
    if let Some((_, path)) = role() {
        return block(async {
            let store = store(&path);
            let mut before = content(&path);
            let hard = getrlimit(Resource::Fsize).maximum;
            // Room for nothing, for a part of a line, for all but its end, for a part of a batch.
            for room in [0, 1, 36, 100, 150, 300] {
                let limit = before.len() as u64 + room;
                setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum: hard }).unwrap();
                let batch: Vec<_> =
                    (0..3).map(|n| (task(&format!("no{n}")), RevokeRequest::default())).collect();
                let error = store.revoke(&space(), &batch).await.unwrap_err();
                assert_eq!(error.class(), ErrorClass::Refused, "{error}");
                assert!(error.to_string().contains("not stored"), "{error}");
                assert_eq!(content(&path), before, "with room for {room} bytes");
                let after = tasks(&store).await.unwrap();
                assert!(after.iter().all(|id| !id.starts_with("no")), "{after:?}");
                setrlimit(Resource::Fsize, Rlimit { current: hard, maximum: hard }).unwrap();
                revoke(&store, "t").await.unwrap();
                before = content(&path);
                // A compaction that does not fit leaves the file as it is.
                let little = Rlimit { current: Some(100), maximum: hard };
                setrlimit(Resource::Fsize, little).unwrap();
                assert_eq!(store.prune(&space()).await.unwrap_err().class(), ErrorClass::Refused);
                setrlimit(Resource::Fsize, Rlimit { current: hard, maximum: hard }).unwrap();
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
