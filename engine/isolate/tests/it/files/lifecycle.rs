//! A scratch directory is the attempt's own, is empty, and is gone after it, however it ended.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopReason};
use stem_isolate::RuntimeConfig;

use super::guest::{Do, Script};
use super::{Yard, input, scratch};
use crate::bench::{self, Bench, assert_preempted, config, failure, kind_and_code, within};

#[tokio::test]
async fn it_is_gone_after_success_failure_trap_and_terminate() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let files = || {
            let script = Script::default().at(Do::MakeDir, "dir").open("dir/file", 1);
            script.with(Do::Put, 10_000)
        };
        yard.run(guest, &files(), scratch(1 << 20, 10)).await;
        yard.swept().await;
        let failed = yard.start(guest, files().with(Do::Exit, 7).bytes(), scratch(1 << 20, 10));
        let failed = bench::exit(failed).await;
        assert_eq!(kind_and_code(&failed).0, FailureKind::Error);
        yard.swept().await;
        // A step that there is not, which is cut short.
        let trapped = [files().bytes(), vec![2, 255, 255]].concat();
        bench::exit(yard.start(guest, trapped, scratch(1 << 20, 10))).await;
        yard.swept().await;
        let running = yard.start(guest, files().with(Do::Spin, 0).bytes(), scratch(1 << 20, 10));
        let (interrupt, end) = running.into_parts();
        bench::computing(&interrupt, Duration::from_millis(5)).await;
        assert_eq!(yard.scratches().len(), 1);
        interrupt.stop(StopReason::Revoked, true);
        assert_preempted(&within(end).await);
        yard.swept().await;
        // In the middle of making thousands of files.
        let many = Script::default().with(Do::MakeFiles, 1 << 40).bytes();
        let (interrupt, end) = yard.start(guest, many, scratch(1 << 20, 1 << 40)).into_parts();
        bench::computing(&interrupt, Duration::from_millis(5)).await;
        interrupt.stop(StopReason::Revoked, true);
        assert_preempted(&within(end).await);
        yard.swept().await;
    }
    yard.bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn two_attempts_never_see_each_others() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let spins = Script::default().at(Do::Create, "mine").with(Do::Spin, 0).bytes();
        let (interrupt, end) = yard.start(guest, spins, scratch(1 << 20, 10)).into_parts();
        bench::computing(&interrupt, Duration::from_millis(5)).await;
        let [other] = &yard.scratches()[..] else { panic!("{:?}", yard.scratches()) };
        assert_eq!(fs::read_dir(other).unwrap().count(), 1);
        assert_eq!(fs::metadata(other).unwrap().mode() & 0o777, 0o700);
        let number = other.file_name().unwrap().to_str().unwrap();
        let script = Script::default()
            .at(Do::List, ".")
            .at(Do::Stat, "mine")
            .at(Do::List, "..")
            .at(Do::Stat, &format!("../{number}/mine"));
        let answers = yard.run(guest, &script, scratch(1 << 20, 10)).await;
        assert_eq!(answers[0].errno, 0);
        assert!(!String::from_utf8_lossy(&answers[0].data).contains("mine"));
        assert!(answers[1..].iter().all(|answer| answer.errno != 0), "{answers:?}");
        interrupt.stop(StopReason::Revoked, true);
        within(end).await;
        yard.swept().await;
    }
}

#[tokio::test]
async fn without_the_grant_there_is_no_file_at_all() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let script = Script::default()
            .at(Do::Read, ".")
            .at(Do::List, ".")
            .at(Do::Create, "file")
            .at(Do::Read, "/etc/passwd")
            .at(Do::Stat, "/");
        let answers = yard.run(guest, &script, stem_isolate::Granted::default()).await;
        assert!(answers.iter().all(|answer| answer.errno != 0), "{answers:?}");
    }
    assert!(!yard.dir.path().join("scratches").read_dir().unwrap().any(|_| true));
}

#[tokio::test]
async fn a_place_that_is_missing_or_full_fails_the_attempt_and_not_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let scratch_dir = Some(dir.path().join("missing"));
    let bench = Bench::of(&RuntimeConfig { isolates: 2, scratch_dir, ..config() }).await;
    let module = bench.runtime.load(&super::guest::core()).await.unwrap();
    let yard = Yard { bench, dir, guests: [module.clone(), module.clone()] };
    let exit = bench::exit(yard.start(&module, vec![], scratch(1, 1))).await;
    assert_eq!(kind_and_code(&exit), (FailureKind::Error, "host-unavailable"));
    assert_eq!(failure(&exit).1, RetryAdvice::Policy);
    let exit =
        bench::exit(yard.start(&module, vec![], input(yard.dir.path().join("missing")))).await;
    assert_eq!(kind_and_code(&exit), (FailureKind::Error, "host-unavailable"));
    yard.bench.assert_good_task_runs().await;
    // Somebody makes it: nothing had to be restarted.
    fs::create_dir(yard.dir.path().join("missing")).unwrap();
    let exit = bench::exit(yard.start(&module, vec![], scratch(1, 1))).await;
    assert!(matches!(exit.outcome, Outcome::Succeeded(_)), "{exit:?}");
}

