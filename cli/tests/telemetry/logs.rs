//! What a worker says of itself: one line for each end of an attempt and each change of its life.

use std::fs::OpenOptions;
use std::process::Stdio;

use serde_json::Value;

use crate::modules;
use crate::support::Place;
use crate::worker::Worker;

#[test]
fn each_end_of_an_attempt_and_each_change_of_a_workers_life_is_one_line() {
    let place = Place::new();
    let modules = modules::write(&place);
    let args = ["--name", "w", "--modules", modules.to_str().unwrap()];
    let mut worker = Worker::start(&place, &[("STEM_LOG_FORMAT", "json")], &args);
    place.stem(&["task", "enqueue", "tell", "--id", "good", "--wait"]).expect(0);
    place
        .stem(&["task", "enqueue", "trap", "--id", "bad", "--max-retries", "1", "--wait"])
        .expect(1);
    place.stem(&["worker", "shutdown"]).expect(0);
    assert_eq!(worker.wait(), 0);
    let log = worker.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for key in ["timestamp", "level", "message", "target"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
    }
    let ended: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "attempt ended")
        .map(|line| {
            assert!(line["ms"].is_u64() && line["queue"] == "default", "{line}");
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (text("task"), text("name"), line["attempt"].clone(), text("state"))
        })
        .collect();
    let expected = |task: &str, name: &str, attempt: u64, state: &str| {
        (task.to_owned(), name.to_owned(), Value::from(attempt), state.to_owned())
    };
    assert_eq!(
        ended,
        [
            expected("good", "tell", 1, "succeeded"),
            expected("bad", "trap", 1, "retrying"),
            expected("bad", "trap", 2, "failed"),
        ],
        "{log}"
    );
    let guests = lines.iter().find(|line| line["message"] == "a line of the guest").unwrap();
    assert_eq!((&guests["task"], &guests["name"]), (&"good".into(), &"tell".into()));
    let life: Vec<&str> = lines
        .iter()
        .filter(|line| line["target"] == "stem_engine::worker::driver")
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        life,
        [
            "starting",
            "ready: deliveries are taken",
            "draining: no new deliveries are taken",
            "draining",
            "stopped"
        ],
        "{log}"
    );
}

#[test]
fn pretty_lines_are_for_people_and_the_filter_decides_what_is_said() {
    let place = Place::new();
    let modules = modules::write(&place);
    let run = |environment: &[(&str, &str)]| {
        let args = ["--name", "w", "--modules", modules.to_str().unwrap()];
        let mut worker = Worker::start(&place, environment, &args);
        place.stem(&["task", "enqueue", "tell", "--wait"]).expect(0);
        place.stem(&["worker", "shutdown"]).expect(0);
        assert_eq!(worker.wait(), 0);
        worker.log()
    };
    let pretty = run(&[]);
    assert!(pretty.contains("INFO") && pretty.contains("attempt ended"), "{pretty}");
    assert!(pretty.lines().all(|line| serde_json::from_str::<Value>(line).is_err()));
    assert_eq!(run(&[("STEM_LOG", "off")]), "");
    let only = run(&[("STEM_LOG", "off,stem::task=info")]);
    assert!(only.contains("a line of the guest") && !only.contains("attempt ended"), "{only}");
}

#[test]
fn a_worker_that_cannot_write_its_log_works_and_drains_all_the_same() {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    // Its reader is gone at once.
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    for outputs in [[full(), full()], [closed(), closed()]] {
        let place = Place::new();
        let modules = modules::write(&place);
        let args = ["--modules", modules.to_str().unwrap()];
        let mut worker = Worker::start_unheard(&place, &args, outputs);
        place.stem(&["task", "enqueue", "tell", "--wait"]).expect(0);
        place.stem(&["worker", "shutdown"]).expect(0);
        assert_eq!(worker.wait(), 0);
    }
}
