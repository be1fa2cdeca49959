//! Every metric of the table is seen by a real Prometheus.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stem_services::{PrometheusServer, RedisServer};
use stem_telemetry::names::{self, Kind};

use crate::modules;
use crate::support::Place;
use crate::worker::{Worker, until};

/// The highest value that Prometheus has seen of it, if any.
fn highest(prometheus: &PrometheusServer, metric: &names::Metric) -> Option<f64> {
    let suffix = if matches!(metric.kind, Kind::Histogram(_)) { "_count" } else { "" };
    let query = format!("max(max_over_time({}{suffix}[1h]))", metric.on_the_page());
    let answer: Value = serde_json::from_str(&prometheus.query(&query).ok()?).ok()?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

/// Every query of the dashboard, as Grafana would send it with everything chosen.
fn queries_of_the_dashboard() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m"))
        .map(|query| {
            ["$instance", "$queue", "$task"].iter().fold(query, |q, name| q.replace(name, ".*"))
        })
        .collect();
    assert!(queries.len() > 30 && queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    queries
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn every_metric_is_scraped_with_a_value_after_something_went_wrong_in_every_way() {
    let place = Place::new();
    let modules = modules::write(&place);
    let modules = modules.to_str().unwrap();
    let (redis, prometheus) = (RedisServer::start(), PrometheusServer::start());
    let url = redis.url();
    let nobody = format!("http://127.0.0.1:{}", closed_port());
    let environment = [("STEM_BROKER_URL", url.as_str()), ("STEM_OTLP_ENDPOINT", &nobody)];
    let stem = |args: &[&str]| place.stem_env(&environment[..1], args);
    let worker = |name: &str, concurrency: &str| {
        let args = [
            "--name",
            name,
            "--modules",
            modules,
            "--metrics",
            "127.0.0.1:0",
            "--concurrency",
            concurrency,
            "--lease",
            "3s",
            "--max-tasks-per-isolate",
            "2",
            "--signers",
            "signers.toml",
            "--quotas",
            "quotas.toml",
        ];
        Worker::start(&place, &environment, &args)
    };
    // Tasks need not be signed, but nobody may sign them who is not known.
    for (id, public, private) in
        [("ours", "signers.toml", "ours.toml"), ("theirs", "theirs-public.toml", "theirs.toml")]
    {
        let words = ["keys", "new", id, "--role", "publish", "--public", public];
        place.stem(&[&words[..], &["--private", private]].concat()).expect(0);
    }
    place.write("quotas.toml", "[tenants.rare]\nrate = \"1/h\"");
    let enqueue = |name: &str, id: &str| {
        stem(&["task", "enqueue", name, "--id", id, "--max-retries", "1"]).expect(0);
    };

    // Too late before anybody looks.
    stem(&["task", "enqueue", "tell", "--expires-in", "1ms"]).expect(0);
    let first = worker("first", "2");
    prometheus.scrape(&[first.address()]);
    first.until_counted("stem_tasks_expired_total");
    for id in ["t1", "t2", "t3"] {
        enqueue("tell", id);
        stem(&["task", "wait", id]).expect(0);
    }
    enqueue("trap", "trapped");
    stem(&["task", "wait", "trapped"]).expect(1);
    stem(&["worker", "ping"]).expect(0);
    stem(&["task", "enqueue", "tell", "--tenant", "rare", "--wait"]).expect(0);
    first.until_counted("stem_quota_reached_total{bound=\"rate\"}");
    let theirs = [environment[0], ("STEM_SIGNING_PRIVATE_KEYS", "theirs.toml")];
    place.stem_env(&theirs, &["task", "enqueue", "tell", "--id", "forged"]).expect(0);
    stem(&["task", "wait", "forged"]).expect(1);

    // Two run, one waits.
    for id in ["s1", "s2", "s3"] {
        enqueue("spin", id);
    }
    first.until_counted("stem_queue_depth");
    first.until_counted("stem_lease_renewed_total");
    until("a depth in Prometheus", || highest(&prometheus, &names::DEPTH).filter(|n| *n > 0.0));
    stem(&["worker", "revoke", "--task", "s1,s2", "--terminate"]).expect(0);
    first.until_counted(
        "stem_task_stop_duration_seconds_count{how=\"preempted\",reason=\"revoked\"}",
    );

    redis.freeze();
    first.until_counted("stem_service_errors_total{class=\"transient\",service=\"broker\"}");
    redis.thaw();

    // It runs here, its worker is gone for longer than its lease, and comes back.
    let running =
        || stem(&["worker", "inspect", "--worker", "first", "--json"]).stdout.contains("\"s3\"");
    until("s3 on the first worker", || running().then_some(()));
    first.signal(Signal::STOP);
    let second = worker("second", "2");
    prometheus.scrape(&[first.address(), second.address()]);
    second.until_counted("stem_module_cache_lookups_total{outcome=\"hit\"}");
    second.until_counted("stem_lease_reclaimed_total");
    first.signal(Signal::CONT);
    first.until_counted("stem_lease_lost_total");

    // Before the first ends, with what only it has counted.
    let scraped = |metric: &names::Metric| {
        let what = format!("{} in Prometheus\n{}", metric.name, prometheus.log());
        until(&what, || highest(&prometheus, metric).filter(|value| *value > 0.0));
    };
    let (last, others): (Vec<_>, Vec<_>) =
        names::ALL.iter().partition(|metric| **metric == names::RELEASED);
    others.into_iter().for_each(scraped);

    // One that obeys is given back, while the other goes on.
    stem(&["worker", "shutdown", "--worker", "first", "--mode", "hard"]).expect(0);
    enqueue("obey", "o1");
    second.until_counted("stem_tasks_started_total{queue=\"default\",task=\"obey\"}");
    stem(&["worker", "shutdown", "--worker", "second", "--mode", "soft", "--grace", "10m"])
        .expect(0);
    second.until_counted("stem_tasks_released_total");

    last.into_iter().for_each(scraped);
    for query in queries_of_the_dashboard() {
        let answer = prometheus.query(&query);
        assert!(
            answer.as_ref().is_ok_and(|json| json.contains("\"success\"")),
            "{query}: {answer:?}"
        );
    }
    let page = second.page();
    assert_eq!(PrometheusServer::faults_of(&page), "", "{page}");
    assert!(PrometheusServer::faults_of("1 broken\n").contains("error"));
}

#[test]
fn a_page_that_cannot_be_opened_is_said_with_a_hint() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.stem(&["worker", "start", "--metrics", &address]).expect(1).complains().says(&address);
    for bad in ["9464", "localhost:9464", "127.0.0.1", ":9464", ""] {
        place.stem(&["worker", "start", "--metrics", bad]).expect(2).complains();
    }
}

#[test]
fn the_page_is_where_flag_environment_and_file_say() {
    let place = Place::new();
    let setting = |environment: &[(&str, &str)], args: &[&str]| {
        let mut all = vec!["worker", "start", "--print-config", "--json"];
        all.extend(args);
        let shown = place.stem_env(environment, &all).expect(0).json();
        let rows = shown["settings"].as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["key"] == "metrics").unwrap();
        (row["value"].clone(), row["source"].clone())
    };
    assert_eq!(setting(&[], &[]), (Value::Null, "default".into()));
    place.write(
        "stem.toml",
        "[settings]\nmetrics = \"127.0.0.1:1\"\notlp-endpoint = \"http://h:4318\"\n",
    );
    assert_eq!(setting(&[], &[]), ("127.0.0.1:1".into(), "file".into()));
    let environment = [("STEM_METRICS", "127.0.0.1:2")];
    assert_eq!(setting(&environment, &[]), ("127.0.0.1:2".into(), "environment".into()));
    let flag = ["--metrics", "[::1]:3"];
    assert_eq!(setting(&environment, &flag), ("[::1]:3".into(), "flag".into()));
}

#[test]
fn a_collector_that_never_answers_slows_nobody_down() {
    let place = Place::new();
    let modules = modules::write(&place);
    // It takes connections and says nothing.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    let environment = [("STEM_OTLP_ENDPOINT", endpoint.as_str())];
    let args = ["--name", "w", "--modules", modules.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let mut worker = Worker::start(&place, &environment, &args);
    let begun = std::time::Instant::now();
    place.stem_env(&environment, &["task", "enqueue", "tell", "--id", "t"]).expect(0);
    // An enqueue waits a second for the collector, and no longer.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    place.stem(&["task", "wait", "t"]).expect(0);
    let begun = std::time::Instant::now();
    place.stem(&["worker", "shutdown"]).expect(0);
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(worker.log().contains("were not all sent"), "{}", worker.log());
}
