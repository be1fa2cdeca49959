//! SQLite held to the contract. Every `connect` opens the file anew, as another process would.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use stem_conformance::{Backends, Harness, ManualClock};
use stem_core::backend::Records;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use stem_sql::{Sqlite, SqliteOptions};

struct OnSqlite {
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

#[async_trait]
impl Harness for OnSqlite {
    async fn connect(&self) -> Backends {
        let options = SqliteOptions {
            path: self.directory.path().join("stem.db"),
            clock: self.clock.clone(),
            create: true,
            busy_timeout: Duration::from_secs(5),
        };
        Backends::of(Sqlite::open(options).await.unwrap())
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn set_back(&self, by: Duration) {
        self.clock.set_back(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn plant_raw_envelope(
        &self,
        queue: &QueueName,
        id: &TaskId,
        name: &TaskName,
        bytes: &[u8],
    ) {
        let whole = stem_conformance::stand_in(self, queue, id, name);
        self.connect().await.broker.publish(&[whole], Records::Here).await.unwrap();
        let file = SqliteConnectOptions::new().filename(self.directory.path().join("stem.db"));
        let mut conn = file.connect().await.unwrap();
        let damaged = sqlx::query(
            "UPDATE envelopes SET wire = ?2 WHERE seq = (SELECT seq FROM deliveries WHERE task = ?1)",
        )
        .bind(id.as_str())
        .bind(bytes.to_vec())
        .execute(&mut conn)
        .await
        .unwrap();
        assert_eq!(damaged.rows_affected(), 1);
        conn.close().await.unwrap();
    }
}

async fn harness() -> OnSqlite {
    OnSqlite { clock: ManualClock::new(), directory: tempfile::tempdir().unwrap() }
}

stem_conformance::every_suite!(harness);

#[tokio::test]
async fn what_somebody_else_wrote_hides_nothing() {
    let harness = harness().await;
    let file = SqliteConnectOptions::new().filename(harness.directory.path().join("stem.db"));
    let plant = async {
        let mut conn = file.connect().await.unwrap();
        for row in [
            "INSERT INTO commands (namespace, request_id, expires_at, command) VALUES ('n', 'a', 9e12, 'nonsense')",
            "INSERT INTO commands (namespace, request_id, expires_at, command) VALUES ('n', 'b', 'late', x'ff00')",
            "INSERT INTO replies (namespace, request_id, worker, kept_until, reply) VALUES ('n', 'before', 'a', 9e12, 'nonsense')",
            "INSERT INTO replies (namespace, request_id, worker, kept_until, reply) VALUES ('n', 'before', 'b', 'late', x'ff00')",
            "INSERT INTO workers (namespace, worker, boot_id, seen_at, heartbeat) VALUES ('n', 'x', 'b', 'late', x'ff00')",
            "UPDATE releases SET release = x'ff00' WHERE name = 'bad'",
            "UPDATE module_names SET assignment = 'nonsense' WHERE name = 'torn'",
            "INSERT INTO module_names (name, last, assignment) VALUES ('no name', 1, x'ff00')",
        ] {
            sqlx::query(row).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
    };
    stem_conformance::planted::hides_nothing(&harness, plant).await;
}

#[tokio::test]
async fn no_random_sequence_gets_a_stale_operation_accepted() {
    let refused = stem_conformance::model::fencing_holds(&harness().await, 1_000).await;
    println!("{refused} stale operations refused, 0 accepted");
    assert!(refused > 10_000, "the sequences must try stale operations, not only {refused}");
}
