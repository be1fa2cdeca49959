//! Tenants that share workers: one that has more slow work than there are places keeps nobody from working and fails nobody.

use serde_json::Value;

use crate::lab::Lab;

/// Half a second of waiting, and no computing.
const SLOW: &str = r#"{"items":[1,2],"delayMs":250}"#;
const GREEDY: usize = 40;
const MODEST: usize = 4;

#[test]
fn slow_tasks_of_one_tenant_fail_nobody_and_leave_the_others_their_share() {
    let lab = Lab::new();
    let enqueue = |queue: &str, count| -> Vec<String> {
        (0..count).map(|_| lab.enqueue("crunch", SLOW, &["--queue", queue])).collect()
    };
    let greedy = enqueue("greedy", GREEDY);
    // Each serves both; which it prefers is what makes a share.
    let _most = lab.worker(&["--name", "most", "--concurrency", "2", "--queue", "greedy,modest"]);
    let _some = lab.worker(&["--name", "some", "--concurrency", "1", "--queue", "modest,greedy"]);
    let modest = enqueue("modest", MODEST);
    let ended = |ids: &[String]| -> Vec<Value> {
        ids.iter().map(|id| lab.until_state(id, "succeeded")).collect()
    };
    let (modest, greedy) = (ended(&modest), ended(&greedy));
    for record in modest.iter().chain(&greedy) {
        let counts = (&record["attempt"], &record["deliveryCount"]);
        assert_eq!(counts, (&1.into(), &1.into()), "{record}");
        assert!(record["failure"].is_null(), "{record}");
    }
    // What came last was not done last.
    let finished = |record: &Value| record["finishedAt"].as_str().unwrap().to_owned();
    let last = modest.iter().map(finished).max().unwrap();
    let later = greedy.iter().map(finished).filter(|at| *at > last).count();
    assert!(later >= 5, "only {later} of {GREEDY} were left when the {MODEST} had ended");
}
