//! No path leads out of a directory that is granted: eighty of them, each tried in every way, below a scratch directory
//! and below an input, through preview 1 and WASI 0.2. What lies outside is neither changed nor read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use stem_core::outcome::StopReason;

use super::guest::{Answer, Do, FIRST, Script};
use super::{Yard, input, scratch};
use crate::bench::{assert_preempted, within};

/// What lies outside, and nobody may see.
const SECRET: &str = "nobody inside may read this";

/// What is tried with each path.
const WAYS: [Do; 16] = [
    Do::Read,
    Do::ReadLink,
    Do::Write,
    Do::Create,
    Do::CreateNew,
    Do::Truncate,
    Do::Stat,
    Do::MakeDir,
    Do::Readlink,
    Do::List,
    Do::SetTimes,
    Do::Symlink,
    Do::Link,
    Do::Rename,
    Do::Unlink,
    Do::RemoveDir,
];

/// Makes what lies outside, below `dir`: a file and a directory with a file, which were last read long ago, so that a look
/// at them is seen.
pub(super) fn outside(dir: &Path) {
    let outside = dir.join("outside");
    fs::create_dir_all(outside.join("dir")).unwrap();
    for name in ["secret", "dir/inner"] {
        fs::write(outside.join(name), SECRET).unwrap();
    }
    fs::create_dir(outside.join("empty")).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["secret", "dir/inner", "dir", "empty", "."] {
        let times = fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
        fs::File::open(outside.join(name)).unwrap().set_times(times).unwrap();
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    text: Option<String>,
    times: [i64; 4],
    size_links_mode: [u64; 3],
}

/// Everything that can be known of what lies outside. Its own looks change nothing: the times are put back.
pub(super) fn look(dir: &Path) -> BTreeMap<String, Seen> {
    let outside = dir.join("outside");
    let names = [".", "secret", "dir", "dir/inner", "empty"];
    let about = names.map(|name| fs::symlink_metadata(outside.join(name)).unwrap());
    let mut seen = BTreeMap::new();
    for (name, about) in names.into_iter().zip(&about) {
        let text = about.is_file().then(|| fs::read_to_string(outside.join(name)).unwrap());
        let times = [about.atime(), about.atime_nsec(), about.mtime(), about.mtime_nsec()];
        let size_links_mode = [about.size(), about.nlink(), u64::from(about.mode())];
        seen.insert(name.to_owned(), Seen { text, times, size_links_mode });
    }
    let listed = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!((listed(&outside), listed(&outside.join("dir"))), (3, 1));
    for (name, about) in names.into_iter().zip(about) {
        let times = fs::FileTimes::new()
            .set_accessed(about.accessed().unwrap())
            .set_modified(about.modified().unwrap());
        fs::File::open(outside.join(name)).unwrap().set_times(times).unwrap();
    }
    seen
}

/// Paths that lead outside, or would if something on the way were careless. `up` is the way from the directory to the
/// yard, `yard` the yard's absolute path. The links are those of [`links`].
fn cases(up: &str, yard: &Path) -> Vec<String> {
    let yard = yard.display();
    let depth = up.split('/').count();
    let mut cases: Vec<String> = [
        "..",
        "../",
        "../.",
        "../..",
        "./..",
        ".//..",
        "../*",
        "sub/../..",
        "sub/../../",
        "sub/./../..",
        "sub/../sub/../..",
        "missing/../..",
        "file/..",
        "file/../..",
        "/",
        "//",
        "/.",
        "/..",
        "/etc/passwd",
        "//etc/passwd",
        "/../etc/passwd",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "/proc/self/cwd",
        "/proc/self/root",
        "/dev/null",
        "/dev/stdin",
        "/tmp",
        "proc/self/environ",
        "../../../../../../../../../../../../etc/passwd",
        "..\\outside",
        "..%2foutside",
        "C:\\",
        "\\\\?\\C:\\",
        "file:///etc/passwd",
        "~/.ssh",
        "$HOME",
        "...",
        "",
        "\0",
        "sub\0/../..",
        "../outside\0",
        "/scratch/../..",
        "/inputs",
    ]
    .map(str::to_owned)
    .to_vec();
    for target in ["outside", "outside/secret", "outside/dir", "outside/dir/inner", "outside/new"] {
        cases.push(format!("{up}/{target}"));
        cases.push(format!("{up}//{target}/"));
        cases.push(format!("sub/../{up}/{target}/."));
        cases.push(format!("{yard}/{target}"));
    }
    for link in [
        "out",
        "out/",
        "out/.",
        "secret",
        "secret/",
        "out/secret",
        "out/dir/inner",
        "out/new",
        "out/..",
        "chain/secret",
        "chain/new",
        "sub/up/outside/secret",
        "loop",
        "loop/x",
        "dangling",
        "sub/deep/../../out/secret",
    ] {
        cases.push(link.to_owned());
    }
    cases.push("x".repeat(256));
    cases.push(format!("{}/x", "x".repeat(300)));
    cases.push("y/".repeat(2_500));
    cases.push(format!("{}outside", "../".repeat(1_500)));
    cases.push(format!("{}{up}/outside/secret", "sub/../".repeat(400)));
    assert!(cases.len() >= 80 && depth > 0, "{}", cases.len());
    cases
}

/// Links that lead outside, made by whoever may.
fn links(up: &str) -> Vec<(&'static str, String)> {
    vec![
        ("out", format!("{up}/outside")),
        ("secret", format!("{up}/outside/secret")),
        ("chain", "sub/again".to_owned()),
        ("sub/again", "../out".to_owned()),
        ("sub/up", format!("../{up}")),
        ("loop", "loop".to_owned()),
        ("dangling", format!("{up}/outside/new")),
    ]
}

pub(super) fn attempts(script: Script, cases: &[String]) -> Script {
    cases.iter().fold(script, |script, path| {
        WAYS.iter().fold(script, |script, &way| match way {
            // Out of the directory, and into it.
            Do::Rename | Do::Link => script.both(way, path, "taken").both(way, "file", path),
            Do::Symlink => script.both(way, path, "file"),
            way => script.at(way, path),
        })
    })
}

/// Which cases are inside after all: a link itself may be looked at, moved and removed, as may names that only look bad.
fn is_inside(way: Do, path: &str) -> bool {
    let is_link = matches!(path, "out" | "secret" | "chain" | "loop" | "dangling");
    let only_looks_bad =
        matches!(path, "..\\outside" | "..%2foutside" | "C:\\" | "\\\\?\\C:\\" | "..." | "$HOME");
    only_looks_bad
        || is_link
            && matches!(way, Do::Readlink | Do::Link | Do::Rename | Do::Unlink | Do::ReadLink)
}

pub(super) fn assert_outside(cases: &[String], answers: &[Answer], what: &str) {
    let mut answers = answers.iter();
    for path in cases {
        for way in WAYS {
            let count = if matches!(way, Do::Rename | Do::Link) { 2 } else { 1 };
            for answer in answers.by_ref().take(count) {
                let shown: String = path.chars().take(60).collect();
                let data = String::from_utf8_lossy(&answer.data);
                assert!(!data.contains(SECRET), "{what}: {way:?} {shown:?} has read it");
                let told = data.contains("inner") || data.contains("passwd");
                assert!(!told || way == Do::Readlink, "{what}: {way:?} {shown:?} lists it");
                assert!(
                    answer.errno != 0 || is_inside(way, path),
                    "{what}: {way:?} {shown:?} succeeded: {data:?}"
                );
            }
        }
    }
    assert!(answers.next().is_none());
}

#[tokio::test]
async fn no_path_leads_out_of_a_scratch_directory() {
    let yard = Yard::new().await;
    outside(yard.dir.path());
    // BASE/stem-scratch-UID/w-NUMBER/ATTEMPT, below `scratches`.
    let up = "../../../..";
    let cases = cases(up, yard.dir.path());
    let before = look(yard.dir.path());
    for guest in &yard.guests {
        // In a directory of its own for each case, since some ways take a link away.
        for some in cases.chunks(1) {
            let mut script = Script::default().at(Do::MakeDir, "sub").at(Do::MakeDir, "sub/deep");
            script = script.at(Do::Create, "file");
            for (name, target) in links(up) {
                script = script.both(Do::Symlink, name, &target);
            }
            let made = 3 + links(up).len();
            let answers = yard.run(guest, &attempts(script, some), scratch(1 << 20, 10_000)).await;
            let (first, rest) = answers.split_at(made);
            assert!(first.iter().all(|answer| answer.errno == 0), "{first:?}");
            assert_outside(some, rest, "scratch");
        }
    }
    assert_eq!(look(yard.dir.path()), before);
    yard.swept().await;
}

#[tokio::test]
async fn no_path_leads_out_of_an_input_and_nothing_in_it_changes() {
    let yard = Yard::new().await;
    outside(yard.dir.path());
    let inside = yard.dir.path().join("inputs/x");
    fs::create_dir_all(inside.join("sub/deep")).unwrap();
    fs::write(inside.join("file"), "inside").unwrap();
    let up = "../..";
    for (name, target) in links(up) {
        symlink(target, inside.join(name)).unwrap();
    }
    symlink(yard.dir.path().join("outside/secret"), inside.join("absolute")).unwrap();
    symlink("/proc/self/environ", inside.join("environ")).unwrap();
    symlink("/", inside.join("root")).unwrap();
    let mut cases = cases(up, yard.dir.path());
    cases
        .extend(["absolute", "absolute/", "environ", "root/etc/passwd", "root"].map(str::to_owned));
    let before = look(yard.dir.path());
    let names = |path: &Path| {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let listed = (names(&inside), names(&inside.join("sub")));
    for guest in &yard.guests {
        let answers =
            yard.run(guest, &attempts(Script::default(), &cases), input(inside.clone())).await;
        let mut all = answers.iter();
        for path in &cases {
            for way in WAYS {
                for answer in
                    all.by_ref().take(if matches!(way, Do::Rename | Do::Link) { 2 } else { 1 })
                {
                    // What a link says is told; that is all.
                    let is_link = inside.join(path.replace('\0', "-")).is_symlink();
                    let looks = way == Do::Readlink && is_link;
                    let shown: String = path.chars().take(60).collect();
                    let data = String::from_utf8_lossy(&answer.data);
                    assert!(answer.errno != 0 || looks, "{way:?} {shown:?}: {data:?}");
                    assert!(!data.contains(SECRET), "{way:?} {shown:?}");
                }
            }
        }
        // And what is inside is read, and not written.
        let script = Script::default()
            .at(Do::Read, "file")
            .at(Do::Read, "sub/../file")
            .at(Do::List, ".")
            .at(Do::Write, "file")
            .at(Do::Truncate, "file")
            .at(Do::Create, "file")
            .at(Do::Create, "new")
            .at(Do::SetTimes, "file")
            .both(Do::Rename, "file", "other")
            .both(Do::Link, "file", "other")
            .at(Do::Unlink, "file")
            .at(Do::RemoveDir, "sub/deep")
            .open("file", 0)
            .with(Do::Put, 4)
            .with(Do::PutAt, 4)
            .with(Do::SetSize, 0);
        let answers = yard.run(guest, &script, input(inside.clone())).await;
        assert_eq!((answers[0].errno, &answers[0].data[..]), (0, &b"inside"[..]));
        assert_eq!((answers[1].errno, &answers[1].data[..]), (0, &b"inside"[..]));
        assert_eq!(answers[2].errno, 0);
        // To open what is there with the flag to create it is allowed, and makes nothing.
        let refused: Vec<_> = answers[3..12].iter().map(|answer| answer.errno != 0).collect();
        assert!(refused.iter().enumerate().all(|(at, refused)| *refused || at == 2), "{refused:?}");
        assert!(answers[13..].iter().all(|answer| answer.errno != 0), "{answers:?}");
    }
    assert_eq!(look(yard.dir.path()), before);
    assert_eq!((names(&inside), names(&inside.join("sub"))), listed);
    assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "inside");
}

#[tokio::test]
async fn nothing_goes_from_one_directory_into_another() {
    let yard = Yard::new().await;
    let inside = yard.dir.path().join("inputs");
    fs::create_dir_all(inside.join("dir")).unwrap();
    fs::write(inside.join("file"), "inside").unwrap();
    let mut granted = input(inside.clone());
    granted.grants.scratch = scratch(1 << 20, 100).grants.scratch;
    // /scratch, the current directory (the same), then the input.
    let (scratch, here, input) = (FIRST, FIRST + 1, FIRST + 2);
    let mut script = Script::default().at(Do::Create, "mine");
    for way in [Do::Rename, Do::Link] {
        script = script
            .step(way, (scratch, input), (b"mine", b"theirs"), 0)
            .step(way, (input, scratch), (b"file", b"mine2"), 0)
            .step(way, (input, here), (b"file", b"mine3"), 0);
    }
    script = script
        .step(Do::Rename, (scratch, here), (b"mine", b"moved"), 0)
        .step(Do::Read, (here, here), (b"moved", b""), 0)
        .step(Do::Read, (input, input), (b"file", b""), 0)
        .step(Do::Read, (scratch, scratch), (b"../inputs/file", b""), 0);
    for guest in &yard.guests {
        let answers = yard.run(guest, &script, granted.clone()).await;
        let errnos: Vec<_> = answers.iter().map(|answer| answer.errno != 0).collect();
        let [made, between @ .., moved, read, theirs, escaped] = &errnos[..] else { panic!() };
        assert!(!made && between.iter().all(|refused| *refused), "{errnos:?}");
        assert!(!moved && !read && !theirs && *escaped, "{errnos:?}");
    }
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);
}

