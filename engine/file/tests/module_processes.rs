//! Several processes with one directory of modules, killed in the middle of what they do. The test runs itself again as
//! each of its processes.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use stem_conformance::ManualClock;
use stem_core::backend::ModuleStore;
use stem_core::backend::modules::Pushed;
use stem_core::id::{Digest, TaskName};
use stem_core::release::{Push, PushId, Release, Rollout};
use stem_file::{ModuleDirectory, ModuleDirectoryOptions};

/// Which of several a process is, and with which directory.
const WHICH: &str = "STEM_FILE_TEST_WHICH";
const PLACE: &str = "STEM_FILE_TEST_PLACE";

const PROCESSES: u8 = 3;
const ROUNDS: u8 = 8;

/// Large enough to be killed in the middle of.
const BYTES: usize = 200_000;

fn store(path: &Path) -> Arc<ModuleDirectory> {
    ModuleDirectory::open(ModuleDirectoryOptions {
        path: path.to_owned(),
        clock: ManualClock::new(),
        lock_timeout: Duration::from_secs(20),
    })
}

fn name(which: u8) -> TaskName {
    TaskName::new(format!("job-{which}")).unwrap()
}

/// Pushes one build after the other, and says which version each became once that was answered.
async fn push(which: u8, round: u8, path: &Path) {
    let store = store(path);
    for n in 0..=u8::MAX {
        let mut digest = [n; 32];
        (digest[0], digest[1]) = (which, round);
        store.put(&Digest(digest), &vec![n; BYTES]).await.unwrap();
        let push = Push {
            id: PushId::fresh(),
            name: name(which),
            digest: Digest(digest),
            size: BYTES as u64,
            manifest: String::new(),
            pushed_by: None,
            signatures: Vec::new(),
        };
        let Pushed::Release(release) = store.push(&push, Rollout::Whole).await.unwrap() else {
            panic!("it was stored");
        };
        let mut out = std::io::stdout().lock();
        out.write_all(format!("say {}\n", release.version).as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

/// A process that pushes.
struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    fn start(test: &str, which: &str, path: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .envs([(WHICH, which.as_ref()), (PLACE, path.as_os_str())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next version that was acknowledged; `None` at the end.
    fn next(&mut self) -> Option<u32> {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if let Some(at) = line.find("say ") {
                return line[at..].trim().strip_prefix("say ")?.parse().ok();
            }
            line.clear();
        }
        None
    }
}

#[tokio::test]
async fn processes_that_are_killed_lose_nothing_that_was_acknowledged() {
    if let Ok(which) = env::var(WHICH) {
        let (which, round) = which.split_once(' ').unwrap();
        let path = PathBuf::from(env::var_os(PLACE).unwrap());
        return push(which.parse().unwrap(), round.parse().unwrap(), &path).await;
    }
    let place = tempfile::tempdir().unwrap();
    let test = "processes_that_are_killed_lose_nothing_that_was_acknowledged";
    let mut newest = [0; PROCESSES as usize];
    for round in 0..ROUNDS {
        let mut others: Vec<Other> = (0..PROCESSES)
            .map(|which| Other::start(test, &format!("{which} {round}"), place.path()))
            .collect();
        for (other, newest) in others.iter_mut().zip(&mut newest) {
            for _ in 0..=round % 4 {
                let version = other.next().unwrap();
                assert!(version > *newest, "{version} after {newest}");
                *newest = version;
            }
        }
        for mut other in others {
            other.child.kill().unwrap();
            other.child.wait().unwrap();
        }
        // Nobody holds the lock any more, nothing is half, and everything that was acknowledged is there.
        let store = store(place.path());
        for (which, newest) in (0..PROCESSES).zip(&newest) {
            let history = store.history(&name(which)).await.unwrap().unwrap();
            let last: &Release = &history.releases[0];
            assert!(last.version >= *newest, "{} of {newest}", last.version);
            assert_eq!(history.assignment.unwrap().version, last.version);
            for release in history.releases {
                let bytes = store.get(&release.digest).await.unwrap().unwrap();
                assert!(bytes == vec![release.digest.0[31]; BYTES], "{release:?}");
            }
        }
    }
    println!("{} processes were killed; acknowledged: {newest:?}", PROCESSES * ROUNDS);
}
