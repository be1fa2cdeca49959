//! Requests of guests: only where a grant leads, and nowhere else by any way of writing an address.

mod names;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use self::server::Server;
use super::lab::{Lab, PATIENCE, Said, modules};

/// A lab with the module `fetch` under these grants.
fn lab(grants: &str) -> Lab {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("modules")).unwrap();
    std::fs::copy(modules().join("fetch/fetch.wasm"), lab.path("modules/fetch.wasm")).unwrap();
    let manifest = format!(
        "[handlers.fetch]\nsource = \"file:fetch.wasm\"\n[handlers.fetch.limits]\nresult = \"32MiB\"\n[handlers.fetch.grants]\n{grants}\n"
    );
    std::fs::write(lab.path("modules/stem.toml"), manifest).unwrap();
    lab
}

fn fetch(lab: &Lab, args: &Value) -> Said {
    lab.stem(&["task", "run", "modules/fetch.wasm", "--args", &args.to_string(), "--json"])
}

/// Why a request was not answered: the failure's code and what `wasi:http` says.
#[track_caller]
fn refused(said: &Said) -> (String, String) {
    let document = said.json();
    let text = |key: &str| document["failure"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(said.code, 1, "{document}\n{}", said.stderr);
    (text("code"), text("message"))
}

#[test]
fn a_granted_host_answers_and_everything_else_is_denied() {
    let (granted, other) = (Server::start(), Server::start());
    let port = granted.port;
    let lab = lab(&format!(
        "http = [{{ hosts = [\"127.0.0.1:{port}\"], methods = [\"GET\", \"POST\"], plain = true }}]"
    ));
    let good = fetch(&lab, &json!({ "url": granted.url("/") })).ok().json();
    assert_eq!(good["result"], json!({ "status": 200, "bytes": 5, "body": "hello" }));
    let posted = json!({ "url": granted.url("/"), "method": "POST", "body": "x".repeat(100_000) });
    assert_eq!(fetch(&lab, &posted).ok().json()["result"]["status"], 200);
    let moved = fetch(&lab, &json!({ "url": granted.url("/redirect") })).ok().json();
    assert_eq!(moved["result"]["status"], 302);
    assert_eq!(moved["result"]["location"], "http://127.0.0.1:1/");
    assert_eq!(granted.connections(), 3);

    let denied = fetch(&lab, &json!({ "url": other.url("/") }));
    assert_eq!(refused(&denied).0, "denied");
    let remedy = format!("http = [{{ hosts = [\"127.0.0.1:{}\"]", other.port);
    assert!(denied.stderr.contains(&remedy), "{}", denied.stderr);

    let elsewhere = other.port;
    for url in [
        format!("https://127.0.0.1:{elsewhere}/"),
        format!("http://localhost:{port}/"),
        format!("http://localhost.:{port}/"),
        format!("http://127.1:{port}/"),
        format!("http://127.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("http://127.0.0.01:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://0:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://[::ffff:7f00:1]:{port}/"),
        format!("http://127.0.0.1:{port}@127.0.0.1:{elsewhere}/"),
        format!("http://user:word@127.0.0.1:{port}/"),
        format!("http://@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}\\@127.0.0.1:{elsewhere}/"),
        format!("http://127.0.0.1.:{port}/"),
        format!("http://127.0.0.1%2e:{port}/"),
        format!("http://127.0.0.1 :{port}/"),
        "http://127.0.0.1/".to_owned(),
        "http://127.0.0.1:/".to_owned(),
        "http://127.0.0.1:0/".to_owned(),
        "http://127.0.0.1:65536/".to_owned(),
        format!("http://127.0.0.1:+{port}/"),
        format!("http://127.0.0.1:0{port}/"),
        format!("http://[::ffff:127.0.0.1]x:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://metadata.google.internal/".to_owned(),
        "http:///etc/passwd".to_owned(),
    ] {
        let said = fetch(&lab, &json!({ "url": url }));
        assert_eq!(refused(&said).0, "denied", "{url}: {}", said.stdout);
    }
    for (change, what) in [
        (json!({ "method": "DELETE" }), "a method that is not granted"),
        (json!({ "method": "CONNECT" }), "a tunnel"),
        (json!({ "method": "get" }), "a method in other letters"),
        (json!({ "headers": { "host": "elsewhere" } }), "another host's name"),
        (json!({ "headers": { "connection": "upgrade" } }), "a header of the connection"),
        (json!({ "headers": { "transfer-encoding": "chunked" } }), "a second framing"),
        (json!({ "headers": { "x": "a\r\nhost: elsewhere" } }), "a header in a header"),
    ] {
        let mut args = json!({ "url": granted.url("/") });
        args.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let said = fetch(&lab, &args);
        assert_eq!(refused(&said).0, "denied", "{what}: {}", said.stdout);
    }
    assert_eq!((granted.connections(), other.connections()), (3, 0));
}

/// A grant that names the decoy too, as one that was widened would.
#[test]
fn a_planted_grant_that_is_too_wide_is_counted_by_the_decoy() {
    let (granted, other) = (Server::start(), Server::start());
    let hosts = [granted.port, other.port].map(|port| format!("127.0.0.1:{port}"));
    let lab = lab(&format!("http = [{{ hosts = {hosts:?}, plain = true }}]"));
    fetch(&lab, &json!({ "url": granted.url("/") })).ok();
    assert_eq!((granted.connections(), other.connections()), (1, 0));
    fetch(&lab, &json!({ "url": other.url("/") })).ok();
    assert_eq!((granted.connections(), other.connections()), (1, 1));
    stem_services::count("plants", 1);
}

#[test]
fn a_name_that_leads_inside_is_denied_unless_that_is_granted() {
    let server = Server::start();
    let url = format!("http://localhost:{}/", server.port);
    let grant = |more: &str| {
        format!("http = [{{ hosts = [\"localhost:{}\"], plain = true{more} }}]", server.port)
    };
    let said = fetch(&lab(&grant("")), &json!({ "url": url }));
    assert_eq!(
        refused(&said),
        ("denied".to_owned(), "ErrorCode::DestinationIpProhibited".to_owned())
    );
    // How it is allowed stands in the log.
    let host = format!("localhost:{}", server.port);
    for told in [
        format!("refused: {host} is at an address that is not public"),
        format!("{host:?}], methods = [\"GET\"], plain = true, private = true }}]"),
    ] {
        assert!(said.stderr.contains(&told), "{told}: {}", said.stderr);
    }
    assert_eq!(server.connections(), 0);
    fetch(&lab(&grant(", private = true")), &json!({ "url": url })).ok();
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_attempt_has_so_many_requests_bytes_and_seconds() {
    let server = Server::start();
    let lab = lab(&format!(
        "http = [{{ hosts = [\"127.0.0.1:{}\"], methods = [\"GET\", \"POST\"], plain = true, requests = 3, \
         bytes = \"100KiB\", timeout = \"1s\" }}]",
        server.port
    ));
    let ended = |args: Value| {
        let since = Instant::now();
        let said = fetch(&lab, &args);
        assert!(since.elapsed() < PATIENCE, "{args}");
        refused(&said)
    };
    let (code, message) = ended(json!({ "url": server.url("/"), "times": 5 }));
    assert_eq!((code.as_str(), message.contains("ConnectionLimitReached")), ("denied", true));
    assert_eq!(server.connections(), 3);
    let (code, message) = ended(json!({ "url": server.url("/big") }));
    // In the middle of a body there are no codes, only words.
    assert_eq!((code.as_str(), message.contains("size exceeds limit")), ("no-answer", true));
    let body = "x".repeat(60_000);
    let (code, message) =
        ended(json!({ "url": server.url("/"), "method": "POST", "body": body, "times": 2 }));
    assert_eq!((code.as_str(), message.contains("RequestBodySize")), ("denied", true), "{message}");
    for path in ["/slow", "/silent"] {
        let (code, message) = ended(json!({ "url": server.url(path) }));
        assert_eq!(
            (code.as_str(), message.to_lowercase().contains("timeout")),
            ("no-answer", true),
            "{message}"
        );
    }
    for path in ["/broken", "/nonsense", "/head"] {
        assert_eq!(ended(json!({ "url": server.url(path) })).0, "no-answer", "{path}");
    }
}

#[test]
fn a_secret_reaches_its_host_and_nobody_else() {
    let (ours, theirs) = (Server::start(), Server::start());
    let lab = lab(&format!(
        "http = [{{ hosts = [\"127.0.0.1:{0}\", \"127.0.0.1:{1}\"], plain = true }}]\nsecrets = [\"API_KEY@127.0.0.1:{0}\"]",
        ours.port, theirs.port
    ));
    std::fs::write(lab.path("key"), "hunter2-canary").unwrap();
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(lab.path("key"), mode).unwrap();
    let policy = format!(
        "[grants]\nhttp = [{{ hosts = [\"127.0.0.1:{0}\", \"127.0.0.1:{1}\"], plain = true }}]\n\
         secrets = [\"API_KEY@127.0.0.1:{0}\"]\n[secrets.API_KEY]\nfile = {2:?}\n",
        ours.port,
        theirs.port,
        lab.path("key")
    );
    std::fs::write(lab.path("policy.toml"), policy).unwrap();
    let ask = |server: &Server| {
        let secret = json!({ "header": "authorization", "name": "API_KEY" });
        let args = json!({ "url": server.url("/"), "secret": secret }).to_string();
        let words = [
            "task",
            "run",
            "modules/fetch.wasm",
            "--policy",
            "policy.toml",
            "--json",
            "--args",
            &args,
        ];
        lab.stem_with(&words, &[("STEM_LOG", "trace")])
    };
    let good = ask(&ours).ok();
    assert_eq!(ours.authorization(), ["hunter2-canary"]);
    let bad = ask(&theirs);
    assert_eq!(refused(&bad).0, "denied");
    assert_eq!(theirs.connections(), 0);
    for said in [good, bad] {
        assert!(!said.stdout.contains("hunter2") && !said.stderr.contains("hunter2"));
    }
}

#[test]
fn a_terminate_ends_a_request_under_way() {
    let server = Server::start();
    let lab = lab(&format!("http = [{{ hosts = [\"127.0.0.1:{}\"], plain = true }}]", server.port));
    let modules = lab.path("modules");
    let words = ["worker", "start", "--name", "w", "--modules", modules.to_str().unwrap()];
    let _worker = lab.worker_from(&words);
    let id = lab.enqueue("fetch", &json!({ "url": server.url("/slow") }).to_string(), &[]);
    let since = Instant::now();
    while server.connections() == 0 {
        assert!(since.elapsed() < PATIENCE, "nobody asked");
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.stem(&["worker", "revoke", "--task", &id, "--terminate"]).ok();
    lab.until(&id, "revoked", |record| record["state"] == "revoked");
    let since = Instant::now();
    while server.cut() == 0 {
        assert!(since.elapsed() < PATIENCE, "the connection outlived its task");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_certificate_is_looked_at() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let server = Server::with_tls(config);
    let port = server.port;
    let lab = lab(&format!(
        "http = [{{ hosts = [\"localhost:{port}\", \"127.0.0.1:{port}\"], private = true }}]"
    ));
    std::fs::write(lab.path("ours.pem"), made.cert.pem()).unwrap();
    let pem = lab.path("ours.pem");
    let ask = |host: &str, trusted: &[(&str, &str)]| {
        let args = json!({ "url": format!("https://{host}:{port}/") }).to_string();
        lab.stem_with(&["task", "run", "modules/fetch.wasm", "--json", "--args", &args], trusted)
    };
    let trusted = [("SSL_CERT_FILE", pem.to_str().unwrap())];
    assert_eq!(ask("localhost", &trusted).ok().json()["result"]["body"], "hello");
    let stranger = refused(&ask("localhost", &[]));
    assert_eq!(stranger, ("no-answer".to_owned(), "ErrorCode::TlsCertificateError".to_owned()));
    let renamed = refused(&ask("127.0.0.1", &trusted));
    assert_eq!(renamed, ("no-answer".to_owned(), "ErrorCode::TlsCertificateError".to_owned()));
}
