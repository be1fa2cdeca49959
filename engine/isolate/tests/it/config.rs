//! `config`: settings by name.

use crate::bench::{Bench, failure, text};
use crate::guests::granted::Texts;
use crate::raw::answer;

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.granted.grants.config = vec!["SIZE".to_owned(), "UNSET".to_owned()];
    bench.granted.grants.env = vec!["LANG".to_owned()];
    bench.granted.settings =
        [("SIZE", "128 px"), ("LANG", "de")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    bench
}

/// A component that returns a setting, or `appl` where there is none.
fn gets(key: &str) -> String {
    let mut texts = Texts::new();
    let key = texts.put(key);
    texts.task(&format!(
        "(call $setting {key} (i32.const 256))
         (if (i32.load8_u (i32.const 256)) (then (return (call $refused))))
         (if (i32.eqz (i32.load8_u (i32.const 264))) (then (return (call $ok (i32.const 16) (i32.const 4)))))
         (call $ok (i32.load (i32.const 268)) (i32.load (i32.const 272)))"
    ))
}

#[tokio::test]
async fn a_component_gets_what_is_granted_and_no_more() {
    let bench = bench();
    assert_eq!(text(&bench.run(&gets("SIZE"), b"").await), "128 px");
    assert_eq!(text(&bench.run(&gets("UNSET"), b"").await), "appl", "granted, and not there");
    assert!(bench.worker.lines().is_empty());
    for key in ["LANG", "size", "SIZE2", "PATH"] {
        let ended = bench.run(&gets(key), b"").await;
        let line = format!("put config = [\"{key}\"] under [handlers.echo.grants] in stem.toml");
        assert_eq!(failure(&ended).0.message, format!("no grant covers it: {line}"));
        assert!(bench.worker.lines().pop().unwrap().contains(&line));
    }
    assert_eq!(bench.worker.lines().len(), 4);
}

#[tokio::test]
async fn a_hostile_name_stays_on_its_line() {
    let bench = bench();
    let name = "A\"]\nsecrets = [\"B\u{1b}[31m";
    let ended = bench.run(&gets(name), b"").await;
    for told in [failure(&ended).0.message.clone(), bench.worker.lines().pop().unwrap()] {
        assert!(!told.chars().any(char::is_control), "{told:?}");
        assert!(told.contains(r#"config = ["A\"]\nsecrets = [\"B\u{1b}[31m"]"#), "{told}");
    }
}

#[tokio::test]
async fn core_modules_are_answered_by_size_and_code() {
    let bench = bench();
    for (key, capacity, code) in [
        ("SIZE", 99, 6),
        ("SIZE", 0, 6),
        ("SIZE", -1, -2),
        ("UNSET", 99, -4),
        ("LANG", 99, -1),
        ("", 99, -2),
        (&"S".repeat(128), 99, -1),
        (&"S".repeat(129), 99, -3),
    ] {
        let mut texts = Texts::new();
        let key = texts.put(key);
        let call = format!(
            "(i64.extend_i32_s (call $config_get {key} (i32.const 65536) (i32.const {capacity})))"
        );
        assert_eq!(answer(&bench, texts.escaped(), &call).await, code, "{key} {capacity}");
    }
}
