//! Every hostile, stale and racing file that the research lists.

use std::os::unix::fs::{chown, symlink};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use stem_core::id::{Namespace, WorkerId};

use super::*;
use crate::exit::Ending;

fn about(node: &str) -> About {
    About {
        node: Some(WorkerId::new(node).unwrap()),
        index: Some(2),
        host: "h".to_owned(),
        worker: WorkerId::new(node).unwrap(),
        namespace: Namespace::new("stem").unwrap(),
    }
}

fn text_of(identity: process::Identity) -> String {
    Record::new(identity, about("a")).text()
}

#[test]
fn the_file_says_who_lives_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/a.pid");
    assert_eq!(look(&path).unwrap(), Found::Absent);
    let file = PidFile::create(&path, about("a")).unwrap();
    let Found::Alive(record, _) = look(&path).unwrap() else { panic!("it lives") };
    assert_eq!(record.identity, process::this().unwrap());
    assert_eq!((&record.about, record.state), (&about("a"), WorkerState::Starting));
    let length = path.metadata().unwrap().len();
    for state in [WorkerState::Running, WorkerState::Draining, WorkerState::Starting] {
        file.set_state(state).unwrap();
        let Found::Alive(now, _) = look(&path).unwrap() else { panic!("it lives") };
        assert_eq!((now.state, now.since), (state, record.since));
        assert_eq!(path.metadata().unwrap().len(), length);
    }
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    // The first line is the number alone, as other tools expect it.
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().next().unwrap(), std::process::id().to_string());

    let error = PidFile::create(&path, about("a")).unwrap_err();
    assert!(error.what.contains("node a runs already"), "{error}");
    assert!(!clear(&path).unwrap() && path.exists());
    drop(file);
    assert_eq!(look(&path).unwrap(), Found::Absent);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_file_put_in_its_place_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pid");
    let first = PidFile::create(&path, about("a")).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = PidFile::create(&path, about("a")).unwrap();
    drop(first);
    assert!(matches!(look(&path).unwrap(), Found::Alive(..)));
    drop(second);
    assert!(!path.exists());
}

#[test]
fn who_meant_to_clear_a_dead_ones_file_does_not_remove_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pid");
    let gone = process::Identity { start_ticks: 1, ..process::this().unwrap() };
    std::fs::write(&path, text_of(gone)).unwrap();
    // The moment between one's look and its lock, in which another cleared and started.
    let late = File::open(&path).unwrap();
    let successor = PidFile::create(&path, about("a")).unwrap();
    assert!(!clear_opened(&late, &path).unwrap());
    assert!(matches!(look(&path).unwrap(), Found::Alive(..)));
    drop(successor);
}

/// How many start at once.
const RACERS: usize = 8;

/// Lets many create one file at once, again and again; says how it came out if it is not that one has won, the others
/// were told so, and nothing is left when the winner is gone.
fn race<T: Send>(create: impl Fn(&Path) -> Result<T, CliError> + Sync) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = dir.path().join(format!("{round}.pid"));
        if round % 2 == 1 {
            // What a dead one left must not let two in either.
            let gone = process::Identity { start_ticks: 1, ..process::this().unwrap() };
            std::fs::write(&path, text_of(gone)).unwrap();
        }
        let together = Barrier::new(RACERS);
        let start = || {
            together.wait();
            create(&path)
        };
        let ended: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..RACERS).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let losers: Vec<_> = ended.iter().filter_map(|start| start.as_ref().err()).collect();
        let won = RACERS - losers.len();
        if won != 1 {
            return Err(format!("{won} have won: {losers:?}"));
        }
        if let Some(error) = losers.iter().find(|error| !error.what.contains("runs already")) {
            return Err(format!("a loser was told: {error}"));
        }
        drop(ended);
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

#[test]
fn of_many_starts_one_wins() {
    race(|path| PidFile::create(path, about("a"))).unwrap();
}

/// What one is told who has lost.
fn lost() -> CliError {
    CliError::failed("node a runs already", "stop that worker first")
}

#[test]
fn a_planted_look_then_write_that_lets_two_win_is_found() {
    let (looks, looked) = (AtomicUsize::new(0), Barrier::new(RACERS));
    let two_in_between = race(|path| {
        let is_free = look(path)?.gives_way();
        let has_time_to_look = looks.fetch_add(1, Ordering::Relaxed) < 2;
        looked.wait();
        if !is_free || !has_time_to_look {
            return Err(lost());
        }
        std::fs::write(path, text_of(process::this().unwrap())).unwrap();
        Ok(())
    });
    assert!(two_in_between.unwrap_err().starts_with("2 have won"));
    stem_services::count("plants", 1);
}

#[test]
fn a_planted_start_that_removes_what_lives_is_found() {
    // As if every file that is there were a dead one's; one after the other, so that each finds one.
    let turn = Mutex::new(());
    let error = race(|path| {
        let _turn = turn.lock().unwrap();
        let _ = std::fs::remove_file(path);
        PidFile::create(path, about("a"))
    });
    assert!(error.unwrap_err().starts_with("8 have won"));
    stem_services::count("plants", 1);
}

