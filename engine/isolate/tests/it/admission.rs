//! What is refused when a module is registered, and with which words.

use std::path::Path;
use std::time::{Duration, Instant};

use stem_isolate::compile::CompileError;
use stem_isolate::{Compiler, IsolateRuntime, LoadError, RuntimeConfig};

use crate::bench::{Bench, block_on, config, text, wat};
use crate::commands::{CAT_02, command_02};
use crate::guests::{self, task};
use crate::planted::found;

/// A sandbox whose modules are compiled in a child.
fn with_child() -> RuntimeConfig {
    let program = env!("CARGO_BIN_EXE_stem-compile").into();
    let compiler = Compiler::Child { program, args: vec![], env: vec![] };
    RuntimeConfig { compiler, isolates: 2, ..config() }
}

async fn refused(bench: &Bench, bytes: &[u8]) -> String {
    match bench.runtime.load(bytes).await {
        Err(error) => error.to_string(),
        Ok(module) => panic!("accepted as {module:?}"),
    }
}

#[tokio::test]
async fn every_wasi_02_release_up_to_ours_links_and_the_next_does_not() {
    let bench = Bench::new();
    for patch in 0..=12 {
        let cat = command_02(&format!("0.2.{patch}"), "", CAT_02);
        let module = bench.load(&cat).await;
        assert_eq!(text(&crate::bench::exit(bench.start(&module, b"x")).await), "x", "0.2.{patch}");
    }
    let error = refused(&bench, &wat(&command_02("0.2.13", "", CAT_02))).await;
    for name in ["wasi:io/poll@0.2.13", "wasi:cli/exit@0.2.13", "wasi:random/random@0.2.13"] {
        assert!(error.contains(name), "{error}");
    }
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn imports_that_no_worker_offers_are_listed_by_name() {
    let bench = Bench::new();
    let component = task("(call $answer (i32.const 0))").replacen(
        "(component",
        r#"(component (import "wasi:http/incoming-handler@0.2.0" (instance)) (import "acme:shell/run@1.0.0" (instance (export "sh" (func))))
           (import "stem:task/blobs@0.1.0" (instance)) (import "stem:task/log@0.9.0" (instance)) (import "plain" (func))"#,
        1,
    );
    let error = refused(&bench, &wat(&component)).await;
    for name in [
        "wasi:http/incoming-handler@0.2.0",
        "acme:shell/run@1.0.0",
        "stem:task/blobs@0.1.0",
        "stem:task/log@0.9.0",
        "plain",
    ] {
        assert!(error.contains(name), "{error}");
    }
    let core = r#"(module (import "env" "system" (func)) (import "stem0" "exec" (func)) (import "wasi_snapshot_preview1" "fd_steal" (func))
        (import "wasi_unstable" "fd_write" (func)) (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#;
    let error = refused(&bench, &wat(core)).await;
    for name in
        ["env.system", "stem0.exec", "wasi_snapshot_preview1.fd_steal", "wasi_unstable.fd_write"]
    {
        assert!(error.contains(name), "{error}");
    }
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn an_import_of_another_type_is_refused() {
    let bench = Bench::new();
    let core = r#"(module (import "stem0" "heartbeat" (func (param i64))) (memory (export "memory") 1)
        (func (export "stem_run") (result i32) (i32.const 0)))"#;
    let error = refused(&bench, &wat(core)).await;
    assert!(error.contains("heartbeat"), "{error}");
    let component = task("(call $answer (i32.const 0))")
        .replace(
            "(export \"sleep\" (func (param \"duration\" u64)",
            "(export \"sleep\" (func (param \"duration\" u32)",
        )
        .replace(
            "(import \"host\" \"sleep\" (func $sleep (param i64 i32)))",
            "(import \"host\" \"sleep\" (func $sleep (param i32 i32)))",
        );
    let error = refused(&bench, &wat(&component)).await;
    assert!(error.contains("sleep"), "{error}");
    let memory = r#"(module (import "stem0" "heartbeat" (memory 1)) (func (export "stem_run") (result i32) (i32.const 0)))"#;
    assert!(matches!(bench.try_load(memory).await, Err(LoadError::Link(_))));
}

#[tokio::test]
async fn a_module_without_an_entry_is_refused_and_told_what_it_has() {
    let bench = Bench::new();
    for module in [
        r#"(module (memory (export "memory") 1) (func (export "main")))"#,
        r#"(module (func (export "main")) (func (export "stem_run") (result i64) (i64.const 0)))"#,
        r#"(module (func (export "main")) (global (export "stem_run") i32 (i32.const 0)))"#,
        r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m)) (func (export "main") (canon lift (core func $i "f"))))"#,
    ] {
        let error = refused(&bench, &wat(module)).await;
        assert!(error.contains("not a task") && error.contains("main"), "{error}");
    }
    let error = refused(&bench, &wat("(module)")).await;
    assert!(error.contains("it exports nothing"), "{error}");
}

