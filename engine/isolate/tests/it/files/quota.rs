//! A scratch directory's quota holds to the byte and to the file, by every way to write and to make, and the guest is
//! told as it is of a full disk.

use std::sync::Arc;

use stem_core::outcome::Outcome;

use super::guest::{Answer, Do, FIRST, Script};
use super::{Yard, scratch};
use crate::bench;
use crate::guests::Task;

const FULL: u8 = 51;
const APPEND: u64 = 256;
const CREATE: u64 = 1;

fn errnos(answers: &[Answer]) -> Vec<u8> {
    answers.iter().map(|answer| answer.errno).collect()
}

#[tokio::test]
async fn what_is_written_counts_to_the_byte_and_removing_gives_nothing_back() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let script = Script::default()
            .open("a", CREATE)
            .with(Do::Put, 6_000)
            .with(Do::Put, 6_000)
            .with(Do::PutBytes, 10_000)
            .with(Do::Close, 0)
            .at(Do::Stat, "a")
            .at(Do::Unlink, "a")
            .open("b", CREATE)
            .with(Do::Put, 1);
        let answers = yard.run(guest, &script, scratch(10_000, 100)).await;
        assert_eq!(errnos(&answers), [0, 0, FULL, FULL, 0, 0, 0, 0, FULL]);
        assert_eq!(answers[5].number(), 10_000);
    }
}

#[tokio::test]
async fn single_bytes_fill_it_exactly_and_so_do_appending_and_overwriting() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        for flags in [CREATE, CREATE | APPEND] {
            let script = Script::default().open("a", flags).with(Do::PutBytes, 1_000);
            let answers = yard.run(guest, &script.at(Do::Stat, "a"), scratch(777, 1)).await;
            assert_eq!(errnos(&answers), [0, FULL, 0]);
            assert_eq!((answers[1].number(), answers[2].number()), (777, 777), "{flags}");
        }
        let mut script = Script::default().open("a", CREATE);
        for _ in 0..10 {
            script = script.with(Do::Seek, 0).with(Do::Put, 100);
        }
        let answers = yard.run(guest, &script, scratch(950, 1)).await;
        let full = answers.iter().filter(|answer| answer.errno == FULL).count();
        assert_eq!((full, answers.last().unwrap().errno), (1, FULL), "{answers:?}");
    }
}

#[tokio::test]
async fn holes_and_growth_cost_what_they_span() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        // 10 MB of quota do not hold a byte at every 4 KiB of 100 MB, nor one far out, nor a length that is only set.
        let mut script = Script::default()
            .open("a", CREATE)
            .with(Do::SetSize, 100 << 20)
            .with(Do::SetSize, u64::MAX)
            .with(Do::PutAt, 100 << 20)
            .with(Do::PutAt, (1 << 62) - 1)
            .with(Do::Seek, 100 << 20)
            .with(Do::Put, 1)
            .with(Do::Renumber, 0)
            .with(Do::Put, 1)
            .with(Do::SetSize, 9 << 20)
            .with(Do::SetSize, 0)
            .with(Do::SetSize, 2 << 20);
        for page in 0..600_u64 {
            script = script.with(Do::PutAt, page * 4_096);
        }
        let answers = yard.run(guest, &script, scratch(10 << 20, 10)).await;
        let errnos = errnos(&answers);
        assert_eq!(errnos[0], 0);
        for far in [1, 2, 3, 4, 6, 8] {
            assert_ne!(errnos[far], 0, "{far}: {errnos:?}");
        }
        assert_eq!(errnos[9..12], [0, 0, FULL], "9 MiB are paid for, and 2 more are not there");
        let holes = answers[12..].iter().filter(|answer| answer.errno == 0).count();
        assert!(
            (200..=300).contains(&holes),
            "one MiB is left, and each page costs 4 KiB: {holes}"
        );
    }
}

