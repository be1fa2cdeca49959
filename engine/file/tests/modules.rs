//! The directory of modules held to the contract, and directories that are none, that others may change, that are damaged.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use stem_conformance::{ManualClock, ModuleHarness};
use stem_core::backend::modules::{LOOSE_TTL, Pushed, Removed};
use stem_core::backend::{BackendError, ErrorClass, ModuleStore};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{Push, PushId, Release, Rollout};
use stem_core::time::{Clock, Timestamp};
use stem_file::{ModuleDirectory, ModuleDirectoryOptions};

struct OnDirectory {
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

#[async_trait]
impl ModuleHarness for OnDirectory {
    async fn connect(&self) -> Arc<dyn ModuleStore> {
        with(self.directory.path(), &self.clock)
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

#[expect(clippy::unused_async, reason = "the suites make harnesses that may have to wait")]
async fn harness() -> OnDirectory {
    OnDirectory { clock: ManualClock::new(), directory: tempfile::tempdir().unwrap() }
}

stem_conformance::modules_suite!(harness);

fn with(path: &Path, clock: &Arc<ManualClock>) -> Arc<ModuleDirectory> {
    ModuleDirectory::open(ModuleDirectoryOptions {
        path: path.to_owned(),
        clock: clock.clone(),
        lock_timeout: Duration::from_secs(10),
    })
}

fn store(path: &Path) -> Arc<ModuleDirectory> {
    with(path, &ManualClock::new())
}

const DIGEST: Digest = Digest([0xab; 32]);

fn job() -> TaskName {
    TaskName::new("job").unwrap()
}

fn release() -> Push {
    Push {
        id: PushId::fresh(),
        name: job(),
        digest: DIGEST,
        size: 6,
        manifest: String::new(),
        pushed_by: None,
        signatures: Vec::new(),
    }
}

async fn push(store: &ModuleDirectory) -> Result<Release, BackendError> {
    store.put(&DIGEST, b"module").await?;
    match store.push(&release(), Rollout::Whole).await? {
        Pushed::Release(release) => Ok(release),
        Pushed::NoSuchModule => panic!("it was stored"),
    }
}

/// An error that came soon, of this class, names the directory and says this.
fn refusal<T: std::fmt::Debug>(
    answer: Result<T, BackendError>,
    directory: &Path,
    class: ErrorClass,
    phrase: &str,
) {
    let error = answer.unwrap_err();
    println!("{error}");
    assert_eq!(error.class(), class, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(directory.to_str().unwrap()) && text.contains(phrase),
        "{phrase}: {text}"
    );
}

fn blob(directory: &Path) -> std::path::PathBuf {
    directory.join("blobs").join("ab".repeat(32))
}

#[tokio::test]
async fn the_first_push_makes_the_directory_for_this_user_only() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("modules");
    let store = store(&path);
    refusal(store.catalogue().await, &path, ErrorClass::Refused, "a push makes it");
    refusal(store.health().await, &path, ErrorClass::Refused, "does not exist");
    assert!(!path.exists());
    assert_eq!(push(&store).await.unwrap().version, 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("blobs"))), (0o700, 0o700));
    assert_eq!((mode(&path.join("catalogue.json")), mode(&blob(&path))), (0o600, 0o600));
    let health = store.health().await.unwrap();
    assert!(health.detail.contains("1 names, 1 releases") && health.warnings.is_empty());
    let deep = place.path().join("no/such/place");
    refusal(push(&self::store(&deep)).await, &deep, ErrorClass::Refused, "cannot be made");
}

