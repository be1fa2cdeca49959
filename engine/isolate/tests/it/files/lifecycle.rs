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