#[tokio::test]
async fn files_directories_and_links_count_and_what_is_there_already_does_not() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let mut script = Script::default();
        for _ in 0..20 {
            script = script.at(Do::Create, "file");
        }
        // One so far, and none for what fails.
        script = script
            .at(Do::CreateNew, "file")
            .at(Do::MakeDir, "file")
            .at(Do::Create, "missing/file")
            .at(Do::MakeDir, "dir")
            .both(Do::Symlink, "link", "file")
            .both(Do::Link, "file", "hard")
            .at(Do::Create, "fifth")
            .both(Do::Rename, "fifth", "moved");
        let ways = [Do::Create, Do::CreateNew, Do::MakeDir, Do::Symlink];
        for way in ways {
            script = script.both(way, "more", "file");
        }
        script =
            script.both(Do::Link, "file", "more").at(Do::Unlink, "moved").at(Do::Create, "more");
        let answers = yard.run(guest, &script, scratch(1 << 20, 5)).await;
        let errnos = errnos(&answers);
        assert!(errnos[..20].iter().all(|errno| *errno == 0), "{errnos:?}");
        assert!(errnos[20..23].iter().all(|errno| *errno != 0 && *errno != FULL), "{errnos:?}");
        assert_eq!(errnos[23..28], [0; 5], "{errnos:?}");
        assert_eq!(errnos[28..], [FULL, FULL, FULL, FULL, FULL, 0, FULL], "{errnos:?}");
    }
}

#[tokio::test]
async fn a_hundred_thousand_files_are_not_made_and_the_directory_goes_away_with_those_that_are() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let script = Script::default().with(Do::MakeFiles, 100_000);
        let answers = yard.run(guest, &script, scratch(1 << 20, 3_000)).await;
        assert_eq!((answers[0].errno, answers[0].number()), (FULL, 3_000));
        yard.swept().await;
    }
}

#[tokio::test]
async fn directories_deeper_than_any_path_go_away_too() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let script = Script::default().with(Do::MakeDeep, 100_000);
        let answers = yard.run(guest, &script, scratch(1 << 20, 3_000)).await;
        assert_eq!((answers[0].errno, answers[0].number()), (FULL, 3_000));
        yard.swept().await;
    }
}

#[tokio::test]
async fn names_that_no_disk_takes_are_refused_and_cost_nothing() {
    let yard = Yard::new().await;
    let long = vec![b'n'; 256];
    let fits = vec![b'n'; 255];
    for guest in &yard.guests {
        let mut script = Script::default();
        let mut bad = vec![&long[..], b"", b"a\0b", b"dir/"];
        // Through WASI 0.2 a text that is none ends the guest.
        if Arc::ptr_eq(guest, &yard.guests[0]) {
            bad.push(b"\xff\xfe");
        }
        for name in &bad {
            script = script.step(Do::Create, (FIRST, FIRST), (name, b""), 0);
        }
        script = script.step(Do::Create, (FIRST, FIRST), (&fits, b""), 0);
        let answers = yard.run(guest, &script.at(Do::Create, "more"), scratch(10, 1)).await;
        let errnos = errnos(&answers);
        let (refused, made) = errnos.split_at(bad.len());
        assert!(refused.iter().all(|errno| *errno != 0), "{errnos:?}");
        assert_eq!(made, [0, FULL]);
    }
}

/// A task, which is another world than a command: makes the directories `a` and `b` in what it finds opened first, and
/// answers both answers of the host.
fn makes_two_directories() -> String {
    let codes = "access would-block already bad-descriptor busy deadlock quota exist file-too-large \
        illegal-byte-sequence in-progress interrupted invalid io is-directory loop too-many-links message-size \
        name-too-long no-device no-entry no-lock insufficient-memory insufficient-space not-directory not-empty \
        not-recoverable unsupported no-tty no-such-device overflow not-permitted pipe read-only invalid-seek \
        text-file-busy cross-device";
    let codes = codes.split_whitespace().collect::<Vec<_>>().join("\" \"");
    let imports = format!(
        r#"(import "wasi:filesystem/types@0.2.0" (instance $fs
          (export "descriptor" (type $d (sub resource)))
          (type $codes (enum "{codes}"))
          (export "error-code" (type $code (eq $codes)))
          (export "[method]descriptor.create-directory-at"
            (func (param "self" (borrow $d)) (param "path" string) (result (result (error $code)))))))
        (alias export $fs "descriptor" (type $descriptor))
        (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
          (alias outer 1 $descriptor (type $d0)) (export "descriptor" (type $d (eq $d0)))
          (export "get-directories" (func (result (list (tuple (own $d) string)))))))"#
    );
    Task {
        imports: &imports,
        lowered: r#"
          (core func $dirs (canon lower (func $preopens "get-directories") (memory $memory) (realloc $realloc)))
          (core func $mkdir (canon lower (func $fs "[method]descriptor.create-directory-at") (memory $memory)))"#,
        exports: r#"(export "dirs" (func $dirs)) (export "mkdir" (func $mkdir))"#,
        more: r#"(import "host" "dirs" (func $dirs (param i32)))
          (import "host" "mkdir" (func $mkdir (param i32 i32 i32 i32)))---"#,
        data: "ab",
        run: "
          (call $dirs (i32.const 256))
          (call $mkdir (i32.load (i32.load (i32.const 256))) (i32.const 512) (i32.const 1) (i32.const 264))
          (call $mkdir (i32.load (i32.load (i32.const 256))) (i32.const 513) (i32.const 1) (i32.const 266))
          (call $ok (i32.const 264) (i32.const 4))",
        ..Task::default()
    }
    .wat()
}

