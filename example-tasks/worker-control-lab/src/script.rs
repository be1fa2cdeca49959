//! What the operator does, step by step, and what must come of it.
//!
//! Nothing depends on how long anything takes: tasks run until they are stopped or a file appears, and each step waits
//! for the state it needs.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{Lab, check};
use crate::worker::NATIVE;

/// Numbers for `crunch`, at 20 ms each: far more than the lab takes.
const NUMBERS: &str = "numbers.json";
const COUNT: u32 = 3000;
/// What the native tasks wait for.
const FILE: &str = "invoice.csv";
const FILE_TEXT: &str = "ann,12.50\n";

/// The whole script.
pub(crate) fn run(lab: &mut Lab) -> Result<()> {
    let numbers = json!({ "items": (1..=COUNT).collect::<Vec<_>>(), "delayMs": 20 });
    std::fs::write(lab.place.dir.join(NUMBERS), numbers.to_string())?;
    revoke_before_any_worker(lab)?;
    start_three(lab)?;
    ping_one_that_hangs(lab)?;
    hold_a_queue(lab)?;
    look(lab)?;
    terminate_cooperative(lab)?;
    terminate_deaf(lab)?;
    terminate_inline(lab)?;
    shut_down_warm(lab)?;
    shut_down_soft(lab)?;
    shut_down_hard(lab)?;
    start_another(lab)?;
    clean_up(lab)
}