#[tokio::test]
async fn what_is_not_wasm_is_refused_and_native_code_never_loaded() {
    let bench = Bench::new();
    let engine = wasmtime_engine();
    let compiled = engine.precompile_module(&wat("(module (func (export \"_start\")))")).unwrap();
    let program = std::fs::read("/proc/self/exe").unwrap();
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"#!/bin/sh\n", "does not begin"),
        (b"(module)", "text format"),
        (&compiled, "native code"),
        (&program[..1 << 20], "native code"),
    ] {
        let error = refused(&bench, bytes).await;
        assert!(error.contains(word), "{error}");
    }
    bench.assert_good_task_runs().await;
}

fn wasmtime_engine() -> wasmtime::Engine {
    wasmtime::Engine::default()
}

#[tokio::test]
async fn truncated_and_mutated_bytes_never_do_more_than_be_refused() {
    let bench = Bench::new();
    let whole = wat(&guests::raw("", "", "(i32.const 0)"));
    for end in 0..whole.len() {
        // Cut before the names, which nobody needs, it is whole.
        let loaded = bench.runtime.load(&whole[..end]).await;
        assert!(loaded.is_err() || end > whole.len() / 2, "{end} of {}", whole.len());
    }
    // A fixed sequence, so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let component = wat(&guests::good());
    let mut accepted = 0;
    for round in 0..300 {
        let mut bytes = if round % 10 == 0 { component.clone() } else { whole.clone() };
        for _ in 0..=random() % 4 {
            let at = usize::try_from(random()).unwrap() % bytes.len();
            bytes[at] = random().to_le_bytes()[0];
        }
        // Accepted or refused: what is accepted must run within its limits like anything else.
        if let Ok(module) = bench.runtime.load(&bytes).await {
            accepted += 1;
            let (interrupt, end) = bench.start(&module, b"x").into_parts();
            tokio::select! {
                _ = crate::bench::within(end) => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {
                    interrupt.stop(stem_core::outcome::StopReason::Revoked, true);
                }
            }
        }
    }
    println!("{accepted} of 300 mutants are modules");
    bench.assert_good_task_runs().await;
}

/// Texts of modules that take long to compile, in a form that is cheap to write down.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let run = "(func (export \"stem_run\") (result i32) (i32.const 0))";
    let module = |body: String| wat(&format!("(module {body} {run})"));
    let add = "(local.set 0 (i32.add (local.get 0) (i32.const 7)))";
    vec![
        ("one function of 3 MB", module(format!("(func (local i32) {})", add.repeat(450_000)))),
        ("one function of 2 MB", module(format!("(func (local i32) {})", add.repeat(290_000)))),
        ("many locals", module(format!("(func {})", "(local i64)".repeat(50_000)))),
        ("many functions", module("(func)".repeat(100_001))),
        (
            "many segments",
            module(format!("(memory 1) {}", "(data (i32.const 0) \"x\")".repeat(50_001))),
        ),
        (
            "deep nesting",
            module(format!("(func {}{})", "(block ".repeat(300_000), ")".repeat(300_000))),
        ),
        (
            "a table of branches",
            module(format!(
                "(func (param i32) (block (br_table {} (local.get 0))))",
                "0 ".repeat(1_500_000)
            )),
        ),
        (
            "branches from everywhere to everywhere",
            module(format!(
                "(func (param i32) (local i64 i64 i64 i64 i64 i64 i64 i64) {}{} {})",
                "(block ".repeat(3_008),
                "(br_table 0 1 2 3 4 5 6 7 (local.get 0)))".repeat(3_000) + &")".repeat(8),
                add,
            )),
        ),
    ]
}

/// How long a bomb may take on a machine that does much else. On one that does nothing else the bound on the child's
/// processor time is the tighter one.
const LONG: Duration = Duration::from_secs(100);
/// What may be resident of a child that compiles a bomb, in KiB. The bound on its address space is wider: that counts
/// what is only reserved.
const PEAK_KIB: u64 = 512 << 10;

/// Runs the program behind its first argument, ends as that does, and writes into the file that is the first argument
/// how many KiB were resident of it at most: `getrusage` of all children so far, with `ru_maxrss` behind two times.
const MEASURED: &str = r#"my $at = shift; my $ended = system { $ARGV[0] } @ARGV; my $usage = "\0" x 144;
    syscall(NUMBER, -1, $usage) == 0 or die; open my $file, ">", $at or die; print $file (unpack "l!5", $usage)[4];
    close $file; kill $ended & 127, $$ if $ended & 127; exit $ended >> 8;"#;

/// A compiler that leaves in this file how much memory it had.
fn measured(peak: &Path, compiler: &[&str]) -> Compiler {
    let number = if cfg!(target_arch = "x86_64") { "98" } else { "165" };
    let measured = MEASURED.replace("NUMBER", number);
    let words = ["-e", &measured, peak.to_str().unwrap()];
    let args = words.iter().chain(compiler).map(|&word| word.to_owned()).collect();
    Compiler::Child { program: "perl".into(), args, env: vec![] }
}

