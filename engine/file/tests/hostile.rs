//! Files that are none, files that others wrote, files that go away.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stem_conformance::ManualClock;
use stem_core::backend::{BackendError, ErrorClass, RevokeStore};
use stem_core::revoke::{RevocationChange, Version};
use stem_core::time::{Clock, Timestamp};
use support::*;

const SEALED: &str = r#"{"v":1,"namespace":"n","taskId":"t","version":5,"issuedAt":"2026-11-22T00:00:00.000Z","terminate":true,"cooperative":false,"crc":"#;

/// The error of listing, which must come soon and name the file.
async fn refusal(path: &Path) -> BackendError {
    let started = Instant::now();
    let error = listed(&store(path)).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    println!("{error}");
    error
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let (directory, path) = place();
    let refused = async |path: &Path, phrase: &str| {
        let error = refusal(path).await;
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(error.problem.contains(phrase), "{phrase}: {error}");
        assert_eq!(revoke(&store(path), "t").await.unwrap_err().class(), ErrorClass::Refused);
    };
    refused(directory.path(), "a directory").await;
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused(&path, "a FIFO").await;
    refused(Path::new("/dev/full"), "a device").await;
    assert!(!Path::new("/dev/full.lock").exists());
    refused(&directory.path().join("no/such/revokes"), "does not exist").await;
    let circle = directory.path().join("circle");
    symlink(&circle, &circle).unwrap();
    refused(&circle, "its path").await;
    let (_other, locked) = place();
    fs::write(&locked, "").unwrap();
    symlink("/dev/null", locked.with_extension("lock")).unwrap();
    refused(&locked, "lock").await;
    let (other, linked) = place();
    fs::write(&linked, "").unwrap();
    fs::write(other.path().join("theirs"), "precious").unwrap();
    fs::hard_link(other.path().join("theirs"), linked.with_extension("lock")).unwrap();
    refused(&linked, "lock").await;
    assert_eq!(content(&other.path().join("theirs")), b"precious");
}

#[tokio::test]
async fn modes_are_obeyed_also_by_a_superuser() {
    let (directory, path) = place();
    let opened = store(&path);
    revoke(&opened, "t").await.unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    assert_eq!(tasks(&store(&path)).await.unwrap(), ["t"]);
    for reader in [&opened, &store(&path)] {
        for error in [
            revoke(reader, "u").await.unwrap_err(),
            reader.undo(&space(), &task("t")).await.unwrap_err(),
            reader.prune(&space()).await.unwrap_err(),
            reader.health().await.unwrap_err(),
        ] {
            assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        }
    }
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    assert_eq!(refusal(&path).await.class(), ErrorClass::Refused);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    revoke(&opened, "u").await.unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o500)).unwrap();
    assert_eq!(refusal(&directory.path().join("new")).await.class(), ErrorClass::Refused);
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(tasks(&opened).await.unwrap(), ["t", "u"]);
}