#[tokio::test]
async fn a_task_has_a_scratch_directory_and_its_quota_as_a_command_does() {
    let yard = Yard::new().await;
    let module = yard.bench.load(&makes_two_directories()).await;
    let exit = bench::exit(yard.start(&module, vec![], scratch(1 << 20, 1))).await;
    let Outcome::Succeeded(payload) = exit.outcome else { panic!("{exit:?}") };
    let insufficient_space = 23;
    assert_eq!(payload.bytes, [0, 0, 1, insufficient_space]);
    yard.swept().await;
}

#[tokio::test]
async fn a_guest_holds_few_files_open_and_may_open_many_one_after_the_other() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let at = |script: Script, what, path: &[u8], number| {
            script.step(what, (FIRST, FIRST), (path, b""), number)
        };
        let script = at(Script::default().at(Do::Create, "a"), Do::OpenAndClose, b"a", 1_000);
        let script = at(script, Do::OpenMany, b"a", 10_000);
        let script = at(script, Do::OpenMany, b".", 10_000).at(Do::MakeDir, "made");
        let answers = yard.run(guest, &script, scratch(1 << 20, 10)).await;
        assert_eq!((answers[1].errno, answers[1].number()), (0, 1_000));
        assert_ne!(answers[2].errno, 0);
        assert_eq!(answers[2].number(), 64);
        assert_eq!((answers[3].errno != 0, answers[3].number(), answers[4].errno), (true, 0, 0));
    }
}

#[tokio::test]
async fn to_sync_costs_nothing_and_is_for_files_only() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        let script = Script::default().with(Do::Sync, 0).open("a", CREATE).with(Do::Sync, 0);
        let answers = yard.run(guest, &script, scratch(1 << 20, 10)).await;
        assert_ne!(answers[0].errno, 0);
        assert_eq!(errnos(&answers[1..]), [0, 0]);
    }
}

#[tokio::test]
async fn two_handles_on_one_file_pay_as_one() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        // The second opens it anew for each of its steps, and overwrites or cuts off what the first has written.
        let script = Script::default()
            .open("a", CREATE)
            .with(Do::Put, 50)
            .at(Do::Write, "a")
            .with(Do::PutAt, u64::MAX)
            .with(Do::Seek, u64::MAX)
            .with(Do::Put, 40)
            .at(Do::Truncate, "a")
            .with(Do::Put, 6)
            .with(Do::Put, 1)
            .at(Do::Write, "a")
            .at(Do::Stat, "a");
        let answers = yard.run(guest, &script, scratch(100, 1)).await;
        let errnos = errnos(&answers);
        let [made, fifty, over, far, back, forty, cut, rest @ ..] = &errnos[..] else { panic!() };
        assert_eq!([made, fifty, over, forty, cut], [&0; 5], "{errnos:?}");
        assert!(*far != 0 && *back != 0, "{errnos:?}");
        // 94 are paid for. What follows lies behind a hole of 90, which was paid for already or costs as much again.
        assert!(rest[1..3].iter().all(|errno| *errno == FULL), "{errnos:?}");
        assert!(answers.last().unwrap().number() <= 100);
    }
}

#[tokio::test]
async fn what_listings_hold_is_bounded() {
    let yard = Yard::new().await;
    let [_, component] = &yard.guests;
    let inputs = yard.dir.path().join("inputs");
    let many = inputs.join("many");
    std::fs::create_dir_all(&many).unwrap();
    // More than 16 MiB of names.
    let tail = "n".repeat(240);
    for number in 0..55_000 {
        std::fs::File::create(many.join(format!("{number}{tail}"))).unwrap();
    }
    let script = Script::default().at(Do::List, "many").at(Do::List, ".").at(Do::Stat, "many");
    let answers = yard.run(component, &script, super::input(inputs)).await;
    let out_of_memory = 48;
    assert_eq!(errnos(&answers), [out_of_memory, 0, 0]);
}
