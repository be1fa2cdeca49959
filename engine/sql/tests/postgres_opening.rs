//! Databases that cannot be used, or only in part: each a clear message and the right class, and never a secret.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use load::postgres::{DEADLINE, RECOVERY, SLACK, open, options, publish, refusal, until_it_works};
use load::{asking, envelope};
use sqlx::{Connection, PgConnection};
use stem_core::backend::ErrorClass;
use stem_core::backend::broker::{Broker, Published, ReceiveRequest};
use stem_core::backend::result::ResultBackend;
use stem_core::envelope::wire;
use stem_core::id::TaskId;
use stem_core::machine::share::Shares;
use stem_core::tenant::Tenant;
use stem_services::{PostgresServer, PostgresSettings};
use stem_sql::{Postgres, PostgresOptions};
use tokio::task::JoinSet;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_open_a_new_database_at_once_all_get_in() {
    for _ in 0..5 {
        let database = PostgresServer::shared().database();
        let mut opening = JoinSet::new();
        for _ in 0..4 {
            opening.spawn(Postgres::open(PostgresOptions::new(database.url())));
        }
        let mut count = 0;
        while let Some(opened) = opening.join_next().await {
            let store = opened.unwrap().unwrap();
            publish(&store, &format!("t{count}")).await.unwrap();
            count += 1;
        }
        let versions = "SELECT count(*) = max(version) FROM stem.stem_migrations";
        assert_eq!(database.execute(versions).unwrap(), "t");
    }
}

#[tokio::test]
async fn two_schemas_of_one_database_are_two_services() {
    let database = PostgresServer::shared().database();
    let one = open(database.url()).await;
    let other = open(&format!("{}?schema=other", database.url())).await;
    assert_ne!(Broker::service(&*one), Broker::service(&*other));
    publish(&one, "t").await.unwrap();
    assert_eq!(other.receive(&asking(1, Duration::ZERO)).await.unwrap(), []);
    assert_eq!(publish(&other, "t").await.unwrap(), Published::Stored);
    // Each is woken by its own.
    assert_eq!(other.receive(&asking(1, Duration::ZERO)).await.unwrap().len(), 1);
    let waiting = {
        let other = Arc::clone(&other);
        tokio::spawn(async move { other.receive(&asking(1, Duration::from_secs(10))).await })
    };
    publish(&one, "u").await.unwrap();
    publish(&*open(&format!("{}?schema=other", database.url())).await, "v").await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap()[0].receipt.task.as_str(), "v");
    assert_eq!(one.receive(&asking(5, Duration::ZERO)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_and_keeps_what_it_holds() {
    let database = PostgresServer::shared().database();
    let first = include_str!("../migrations/postgres/0001_initial.sql");
    let begin = "CREATE SCHEMA stem; SET search_path = stem; CREATE TABLE stem_migrations (
        version BIGINT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())";
    let waiting = envelope("waiting");
    let wire = String::from_utf8(wire::encode(&waiting)).unwrap();
    let end = format!(
        "INSERT INTO stem_migrations (version) VALUES (1); INSERT INTO queues (name) VALUES ('old');
         INSERT INTO deliveries (seq, task, queue, name, phase, priority, at) VALUES (0, 'waiting', 'q', 'job', 0, 5, 0);
         INSERT INTO envelopes (seq, wire) VALUES (0, convert_to($${wire}$$, 'UTF8'))"
    );
    database.execute(&format!("{begin}; {first}; {end}")).unwrap();
    let store = open(database.url()).await;
    assert_eq!(store.queues().await.unwrap()[0].name.as_str(), "old");
    let (tenants, from) = (BTreeMap::new(), Tenant::UNNAMED);
    let shares = Shares { queues: BTreeMap::new(), tenants, others: 1, from };
    let request = ReceiveRequest { shares: Some(Arc::new(shares)), ..asking(5, Duration::ZERO) };
    let taken = store.receive(&request).await.unwrap();
    assert_eq!((&taken[0].envelope, &taken[0].tenant), (&waiting, &Tenant::UNNAMED));
    Broker::health(&*store).await.unwrap();
    publish(&store, "t").await.unwrap();
}

#[tokio::test]
async fn a_schema_of_a_newer_stem_is_refused() {
    let database = PostgresServer::shared().database();
    drop(open(database.url()).await);
    database.execute("INSERT INTO stem.stem_migrations (version) VALUES (99)").unwrap();
    let error = refusal(options(database.url())).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("newer Stem"), "{error}");
}

