//! Quotas of tenants and queues, as a worker keeps them. Whole processes under a flood: `tests/tests/it/flood.rs`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_conformance::{Faults, Faulty};
use stem_core::control::{Drain, Order};
use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName};
use stem_core::machine::quota::{Quota, Rules};
use stem_core::tenant::HEADER;
use stem_engine::{Backends, Child, EnqueueOptions, QuotaFile, Release, TaskContext, WorkerConfig};
use tokio::sync::Semaphore;

use super::support::*;
use super::{held, until};

fn of(tenant: &str) -> EnqueueOptions {
    let headers = BTreeMap::from([(HEADER.to_owned(), tenant.to_owned())]);
    EnqueueOptions { headers, ..EnqueueOptions::default() }
}

/// So many attempts of each tenant at once.
fn each(concurrency: usize) -> Rules {
    let each = Quota { concurrency: Some(concurrency), ..Quota::default() };
    Rules { each, ..Rules::default() }
}

fn eight_places(quotas: QuotaFile) -> WorkerConfig {
    WorkerConfig { concurrency: 8, quotas: Some(Arc::new(quotas)), ..config() }
}

async fn quotas(backends: &Backends) -> Value {
    let order = Order::Inspect { include_revoked: false };
    command(backends, &format!("inspect-{}", uuid::Uuid::now_v7()), order).await["quotas"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_quota_is_left_where_it_is_and_others_go_past_it() {
    let faulty = Faulty::new(Faults::default());
    let inner = Backends::all_in_one(memory());
    let backends = Backends { broker: faulty.broker(Arc::clone(&inner.broker)), ..inner };
    let (gate, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let config = eight_places(each(1).into());
    let bench = start(backends.clone(), config, held(&gate, &most)).await;
    let mut tasks = Vec::new();
    for _ in 0..50 {
        tasks.push(bench.enqueue("held", of("many")).await);
    }
    let row = json!([{
        "scope": "tenant", "name": "many", "inflight": 1, "concurrency": 1, "heldBackBy": "concurrency",
    }]);
    let tenants = async || {
        let rows = quotas(&backends).await;
        let rows = rows.as_array().unwrap().iter().filter(|row| row["scope"] == "tenant");
        rows.cloned().collect::<Value>()
    };
    until(row, tenants).await;
    // Seven places are free, and 49 tasks could be taken: they are looked at now and then, and not touched.
    let (looks, settled) = (faulty.calls("broker.receive"), faulty.calls("broker.settle"));
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    until(true, async || faulty.calls("broker.receive") >= looks + 2).await;
    let (looks, took) = (faulty.calls("broker.receive") - looks, since.elapsed());
    // The pauses double up to 80 ms.
    let bound = 7 + 13 * u64::try_from(took.as_millis()).unwrap() / 1_000;
    assert!(looks <= bound, "{looks} looks in {took:?}");
    assert_eq!(faulty.calls("broker.settle"), settled);
    // Another's goes past them, and so do those without a tenant.
    let another = bench.enqueue("held", of("another")).await;
    let nobodys = bench.enqueue("held", EnqueueOptions::default()).await;
    until(3, async || most.load(Ordering::SeqCst)).await;
    gate.add_permits(100);
    for task in tasks.iter().chain([&another, &nobodys]) {
        assert_eq!((bench.ended(task).await.attempt, most.load(Ordering::SeqCst)), (1, 3));
    }
    let stats = stats(&backends).await;
    let reached = &stats["quotas"]["reached"];
    assert!(reached["concurrency"].as_u64() >= Some(1), "{stats}");
    assert_eq!((&reached["rate"], &reached["memory"]), (&json!(0), &json!(0)));
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_has_its_quota_whoever_has_its_tasks() {
    let (gate, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let backends = Backends::all_in_one(memory());
    let two = Quota { concurrency: Some(2), ..Quota::default() };
    let rules = Rules { queues: [("narrow".parse().unwrap(), two)].into(), ..Rules::default() };
    let mut config = eight_places(rules.into());
    config.queues = vec!["narrow".parse().unwrap(), "wide".parse().unwrap()];
    let bench = start(backends.clone(), config, held(&gate, &most)).await;
    let mut tasks = Vec::new();
    for number in 0..4 {
        let options = of(&format!("t{number}"));
        let narrow = EnqueueOptions { queue: "narrow".parse().unwrap(), ..options.clone() };
        let wide = EnqueueOptions { queue: "wide".parse().unwrap(), ..options };
        tasks.push(bench.enqueue("held", narrow).await);
        tasks.push(bench.enqueue("held", wide).await);
    }
    // Four of the one, two of the other.
    until(6, async || most.load(Ordering::SeqCst)).await;
    gate.add_permits(100);
    for task in &tasks {
        bench.ended(task).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 6);
    bench.stop(Drain::Warm).await;
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_quotas_is_followed_while_the_worker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quotas.toml");
    write(&path, "[tenants.\"*\"]\nconcurrency = 1");
    let (gate, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let backends = Backends::all_in_one(memory());
    let config = eight_places(QuotaFile::open(&path).unwrap());
    let bench = start(backends.clone(), config, held(&gate, &most)).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(bench.enqueue("held", of("acme")).await);
    }
    until(1, async || most.load(Ordering::SeqCst)).await;
    write(&path, "[tenants.\"*\"]\nconcurrency = 0");
    let problem = async || stats(&backends).await["quotas"]["problem"].is_string();
    until(true, problem).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    write(&path, "[tenants.acme]\nconcurrency = 3");
    until(3, async || most.load(Ordering::SeqCst)).await;
    gate.add_permits(100);
    for task in &tasks {
        bench.ended(task).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_that_a_task_enqueues_are_its_tenants() {
    let backends = Backends::all_in_one(memory());
    let config = eight_places(each(4).into());
    let child = |tenant: Option<&str>| {
        let headers = tenant.map(|tenant| (HEADER.to_owned(), tenant.to_owned()));
        let name = TaskName::new("leaf").unwrap();
        Child { headers: headers.into_iter().collect(), ..Child::new(name, Payload::json("{}")) }
    };
    let bench = start(backends, config, |builder| {
        let parent = move |context: TaskContext, _: Value| async move {
            let inherits = context.enqueue(vec![child(None)], Release::Now).await;
            let same = context.enqueue(vec![child(Some("acme"))], Release::Now).await;
            let other = context.enqueue(vec![child(Some("other"))], Release::Now).await;
            let ids = inherits.into_iter().chain(same).flatten().map(|id| id.to_string());
            Ok((ids.collect::<Vec<_>>(), other.map_err(|refusal| format!("{refusal:?}")).err()))
        };
        let leaf = |context: TaskContext, _: Value| {
            let headers = context.info().headers.clone();
            async move { Ok(headers) }
        };
        builder.inline("parent", parent).unwrap().inline("leaf", leaf).unwrap()
    })
    .await;
    let told = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let result = async |options| {
        let parent = bench.enqueue("parent", options).await;
        let result = bench.ended(&parent).await.result.unwrap();
        let (ids, refused): (Vec<TaskId>, Option<String>) =
            serde_json::from_slice(&result.bytes).unwrap();
        let mut children = Vec::new();
        for id in ids {
            children.push(told(&bench.ended(&id).await.result.unwrap().bytes));
        }
        (children, refused)
    };
    let acmes = json!([[HEADER, "acme"]]);
    let (children, refused) = result(of("acme")).await;
    assert_eq!(children, [acmes.clone(), acmes.clone()]);
    assert!(refused.is_some_and(|why| why.contains("its tenant's, acme")));
    // Whose parent is nobody's may be anybody's.
    let (children, refused) = result(EnqueueOptions::default()).await;
    assert_eq!((children, refused), (vec![json!([]), acmes], None));
    bench.stop(Drain::Warm).await;
}