#[tokio::test]
async fn what_a_killed_worker_left_is_swept_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().to_owned();
    let start = || RuntimeConfig { isolates: 2, scratch_dir: Some(below.clone()), ..config() };
    let first = Bench::of(&start()).await;
    let module = first.runtime.load(&super::guest::core()).await.unwrap();
    let yard = Yard { bench: first, dir, guests: [module.clone(), module.clone()] };
    let spins = Script::default().at(Do::Create, "mine").with(Do::Spin, 0).bytes();
    let (interrupt, end) = yard.start(&module, spins, scratch(1 << 20, 10)).into_parts();
    bench::computing(&interrupt, Duration::from_millis(5)).await;
    let base = fs::read_dir(yard.dir.path()).unwrap().next().unwrap().unwrap().path();
    let dead = base.join("w-00000000000000aa");
    fs::create_dir_all(dead.join("0/dir")).unwrap();
    fs::write(dead.join("0/dir/file"), "left").unwrap();
    fs::write(base.join("w-00000000000000aa.lock"), "").unwrap();
    let living: Vec<_> = fs::read_dir(&base)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && *path != dead)
        .collect();
    let _second = Bench::of(&start()).await;
    let gone = async {
        while dead.exists() || base.join("w-00000000000000aa.lock").exists() {
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    };
    within(gone).await;
    assert!(living.len() == 1 && living[0].join("0/mine").exists(), "{living:?}");
    interrupt.stop(StopReason::Revoked, true);
    within(end).await;
}

#[tokio::test]
async fn a_failure_does_not_tell_where_the_worker_keeps_its_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let yard = Yard::new().await;
    let below = yard.dir.path().join("scratches");
    let uid = fs::metadata(&below).unwrap().uid();
    let base = below.join(format!("stem-scratch-{uid}"));
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    let missing = yard.dir.path().join("missing");
    for granted in [scratch(1, 1), input(missing)] {
        let exit = bench::exit(yard.start(&yard.guests[0], vec![], granted)).await;
        assert_eq!(kind_and_code(&exit), (FailureKind::Error, "host-unavailable"));
        let told = &failure(&exit).0.message;
        assert!(!told.contains(yard.dir.path().to_str().unwrap()), "{told}");
    }
}

#[tokio::test]
async fn nothing_is_left_when_the_sandbox_ends() {
    let yard = Yard::new().await;
    let spins = Script::default().with(Do::MakeFiles, 500).with(Do::Spin, 0).bytes();
    let running = yard.start(&yard.guests[0], spins, scratch(1 << 20, 1_000));
    let (interrupt, end) = running.into_parts();
    bench::computing(&interrupt, Duration::from_millis(50)).await;
    let below = yard.dir.path().join("scratches");
    let left = || {
        fs::read_dir(&below)
            .unwrap()
            .flat_map(|base| fs::read_dir(base.unwrap().path()).unwrap())
            .count()
    };
    assert_eq!(left(), 2, "its directory and its lock");
    let Bench { runtime, .. } = yard.bench;
    let runtime = std::sync::Arc::into_inner(runtime).expect("attempts do not hold the sandbox");
    drop::<stem_isolate::IsolateRuntime>(runtime);
    assert_eq!(left(), 0, "at once, since the process may end now");
    within(end).await;
}

/// The niceness of each of this process's threads of that name.
fn niceness(name: &str) -> Vec<i64> {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let stats =
        threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (_, rest) = stat.split_once('(')?;
            let (of, fields) = rest.rsplit_once(") ")?;
            // The nineteenth field, of which two are before this.
            (of == name).then(|| fields.split(' ').nth(16)?.parse().ok())?
        })
        .collect()
}

#[tokio::test]
async fn what_works_for_guests_gives_way_to_the_worker() {
    let yard = Yard::new().await;
    let script = Script::default().at(Do::Create, "file").at(Do::List, ".");
    yard.run(&yard.guests[0], &script, scratch(1 << 20, 10)).await;
    let (guests, files) = (niceness("stem-guest"), niceness("stem-timer"));
    assert!(!guests.is_empty() && guests.iter().all(|nice| *nice >= 10), "{guests:?}");
    // The timers themselves do not wait.
    assert!(files.iter().any(|nice| *nice >= 10) && files.contains(&0), "{files:?}");
}
