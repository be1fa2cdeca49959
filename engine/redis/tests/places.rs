//! Where a Redis may be: behind TLS, on another node of a cluster, beside another installation in one database.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use stem_core::backend::broker::{Broker, Published};
use stem_core::backend::{ErrorClass, Records, ResultBackend};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::TaskId;
use stem_core::time::Timestamp;
use stem_redis::{Redis, RedisOptions};
use stem_services::{RedisServer, RedisSettings};

fn envelope(id: &str) -> Envelope {
    let (name, queue) = ("job".parse().unwrap(), "q".parse().unwrap());
    let at = Timestamp::from_unix_millis(1_795_305_600_000);
    Envelope::new(id.parse().unwrap(), name, queue, Payload::json(*b"1"), at)
}

fn options(url: impl Into<String>) -> RedisOptions {
    RedisOptions { url: url.into(), clock: None }
}

async fn works(redis: &Redis, id: &str) {
    let published = redis.publish(&[envelope(id)], Records::Here).await.unwrap();
    assert_eq!(published, [Published::Stored]);
    assert!(redis.fetch(&TaskId::new(id).unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn tls_is_verified_and_a_client_may_show_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let named = |common: &str, hosts: Vec<String>| {
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params
    };
    let mut authority = named("authority", Vec::new());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let signed = named(name, names).signed_by(&key, &authority).unwrap();
        std::fs::write(path(&format!("{name}.pem")), signed.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let server = RedisServer::with(RedisSettings {
        extra: [
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path("server.pem"),
            "--tls-key-file",
            &path("server.key"),
            "--tls-ca-cert-file",
            &path("ca.pem"),
            "--tls-auth-clients",
            "yes",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..RedisSettings::default()
    });
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let all = format!("rediss://localhost:{port}?ca={ca}&cert={cert}&key={key}");
    let redis = Redis::open(options(all)).await.unwrap();
    works(&redis, "t").await;
    // The server wants to see a certificate; the system does not know who signed the server's.
    for url in [
        format!("rediss://localhost:{port}?ca={ca}"),
        format!("rediss://localhost:{port}?cert={cert}&key={key}"),
        format!("redis://localhost:{port}"),
    ] {
        let error = Redis::open(options(url)).await.unwrap_err();
        assert!(matches!(error.class(), ErrorClass::Transient | ErrorClass::Refused), "{error}");
    }
    drop(server);
}

/// Two nodes; all of our keys are on the second, and we know the first.
#[tokio::test]
async fn a_cluster_is_followed_to_the_node_that_has_our_keys() {
    let node = || {
        let extra = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        RedisServer::with(RedisSettings {
            extra: extra.map(str::to_owned).to_vec(),
            ..RedisSettings::default()
        })
    };
    let (door, home) = (node(), node());
    let slot: u16 = door.command(&["CLUSTER", "KEYSLOT", "{stem}/"]).unwrap().parse().unwrap();
    let (before, after) = ((slot - 1).to_string(), (slot + 1).to_string());
    door.command(&["CLUSTER", "ADDSLOTSRANGE", "0", &before, &after, "16383"]).unwrap();
    home.command(&["CLUSTER", "ADDSLOTS", &slot.to_string()]).unwrap();
    door.command(&["CLUSTER", "SET-CONFIG-EPOCH", "1"]).unwrap();
    home.command(&["CLUSTER", "SET-CONFIG-EPOCH", "2"]).unwrap();
    door.command(&["CLUSTER", "MEET", "127.0.0.1", &home.port().to_string()]).unwrap();
    let started = Instant::now();
    let forms = |node: &RedisServer| {
        !node.command(&["CLUSTER", "INFO"]).unwrap().contains("cluster_state:ok")
    };
    while forms(&door) || forms(&home) {
        assert!(started.elapsed() < Duration::from_secs(30), "the cluster does not form");
        std::thread::sleep(Duration::from_millis(50));
    }
    let redis = Redis::open(options(door.url())).await.unwrap();
    works(&redis, "t").await;
    // Another process begins with a plain read.
    let reader = Redis::open(options(door.url())).await.unwrap();
    assert!(reader.fetch(&TaskId::new("t").unwrap()).await.unwrap().is_some());
    let request_sees = async || redis.queues().await.unwrap()[0].ready;
    assert_eq!(request_sees().await, 1);
    assert_eq!(door.command(&["DBSIZE"]).unwrap(), "0");
    // The node comes back: the door is asked again.
    home.restart();
    let started = Instant::now();
    while redis.publish(&[envelope("u")], Records::Here).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(request_sees().await, 2);
}

#[tokio::test]
async fn installations_with_two_prefixes_do_not_meet() {
    let server = RedisServer::start();
    let blue = Redis::open(options(format!("{}?prefix=blue", server.url()))).await.unwrap();
    let green = Redis::open(options(format!("{}?prefix=green", server.url()))).await.unwrap();
    works(&blue, "t").await;
    works(&green, "t").await;
    assert_ne!(Broker::service(&*blue), Broker::service(&*green));
    assert_eq!(blue.queues().await.unwrap()[0].ready, 1);
}
