//! Tasks that must be signed, by real keys, real processes and files that change while they run.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{QueueName, TaskName};
use stem_core::time::Clock;
use stem_engine::signing::{KeyFiles, Keys};
use stem_engine::{Client, EnqueueOptions, SystemClock};

use crate::modules;
use crate::support::Place;
use crate::worker::{Worker, until};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The secret in a file of keys.
fn secret(place: &Place, file: &str) -> String {
    let text = std::fs::read_to_string(place.path(file)).unwrap();
    text.split("private = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// Enqueues a task and waits for its end; its record.
#[track_caller]
fn record(place: &Place, environment: &[(&str, &str)]) -> Value {
    let made = place.stem_env(environment, &["task", "enqueue", "tell", "--json"]).expect(0).json();
    place.stem(&["task", "wait", made["id"].as_str().unwrap(), "--json"]).json()
}

/// What became of it: `succeeded`, or why not.
#[track_caller]
fn ended(place: &Place, environment: &[(&str, &str)]) -> String {
    let record = record(place, environment);
    let failure = &record["failure"];
    match failure["code"].as_str() {
        Some(code) => format!("{code}: {}", failure["message"].as_str().unwrap()),
        None => record["state"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn a_task_that_nobody_trusted_has_signed_never_runs() {
    let place = Place::new();
    let modules = modules::write(&place);
    let new = |id: &str, public: &str, private: &str| {
        let files = ["--public", public, "--private", private];
        let words = ["keys", "new", id, "--role", "publish", "--for-queue", "default", "--json"];
        place.stem(&[&words[..], &files].concat()).expect(0).json()
    };
    let made = new("shop", "signers.toml", "shop.toml");
    assert_eq!((&made["id"], &made["algorithm"]), (&json!("shop"), &json!("ed25519")));
    assert_eq!((mode(&place.path("shop.toml")), mode(&place.path("signers.toml"))), (0o600, 0o644));
    let shop = [("STEM_SIGNING_PRIVATE_KEYS", "shop.toml")];
    let both = [shop[0], ("STEM_SIGNING_PUBLIC_KEYS", "signers.toml")];

    // Permitted at first, as the new file says: what is not signed runs and is counted.
    let args = ["--name", "w", "--modules", modules.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let args = [&args[..], &["--signers", "signers.toml"]].concat();
    let environment = [("STEM_LOG", "debug"), ("STEM_AUDIT_LOG", "audit.jsonl")];
    let worker = Worker::start(&place, &environment, &args);
    assert_eq!(ended(&place, &[]), "succeeded");
    worker.until_counted("stem_signing_unsigned_total{kind=\"task\"}");
    assert_eq!(ended(&place, &shop), "succeeded");

    // No restart: the file is followed.
    let permitted = std::fs::read_to_string(place.path("signers.toml")).unwrap();
    let required = permitted.replace("tasks = \"permitted\"", "tasks = \"required\"");
    assert_ne!(permitted, required);
    place.write("signers.toml", &required);
    let unsigned =
        "signature-refused: no code of it was run, since its signature is refused: unsigned";
    until("that unsigned tasks are refused", || (ended(&place, &[]) == unsigned).then_some(()));
    worker.until_counted("stem_signing_refused_total{kind=\"task\",reason=\"unsigned\"}");
    assert_eq!(ended(&place, &shop), "succeeded");
    assert_eq!(ended(&place, &both), "succeeded");

    // Under the name of a key, by another one; and by one that nobody knows.
    new("shop", "other.toml", "stranger.toml");
    let stranger = ended(&place, &[("STEM_SIGNING_PRIVATE_KEYS", "stranger.toml")]);
    assert!(stranger.ends_with("refused: wrong-signature (key shop)"), "{stranger}");
    new("second", "second-public.toml", "second.toml");
    let second = [("STEM_SIGNING_PRIVATE_KEYS", "second.toml")];
    let late = record(&place, &second);
    let words = late["failure"]["message"].as_str().unwrap();
    assert!(words.ends_with("refused: unknown-key (key second)"), "{late}");
    assert!(late["usage"].is_null(), "{late}");
    // Who would be refused is told so before anything is written.
    let elsewhere = ["task", "enqueue", "tell", "--queue", "other"];
    place.stem_env(&both, &elsewhere).expect(2).complains().says("no key here may sign this task");

    // A dead letter is replayed as it was signed, once its key is known.
    let known = std::fs::read_to_string(place.path("second-public.toml")).unwrap();
    let entry = known.split_once("[[key]]").unwrap().1;
    place.write("signers.toml", format!("{required}\n[[key]]{entry}"));
    let id = late["id"].as_str().unwrap();
    until("that the replayed task runs", || {
        place.stem(&["dlq", "replay", id, "--yes"]);
        let record = place.stem(&["task", "wait", id, "--json"]).json();
        (record["state"] == "succeeded").then_some(())
    });

    // One key in the place of another, while both are good; then neither.
    let files = ["--public", "signers.toml", "--private", "shop.toml"];
    let rotate = ["keys", "rotate", "shop", "--as", "shop-2", "--lead", "1ms", "--json"];
    let rotated = place.stem(&[&rotate[..], &files].concat()).expect(0).json();
    assert_eq!((&rotated["id"], &rotated["old"]), (&json!("shop-2"), &json!("shop")));
    let listed = place.stem_env(&both, &["keys", "list", "--json"]).expect(0).json();
    let rows = listed["keys"].as_array().unwrap();
    let states: Vec<_> = rows.iter().map(|row| (&row["id"], &row["signs"])).collect();
    let (yes, no) = (json!(true), json!(false));
    let ids = ["second", "shop", "shop-2"].map(Value::from);
    assert_eq!(states, [(&ids[0], &no), (&ids[1], &yes), (&ids[2], &yes)]);
    assert_eq!(listed["tasks"], "required");
    until("that the new key is known", || (ended(&place, &shop) == "succeeded").then_some(()));
    for id in ["shop", "shop-2"] {
        place.stem(&[&["keys", "retire", id][..], &files].concat()).expect(0);
    }
    place.stem_env(&both, &["task", "enqueue", "tell"]).expect(2).complains();

    // Each refusal stands in the audit log, with the key that the task named.
    let refused = ["audit", "--file", "audit.jsonl", "--refused", "--what", "task", "--json"];
    let says = until("that refusals are noted", || {
        let told = place.stem(&refused).expect(0).json();
        let entries = told["entries"].as_array().unwrap().clone();
        entries.iter().find(|entry| entry["about"]["says"] == "second").cloned()
    });
    let about = json!({"task": id, "name": "tell", "queue": "default", "says": "second"});
    assert_eq!((&says["about"], &says["reason"]), (&about, &json!("unknown-key")), "{says}");
    assert_eq!((&says["by"], &says["side"]), (&json!("w"), &json!("worker")));

    // Nobody was told a secret.
    place.stem(&["keys", "list"]).expect(2).complains();
    let listed = place.stem_env(&both, &["keys", "list"]).expect(0);
    for text in [&listed.stdout, &listed.stderr, &worker.log(), &worker.page()] {
        assert!(!text.contains(&secret(&place, "shop.toml")), "{text}");
    }
    std::fs::set_permissions(place.path("shop.toml"), PermissionsExt::from_mode(0o640)).unwrap();
    place.stem_env(&shop, &["task", "enqueue", "tell"]).expect(2).complains().says("0640");
}

/// What somebody can do who has the broker's password and a task that was signed, and no key.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_task_that_was_changed_or_moved_is_refused_and_reported() {
    let place = Place::new();
    let modules = modules::write(&place);
    let files = ["--public", "signers.toml", "--private", "shop.toml"];
    let words = ["keys", "new", "shop", "--role", "publish"];
    place.stem(&[&words[..], &files].concat()).expect(0);
    let text = std::fs::read_to_string(place.path("signers.toml")).unwrap();
    place.write("signers.toml", text.replace("tasks = \"permitted\"", "tasks = \"required\""));
    let args = ["--name", "w", "--modules", modules.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let queues = ["--queue", "default,other", "--signers", "signers.toml"];
    let worker = Worker::start(&place, &[], &[&args[..], &queues].concat());

    let files = KeyFiles { private: Some(place.path("shop.toml")), ..KeyFiles::default() };
    let keys = Keys::open(files).unwrap();
    let client = Client::new(place.backends().await, Arc::new(SystemClock));
    let signed = |id: &str| {
        let options = EnqueueOptions { id: Some(id.parse().unwrap()), ..EnqueueOptions::default() };
        let name = TaskName::new("tell").unwrap();
        let mut envelope = client.envelope(name, Payload::json("{}"), options).unwrap();
        keys.seal_task(&mut envelope, SystemClock.now()).unwrap();
        envelope
    };
    let sent = [
        (signed("genuine"), "succeeded"),
        (Envelope { payload: Payload::json("[]"), ..signed("changed") }, "wrong-signature"),
        (Envelope { queue: QueueName::new("other").unwrap(), ..signed("moved") }, "wrong-scope"),
        (Envelope { seal: None, ..signed("stripped") }, "unsigned"),
        (Envelope { seal: signed("genuine").seal, ..signed("grafted") }, "wrong-signature"),
    ];
    for (envelope, end) in sent {
        let id = envelope.id.clone();
        client.enqueue_all(&[envelope]).await.unwrap();
        let record = client.wait(&id, Some(std::time::Duration::from_mins(2)), |_| {}).await;
        let record = record.unwrap().unwrap();
        let said = record.failure.map(|failure| format!("{}: {}", failure.code, failure.message));
        match (end, said) {
            ("succeeded", None) => {}
            // Bytes that name another task, or another queue, than the store does are refused when they are read.
            (_, Some(said)) if said.starts_with("envelope-malformed") => {}
            (reason, Some(said)) => {
                assert!(said.starts_with("signature-refused") && said.contains(reason), "{said}");
            }
            (_, None) => panic!("{id} was run"),
        }
        if end == "wrong-signature" || end == "unsigned" {
            let line = format!("stem_signing_refused_total{{kind=\"task\",reason=\"{end}\"}}");
            worker.until_counted(&line);
        }
    }
}
