//! Postgres held to the contract. Every `connect` opens the database anew, as another process would.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};
use stem_conformance::{Backends, Harness, ManualClock};
use stem_core::backend::Records;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use stem_services::{Database, PostgresServer};
use stem_sql::{Postgres, PostgresOptions};

/// A database of its own on the server that all tests share.
struct OnPostgres {
    clock: Arc<ManualClock>,
    database: Database,
}

#[async_trait]
impl Harness for OnPostgres {
    async fn connect(&self) -> Backends {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let options = PostgresOptions {
            clock: Some(clock),
            max_connections: 4,
            ..PostgresOptions::new(self.database.url())
        };
        Backends::of(Postgres::open(options).await.unwrap())
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
        let mut conn = PgConnection::connect(self.database.url()).await.unwrap();
        let damaged = sqlx::query(
            "UPDATE stem.envelopes SET wire = $2 WHERE seq = (SELECT seq FROM stem.deliveries WHERE task = $1)",
        )
        .bind(id.as_str())
        .bind(bytes)
        .execute(&mut conn)
        .await
        .unwrap();
        assert_eq!(damaged.rows_affected(), 1);
        conn.close().await.unwrap();
    }
}

async fn harness() -> OnPostgres {
    OnPostgres { clock: ManualClock::new(), database: PostgresServer::shared().database() }
}

stem_conformance::every_suite!(harness);

#[tokio::test]
async fn what_somebody_else_wrote_hides_nothing() {
    let harness = harness().await;
    let url = harness.database.url().to_owned();
    let plant = async {
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for row in [
            "INSERT INTO stem.commands (namespace, position, request_id, expires_at, command) VALUES ('n', 1, 'a', 9e12, 'nonsense')",
            "INSERT INTO stem.replies (namespace, request_id, position, worker, kept_until, reply) VALUES ('n', 'before', 1, 'a', 9e12, '')",
            "INSERT INTO stem.workers (namespace, worker, boot_id, seen_at, heartbeat) VALUES ('n', 'x', 'b', 9e12, 'nonsense')",
            "UPDATE stem.releases SET release = 'nonsense' WHERE name = 'bad'",
            "UPDATE stem.module_names SET assignment = 'nonsense' WHERE name = 'torn'",
            "INSERT INTO stem.module_names (name, last, version, assignment) VALUES ('no name', 1, 1, '')",
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

/// The same suites through a decorator that delays calls, keeps some from arriving, and makes writes twice.
mod through_faults {
    use stem_conformance::{Faults, FaultyHarness};

    use super::OnPostgres;

    async fn harness() -> FaultyHarness<OnPostgres> {
        FaultyHarness::new(super::harness().await, Faults::unnoticed(5))
    }

    stem_conformance::every_suite!(harness);
}