#[tokio::test]
async fn a_schema_of_another_program_is_refused_and_stays_as_it_is() {
    let database = PostgresServer::shared().database();
    database.execute("CREATE SCHEMA stem CREATE TABLE theirs (x int)").unwrap();
    let error = refusal(options(database.url())).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("another program"), "{error}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'stem'";
    assert_eq!(database.execute(tables).unwrap(), "1");
}

#[tokio::test]
async fn an_empty_schema_is_taken_by_a_user_who_may_make_none() {
    let server = PostgresServer::start();
    server.execute("CREATE ROLE plain LOGIN").unwrap();
    let url = server.url().replace("stem@", "plain@");
    let error = refusal(options(&url)).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("42501"), "{error}");
    server.execute("CREATE SCHEMA stem AUTHORIZATION plain").unwrap();
    publish(&*open(&url).await, "t").await.unwrap();
}

#[tokio::test]
async fn tables_that_are_gone_are_corrupt() {
    let database = PostgresServer::shared().database();
    let store = open(database.url()).await;
    database.execute("DROP TABLE stem.deliveries").unwrap();
    assert_eq!(publish(&store, "t").await.unwrap_err().class(), ErrorClass::Corrupt);
}

#[tokio::test]
async fn a_wrong_password_or_database_is_refused_without_a_secret() {
    let server = PostgresServer::start();
    server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'").unwrap();
    let file = server.execute("SHOW hba_file").unwrap();
    let rules = "host all guarded 127.0.0.1/32 scram-sha-256";
    let others = "host all all 127.0.0.1/32 trust";
    server.execute(&format!("COPY (VALUES ('{rules}'), ('{others}')) TO '{file}'")).unwrap();
    server.execute("SELECT pg_reload_conf()").unwrap();
    let port = server.port();
    for (url, word) in [
        (format!("postgres://guarded:hush@127.0.0.1:{port}/postgres"), "password"),
        (format!("postgres://stem:hush@127.0.0.1:{port}/nowhere"), "create the database"),
        (format!("postgres://nobody:hush@127.0.0.1:{port}/postgres"), "user"),
    ] {
        let options = options(&url);
        assert!(!format!("{options:?}").contains("hush"));
        // The new rules count from a moment after the reload.
        let started = Instant::now();
        let mut error = refusal(options.clone()).await;
        while !error.problem.contains(word) && started.elapsed() < RECOVERY {
            tokio::time::sleep(Duration::from_millis(50)).await;
            error = refusal(options.clone()).await;
        }
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(error.problem.contains(word), "{error}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_transient() {
    let settings = [("max_connections", "6"), ("superuser_reserved_connections", "0")];
    let extra = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let server = PostgresServer::with(PostgresSettings { extra, ..PostgresSettings::default() });
    let url = server.url();
    let store = open(&url).await;
    let mut others = Vec::new();
    while let Ok(conn) = PgConnection::connect(&url).await {
        others.push(conn);
    }
    let error = refusal(options(&url)).await;
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(error.problem.contains("max_connections"), "{error}");
    // Who is in stays in.
    publish(&store, "t").await.unwrap();
    drop(others);
    until_it_works(&*open(&url).await, "u").await;
}

#[tokio::test]
async fn unsafe_settings_are_said_aloud() {
    let settings = [("synchronous_commit", "off"), ("fsync", "off"), ("full_page_writes", "off")];
    let extra = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let server = PostgresServer::with(PostgresSettings { extra, ..PostgresSettings::default() });
    let health = Broker::health(&*open(&server.url()).await).await.unwrap();
    println!("{health:?}");
    for (name, _) in settings {
        assert!(health.warnings.iter().any(|it| it.starts_with(name)), "{name}: {health:?}");
    }
    let health = Broker::health(&*open(&PostgresServer::start().url()).await).await.unwrap();
    assert!(health.warnings.is_empty(), "{health:?}");
}

#[tokio::test]
async fn a_read_only_server_is_refused_and_said_aloud_until_it_is_writable() {
    let server = PostgresServer::start();
    let store = open(&server.url()).await;
    publish(&store, "t").await.unwrap();
    let set = |to: &str| {
        server.execute(&format!("ALTER SYSTEM SET default_transaction_read_only = {to}")).unwrap();
        server.execute("SELECT pg_reload_conf()").unwrap();
    };
    // It counts from a moment after the reload, which may be another one in each connection.
    set("on");
    let (started, mut n) = (Instant::now(), 0);
    let error = loop {
        n += 1;
        match publish(&store, &format!("before{n}")).await {
            Err(error) => break error,
            Ok(_) => assert!(started.elapsed() < RECOVERY, "it stays writable"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("{error}");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("read-only"), "{error}");
    let error = store.receive(&asking(1, Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    // Reading goes on.
    assert!(store.fetch(&TaskId::new("t").unwrap()).await.unwrap().is_some());
    let error = Broker::health(&*store).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("default_transaction_read_only"), "{error}");
    set("off");
    let started = Instant::now();
    while let Err(error) = publish(&store, "u").await {
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(started.elapsed() < RECOVERY, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(Broker::health(&*store).await.unwrap().warnings.is_empty());
}

#[tokio::test]
async fn a_server_that_speaks_another_language_is_transient_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let started = Instant::now();
    let silent = refusal(options(&format!("postgres://stem@127.0.0.1:{port}/x"))).await;
    assert_eq!(silent.class(), ErrorClass::Transient);
    assert!(started.elapsed() < DEADLINE + SLACK);
}

#[tokio::test]
async fn calls_may_come_from_a_runtime_that_ends() {
    let database = PostgresServer::shared().database();
    let store = open(database.url()).await;
    for n in 0..3 {
        let store = Arc::clone(&store);
        let call = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async { publish(&store, &format!("t{n}")).await.unwrap() })
        };
        tokio::task::spawn_blocking(call).await.unwrap();
    }
    assert_eq!(store.receive(&asking(5, Duration::ZERO)).await.unwrap().len(), 3);
}

/// What was logged as a warning or worse, by whomever.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A worker's log has words for what an operator should know; statements and their times are not among them.
#[tokio::test]
async fn slow_statements_and_what_the_server_warns_of_stay_out_of_the_log() {
    let database = PostgresServer::shared().database();
    let store = Postgres::open(PostgresOptions::new(database.url())).await.unwrap();
    let said = Warnings::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    database
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE WARNING 'this takes long'; PERFORM pg_sleep(1.2); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER INSERT ON stem.deliveries EXECUTE FUNCTION slow()",
        )
        .unwrap();
    let started = Instant::now();
    publish(&store, "t").await.unwrap();
    assert!(started.elapsed() > Duration::from_secs(1));
    assert_eq!(*said.0.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_full_disk_on_which_no_session_begins_is_told_as_one_and_over_with_it() {
    let settings = PostgresSettings { own_disk: true, ..PostgresSettings::default() };
    let server = PostgresServer::with(settings);
    let store = open(&server.url()).await;
    // What each session begins with is written anew, by the first that does not find it.
    let data = PathBuf::from(server.execute("SHOW data_directory").unwrap().trim());
    let databases = std::fs::read_dir(data.join("base")).unwrap();
    let places = databases.map(|database| database.unwrap().path()).chain([data.join("global")]);
    for place in places {
        let _ = std::fs::remove_file(place.join("pg_internal.init"));
    }
    server.fill_disk();
    let error = refusal(options(&server.url())).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(
        error.to_string().contains("could not write init file (XX000): its disk is full"),
        "{error}"
    );
    server.free_disk();
    until_it_works(&store, "t").await;
    open(&server.url()).await;
}