/// Waits for a file that is not there yet.
fn enqueue_waiting(lab: &Lab, id: &str) -> Result<()> {
    lab.enqueue(NATIVE, "mail", id, &format!(r#"--json-args '{{"file":"{FILE}"}}'"#))
}

/// Adds up for a minute.
fn enqueue_adding(lab: &Lab, queue: &str, id: &str) -> Result<()> {
    lab.enqueue("crunch", queue, id, &format!("--args-file {NUMBERS}"))
}

/// Computes for ever.
fn enqueue_deaf(lab: &Lab, id: &str) -> Result<()> {
    lab.enqueue("spin", "batch", id, "--timeout 5m")
}

/// A task was revoked, in this way and for this reason.
fn check_revoked(lab: &Lab, id: &str, how: &str, reason: &str) -> Result<()> {
    let record = lab.task(id)?;
    ensure!(record["revocation"]["elapsedMs"].is_number(), "{id} tells no time: {record}");
    check(
        id,
        &record,
        &[
            ("/state", json!("revoked")),
            ("/revocation/how", json!(how)),
            ("/revocation/reason", json!(reason)),
            ("/revocation/requestedBy", json!("ops")),
        ],
    )
}

/// Items that `crunch` has told of.
fn items(record: &Value) -> u64 {
    let words = record["progress"]["message"].as_str().unwrap_or_default();
    words.split_whitespace().nth(1).and_then(|item| item.parse().ok()).unwrap_or(0)
}

/// `crunch` has got further than this.
fn until_further(lab: &mut Lab, id: &str, than: u64) -> Result<Value> {
    lab.until(&format!("{id} gets further"), |lab| {
        Ok(Some(lab.task(id)?).filter(|record| items(record) > than))
    })
}

fn revoke_before_any_worker(lab: &mut Lab) -> Result<()> {
    lab.step("No worker runs yet. An order to revoke is stored all the same.");
    enqueue_deaf(lab, "loop-1")?;
    lab.stem(0, "worker revoke --task loop-1 --reason mistake --requester ops")?;
    check("loop-1", &lab.task("loop-1")?, &[("/state", json!("queued"))])
}

fn start_three(lab: &mut Lab) -> Result<()> {
    lab.step("Three workers start; the one that would have run the task obeys the order.");
    for (name, queue) in [("alpha", "mail"), ("beta", "sums"), ("gamma", "batch")] {
        lab.start(name, queue)?;
    }
    lab.until_state("loop-1", "revoked")?;
    lab.stem(1, "task wait loop-1")?;
    check_revoked(lab, "loop-1", "before-start", "mistake")?;
    check("loop-1", &lab.task("loop-1")?, &[("/usage", Value::Null)])?;
    lab.stem(0, "worker ping")?;
    let answers = lab.place.json("worker ping", 0)?;
    let everybody = json!(["alpha", "beta", "gamma"]);
    check("ping", &answers, &[("/expected", everybody), ("/missing", json!([]))])?;
    // It waits for the last answer and not for the timeout, which is 20 s here.
    let elapsed = answers["elapsedMs"].as_f64().context("ping does not say how long it took")?;
    ensure!(elapsed < 10_000.0, "three live workers took {elapsed} ms to answer");
    Ok(())
}

fn ping_one_that_hangs(lab: &mut Lab) -> Result<()> {
    lab.step("gamma hangs. The two others answer, gamma is named, and the exit code says so too.");
    println!("$ kill -STOP gamma");
    lab.worker("gamma")?.freeze(&lab.place)?;
    let said = lab.stem(4, "worker ping --timeout 2s")?;
    ensure!(said.contains("from gamma"), "gamma is not named");
    println!("$ kill -CONT gamma");
    lab.worker("gamma")?.thaw()?;
    check("ping", &lab.place.json("worker ping", 0)?, &[("/missing", json!([]))])
}

fn hold_a_queue(lab: &mut Lab) -> Result<()> {
    lab.step("Hold a queue; revoke a task that waits in it, and take that back.");
    lab.stem(0, "queue pause sums --reason 'disk full'")?;
    check("inspect", &lab.payload("inspect", "beta")?, &[("/pausedQueues", json!(["sums"]))])?;
    lab.enqueue("crunch", "sums", "sum-1", r#"--json-args '{"items":[1,2,3]}'"#)?;
    lab.stem(0, "worker revoke --task sum-1 --reason 'wrong month' --requester ops")?;
    lab.stem(0, "revokes list")?;
    lab.stem(0, "revokes undo --task sum-1")?;
    // Workers hear of it from the store; one that has not yet would still end the task.
    lab.until("beta has heard that sum-1 may run", |lab| {
        let inspected = lab.payload("inspect", "beta")?;
        let revoked = inspected["revoked"].as_array().context("inspect lists no revocations")?;
        Ok(revoked.iter().all(|record| record["taskId"] != "sum-1").then_some(()))
    })?;
    check("sum-1", &lab.task("sum-1")?, &[("/state", json!("queued"))])?;
    lab.stem(0, "queue resume sums")?;
    let record = lab.until_state("sum-1", "succeeded")?;
    check("sum-1", &record, &[("/worker", json!("beta")), ("/attempt", json!(1))])?;
    lab.stem(0, "task result sum-1").map(drop)
}

fn look(lab: &mut Lab) -> Result<()> {
    lab.step(
        "Work for all: native code, a guest with checkpoints, a deaf guest and its neighbour.",
    );
    enqueue_waiting(lab, "invoice-1")?;
    enqueue_adding(lab, "sums", "sum-2")?;
    enqueue_deaf(lab, "loop-2")?;
    enqueue_adding(lab, "batch", "sum-3")?;
    for (worker, id, kind) in [
        ("alpha", "invoice-1", "inline"),
        ("beta", "sum-2", "isolate"),
        ("gamma", "loop-2", "isolate"),
        ("gamma", "sum-3", "isolate"),
    ] {
        let row = lab.until_at_work(worker, id)?;
        check(id, &row, &[("/kind", json!(kind)), ("/attempt", json!(1))])?;
    }
    lab.stem(0, "worker inspect --no-revoked")?;
    lab.stem(0, "worker stats")?;
    check(
        "stats",
        &lab.payload("stats", "gamma")?,
        &[
            ("/inflight", json!(2)),
            ("/counters/started", json!(2)),
            ("/counters/revoked", json!(1)),
            ("/activeConcurrency", json!(4)),
            ("/queues/0/name", json!("batch")),
            ("/queues/0/depth", json!(0)),
        ],
    )
}

fn terminate_cooperative(lab: &mut Lab) -> Result<()> {
    lab.step("Stop a task that listens: with a grace it is asked first, and ends in good order.");
    lab.stem(0, "worker revoke --task sum-2 --grace 10s --reason 'too slow' --requester ops")?;
    check_revoked(lab, "sum-2", "checkpoint", "too slow")
}

fn terminate_deaf(lab: &mut Lab) -> Result<()> {
    lab.step("Stop a task that never looks up: by force. Its neighbour in the worker runs on.");
    lab.stem(0, "worker revoke --task loop-2 --terminate --reason runaway --requester ops")?;
    check_revoked(lab, "loop-2", "preempted", "runaway")?;
    lab.stem(0, "worker inspect --worker gamma --no-revoked")?;
    let before = items(&lab.task("sum-3")?);
    let record = until_further(lab, "sum-3", before)?;
    check(
        "sum-3",
        &record,
        &[("/state", json!("running")), ("/attempt", json!(1)), ("/deliveryCount", json!(1))],
    )
}

fn terminate_inline(lab: &mut Lab) -> Result<()> {
    lab.step("Stop native code, and that neighbour: only at a checkpoint, never by force.");
    lab.stem(
        0,
        "worker revoke --task invoice-1,sum-3 --cooperative --reason 'month closed' --requester ops",
    )?;
    check_revoked(lab, "invoice-1", "checkpoint", "month closed")?;
    check_revoked(lab, "sum-3", "checkpoint", "month closed")
}

fn shut_down_warm(lab: &mut Lab) -> Result<()> {
    lab.step("Warm shutdown: alpha takes nothing new, answers, finishes what runs, and leaves.");
    enqueue_waiting(lab, "invoice-2")?;
    lab.until_at_work("alpha", "invoice-2")?;
    lab.stem(0, "worker shutdown --worker alpha")?;
    lab.stem(0, "worker ping --worker alpha")?;
    let ping = lab.payload("ping", "alpha")?;
    check("ping", &ping, &[("/state", json!("draining")), ("/inflight", json!(1))])?;
    println!("$ echo {} > {FILE}", FILE_TEXT.trim_end());
    // Whole or not at all, since the task looks all the time.
    std::fs::write(lab.place.dir.join("arriving"), FILE_TEXT)?;
    std::fs::rename(lab.place.dir.join("arriving"), lab.place.dir.join(FILE))?;
    lab.left("alpha")?;
    lab.stem(0, "task result invoice-2")?;
    let size = json!(FILE_TEXT.len());
    check(
        "invoice-2",
        &lab.task("invoice-2")?,
        &[("/state", json!("succeeded")), ("/attempt", json!(1)), ("/result/bytes", size)],
    )?;
    Ok(std::fs::remove_file(lab.place.dir.join(FILE))?)
}

/// A task waits again, and nothing is held against it.
fn check_given_back(lab: &Lab, id: &str) -> Result<()> {
    let nothing = Value::Null;
    check(
        id,
        &lab.task(id)?,
        &[("/state", json!("queued")), ("/failure", nothing.clone()), ("/revocation", nothing)],
    )
}

fn shut_down_soft(lab: &mut Lab) -> Result<()> {
    lab.step("Soft shutdown: beta asks what runs to stop. It saves its work, and waits again.");
    enqueue_adding(lab, "sums", "sum-4")?;
    until_further(lab, "sum-4", 0)?;
    lab.stem(0, "worker shutdown --worker beta --mode soft --grace 20s")?;
    lab.left("beta")?;
    check_given_back(lab, "sum-4")
}

fn shut_down_hard(lab: &mut Lab) -> Result<()> {
    lab.step(
        "Hard shutdown: gamma stops a deaf task. It waits again at once, not after its lease.",
    );
    enqueue_deaf(lab, "loop-3")?;
    lab.until_at_work("gamma", "loop-3")?;
    lab.stem(0, "worker shutdown --worker gamma --mode hard")?;
    lab.left("gamma")?;
    check_given_back(lab, "loop-3")?;
    enqueue_waiting(lab, "invoice-3")?;
    lab.stem(0, "queue list").map(drop)
}

fn start_another(lab: &mut Lab) -> Result<()> {
    lab.step("delta takes over two queues. No attempt is used up; the sum goes on where it was.");
    let told = items(&lab.task("sum-4")?);
    lab.start("delta", "sums,batch")?;
    for id in ["loop-3", "sum-4"] {
        lab.until_at_work("delta", id)?;
    }
    // Its progress is listed.
    until_further(lab, "sum-4", told)?;
    lab.stem(0, "task list --state running")?;
    for id in ["loop-3", "sum-4"] {
        check(
            id,
            &lab.task(id)?,
            &[("/worker", json!("delta")), ("/attempt", json!(1)), ("/deliveryCount", json!(1))],
        )?;
    }
    println!("$ grep -o 'picking up.*' delta.log");
    let picked_up = lab.until("delta's log tells where it picks up", |lab| {
        let log = lab.worker("delta")?.log();
        Ok(log.lines().find_map(|line| Some(line[line.find("picking up")?..].to_owned())))
    })?;
    println!("{picked_up}");
    let item =
        picked_up.split(['"', ' ']).find_map(|word| word.strip_prefix("item=")?.parse().ok());
    ensure!(item >= Some(told), "it had told of {told} items");
    Ok(())
}

fn clean_up(lab: &mut Lab) -> Result<()> {
    lab.step("The end: a grace that one task hears and one does not; a queue that nobody serves.");
    lab.stem(
        0,
        "worker revoke --task loop-3,sum-4 --grace 1s --reason 'lab over' --requester ops",
    )?;
    check_revoked(lab, "loop-3", "preempted", "lab over")?;
    check_revoked(lab, "sum-4", "checkpoint", "lab over")?;
    lab.stem(0, "queue purge mail --yes")?;
    lab.stem(0, "worker shutdown")?;
    lab.left("delta")?;
    lab.stem(3, "worker ping")?;
    println!("\nEverything was as it should be.");
    Ok(())
}
