//! Modules: admitted or refused with a reason, and replaced without a restart.

use std::fs;

use crate::lab::{Lab, modules};

#[test]
fn a_bad_module_or_manifest_stops_the_start_and_says_why() {
    for (file, content, words) in [
        ("x.wasm", &b"hello"[..], "not a WebAssembly module"),
        ("x.wasm", b"\0asm\x01\0\0\0", "not a task"),
        (
            "stem.toml",
            b"[handlers.x]\nsource = \"file:x.wasm\"\nlimit = 3",
            "did you mean \"limits\"",
        ),
        ("stem.toml", b"[handlers.x", "stem.toml"),
        ("stem.toml", b"[handlers.x]\nsource = \"file:x.wasm\"", "cannot read"),
    ] {
        let lab = Lab::new();
        let dir = lab.path("modules");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(file), content).unwrap();
        let said = lab.stem(&["worker", "start", "--modules", dir.to_str().unwrap()]).exits(2);
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
        assert!(said.stderr.contains("hint:"), "{}", said.stderr);
    }
}

#[test]
fn an_unknown_import_is_refused_by_name() {
    let lab = Lab::new();
    let wasm = wat::parse_str(r#"(module (import "evil" "shell" (func)) (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#).unwrap();
    let file = lab.path("evil.wasm");
    fs::write(&file, wasm).unwrap();
    let said = lab.stem(&["module", "check", file.to_str().unwrap()]).exits(1);
    assert!(
        format!("{}{}", said.stdout, said.stderr).contains("evil.shell"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    let said = lab
        .stem(&[
            "module",
            "check",
            modules().join("crunch/crunch.wasm").to_str().unwrap(),
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(said["kind"], "component", "{said}");
}

#[test]
fn a_new_version_is_picked_up_without_a_restart_and_a_bad_one_is_not() {
    let lab = Lab::new();
    let dir = lab.path("modules");
    fs::create_dir(&dir).unwrap();
    let answer = |number: u8| {
        let text = format!(
            r#"(module (import "stem0" "output_write" (func $out (param i32 i32) (result i32))) (memory (export "memory") 1)
               (data (i32.const 0) "{number}") (func (export "stem_run") (result i32) (call $out (i32.const 0) (i32.const 1))))"#
        );
        wat::parse_str(text).unwrap()
    };
    fs::write(dir.join("answer.wasm"), answer(1)).unwrap();
    let _worker = lab.worker_from(&["worker", "start", "--modules", dir.to_str().unwrap()]);
    let ask = || {
        let id = lab.enqueue("answer", "{}", &[]);
        lab.until_state(&id, "succeeded")["result"].clone()
    };
    assert_eq!(ask(), 1);
    fs::write(dir.join("answer.wasm"), b"broken").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    assert_eq!(ask(), 1, "the old one stays");
    fs::write(dir.join("answer.wasm"), answer(2)).unwrap();
    let since = std::time::Instant::now();
    while ask() != 2 {
        assert!(since.elapsed() < crate::lab::PATIENCE, "the new version was never picked up");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
