//! The page of documentation and the dashboard name the metrics that there are, and no others.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use stem_telemetry::names::{self, Kind};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name))
        .unwrap()
}

#[test]
fn the_table_in_the_documentation_is_the_codes() {
    let mut table =
        "| metric | for Prometheus | kind | by | what |\n|---|---|---|---|---|\n".to_owned();
    for metric in names::ALL {
        let labels =
            if metric.labels.is_empty() { "–".to_owned() } else { metric.labels.join(", ") };
        let (page, kind) = (metric.on_the_page(), metric.kind_word());
        table.extend(["| `", metric.name, "` | `", &page, "` | ", kind, " | ", &labels, " | "]);
        table.extend([metric.about, " |\n"]);
    }
    let text = read("metrics.md");
    let (begin, end) = ("<!-- metrics: begin -->\n", "<!-- metrics: end -->");
    let found = text.split(begin).nth(1).and_then(|rest| rest.split(end).next());
    assert!(
        found == Some(&table),
        "docs/metrics.md must have between {begin} and {end}:\n\n{table}"
    );
}

/// Every name of a metric on the page, with the parts that a histogram is there in.
fn on_the_page() -> BTreeSet<String> {
    names::ALL
        .iter()
        .flat_map(|metric| {
            let name = metric.on_the_page();
            match metric.kind {
                Kind::Histogram(_) => {
                    ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")).to_vec()
                }
                Kind::Counter | Kind::Gauge => vec![name],
            }
        })
        .collect()
}

/// The words of a query that could be names of ours.
fn named(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("stem_"))
}

fn queries(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for key in ["expr", "definition"] {
                into.extend(object.get(key).and_then(Value::as_str).map(str::to_owned));
            }
            object.values().for_each(|value| queries(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| queries(value, into)),
        _ => {}
    }
}

#[test]
fn every_query_of_the_dashboard_and_the_documentation_names_a_metric_that_there_is() {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let (mut all, known) = (Vec::new(), on_the_page());
    queries(&dashboard, &mut all);
    assert!(all.len() > 30, "{all:?}");
    let mut used = BTreeSet::new();
    for query in &all {
        let mut names = named(query).peekable();
        assert!(names.peek().is_some(), "{query} names no metric");
        for name in names {
            assert!(known.contains(name), "{query}: there is no {name}");
            used.insert(name.to_owned());
        }
    }
    // Whoever looks at the dashboard sees every metric somewhere.
    for metric in names::ALL {
        let name = metric.on_the_page();
        assert!(used.iter().any(|used| used.starts_with(&name)), "{name} is on no panel");
    }
    let plain: BTreeSet<_> = names::ALL.iter().map(names::Metric::on_the_page).collect();
    for line in read("metrics.md").lines() {
        for name in named(line) {
            assert!(
                known.contains(name) || plain.contains(name),
                "docs/metrics.md: {line}: there is no {name}"
            );
        }
    }
}

#[test]
fn every_label_that_the_dashboard_selects_by_is_one_of_the_metrics() {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let mut all = Vec::new();
    queries(&dashboard, &mut all);
    for query in all.iter().filter(|query| query.contains('{')) {
        for piece in query.split('}').filter_map(|piece| piece.split_once('{')) {
            let name = named(piece.0).last().unwrap_or_else(|| panic!("{query}"));
            let metric =
                names::ALL.iter().find(|metric| name.starts_with(&metric.on_the_page())).unwrap();
            let selected = piece.1.split(',').filter_map(|part| part.split(['=', '!']).next());
            for label in selected.filter(|label| *label != "instance") {
                assert!(metric.labels.contains(&label), "{query}: {name} has no {label}");
            }
        }
    }
}
