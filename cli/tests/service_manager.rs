//! What a service manager hears from a worker, and what a signal does to one: a datagram socket in place of systemd's,
//! around the real program.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::started::Started;
use support::{Place, talking_spin};

/// Long enough for a busy machine; a test that passes needs a fraction.
const PATIENCE: Duration = Duration::from_mins(1);

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(place: &Place) -> Self {
        let path = place.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned() }
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message that is no sign of life.
    fn hear_news(&self) -> String {
        let began = Instant::now();
        loop {
            let said = self.hear();
            if said != "WATCHDOG=1\n" {
                return said;
            }
            assert!(began.elapsed() < PATIENCE, "nothing but signs of life");
        }
    }
}

#[test]
fn it_hears_ready_reloading_and_stopping_and_the_worker_drains_meanwhile() {
    let place = Place::new();
    place.write("modules/spin.wasm", talking_spin());
    let manager = Manager::new(&place);
    let environment = [("NOTIFY_SOCKET", manager.path.as_str())];
    let mut worker = Started::new(&place, &environment, &["--name", "w", "--modules", "modules"]);
    let ready = manager.hear();
    assert!(ready.contains("READY=1\n"), "{ready}");
    assert!(ready.contains("STATUS=worker w is ready; queues: default; tasks: spin"), "{ready}");

    // A reload does not end the worker, and is answered in the form that Type=notify-reload asks for.
    worker.signal(Signal::HUP);
    let reloading = manager.hear();
    let stamp = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or("");
    assert!(stamp.trim_end().parse::<u64>().is_ok_and(|stamp| stamp > 0), "{reloading}");
    assert_eq!(manager.hear(), "READY=1\n");

    place.stem(&["task", "enqueue", "spin", "--id", "t"]).expect(0);
    place.stem(&["task", "wait", "t", "--timeout", "2s"]);
    let began = Instant::now();
    while place.stem(&["task", "show", "t", "--json"]).json()["state"] != "running" {
        assert!(began.elapsed() < PATIENCE);
    }
    worker.signal(Signal::TERM);
    // It says so as soon as it drains; but a STOPPING=1 would have it killed when the time for a stop is up.
    assert_eq!(manager.hear(), "STATUS=draining: takes nothing new\n");
    assert!(worker.child.try_wait().unwrap().is_none());
    worker.signal(Signal::QUIT);
    let stopping = manager.hear();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=stopping"), "{stopping}");
    assert!(worker.child.wait().unwrap().success());
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.socket.recv(&mut [0; 16]).is_err(), "it said something more");
}

#[test]
fn it_hears_signs_of_life_where_it_asks_for_them_and_none_from_a_stopped_process() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let environment = [("NOTIFY_SOCKET", manager.path.as_str()), ("WATCHDOG_USEC", "200000")];
    let worker = Started::new(&place, &environment, &[]);
    assert!(manager.hear_news().contains("READY=1"));
    for _ in 0..3 {
        assert_eq!(manager.hear(), "WATCHDOG=1\n");
    }
    worker.signal(Signal::STOP);
    // What was sent before the signal arrived.
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let began = Instant::now();
    while manager.socket.recv(&mut [0; 64]).is_ok() {
        assert!(began.elapsed() < PATIENCE, "a stopped process goes on talking");
    }
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    worker.signal(Signal::CONT);
    assert_eq!(manager.hear(), "WATCHDOG=1\n");
    drop(worker);

    // The watchdog of another process is none of ours.
    let elsewhere = Place::new();
    let manager = Manager::new(&elsewhere);
    let environment = [
        ("NOTIFY_SOCKET", manager.path.as_str()),
        ("WATCHDOG_USEC", "20000"),
        ("WATCHDOG_PID", "1"),
    ];
    let worker = Started::new(&place, &environment, &["--name", "other"]);
    assert!(manager.hear().contains("READY=1"));
    manager.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err());
    drop(worker);
}

#[test]
fn a_worker_that_cannot_start_says_stopping_and_one_without_a_manager_is_ended_by_a_hangup() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let environment = [("NOTIFY_SOCKET", manager.path.as_str())];
    let first = Started::new(&place, &[], &["--name", "w"]);
    place.stem_env(&environment, &["worker", "start", "--name", "w"]).expect(1).complains();
    assert!(manager.hear().starts_with("STOPPING=1"));
    first.signal(Signal::HUP);
    let mut first = first;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&first.child.wait().unwrap()),
        Some(1)
    );
    // A manager that is not there any more keeps no worker from working.
    let gone = [("NOTIFY_SOCKET", "/nonexistent/notify")];
    drop(Started::new(&place, &gone, &["--name", "second"]));
}

#[test]
fn a_signal_ends_a_worker_that_is_not_ready_yet() {
    let place = Place::new();
    let manager = Manager::new(&place);
    // A service that never answers.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/0", service.local_addr().unwrap());
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let child = place
            .command(&["worker", "start", "--pidfile", "run/w.pid"])
            .envs([("STEM_BROKER_URL", url.as_str()), ("NOTIFY_SOCKET", manager.path.as_str())])
            .spawn()
            .unwrap();
        let mut worker = Started { child };
        let _unanswered = service.accept().unwrap();
        assert!(place.path("run/w.pid").exists());
        worker.signal(signal);
        assert_eq!(worker.child.wait().unwrap().code(), Some(0), "{signal:?}");
        assert!(manager.hear().starts_with("STOPPING=1"));
        assert!(!place.path("run/w.pid").exists());
    }
}

#[test]
fn a_hangup_opens_a_log_that_was_moved_away_before_the_worker_looked() {
    let place = Place::new();
    let moved = place.write("w.log.1", "");
    let log = place.path("w.log");
    let output = std::fs::File::options().append(true).open(&moved).unwrap();
    let child = place
        .command(&["worker", "start", "--name", "w"])
        .env("STEM_WORKER_LOGFILE", &log)
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let worker = Started { child };
    until_written(&moved, "worker w is ready");
    worker.signal(Signal::HUP);
    until_written(&log, "opened anew");
    end(worker);
    assert!(std::fs::read_to_string(&log).unwrap().contains("stopped"));
}

#[test]
fn a_hangup_ends_no_worker_that_has_a_pid_file() {
    let place = Place::new();
    let own = place.write("own.log", "");
    // Once without a log file, once with one that its output does not go to.
    for environment in [&[][..], &[("STEM_WORKER_LOGFILE", "named.log")]] {
        std::fs::write(&own, "").unwrap();
        let child = place
            .command(&["worker", "start", "--name", "w", "--pidfile", "w.pid"])
            .envs(environment.iter().copied())
            .stderr(std::fs::File::create(&own).unwrap())
            .spawn()
            .unwrap();
        let worker = Started { child };
        until_written(&own, "ready");
        worker.signal(Signal::HUP);
        until_written(&own, "SIGHUP");
        end(worker);
        assert!(!place.path("named.log").exists());
    }
}

/// Waits until the file has these words; a bound that only a hang reaches.
#[track_caller]
fn until_written(file: &Path, words: &str) {
    let began = Instant::now();
    let text = || std::fs::read_to_string(file).unwrap_or_default();
    while !text().contains(words) {
        assert!(began.elapsed() < PATIENCE, "no {words:?} in {:?}", text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Stops it in good order.
#[track_caller]
fn end(mut worker: Started) {
    worker.signal(Signal::TERM);
    assert_eq!(worker.child.wait().unwrap().code(), Some(0));
}