#[test]
fn planted_starts_that_all_lose_mislead_or_leave_something_are_found() {
    let all_lose = race(|_| Err::<(), _>(lost()));
    assert!(all_lose.unwrap_err().starts_with("0 have won"));
    let misleads = race(|path| {
        PidFile::create(path, about("a")).map_err(|_| CliError::failed("the disk is full", "wait"))
    });
    assert!(misleads.unwrap_err().contains("the disk is full"));
    let leaves = race(|path| {
        std::fs::write(path.with_extension("new"), "").unwrap();
        PidFile::create(path, about("a"))
    });
    assert!(leaves.unwrap_err().contains("0.new"));
    stem_services::count("plants", 3);
}

#[test]
fn a_dead_workers_file_is_told_from_a_living_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pid");
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let living = process::see(child.id()).unwrap().unwrap().identity;
    let recycled = process::Identity { start_ticks: living.start_ticks + 1, ..living };
    let why = |text: &str| {
        std::fs::write(&path, text).unwrap();
        match look(&path).unwrap() {
            Found::Dead(dead) => {
                assert_eq!(dead.pid, living.pid);
                (dead.why, dead.record.is_some())
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why(&text_of(recycled)), (Why::Recycled, true));
    assert_eq!(why(&text_of(living)), (Why::NotHolding, true));
    assert_eq!(why(&format!("{}\n", living.pid)), (Why::Recycled, false));
    // Whether that number is a worker cannot be told, so its file is not replaced.
    let error = PidFile::create(&path, about("a")).unwrap_err();
    assert!(error.what.contains("cannot be told"), "{error}");
    std::fs::write(&path, text_of(living)).unwrap();
    let error = PidFile::create(&path, about("a")).unwrap_err();
    assert!(error.what.contains("the living process"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(why(&format!("{}", living.pid)), (Why::NotRunning, false));
    assert_eq!(why(&text_of(living)), (Why::NotRunning, true));
    drop(PidFile::create(&path, about("a")).unwrap());
}

#[test]
fn a_lock_held_by_another_process_than_the_one_named_is_held_and_not_alive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pid");
    let recycled = process::Identity { start_ticks: 1, ..process::this().unwrap() };
    for text in [text_of(recycled), "1\n".to_owned(), "text".to_owned()] {
        std::fs::write(&path, &text).unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        assert!(matches!(look(&path).unwrap(), Found::Held { .. }));
        assert!(PidFile::create(&path, about("a")).unwrap_err().what.contains("somebody holds it"));
        assert!(!clear(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn what_no_worker_writes_is_invalid_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pid");
    let good = text_of(process::this().unwrap());
    let without = |key: &str| {
        good.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n")
    };
    let mut bad: Vec<Vec<u8>> = [
        "-1",
        "0",
        "+5",
        " 5",
        "5 6",
        "text",
        "\n",
        "4294967296",
        "2147483648",
        "99999999999999999999",
        "1\nother form 1\n",
        "12\n\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    bad.push(vec![0; 100]);
    bad.push(vec![0xff; 100]);
    bad.push(b"5".repeat(100_000));
    for key in ["start-ticks", "boot", "since", "state", "worker", "namespace", "host"] {
        bad.push(without(key).into_bytes());
    }
    bad.push(good.replace("starting", "flying").into_bytes());
    for bytes in bad {
        std::fs::write(&path, &bytes).unwrap();
        let found = look(&path).unwrap();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert!(matches!(found, Found::Invalid { .. }), "{shown:?}: {found:?}");
        assert_eq!(PidFile::create(&path, about("a")).unwrap_err().ending, Ending::Failed);
        assert!(!clear(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{shown:?}");
    }
    // An empty one holds nothing that anybody could miss.
    std::fs::write(&path, "").unwrap();
    assert!(matches!(look(&path).unwrap(), Found::Invalid { .. }));
    drop(PidFile::create(&path, about("a")).unwrap());
}

#[test]
fn what_another_could_have_put_there_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let good = text_of(process::this().unwrap());
    let write = |name: &str| {
        std::fs::write(place(name), &good).unwrap();
        place(name)
    };
    let target = write("target");
    symlink(&target, place("symlink")).unwrap();
    symlink(place("nowhere"), place("dangling")).unwrap();
    std::fs::hard_link(write("first"), place("second")).unwrap();
    std::fs::create_dir(place("directory")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        place("fifo"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let writable = write("writable");
    std::fs::set_permissions(&writable, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut cases = vec![
        ("symlink", "symbolic link"),
        ("dangling", "symbolic link"),
        ("second", "2 names"),
        ("directory", "directory"),
        ("fifo", "FIFO"),
        ("writable", "may write"),
    ];
    // Only root can make a file another's.
    if rustix::process::geteuid().is_root() {
        chown(write("foreign"), Some(12_345), None).unwrap();
        cases.push(("foreign", "belongs to user 12345"));
    }
    for (name, words) in cases {
        let found = look(&place(name)).unwrap_err();
        assert!(found.what.contains(words), "{name}: {found}");
        assert!(PidFile::create(&place(name), about("a")).is_err(), "{name}");
        assert!(!clear(&place(name)).unwrap_or(false), "{name}");
        assert!(place(name).symlink_metadata().is_ok(), "{name} is still there");
    }
    assert_eq!(std::fs::read_to_string(&target).unwrap(), good);
    assert!(!place("nowhere").exists());
}

#[test]
fn nothing_is_written_where_everybody_may_rename() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    for (mode, fine) in [(0o777, false), (0o1777, true), (0o755, true)] {
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(PidFile::create(&open.join("a.pid"), about("a")).is_ok(), fine, "{mode:o}");
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(PidFile::create(&file.join("a.pid"), about("a")).is_err());
}