#[tokio::test]
async fn a_new_file_is_made_at_first_use_for_this_user_only() {
    let (_directory, path) = place();
    let store = store(&path);
    assert!(!path.exists(), "opening touches nothing");
    assert_eq!(tasks(&store).await.unwrap(), Vec::<String>::new());
    for made in [&path, &path.with_extension("lock")] {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(store.health().await.unwrap().warnings, Vec::<String>::new());
    fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
    let health = store.health().await.unwrap();
    assert!(health.warnings[0].contains("changed by other users"), "{health:?}");
    assert!(health.warnings[0].contains("chmod 600"), "{health:?}");
    fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    let health = store.health().await.unwrap();
    assert!(health.warnings[0].contains("read by other users"), "{health:?}");
}

#[tokio::test]
async fn content_that_is_not_ours_is_corrupt_by_its_line() {
    let long = format!(
        "{{\"namespace\":\"n\",\"taskId\":\"t\",\"reason\":\"{}\"}}\n",
        "x".repeat(100 * 1024)
    );
    let cases: &[(&str, &[u8], usize, &str)] = &[
        ("zeros", &[0; 100], 1, "does not begin with {"),
        ("a newer version", b"\n{\"v\":2,\"taskId\":[],\"crc\":1}\n", 2, "newer version of stem"),
        ("a long line", long.as_bytes(), 1, "more than 65536 bytes"),
        ("a key twice", br#"{"namespace":"n","taskId":"t","taskId":"u"}"#, 1, "duplicate field"),
        (
            "an unknown key",
            br#"{"namespace":"n","taskId":"t","forcibly":true}"#,
            1,
            "unknown field",
        ),
        (
            "not UTF-8",
            b"{\"namespace\":\"n\",\"taskId\":\"t\",\"reason\":\"\xff\"}\n",
            1,
            "unicode",
        ),
        ("no object", b"{\"namespace\":\"n\",\"taskId\":\"t\"}\n[]\n", 2, "line 2"),
        ("no task", b"{\"namespace\":\"n\"}\n", 1, "`taskId` is missing"),
        ("a bad name", b"{\"namespace\":\"../n\",\"taskId\":\"t\"}\n", 1, "namespace"),
        ("a bad time", br#"{"namespace":"n","taskId":"t","expiresAt":"soon"}"#, 1, "RFC 3339"),
        (
            "a huge version",
            br#"{"namespace":"n","taskId":"t","version":9007199254740992}"#,
            1,
            "at most",
        ),
        ("another checksum", &[SEALED, "\"00000000\"}\n"].concat().into_bytes(), 1, "checksum"),
        ("half a checksum", &[SEALED, "\"00\"}\n"].concat().into_bytes(), 1, "8 digits"),
        (
            "two kinds",
            br#"{"namespace":"n","taskId":"t","undoneAt":"2026-11-22T00:00:00Z","terminate":true}"#,
            1,
            "`undoneAt`",
        ),
        (
            "half a line",
            b"{\"namespace\":\"n\",\"taskId\"\n{\"namespace\":\"n\",\"taskId\":\"t\"}\n",
            1,
            "line 1",
        ),
    ];
    for (what, bytes, line, phrase) in cases {
        let (_directory, path) = place();
        fs::write(&path, bytes).unwrap();
        println!("{what}:");
        let error = refusal(&path).await;
        assert_eq!((error.class(), line_of(&error)), (ErrorClass::Corrupt, *line), "{error}");
        assert!(error.to_string().contains(phrase), "{phrase}: {error}");
        assert_eq!(content(&path), *bytes);
    }
    let (_directory, path) = place();
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(refusal(&path).await.class(), ErrorClass::Corrupt);
}

#[tokio::test]
async fn lines_written_by_hand_are_taken_as_they_are() {
    let (_directory, path) = place();
    fs::write(
        &path,
        concat!(
            "{\"namespace\":\"n\",\"taskId\":\"a\"}\r\n",
            "\n   \r\n",
            "{\"taskId\":\"b\",\"terminate\":true,\"reason\":\"\\u0062ad\",\"namespace\":\"n\",\"version\":40}\n",
            "{\"namespace\":\"n\",\"taskId\":\"c\",\"issuedAt\":\"2026-11-22T01:00:00+01:00\"}",
        ),
    )
    .unwrap();
    let store = store(&path);
    let found = listed(&store).await.unwrap();
    let versions: Vec<_> = found.iter().map(|change| change.version().0).collect();
    assert_eq!(versions, [1, 40, 41]);
    let RevocationChange::Revoked(b) = &found[1] else { panic!("{found:?}") };
    assert!(b.request.terminate && !b.request.cooperative);
    assert_eq!(b.request.reason.as_deref(), Some("bad"));
    let RevocationChange::Revoked(c) = &found[2] else { panic!("{found:?}") };
    assert_eq!(c.issued_at.to_string(), "2026-11-22T00:00:00.000Z");
    // One more while the store is open, and an older line brought back; both are news to who follows.
    let seen = revoke(&store, "d").await.unwrap().version;
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let text = concat!(
        "{\"namespace\":\"n\",\"taskId\":\"e\"}\n",
        "{\"namespace\":\"n\",\"taskId\":\"f\",\"version\":2}\n",
        "{\"namespace\":\"n\",\"taskId\":\"a\",\"version\":1}\n",
    );
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    store.changed(Duration::from_secs(20)).await.unwrap();
    let news = store.since(&space(), seen, 10).await.unwrap();
    let news: Vec<_> =
        news.iter().map(|it| (it.task().as_str(), it.version().0 - seen.0)).collect();
    assert_eq!(news, [("e", 1), ("f", 2)], "of a, as much is known");
    // A compaction seals them and changes nothing else.
    revoke(&store, "d").await.unwrap();
    let before = listed(&store).await.unwrap();
    assert_eq!(store.prune(&space()).await.unwrap(), 0);
    assert_eq!(lines(&content(&path)).iter().filter(|line| line.ends_with(b"\"}\n")).count(), 6);
    assert_eq!(listed(&store).await.unwrap(), before);
    assert_eq!(listed(&support::store(&path)).await.unwrap(), before);
}

#[tokio::test]
async fn a_file_that_goes_away_is_an_error_and_no_empty_list() {
    let (_directory, path) = place();
    let clock = ManualClock::new();
    let store = with(&path, clock.clone(), Duration::from_secs(5));
    let seen = revoke(&store, "t").await.unwrap().version;
    assert_eq!(tasks(&store).await.unwrap(), ["t"]);
    fs::remove_file(&path).unwrap();
    for error in [
        listed(&store).await.unwrap_err(),
        store.changed(Duration::from_secs(5)).await.unwrap_err(),
        store.undo(&space(), &task("t")).await.unwrap_err(),
        store.prune(&space()).await.unwrap_err(),
        store.health().await.unwrap_err(),
    ] {
        assert_eq!(error.class(), ErrorClass::Transient, "{error}");
        assert!(error.to_string().contains("the file is gone"), "{error}");
    }
    assert!(!path.exists());
    // One that somebody else made anew holds nothing as new as what was seen.
    fs::write(&path, "").unwrap();
    let error = store.since(&space(), seen, 10).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(error.to_string().contains("an older file"), "{error}");
    fs::remove_file(&path).unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(revoke(&store, "u").await.unwrap().version > seen, "a new file goes on above");
    assert_eq!(tasks(&store).await.unwrap(), ["u"]);
}

#[tokio::test]
async fn an_older_copy_in_its_place_is_told_from_the_file() {
    let (_directory, path) = place();
    let clock = ManualClock::new();
    let follower = with(&path, clock.clone(), Duration::from_secs(5));
    revoke(&follower, "a").await.unwrap();
    let copy = content(&path);
    let seen = revoke(&follower, "b").await.unwrap().version;
    assert_eq!(follower.since(&space(), seen, 10).await.unwrap(), []);
    fs::write(&path, copy).unwrap();
    assert!(follower.since(&space(), seen, 10).await.is_err());
    // What comes then is above what was seen, so nobody misses it.
    clock.advance(Duration::from_secs(1));
    let next = revoke(&follower, "c").await.unwrap().version;
    let news = follower.since(&space(), seen, 10).await.unwrap();
    assert_eq!(news.iter().map(RevocationChange::version).collect::<Vec<_>>(), [next]);
}

#[tokio::test]
async fn a_link_stays_a_link() {
    let (directory, path) = place();
    let link = directory.path().join("link");
    symlink("revokes", &link).unwrap();
    let by_link = store(&link);
    // Through a link that leads to nothing yet.
    revoke(&by_link, "a").await.unwrap();
    revoke(&store(&path), "a").await.unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(by_link.prune(&space()).await.unwrap(), 0);
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode, "it was compacted");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(lines(&content(&link)).len(), 1);
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["link", "revokes", "revokes.lock"], "one lock for both names");
}

#[tokio::test]
async fn a_compaction_keeps_the_mode_and_forgets_no_version() {
    let (_directory, path) = place();
    let clock = ManualClock::new();
    let open = || with(&path, clock.clone(), Duration::from_secs(5));
    let store = open();
    revoke(&store, "a").await.unwrap();
    let last = store.undo(&space(), &task("a")).await.unwrap().unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    fs::write(path.with_extension("new"), "left by one who was killed").unwrap();
    clock.advance(Duration::from_hours(25));
    assert_eq!(store.prune(&space()).await.unwrap(), 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!path.with_extension("new").exists());
    let mark = String::from_utf8(content(&path)).unwrap();
    assert!(
        mark.starts_with(&format!("{{\"v\":1,\"namespace\":\"n\",\"lastVersion\":{},", last.0)),
        "{mark}"
    );
    // A clock that was set back decides nothing, in whichever process.
    let early = with(&path, Arc::new(Early), Duration::from_secs(5));
    assert_eq!(early.since(&space(), last, 10).await.unwrap(), []);
    assert_eq!(revoke(&early, "b").await.unwrap().version, Version(last.0 + 1));
    assert_eq!(store.prune(&space()).await.unwrap(), 0);
    assert!(revoke(&open(), "c").await.unwrap().version > Version(last.0 + 1));
}

/// A clock at the beginning of time.
#[derive(Debug)]
struct Early;

impl Clock for Early {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
}
