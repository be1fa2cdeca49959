//! Guests that compute without a pause in every place of a worker, beside others that want the processors too: no lease
//! is lost.
//!
//! `STEM_TEST_LEASES` says how many tasks of ten leases each there are, eight at a time; eight if it is not set.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use stem_core::task::TaskState;

use crate::lab::{Lab, PATIENCE, number};
use crate::store::Store;

const LEASE: Duration = Duration::from_secs(2);
const PLACES: usize = 8;
/// What a task computes for.
const LONG: Duration = Duration::from_secs(20);

/// Computes for 20 s. Between two looks at the time that is left lies a tenth of a second of a core's whole work, in which
/// it calls nothing.
const COMPUTE: &str = r#"(module
  (import "stem0" "time_left" (func $left (param i32) (result i64)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32)
    (local $until i64) (local $steps i32)
    (local.set $until (i64.sub (call $left (i32.const 1)) (i64.const 20000)))
    (loop $again
      (local.set $steps (i32.const 100000000))
      (loop $step
        (local.set $steps (i32.sub (local.get $steps) (i32.const 1)))
        (br_if $step (local.get $steps)))
      (br_if $again (i64.gt_s (call $left (i32.const 1)) (local.get $until))))
    (i32.const 0)))"#;
const MANIFEST: &str = "[handlers.compute]\nsource = \"file:compute.wasm\"\n[handlers.compute.limits]\ncpu = \"1h\"\nhard = \"1h\"\n";

/// Computes on every core until told that it is over.
fn stress<'a>(scope: &'a thread::Scope<'a, '_>, over: &'a AtomicBool) {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for _ in 0..cores {
        scope.spawn(|| {
            let mut state = 1_u64;
            while !over.load(Relaxed) {
                for _ in 0..1_000_000 {
                    state = std::hint::black_box(state.wrapping_mul(3) ^ (state >> 7));
                }
            }
        });
    }
}

/// Ends what computes beside a test, also where that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_computing_guest_keeps_its_lease_without_lifting_a_finger() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("modules")).unwrap();
    std::fs::write(lab.path("modules/compute.wasm"), wat::parse_str(COMPUTE).unwrap()).unwrap();
    std::fs::write(lab.path("modules/stem.toml"), MANIFEST).unwrap();
    let tasks = usize::try_from(number("STEM_TEST_LEASES", PLACES as u64)).unwrap();
    for _ in 0..tasks {
        lab.enqueue("compute", "{}", &[]);
    }
    let (places, lease) = (PLACES.to_string(), format!("{}s", LEASE.as_secs()));
    let words = ["worker", "start", "--modules", "modules", "--concurrency", &places];
    let worker = lab.worker_from(&[words.as_slice(), &["--lease", &lease]].concat());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        stress(scope, &over);
        watch(&lab, tasks);
    });

    let records = Store::open(&lab.database()).records(None);
    assert_eq!(records.len(), tasks);
    for record in records {
        assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
        assert_eq!((record.attempt, record.delivery_count), (1, 1), "{record:?}");
        let ran = record.finished_at.unwrap().since(record.started_at.unwrap());
        assert!(ran + Duration::from_millis(100) > LONG, "it ran for {ran:?}: {record:?}");
    }
    let stats = lab.stem(&["worker", "stats", "--timeout", "1m", "--json"]).ok().json();
    let stats = &stats["replies"][0]["payload"];
    assert_eq!(stats["counters"]["leaseLost"], 0, "{stats}");
    assert_eq!(stats["counters"]["started"], tasks, "{stats}");
    drop(worker);
}

/// Waits for the end of all, and prints how late renewals were: a lease of which less than two thirds is left should have
/// been renewed.
fn watch(lab: &Lab, tasks: usize) {
    let store = Store::open(&lab.database());
    let bound = LONG * u32::try_from(tasks.div_ceil(PLACES)).unwrap() + PATIENCE * 2;
    let due = (LEASE * 2 / 3).as_secs_f64() * 1e3;
    let since = Instant::now();
    let mut late = Vec::new();
    loop {
        let said = lab.stem(&["worker", "inspect", "--timeout", "1m", "--json"]).ok().json();
        for row in said["replies"][0]["payload"]["active"].as_array().unwrap() {
            late.push((due - row["leaseExpiresInMs"].as_f64().unwrap()).max(0.0));
        }
        let ended = store.records(Some(TaskState::Succeeded)).len();
        if ended == tasks {
            break;
        }
        assert!(since.elapsed() < bound, "{ended} of {tasks} ended: {said}");
        thread::sleep(Duration::from_millis(50));
    }
    late.sort_by(f64::total_cmp);
    println!(
        "{tasks} tasks of {LONG:?} under leases of {LEASE:?} took {:?}; of {} looks at a lease, renewals were late by {:.0} ms at the most and by {:.0} ms in all but one of a hundred",
        since.elapsed(),
        late.len(),
        late.last().unwrap(),
        late[late.len() * 99 / 100],
    );
}
