//! Where a Postgres may be, and in what state: behind TLS, on another machine, a standby, with a full disk.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use load::frozen::Way;
use load::postgres::{RECOVERY, open, options, publish, refusal, until_it_works};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use stem_core::backend::ErrorClass;
use stem_core::backend::broker::Broker;
use stem_services::PostgresServer;
use stem_sql::Postgres;

fn named(common: &str, hosts: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    params
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut authority = named(name, Vec::new());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
}

/// A file in the server's directory, which nobody else may read.
fn write(server: &PostgresServer, name: &str, content: &str) {
    let directory = server.execute("SHOW data_directory").unwrap();
    let program = format!("umask 077; cat > {directory}/{name}");
    let lines: Vec<_> = content.lines().map(|line| format!("('{line}')")).collect();
    server.execute(&format!("COPY (VALUES {}) TO PROGRAM '{program}'", lines.join(", "))).unwrap();
}

/// A server that shows a certificate of this authority, for `localhost`.
fn with_tls(authority: &CertifiedIssuer<'static, KeyPair>) -> PostgresServer {
    let server = PostgresServer::start();
    let key = KeyPair::generate().unwrap();
    let signed = named("server", vec!["localhost".to_owned()]).signed_by(&key, authority).unwrap();
    write(&server, "server.crt", &signed.pem());
    write(&server, "server.key", &key.serialize_pem());
    server.execute("ALTER SYSTEM SET ssl = on").unwrap();
    server.restart();
    server
}

async fn warnings(store: &Postgres) -> Vec<String> {
    Broker::health(store).await.unwrap().warnings
}

#[tokio::test]
async fn tls_is_verified_against_a_private_authority_and_a_wrong_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    fs::write(path("ours.pem"), ours.pem()).unwrap();
    fs::write(path("theirs.pem"), theirs.pem()).unwrap();
    fs::write(path("nonsense.pem"), "nonsense").unwrap();
    let server = with_tls(&ours);
    let port = server.port();
    let url = |host: &str, rest: &str| format!("postgres://stem@{host}:{port}/postgres?{rest}");
    let ca = |name: &str| format!("sslmode=verify-full&sslrootcert={}", path(name));

    let store = open(&url("localhost", &ca("ours.pem"))).await;
    publish(&store, "t").await.unwrap();
    let health = Broker::health(&*store).await.unwrap();
    assert!(health.detail.contains("encrypted") && !health.detail.contains("not encrypted"));
    assert!(health.warnings.is_empty(), "{health:?}");
    // Signed by another, by nobody whom the system knows, for another host.
    for (host, rest) in [
        ("localhost", ca("theirs.pem")),
        ("localhost", "sslmode=verify-full".to_owned()),
        ("127.0.0.1", ca("ours.pem")),
    ] {
        let error = refusal(options(&url(host, &rest))).await;
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(error.problem.contains("certificate"), "{error}");
        assert!(error.problem.contains("sslrootcert"), "{error}");
    }
    for (name, words) in [
        ("nowhere.pem", "nowhere.pem cannot be read"),
        ("nonsense.pem", "nonsense.pem holds nothing in the form of PEM"),
    ] {
        let error = refusal(options(&url("localhost", &ca(name)))).await;
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(error.problem.contains(words), "{error}");
    }

    // 0.0.0.0 leads to this machine and does not look like it.
    for (rest, words) in [
        ("sslmode=require", "nobody checks who answers"),
        ("", "nobody checks who answers"),
        ("sslmode=disable", "not encrypted"),
    ] {
        let store = open(&url("0.0.0.0", rest)).await;
        let warnings = warnings(&store).await;
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{rest}: {warnings:?}");
        assert!(warnings[0].contains("sslmode=verify-full"), "{warnings:?}");
    }
    assert!(warnings(&*open(&url("127.0.0.1", "sslmode=require")).await).await.is_empty());
}

#[tokio::test]
async fn tls_that_a_server_does_not_speak_is_refused() {
    let server = PostgresServer::start();
    let error = refusal(options(&format!("{}?sslmode=require", server.url()))).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("TLS") && error.problem.contains("sslmode"), "{error}");
}

/// The tables would be looked for, or made, in another schema.
#[tokio::test]
async fn a_pooler_that_drops_startup_options_is_refused() {
    let database = PostgresServer::shared().database();
    let way = Way::to(database.url()).await;
    publish(&*open(way.url()).await, "t").await.unwrap();
    way.drop_options();
    let error = refusal(options(way.url())).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("a pooler drops startup options"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_not_healthy_until_it_is_promoted() {
    let server = PostgresServer::start();
    let store = open(&server.url()).await;
    publish(&store, "t").await.unwrap();
    write(&server, "standby.signal", "\n");
    server.restart();
    let store = open(&server.url()).await;
    let error = Broker::health(&*store).await.unwrap_err();
    println!("{error}");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("connect to the primary"), "{error}");
    let error = publish(&store, "u").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("primary"), "{error}");
    assert_eq!(server.execute("SELECT pg_promote()").unwrap(), "t");
    publish(&store, "u").await.unwrap();
    assert!(warnings(&store).await.is_empty());
}

/// A table's file leads to a device that is always full, so that the server cannot make it longer.
#[tokio::test]
async fn a_full_disk_refuses_and_says_so_until_there_is_space() {
    let server = PostgresServer::start();
    drop(open(&server.url()).await);
    server.execute("CHECKPOINT").unwrap();
    let directory = PathBuf::from(server.execute("SHOW data_directory").unwrap());
    let files = ["deliveries", "checks"].map(|table| {
        let path = format!("SELECT pg_relation_filepath('stem.{table}')");
        directory.join(server.execute(&path).unwrap())
    });
    for file in &files {
        fs::rename(file, file.with_extension("saved")).unwrap();
        std::os::unix::fs::symlink("/dev/full", file).unwrap();
    }
    let store = open(&server.url()).await;
    let error = publish(&store, "t").await.unwrap_err();
    println!("{error}");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("its disk is full; free some space"), "{error}");
    let error = Broker::health(&*store).await.unwrap_err();
    println!("{error}");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("its disk is full; free some space"), "{error}");
    drop(store);
    for file in &files {
        fs::rename(file.with_extension("saved"), file).unwrap();
    }
    let store = open(&server.url()).await;
    let took: Duration = until_it_works(&store, "t").await;
    assert!(took < RECOVERY);
    assert!(warnings(&store).await.is_empty());
}