#[tokio::test]
async fn files_are_as_open_to_readers_as_their_directory() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    fs::set_permissions(path, Permissions::from_mode(0o775)).unwrap();
    let store = store(path);
    push(&store).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path.join("catalogue.json")), mode(&blob(path))), (0o644, 0o644));
    assert!(store.health().await.unwrap().warnings[0].contains("chmod g-w"));
    // Readers need to write nothing, not even a lock.
    fs::remove_file(path.join("catalogue.json.lock")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o555)).unwrap();
    let reader = self::store(path);
    assert_eq!(reader.catalogue().await.unwrap().served.len(), 1);
    assert_eq!(reader.get(&DIGEST).await.unwrap(), Some(b"module".to_vec()));
    assert!(!path.join("catalogue.json.lock").exists());
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// The test runs itself again, since the umask is the whole process's.
#[tokio::test]
async fn the_folder_of_modules_is_as_open_as_its_directory_whatever_the_umask_is() {
    const PLACE: &str = "STEM_FILE_TEST_UMASK_PLACE";
    const TEST: &str = "the_folder_of_modules_is_as_open_as_its_directory_whatever_the_umask_is";
    if let Some(path) = std::env::var_os(PLACE) {
        push(&store(Path::new(&path))).await.unwrap();
        return;
    }
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let again = std::process::Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(TEST)
        .env(PLACE, place.path())
        .status();
    assert!(again.unwrap().success());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (folder, file) = (place.path().join("blobs"), blob(place.path()));
    assert_eq!((mode(&folder), mode(&file)), (0o755, 0o644));
}

/// Clocks of file systems move in steps of milliseconds, and numbers of files are taken again at once. Who has read one
/// catalogue must not take another for it.
#[tokio::test]
async fn each_catalogue_has_a_time_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let store = store(place.path());
    let mut last = None;
    for n in 1..=3 {
        let release = Push { manifest: n.to_string(), ..release() };
        store.put(&DIGEST, b"module").await.unwrap();
        store.push(&release, Rollout::Whole).await.unwrap();
        let about = fs::metadata(place.path().join("catalogue.json")).unwrap();
        let time = about.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        let revision = store.catalogue().await.unwrap().revision;
        assert_eq!(time, Duration::from_micros(revision));
        assert!(last < Some(time), "{last:?} {time:?}");
        last = Some(time);
    }
}

#[tokio::test]
async fn a_directory_that_everybody_may_change_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let store = store(path);
    push(&store).await.unwrap();
    for (open, mode) in [
        (path.to_owned(), 0o700),
        (path.join("blobs"), 0o700),
        (blob(path), 0o600),
        (path.join("catalogue.json"), 0o600),
    ] {
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        let fresh = self::store(path);
        let catalogue = fresh.catalogue().await.map(drop);
        let answer = fresh.get(&DIGEST).await.map(drop).and(catalogue);
        refusal(answer, path, ErrorClass::Refused, "everybody may change");
        fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
        fresh.catalogue().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let started = Instant::now();
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let precious = path.join("precious");
    fs::write(&precious, "precious").unwrap();
    refusal(store(&precious).catalogue().await, &precious, ErrorClass::Refused, "no directory");
    let store = store(path);
    push(&store).await.unwrap();
    let catalogue = path.join("catalogue.json");
    let fresh = || self::store(path);
    for file in [&blob(path), &catalogue] {
        let look = async || {
            let catalogue = fresh().catalogue().await.map(drop);
            fresh().get(&DIGEST).await.map(drop).and(catalogue)
        };
        let kept = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        symlink(&precious, file).unwrap();
        refusal(look().await, path, ErrorClass::Refused, "is a link");
        fs::remove_file(file).unwrap();
        mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        refusal(look().await, path, ErrorClass::Refused, "a FIFO");
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
        refusal(look().await, path, ErrorClass::Refused, "a directory");
        fs::remove_dir(file).unwrap();
        fs::write(file, kept).unwrap();
        look().await.unwrap();
    }
    // A link in the place of a folder leads nobody elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(path.join("blobs"), elsewhere.path().join("blobs")).unwrap();
    symlink(elsewhere.path().join("blobs"), path.join("blobs")).unwrap();
    refusal(fresh().get(&DIGEST).await, path, ErrorClass::Refused, "no directory");
    refusal(fresh().put(&DIGEST, b"x").await, path, ErrorClass::Refused, "no directory");
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_catalogue_that_is_damaged_is_said_to_be_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    push(&store(path)).await.unwrap();
    let catalogue = path.join("catalogue.json");
    let good = fs::read(&catalogue).unwrap();
    let newer = {
        let line = "{\"v\":2,\"shelves\":[]}";
        format!("{line}\n{:08x}\n", crc32c::crc32c(line.as_bytes())).into_bytes()
    };
    let flipped = {
        let mut bytes = good.clone();
        bytes[20] ^= 1;
        bytes
    };
    let cut = good[..good.len() / 2].to_vec();
    for (bytes, phrase) in [
        (Vec::new(), "its end is missing"),
        (cut, "its end is missing"),
        (flipped, "checksum"),
        (vec![0; 4_096], "its end is missing"),
        (vec![0xff; 4_096], "damaged"),
        (newer, "newer version of stem"),
    ] {
        fs::write(&catalogue, &bytes).unwrap();
        let store = store(path);
        refusal(store.catalogue().await, path, ErrorClass::Corrupt, phrase);
        refusal(store.history(&job()).await, path, ErrorClass::Corrupt, phrase);
        refusal(push(&store).await, path, ErrorClass::Corrupt, phrase);
        refusal(store.remove(&job(), 1).await, path, ErrorClass::Corrupt, phrase);
        refusal(store.health().await, path, ErrorClass::Corrupt, phrase);
        assert_eq!(fs::read(&catalogue).unwrap(), bytes);
        assert!(store.get(&DIGEST).await.unwrap().is_some(), "bytes need no catalogue");
    }
    for cut in 0..good.len() {
        fs::write(&catalogue, &good[..cut]).unwrap();
        assert!(store(path).catalogue().await.is_err(), "cut at {cut}");
    }
    fs::write(&catalogue, good).unwrap();
    assert_eq!(store(path).catalogue().await.unwrap().served.len(), 1);
}

