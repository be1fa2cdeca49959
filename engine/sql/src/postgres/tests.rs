//! What can only be seen from inside: the plans of the statements that run for every task.

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, raw_sql};
use stem_services::PostgresServer;

use super::*;

/// Tables that may be long, by which nobody may walk.
const LONG: [&str; 11] = [
    "deliveries",
    "envelopes",
    "tasks",
    "dead_letters",
    "delivery_failures",
    "task_failures",
    "checkpoints",
    "revocations",
    "commands",
    "replies",
    "bucket_values",
];

/// Reads of whole rows without a condition on an index, somewhere in a plan.
fn walks(node: &Value, found: &mut Vec<String>) {
    let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
    let kind = text("Node Type");
    let reads = kind.ends_with("Scan") && LONG.contains(&text("Relation Name"));
    if reads && node.get("Index Cond").is_none() {
        found.push(format!("{kind} of {} by {:?}", text("Relation Name"), text("Index Name")));
    }
    let below = node.get("Plans").and_then(Value::as_array);
    below.into_iter().flatten().for_each(|node| walks(node, found));
}

/// The indexes that a plan goes by.
fn indexes(node: &Value, found: &mut Vec<String>) {
    found.extend(node.get("Index Name").and_then(Value::as_str).map(str::to_owned));
    let below = node.get("Plans").and_then(Value::as_array);
    below.into_iter().flatten().for_each(|node| indexes(node, found));
}

async fn plan(conn: &mut PgConnection, statement: &'static str) -> Value {
    raw_sql(AssertSqlSafe(format!("PREPARE hot AS {statement}")))
        .execute(&mut *conn)
        .await
        .unwrap();
    let count: i32 = sqlx::query_scalar(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'hot'",
    )
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    let nothing = vec!["NULL"; usize::try_from(count).unwrap()].join(", ");
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE hot ({nothing})");
    let row = raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *conn).await.unwrap();
    let plan = sqlx::Row::try_get_raw(&row, 0).unwrap();
    let plan: Value = serde_json::from_str(plan.as_str().unwrap()).unwrap();
    raw_sql("DEALLOCATE hot").execute(conn).await.unwrap();
    plan[0]["Plan"].clone()
}

/// Tables that are empty, long, or empty again, each before and after the server has noticed: a plan made in any of these
/// moments may be kept for long.
#[tokio::test]
async fn statements_for_every_task_find_their_rows_by_an_index_whatever_the_planner_knows() {
    let database = PostgresServer::shared().database();
    let store = Postgres::open(PostgresOptions::new(database.url())).await.unwrap();
    let mut lease = store.core.connections.lease().await.ok().unwrap();
    let conn = &mut lease.connection;
    let fill = "
        INSERT INTO tasks (id, name, queue, state, max_retries, enqueued_at)
            SELECT 't' || n, 'job', 'q', 'queued', 0, 0 FROM generate_series(1, 20000) AS n;
        INSERT INTO envelopes (seq, wire) SELECT n, 'x' FROM generate_series(1, 20000) AS n;
        INSERT INTO deliveries (seq, task, queue, name, phase, priority, at)
            SELECT n, 't' || n, 'q', 'job', n % 3, 5, 0 FROM generate_series(1, 20000) AS n;
        INSERT INTO delivery_failures (task, failed) SELECT 't' || n, '' FROM generate_series(1, 20000) AS n;
        INSERT INTO task_failures (task, failed) SELECT 't' || n, '' FROM generate_series(1, 20000) AS n;
        INSERT INTO revocations (namespace, task, version, issued_at)
            SELECT 'n', 't' || n, n, 0 FROM generate_series(1, 20000) AS n;
        INSERT INTO commands (namespace, position, request_id, expires_at, command)
            SELECT 'n', n, 'r' || n, 0, '' FROM generate_series(1, 20000) AS n;
        INSERT INTO replies (namespace, request_id, position, worker, kept_until, reply)
            SELECT 'n', 'r' || n, n, 'w', 0, '' FROM generate_series(1, 20000) AS n;
        INSERT INTO bucket_values (bucket, key, version, value)
            SELECT 'b', decode(lpad(n::text, 8, '0'), 'hex'), n, '' FROM generate_series(1, 20000) AS n;";
    let mut bad = Vec::new();
    for change in [
        "SELECT 1",
        "VACUUM ANALYZE",
        fill,
        "ANALYZE",
        "TRUNCATE envelopes, deliveries, tasks, revocations, commands, replies",
        "VACUUM ANALYZE",
    ] {
        raw_sql(change).execute(&mut *conn).await.unwrap();
        let hot = [broker::STORE].into_iter();
        let hot = hot.chain(broker::CLAIMS).chain(broker::SETTLEMENTS);
        let hot = hot.chain(records::HOT).chain(dead_letter::HOT);
        let hot = hot.chain(revoke::HOT).chain(control::HOT).chain(buckets::HOT);
        for statement in hot {
            let plan = plan(conn, statement).await;
            let mut found = Vec::new();
            walks(&plan, &mut found);
            if !found.is_empty() {
                bad.push(format!("{found:?} after {change}\nin {statement}"));
            }
        }
        // By the other index each would find its rows too, after sorting all of them or passing over other tenants'.
        let with = |other| move |statement: &'static str| (statement, other);
        let ordered = broker::CLAIMS.into_iter().filter(|it| it.contains("ORDER BY priority"));
        let turns = broker::TURNS.into_iter().map(with("deliveries_ready"));
        for (statement, other) in turns.chain(ordered.map(with("deliveries_lanes"))) {
            let plan = plan(conn, statement).await;
            let (mut found, mut used) = (Vec::new(), Vec::new());
            walks(&plan, &mut found);
            indexes(&plan, &mut used);
            if !found.is_empty() || used.iter().any(|index| index == other) {
                bad.push(format!("{found:?} {used:?} after {change}\nin {statement}"));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
