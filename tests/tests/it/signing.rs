//! Signed commands between whole processes: who holds a key for it is obeyed, and nobody else.

use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Lab, Said, Worker};

/// What signs: a key for commands, one for questions, one for the replies of worker `w`.
const KEYS: [(&str, &str); 3] = [("ops", "control"), ("eyes", "inspect"), ("w", "worker")];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A lab with a file of public keys, and one of private keys for each.
fn lab(level: &str) -> Lab {
    let lab = Lab::new();
    for (id, role) in KEYS {
        let (public, private) = (lab.path("signers.toml"), lab.path(id));
        let words = ["keys", "new", id, "--role", role];
        let files = ["--public", text(&public), "--private", text(&private)];
        lab.stem(&[&words[..], &files[..]].concat()).ok();
    }
    set(&lab, level);
    lab
}

/// What commands and replies must be.
fn set(lab: &Lab, level: &str) {
    let path = lab.path("signers.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    let line = |line: &str| match line.split_once(" = ") {
        Some((name @ ("commands" | "replies"), _)) => format!("{name} = \"{level}\"\n"),
        _ => format!("{line}\n"),
    };
    let after: String = before.lines().map(line).collect();
    std::fs::write(path, after).unwrap();
}

fn worker(lab: &Lab) -> Worker {
    let (public, private) = (lab.path("signers.toml"), lab.path("w"));
    let env = [
        ("STEM_SIGNING_PUBLIC_KEYS", text(&public)),
        ("STEM_SIGNING_PRIVATE_KEYS", text(&private)),
    ];
    lab.worker_with(&["--name", "w"], &env)
}

/// What somebody says who checks replies and has this key, or none.
fn stem_as(lab: &Lab, key: Option<&str>, words: &[&str]) -> Said {
    let (public, private) = (lab.path("signers.toml"), lab.path(key.unwrap_or_default()));
    let mut env = vec![("STEM_SIGNING_PUBLIC_KEYS", text(&public))];
    env.extend(key.map(|_| ("STEM_SIGNING_PRIVATE_KEYS", text(&private))));
    lab.stem_with(words, &env)
}

fn reply(said: &Said) -> Value {
    said.json()["replies"][0].clone()
}

#[test]
fn who_holds_no_key_is_not_obeyed_and_who_holds_one_may_what_its_role_says() {
    let lab = lab("required");
    let mut worker = worker(&lab);
    let json = ["--timeout", "1m", "--json"];
    for words in [&["worker", "shutdown", "--mode", "hard"][..], &["worker", "ping"]] {
        lab.stem(&[words, &["--timeout", "500ms"]].concat()).exits(3);
    }
    // Whose own files ask for a signature is told at once, and nothing is stored for it.
    let said = stem_as(&lab, None, &["worker", "revoke", "--task", "t"]).exits(2);
    assert!(said.stderr.contains("no key here may sign"), "{}", said.stderr);
    stem_as(&lab, Some("eyes"), &["worker", "revoke", "--task", "t"]).exits(2);
    assert_eq!(lab.stem(&["revokes", "list", "--json"]).ok().json(), json!([]));

    let said = stem_as(&lab, Some("eyes"), &[&["worker", "ping"], &json[..]].concat()).ok();
    assert_eq!(reply(&said)["payload"]["state"], "running");
    let said = stem_as(&lab, Some("ops"), &[&["worker", "stats"], &json[..]].concat()).ok();
    let signing = &reply(&said)["payload"]["signing"];
    assert_eq!((&signing["commands"], &signing["signsWith"]), (&json!("required"), &json!("w")));
    for command in ["pause", "resume"] {
        let words = ["worker", command, "--queue", "mail"];
        stem_as(&lab, Some("ops"), &[&words[..], &json[..]].concat()).ok();
    }
    assert!(worker.is_running());
    stem_as(&lab, Some("ops"), &[&["worker", "shutdown"], &json[..]].concat()).ok();
    assert_eq!(worker.wait(), 0);
    let log = worker.log();
    assert!(log.contains("a command was refused") && log.contains("unsigned"), "{log}");
}

#[test]
fn what_a_worker_obeys_and_refuses_is_in_the_audit_log_of_its_machine() {
    let lab = lab("required");
    let (public, private) = (lab.path("signers.toml"), lab.path("w"));
    let env = [
        ("STEM_SIGNING_PUBLIC_KEYS", text(&public)),
        ("STEM_SIGNING_PRIVATE_KEYS", text(&private)),
    ];
    let (audit, elsewhere) = (lab.path("audit.jsonl"), lab.path("absent/audit.jsonl"));
    let start = |log: &Path| ["worker", "start", "--audit-log", text(log)].map(str::to_owned);
    let refused = start(&elsewhere);
    lab.stem(&refused.each_ref().map(String::as_str)).exits(5);
    // As hard as this machine can: the log is written all the same.
    let mut worker = lab.worker_with(&["--name", "w", "--audit-log", text(&audit)], &env);
    lab.stem(&["worker", "shutdown", "--mode", "hard", "--timeout", "500ms"]).exits(3);
    let json = ["--timeout", "1m", "--json"];
    for words in [&["worker", "ping"][..], &["worker", "pause", "--queue", "mail"]] {
        stem_as(&lab, Some("ops"), &[words, &json[..]].concat()).ok();
    }
    let said = stem_as(&lab, Some("eyes"), &[&["worker", "stats"], &json[..]].concat()).ok();
    let told = &reply(&said)["payload"]["audit"];
    assert_eq!(told, &json!({"file": text(&audit), "lost": 0}));
    stem_as(&lab, Some("ops"), &[&["worker", "shutdown"], &json[..]].concat()).ok();
    assert_eq!(worker.wait(), 0);

    let document = lab.stem(&["audit", "--file", text(&audit), "--json"]).ok().json();
    let entries = document["entries"].as_array().unwrap();
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap_or("-").to_owned();
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| ["verdict", "what", "key", "reason"].map(|key| word(entry, key)).join(" "))
        .collect();
    assert_eq!(
        lines,
        ["refused command - unsigned", "accepted pause ops -", "accepted shutdown ops -"]
    );
    assert_eq!(entries[1]["about"]["queues"], json!(["mail"]));
    for (key, value) in [("side", "worker"), ("by", "w"), ("namespace", "stem")] {
        assert!(entries.iter().all(|entry| entry[key] == value), "{document}");
    }
    lab.stem(&["audit", "--file", text(&audit), "--verify"]).ok();
}

#[test]
fn a_running_worker_asks_for_signatures_when_its_file_does() {
    let lab = lab("permitted");
    let worker = worker(&lab);
    let plain = |lab: &Lab| lab.stem(&["worker", "ping", "--timeout", "500ms"]).code;
    assert_eq!(lab.stem(&["worker", "ping", "--timeout", "1m"]).code, 0);
    set(&lab, "required");
    lab.wait_for("an unsigned command to be refused", plain, |code| *code == 3);
    stem_as(&lab, Some("ops"), &["worker", "ping", "--timeout", "1m"]).ok();
    set(&lab, "permitted");
    lab.wait_for("an unsigned command to be obeyed", plain, |code| *code == 0);
    assert!(!worker.log().contains("panicked"), "{}", worker.log());
}