/// Loads a bomb and sees that it is refused or compiled by then, in no more memory than it may have; says which.
async fn bounded(runtime: &IsolateRuntime, peak: &Path, bomb: &[u8], most: Duration) -> String {
    // What the last one left.
    let _ = std::fs::remove_file(peak);
    let began = Instant::now();
    let told = match runtime.load(bomb).await {
        Ok(_) => "compiled".to_owned(),
        Err(error @ (LoadError::NotAdmitted(_) | LoadError::Compile(_))) => error.to_string(),
        Err(other) => panic!("{other}"),
    };
    let took = began.elapsed();
    // Not there where it was refused without a child.
    let kib = std::fs::read_to_string(peak).map_or(0, |text| text.parse::<u64>().unwrap());
    let told = format!("{told}; {took:?}, {kib} KiB");
    assert!(took <= most, "too slow: {told}");
    assert!(kib <= PEAK_KIB, "too much memory: {told}");
    told
}

#[test]
fn compile_bombs_are_refused_or_compiled_within_the_childs_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let peak = dir.path().join("peak");
    block_on(async {
        let compiler = measured(&peak, &[env!("CARGO_BIN_EXE_stem-compile")]);
        let bench = Bench::of(&RuntimeConfig { compiler, ..with_child() }).await;
        assert!(peak.exists(), "the child is measured (hint: the tests need perl)");
        for (name, bomb) in bombs() {
            println!("{name} ({} KiB):", bomb.len() >> 10);
            println!("    {}", bounded(&bench.runtime, &peak, &bomb, LONG).await);
        }
        bench.assert_good_task_runs().await;
    });
}

#[test]
fn a_planted_compiler_that_takes_too_long_or_too_much_memory_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let peak = dir.path().join("peak");
    let task = wat(&guests::raw("", "", "(i32.const 0)"));
    // It refuses every module, after this.
    let with = |deed: &str, most: Duration| {
        let script = format!("cat >/dev/null; {deed}; exit 3");
        let compiler = measured(&peak, &["/bin/sh", "-c", &script]);
        let config = RuntimeConfig { compiler, isolates: 1, ..config() };
        let runtime = IsolateRuntime::new(&config).unwrap();
        block_on(bounded(&runtime, &peak, &task, most))
    };
    with(":", LONG);
    let said = found(|| drop(with("sleep 1", Duration::from_millis(300))));
    assert!(said.starts_with("too slow: "), "{said}");
    let said = found(|| drop(with("dd if=/dev/zero of=/dev/null bs=600M count=1", LONG)));
    assert!(said.starts_with("too much memory: "), "{said}");
    stem_services::count("plants", 2);
}

#[tokio::test]
async fn what_a_child_refuses_or_cannot_do_is_told() {
    let bench = Bench::of(&with_child()).await;
    let mut invalid = wat(&guests::raw("", "", "(i32.const 0)"));
    let at = invalid.iter().rposition(|byte| *byte == 0x41).unwrap();
    invalid[at] = 0x42;
    match bench.runtime.load(&invalid).await {
        Err(LoadError::Compile(CompileError::Invalid(words))) => {
            assert!(words.contains("type mismatch"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    // Features that are off.
    for off in [
        "(module (memory i64 1) (func (export \"_start\")))",
        "(module (memory 1 1 shared) (func (export \"_start\")))",
    ] {
        let error = bench.try_load(off).await.unwrap_err();
        assert!(matches!(error, LoadError::Compile(CompileError::Invalid(_))), "{error}");
    }
    for (program, args) in [
        ("/nonexistent/compiler", vec![]),
        ("/bin/sh", vec!["-c".to_owned(), "kill -9 $$".to_owned()]),
    ] {
        let runtime = stem_isolate::IsolateRuntime::new(&RuntimeConfig {
            compiler: Compiler::Child { program: program.into(), args, env: vec![] },
            isolates: 1,
            ..config()
        })
        .unwrap();
        let error = runtime.load(&wat(&guests::good())).await.unwrap_err();
        assert!(
            matches!(
                error,
                LoadError::Compile(CompileError::Unavailable(_) | CompileError::TooSlow(_))
            ),
            "{error}"
        );
    }
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn names_of_imports_are_cut_and_made_printable() {
    let bench = Bench::new();
    let long = "x".repeat(50_000);
    let core = format!(
        r#"(module (import "evil\1b[2J\n" "verdict  admitted\e2\80\ae" (func)) (import "{long}" "{long}" (func))
            (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#
    );
    let error = refused(&bench, &wat(&core)).await;
    assert!(error.contains(r"evil\u{1b}[2J\n.verdict  admitted\u{202e}, xxx"), "{error:.200}");
    assert!(error.len() < 3_000 && !error.chars().any(char::is_control), "{}", error.len());
}
