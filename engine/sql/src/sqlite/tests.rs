//! What can only be seen from inside: groups, and the plans of the statements that run under the lock.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use stem_core::backend::ErrorClass;
use stem_core::backend::broker::{Broker as _, ReceiveRequest};
use stem_core::id::{Incarnation, QueueName, TaskName, WorkerId};
use stem_core::machine::share::Shares;
use stem_core::tenant::Tenant;

use super::*;

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(1_000)
    }
}

async fn open(directory: &tempfile::TempDir) -> Arc<Sqlite> {
    let path = directory.path().join("stem.db");
    let (clock, busy_timeout) = (Arc::new(Stopped), Duration::from_secs(1));
    Sqlite::open(SqliteOptions { path, clock, create: true, busy_timeout }).await.unwrap()
}

/// Writes a row, then perhaps fails.
struct Mark {
    name: &'static str,
    fails: bool,
}

#[async_trait]
impl Operation for Mark {
    type Output = ();
    const ACTION: &'static str = "make a mark";
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<(), Fault> {
        sqlx::query("INSERT INTO queues (name) VALUES (?1)").bind(self.name).execute(conn).await?;
        if self.fails { Err(Fault::new(ErrorClass::Refused, "on purpose")) } else { Ok(()) }
    }
}

async fn marks(store: &Sqlite) -> Vec<String> {
    let mut reader = store.reader().await.unwrap();
    sqlx::query_scalar("SELECT name FROM queues ORDER BY name")
        .fetch_all(&mut *reader)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_operation_that_fails_does_not_spoil_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    // On one thread all three line up before the writer gets its turn, so they are one group.
    let (good, bad, last) = tokio::join!(
        store.write(Mark { name: "a", fails: false }),
        store.write(Mark { name: "b", fails: true }),
        store.write(Mark { name: "c", fails: false }),
    );
    good.unwrap();
    last.unwrap();
    assert_eq!(bad.unwrap_err().class(), ErrorClass::Refused);
    assert_eq!(marks(&store).await, ["a", "c"]);
}

#[tokio::test]
async fn an_operation_that_fails_alone_leaves_nothing_and_the_next_one_works() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    store.write(Mark { name: "a", fails: true }).await.unwrap_err();
    assert_eq!(marks(&store).await, [""; 0]);
    store.write(Mark { name: "b", fails: false }).await.unwrap();
    assert_eq!(marks(&store).await, ["b"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_what_it_began() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let (job, answer) = writer::job(Mark { name: "a", fails: false });
    store.jobs.send(job).await.unwrap();
    drop(answer);
    store.write(Mark { name: "b", fails: false }).await.unwrap();
    assert_eq!(marks(&store).await, ["a", "b"]);
}

/// Answers how the transaction that it runs in is synced.
struct Level<const FLEETS: bool>;

#[async_trait]
impl<const FLEETS: bool> Operation for Level<FLEETS> {
    type Output = i64;
    const ACTION: &'static str = "look";
    const RINGS: Topics = Topics::NONE;
    const FLEETING: bool = FLEETS;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<i64, Fault> {
        Ok(sqlx::query_scalar("PRAGMA synchronous").fetch_one(conn).await?)
    }
}

#[tokio::test]
async fn only_what_may_be_taken_back_by_a_power_cut_is_not_synced() {
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    assert_eq!(store.write(Level::<false>).await.unwrap(), FULL);
    assert_eq!(store.write(Level::<true>).await.unwrap(), NORMAL);
    assert_eq!(store.write(Level::<false>).await.unwrap(), FULL);
    let (fleeting, lasting) = tokio::join!(store.write(Level::<true>), store.write(Level::<false>));
    assert_eq!((fleeting.unwrap(), lasting.unwrap()), (FULL, FULL), "one group");
    store.write(Mark { name: "a", fails: true }).await.unwrap_err();
    assert_eq!(store.write(Level::<true>).await.unwrap(), NORMAL, "on a connection of its own");
}

/// A statement under the lock that walks a whole table makes everyone wait longer the more there is.
#[tokio::test]
async fn statements_under_the_lock_find_their_rows_by_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    store.receive(&asking_in_turns()).await.unwrap();
    let mut reader = store.reader().await.unwrap();
    let scripts: Vec<&str> = broker::hot_statements().chain(records::HOT).collect();
    for statement in scripts.iter().flat_map(|script| script.split(';')) {
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(AssertSqlSafe(explain)).fetch_all(&mut *reader).await.unwrap();
        for (.., step) in plan {
            let tables = [
                "deliveries",
                "envelopes",
                "tasks",
                "dead_letters",
                "checkpoints",
                " d",
                " t",
                " x",
            ];
            let walks = step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE");
            let table = tables.iter().any(|table| step.contains(table));
            assert!(!(walks && table), "{step}\nin {statement}");
            assert!(!step.contains("AUTOMATIC"), "{step}\nin {statement}");
            // By that one it would come to its rows after all those of other tenants.
            let in_turns = broker::TURNS.iter().any(|script| script.contains(statement));
            assert!(!(in_turns && step.contains("deliveries_ready")), "{step}\nin {statement}");
        }
    }
}

fn asking_in_turns() -> ReceiveRequest {
    let tenants = BTreeMap::new();
    let shares = Shares { queues: BTreeMap::new(), tenants, others: 1, from: Tenant::UNNAMED };
    ReceiveRequest {
        queues: vec![QueueName::new("q").unwrap()],
        names: [TaskName::new("job").unwrap()].into(),
        max: 1,
        lease: Duration::from_secs(1),
        owner: Incarnation(uuid::Uuid::now_v7()),
        worker: WorkerId::new("w").unwrap(),
        wait: Duration::ZERO,
        records: Records::Here,
        shares: Some(Arc::new(shares)),
    }
}

/// Its upkeep costs every task.
#[tokio::test]
async fn the_index_by_tenants_is_made_by_the_first_who_has_quotas() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let is_there = async || -> bool {
        let mut reader = store.reader().await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = 'deliveries_lanes'")
            .fetch_one(&mut *reader)
            .await
            .unwrap()
    };
    let request = asking_in_turns();
    store.receive(&ReceiveRequest { shares: None, ..request.clone() }).await.unwrap();
    assert!(!is_there().await);
    store.receive(&request).await.unwrap();
    store.receive(&request).await.unwrap();
    assert!(is_there().await);
}

/// What is opened here is synced in full, so only the look itself can be shown what is not.
#[tokio::test]
async fn a_file_that_is_not_synced_in_full_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plain.db");
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut conn = options.connect().await.unwrap();
    for (pragmas, words) in [
        ("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF", "synchronous is OFF"),
        ("PRAGMA synchronous = NORMAL", "synchronous is NORMAL"),
        ("PRAGMA synchronous = FULL; PRAGMA journal_mode = DELETE", "journal_mode is delete"),
    ] {
        sqlx::raw_sql(pragmas).execute(&mut conn).await.unwrap();
        let health = CheckHealth.run(&mut conn, Timestamp::from_unix_millis(0)).await.unwrap();
        assert_eq!(health.warnings.len(), 1, "{health:?}");
        assert!(health.warnings[0].contains(words), "{health:?}");
    }
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut conn).await.unwrap();
    let health = CheckHealth.run(&mut conn, Timestamp::from_unix_millis(0)).await.unwrap();
    assert_eq!(health.warnings, [""; 0]);
}