#[tokio::test]
async fn a_catalogue_that_goes_away_is_an_error_and_no_empty_list() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let store = store(path);
    push(&store).await.unwrap();
    let seen = store.catalogue().await.unwrap().revision;
    fs::rename(path.join("catalogue.json"), path.join("kept")).unwrap();
    refusal(store.catalogue().await, path, ErrorClass::Transient, "is gone");
    let wait = Duration::from_secs(20);
    refusal(store.changed(seen, wait).await, path, ErrorClass::Transient, "is gone");
    fs::rename(path.join("kept"), path.join("catalogue.json")).unwrap();
    assert_eq!(store.catalogue().await.unwrap().revision, seen);
}

#[tokio::test]
async fn what_was_never_finished_and_what_nobody_names_goes_later() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let clock = ManualClock::new();
    let store = with(path, &clock);
    push(&store).await.unwrap();
    let loose = Digest([1; 32]);
    store.put(&loose, b"loose").await.unwrap();
    // As a process that was killed leaves them; and what somebody else keeps there.
    let begun = [path.join("blobs/.new-1-2-3-x"), path.join(".new-1-2-3-catalogue.json")];
    for file in &begun {
        fs::write(file, "half").unwrap();
        let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
    }
    let theirs = path.join("blobs/README");
    fs::write(&theirs, "theirs").unwrap();
    fs::File::options()
        .write(true)
        .open(&theirs)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    clock.advance(LOOSE_TTL);
    let other = Digest([2; 32]);
    store.put(&other, b"other").await.unwrap();
    let push = Push { digest: other, size: 5, ..release() };
    assert!(matches!(store.push(&push, Rollout::Whole).await.unwrap(), Pushed::Release(_)));
    assert_eq!(store.get(&loose).await.unwrap(), None);
    assert!(begun.iter().all(|file| !file.exists()) && theirs.exists());
    assert_eq!(store.get(&DIGEST).await.unwrap(), Some(b"module".to_vec()));
    assert_eq!(store.remove(&job(), 1).await.unwrap(), Removed::Done);
    assert_eq!(store.get(&DIGEST).await.unwrap(), None);
}

#[tokio::test]
async fn bytes_that_were_damaged_are_put_right_by_storing_them_again() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    let store = store(path);
    push(&store).await.unwrap();
    fs::write(blob(path), "mod").unwrap();
    // Whoever reads checks the digest, so a torn file is no module of anybody's.
    assert_eq!(store.get(&DIGEST).await.unwrap(), Some(b"mod".to_vec()));
    store.put(&DIGEST, b"module").await.unwrap();
    assert_eq!(store.get(&DIGEST).await.unwrap(), Some(b"module".to_vec()));
    fs::File::create(blob(path)).unwrap().set_len(1 << 40).unwrap();
    refusal(store.get(&DIGEST).await, path, ErrorClass::Corrupt, "are the most");
}
