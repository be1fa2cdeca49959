//! Delivery: at least once, fenced, and nothing lost.

use std::time::Duration;

use crate::lab::Lab;

#[test]
fn a_task_goes_from_one_terminal_to_the_other_and_its_result_back() {
    let lab = Lab::new();
    let _worker = lab.worker(&[]);
    let said = lab
        .stem(&[
            "task",
            "enqueue",
            "word-count",
            "--json-args",
            r#"{"text":"one two three"}"#,
            "--wait",
            "--json",
        ])
        .ok();
    assert!(said.stdout.contains("\"words\":3"), "{}", said.stdout);
    let said = lab
        .stem(&[
            "task",
            "enqueue",
            "crunch",
            "--json-args",
            r#"{"items":[1,2,3],"delayMs":0}"#,
            "--wait",
        ])
        .ok();
    assert!(said.stdout.contains('6'), "{}", said.stdout);
}

#[test]
fn a_task_whose_worker_is_killed_is_delivered_again_and_finishes_once() {
    let lab = Lab::new();
    let first = lab.worker(&["--lease", "2s"]);
    let items: Vec<_> = (0..60).map(|item| item.to_string()).collect();
    let id =
        lab.enqueue("crunch", &format!(r#"{{"items":[{}],"delayMs":100}}"#, items.join(",")), &[]);
    lab.until(&id, "half way", |record| {
        record["progress"]["fraction"].as_f64().unwrap_or(0.0) > 0.1
    });
    first.kill();
    assert_eq!(lab.show(&id)["state"], "running", "nobody could say otherwise yet");
    let _second = lab.worker(&["--lease", "2s"]);
    let record = lab.until_state(&id, "succeeded");
    assert_eq!(record["deliveryCount"], 2);
    assert_eq!(record["attempt"], 1, "a crash uses up no attempt");
    assert_eq!(record["result"]["sum"], 1770);
    assert!(
        record["result"]["resumedAt"].as_u64().unwrap() >= 10,
        "it went on from its checkpoint: {record}"
    );
    let listed = lab.stem(&["task", "list", "--json"]).ok().json();
    assert_eq!(
        listed.as_array().map(Vec::len).or(listed["tasks"].as_array().map(Vec::len)),
        Some(1)
    );
}

#[test]
fn a_task_of_three_leases_runs_once() {
    let lab = Lab::new();
    let _one = lab.worker(&["--lease", "2s"]);
    let _two = lab.worker(&["--lease", "2s"]);
    let id = lab.enqueue("crunch", r#"{"items":[1,2,3],"delayMs":2000}"#, &[]);
    let record = lab.until_state(&id, "succeeded");
    assert_eq!((&record["deliveryCount"], &record["attempt"]), (&1.into(), &1.into()));
}

/// Whether it runs or was given up, delivered at least so often: a slow worker may lose a lease while it lives.
fn was_delivered(record: &serde_json::Value, times: u64) -> bool {
    let begun = record["state"] == "running" || record["state"] == "failed";
    begun && record["deliveryCount"].as_u64() >= Some(times)
}

#[test]
fn a_task_that_takes_its_worker_down_again_and_again_is_poison() {
    let lab = Lab::new();
    let id = lab.enqueue("spin", "{}", &[]);
    for death in 1..=5 {
        let worker = lab.worker(&["--lease", "1s"]);
        lab.until(&id, "running", |record| was_delivered(record, death));
        worker.kill();
    }
    let _last = lab.worker(&["--lease", "1s"]);
    let record = lab.until_state(&id, "failed");
    assert_eq!(record["failure"]["code"], "poison", "{record}");
    let dead = lab.stem(&["dlq", "show", &id, "--json"]).ok().json();
    assert_eq!(dead["reason"], "poison", "{dead}");
    let good =
        lab.stem(&["task", "enqueue", "word-count", "--json-args", r#"{"text":"x"}"#, "--wait"]);
    good.ok();
}

#[test]
fn tasks_beside_one_that_takes_its_workers_down_end_well() {
    let lab = Lab::new();
    let words = ["--lease", "1s", "--concurrency", "8"];
    let poison = lab.enqueue("spin", "{}", &[]);
    let beside: Vec<_> =
        (0..3).map(|_| lab.enqueue("crunch", r#"{"items":[1],"delayMs":3000}"#, &[])).collect();
    // Each time one worker has all of them in hand and is lost.
    for death in 1..=4 {
        let worker = lab.worker(&words);
        for id in beside.iter().chain([&poison]) {
            lab.until(id, "in hand", |record| {
                record["state"] == "succeeded" || was_delivered(record, death)
            });
        }
        worker.kill();
    }
    // All leases run out, so that the next worker gets all at once and no record tells of the one before.
    std::thread::sleep(Duration::from_secs(2));
    // Then whichever is next is alone, and only what is alone can be blamed.
    let worker = lab.worker(&words);
    let record = lab.until(&poison, "started for the last time", |record| was_delivered(record, 5));
    if record["state"] == "running" {
        let running = lab.stem(&["task", "list", "--state", "running", "--json"]).ok().stdout;
        assert_eq!(running.matches("\"running\"").count(), 1, "{running}");
    }
    worker.kill();
    let _last = lab.worker(&words);
    let record = lab.until_state(&poison, "failed");
    assert_eq!(record["failure"]["code"], "poison", "{record}");
    for id in &beside {
        lab.until_state(id, "succeeded");
    }
}

#[test]
fn a_task_nobody_knows_waits_for_a_worker_that_does() {
    let lab = Lab::new();
    let empty = lab.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let _other = lab.worker_from(&["worker", "start", "--modules", empty.to_str().unwrap()]);
    let id = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(lab.show(&id)["state"], "queued");
    let stats = lab.stem(&["worker", "stats", "--json"]).ok().json();
    assert_eq!(stats["replies"][0]["payload"]["unroutable"], 1, "{stats}");
    let _knows = lab.worker(&[]);
    lab.until_state(&id, "succeeded");
}

#[test]
fn delays_expiry_and_failures_end_as_they_should() {
    let lab = Lab::new();
    let late = lab.enqueue("word-count", r#"{"text":"x"}"#, &["--expires-in", "1ms"]);
    let _worker = lab.worker(&[]);
    lab.until_state(&late, "expired");
    let delayed = lab.enqueue("word-count", r#"{"text":"x"}"#, &["--delay", "5s"]);
    assert_eq!(lab.show(&delayed)["state"], "queued");
    lab.until_state(&delayed, "succeeded");
    let wrong = lab.enqueue("word-count", r#"{"tex":"x"}"#, &[]);
    let record = lab.until_state(&wrong, "failed");
    assert_eq!(
        (&record["failure"]["kind"], &record["failure"]["code"]),
        (&"error".into(), &"invalid-arguments".into())
    );
    let said = lab.stem(&["task", "wait", &wrong]).exits(1);
    assert!(said.stderr.contains("invalid-arguments"), "{}", said.stderr);
    let slow = lab.enqueue(
        "crunch",
        r#"{"items":[1],"delayMs":60000}"#,
        &["--timeout", "300ms", "--max-retries", "0"],
    );
    assert_eq!(lab.until_state(&slow, "failed")["failure"]["kind"], "time-limit");
    let dead = lab.stem(&["dlq", "list", "--json"]).ok().json();
    assert_eq!(dead.as_array().or(dead["deadLetters"].as_array()).map(Vec::len), Some(2), "{dead}");
    lab.stem(&["dlq", "replay", "--id", &wrong, "--yes"]).ok();
    lab.until(&wrong, "failed again", |record| {
        record["state"] == "failed" && record["deliveryCount"] == 1
    });
}
