//! `secrets`: what stands in for one, and the secret itself.

use stem_core::grants::{HostPattern, SecretGrant};
use stem_isolate::{LogLevel, Secret};

use crate::bench::{Bench, failure, text};
use crate::guests::granted::Texts;
use crate::raw::answer;

/// What must not be seen anywhere.
const CANARY: &str = "canary-7f3a9c";

/// `SENT` may be sent to a host, `READ` be read, `ABSENT` both, and the worker does not have that.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let grant = |name: &str, sent: bool, reveal: bool| SecretGrant {
        name: name.to_owned(),
        hosts: sent.then(|| HostPattern::new("api.example.org").unwrap()).into_iter().collect(),
        reveal,
    };
    bench.granted.grants.secrets =
        vec![grant("SENT", true, false), grant("READ", false, true), grant("ABSENT", true, true)];
    bench.granted.secrets = ["SENT", "READ", "UNGRANTED"]
        .map(|name| (name.to_owned(), Secret::new(format!("{CANARY}-{name}"))))
        .into();
    bench
}

/// A component that calls one of the two functions twice and returns the second answer.
fn asks(function: &str, name: &str) -> String {
    let mut texts = Texts::new();
    let name = texts.put(name);
    texts.task(&format!(
        "(call ${function} {name} (i32.const 256)) (call ${function} {name} (i32.const 256))
         (if (i32.load8_u (i32.const 256)) (then (return (call $refused))))
         (call $ok (i32.load (i32.const 264)) (i32.load (i32.const 268)))"
    ))
}

/// Everything that the worker was told.
fn told(bench: &Bench) -> String {
    format!("{:?}", bench.worker.logs.lock().unwrap())
}

#[tokio::test]
async fn a_placeholder_is_one_text_throughout_an_attempt_and_another_in_the_next() {
    let bench = bench();
    let mut texts = Texts::new();
    let name = texts.put("SENT");
    let twice = texts.task(&format!(
        "(call $placeholder {name} (i32.const 256)) (call $placeholder {name} (i32.const 320))
         ;; the second is put right behind the first
         (memory.copy (i32.const 1024) (i32.load (i32.const 264)) (i32.load (i32.const 268)))
         (memory.copy (i32.const 1068) (i32.load (i32.const 328)) (i32.load (i32.const 332)))
         (call $ok (i32.const 1024) (i32.const 88))"
    ));
    let first = text(&bench.run(&twice, b"").await);
    let (one, two) = first.split_at(44);
    assert_eq!(one, two);
    let random = one.strip_prefix("stem-secret-").unwrap();
    assert!(random.bytes().all(|byte| byte.is_ascii_hexdigit()), "{random}");
    let second = text(&bench.run(&twice, b"").await);
    assert_ne!(first, second);
    assert!(!told(&bench).contains(random), "{}", told(&bench));
}

#[tokio::test]
async fn to_send_and_to_read_are_two_grants() {
    let bench = bench();
    assert_eq!(text(&bench.run(&asks("reveal", "READ"), b"").await), format!("{CANARY}-READ"));
    for (function, name, line) in [
        ("placeholder", "READ", "secrets = [\"READ@HOST\"]"),
        ("reveal", "SENT", "secrets = [{ name = \"SENT\", reveal = true }]"),
        ("placeholder", "UNGRANTED", "secrets = [\"UNGRANTED@HOST\"]"),
        ("reveal", "UNGRANTED", "secrets = [{ name = \"UNGRANTED\", reveal = true }]"),
    ] {
        let before = bench.worker.lines().len();
        let ended = bench.run(&asks(function, name), b"").await;
        let message = &failure(&ended).0.message;
        assert!(message.contains(line), "{message}");
        assert_eq!(bench.worker.lines().len(), before + 1, "asked twice, told once");
        assert!(bench.worker.lines().pop().unwrap().contains(line));
    }
}

#[tokio::test]
async fn a_reveal_is_in_the_log_once_an_attempt_and_without_the_secret() {
    let bench = bench();
    for attempts in 1..=2 {
        bench.run(&asks("reveal", "READ"), b"").await;
        let logs = bench.worker.logs.lock().unwrap().clone();
        assert_eq!(logs.len(), attempts);
        let line = logs.last().unwrap();
        assert_eq!(line.level, LogLevel::Warn);
        assert_eq!(line.message, "the secret READ was revealed to the guest");
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(line.fields, [field("task", "task-1"), field("secret", "READ")]);
    }
    assert!(!told(&bench).contains(CANARY));
}

#[tokio::test]
async fn no_secret_is_seen_anywhere_that_was_not_revealed() {
    let bench = bench();
    for function in ["placeholder", "reveal"] {
        for name in ["SENT", "UNGRANTED", "ABSENT"] {
            let ended = bench.run(&asks(function, name), b"").await;
            assert!(!format!("{ended:?}").contains(CANARY), "{ended:?}");
            let stem_core::outcome::Outcome::Succeeded(payload) = &ended.outcome else { continue };
            assert!(!String::from_utf8_lossy(&payload.bytes).contains(CANARY));
        }
    }
    assert!(!told(&bench).contains(CANARY), "{}", told(&bench));
    assert!(!format!("{:?}", bench.granted).contains(CANARY));
}

#[tokio::test]
async fn core_modules_are_answered_by_size_and_code() {
    let bench = bench();
    for (function, name, code) in [
        ("placeholder", "SENT", 44),
        ("placeholder", "READ", -1),
        ("placeholder", "ABSENT", -4),
        ("placeholder", "", -2),
        ("placeholder", &"S".repeat(129), -3),
        ("reveal", "READ", 18),
        ("reveal", "SENT", -1),
        ("reveal", "ABSENT", -4),
        ("reveal", "", -2),
    ] {
        let mut texts = Texts::new();
        let operands = texts.put(name);
        let call = format!(
            "(i64.extend_i32_s (call $secret_{function} {operands} (i32.const 65536) (i32.const 99)))"
        );
        assert_eq!(answer(&bench, texts.escaped(), &call).await, code, "{function} {name}");
    }
    let mut texts = Texts::new();
    let name = texts.put("READ");
    let reads = texts.raw(&format!(
        "(call $output_write (i32.const 65536)
           (call $secret_reveal {name} (i32.const 65536) (i32.const 99)))"
    ));
    assert_eq!(text(&bench.run(&reads, b"").await), format!("{CANARY}-READ"));
}