#[tokio::test]
async fn a_pipe_a_socket_or_a_device_is_not_opened_and_holds_nobody() {
    let yard = Yard::new().await;
    let inside = yard.dir.path().join("inputs");
    fs::create_dir(&inside).unwrap();
    let made = std::process::Command::new("mkfifo").arg(inside.join("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
    symlink("pipe", inside.join("link")).unwrap();
    fs::write(inside.join("file"), "inside").unwrap();
    for guest in &yard.guests {
        let mut script = Script::default();
        for path in ["pipe", "link", "./pipe", "socket"] {
            for way in [Do::Read, Do::Write, Do::Create, Do::Truncate, Do::List] {
                script = script.at(way, path);
            }
        }
        let answers = yard.run(guest, &script.at(Do::Read, "file"), input(inside.clone())).await;
        let (last, others) = answers.split_last().unwrap();
        assert!(others.iter().all(|answer| answer.errno != 0), "{answers:?}");
        assert_eq!((last.errno, &last.data[..]), (0, &b"inside"[..]));
        // Nobody waits for the other end: a stopped guest is gone at once, and so is its thread.
        let script = Script::default().at(Do::Read, "pipe").with(Do::Spin, 0);
        let running = yard.start(guest, script.bytes(), input(inside.clone()));
        let (interrupt, end) = running.into_parts();
        crate::bench::computing(&interrupt, Duration::from_millis(1)).await;
        interrupt.stop(StopReason::Revoked, true);
        assert_preempted(&within(end).await);
    }
    yard.bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn a_name_that_is_no_text_is_an_error_and_nothing_worse() {
    use std::os::unix::ffi::OsStrExt as _;

    let yard = Yard::new().await;
    let inside = yard.dir.path().join("inputs");
    fs::create_dir_all(inside.join("dir")).unwrap();
    fs::write(inside.join("dir").join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "odd").unwrap();
    fs::write(inside.join("dir/file"), "inside").unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"\xff\xfe"), inside.join("dir/link")).unwrap();
    for guest in &yard.guests {
        let script = Script::default()
            .at(Do::List, "dir")
            .at(Do::Readlink, "dir/link")
            .at(Do::Read, "dir/link")
            .at(Do::Read, "dir/file");
        let answers = yard.run(guest, &script, input(inside.clone())).await;
        let errnos: Vec<_> = answers.iter().map(|answer| answer.errno).collect();
        assert!(errnos[0] != 0 && errnos[1] != 0, "{errnos:?}");
        // A link leads where it leads, whatever that is called.
        assert_eq!((errnos[2], &answers[2].data[..]), (0, &b"odd"[..]));
        assert_eq!((errnos[3], &answers[3].data[..]), (0, &b"inside"[..]));
    }
}
