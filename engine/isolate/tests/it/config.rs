//! `config`: settings by name.

use crate::bench::{Bench, failure, text};
use crate::guests::Task;
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

#[tokio::test]
async fn a_component_finds_granted_variables_and_settings_in_its_environment() {
    let mut bench = bench();
    let task = Task {
        imports: r#"(import "wasi:cli/environment@0.2.6" (instance $environment
            (export "get-environment" (func (result (list (tuple string string)))))))"#,
        lowered: r#"(core func $environment
            (canon lower (func $environment "get-environment") (memory $memory) (realloc $realloc)))"#,
        exports: r#"(export "environment" (func $environment))"#,
        more: r#"(import "host" "environment" (func $environment (param i32)))---"#,
        // The value of the first, and how many there are at 260.
        run: "(call $environment (i32.const 256))
            (if (i32.ne (i32.load (i32.const 260)) (i32.load8_u (local.get $in))) (then unreachable))
            (if (i32.eqz (i32.load (i32.const 260))) (then (return (call $ok (i32.const 0) (i32.const 0)))))
            (call $ok (i32.load offset=8 (i32.load (i32.const 256))) (i32.load offset=12 (i32.load (i32.const 256))))",
        ..Task::default()
    };
    let task = task.wat();
    assert_eq!(text(&bench.run(&task, b"\x02").await), "de");
    // What tells commands of their task is not for the policy to say.
    let ours = [("STEM_TASK_ID", "x"), ("TRACEPARENT", "x")];
    bench.granted.settings = ours.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(text(&bench.run(&task, b"\0").await), "");
}

#[tokio::test]
async fn a_guest_that_tries_one_name_after_another_does_not_fill_the_log() {
    let bench = bench();
    let mut texts = Texts::new();
    let key = texts.put("K.");
    let run = format!(
        "(local $tries i32)
         (loop $more
           (i32.store8 (i32.const 513) (i32.add (i32.const 65) (i32.rem_u (local.get $tries) (i32.const 40))))
           (drop (call $config_get {key} (i32.const 65536) (i32.const 9)))
           (local.set $tries (i32.add (local.get $tries) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $tries) (i32.const 200))))
         (i32.const 0)"
    );
    bench.run(&texts.raw(&run), b"").await;
    let lines = bench.worker.lines();
    assert_eq!(lines.len(), 17, "{lines:?}");
    assert!(lines[16].contains("not told any more"), "{lines:?}");
}
