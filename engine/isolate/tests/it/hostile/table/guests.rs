//! Guests that are admitted, mostly, and what they do when they run. In the order of the attacks' list.

use std::time::Duration;

use stem_core::grants::NamePattern;
use stem_core::outcome::FailureKind;

use super::Answer::{EndsWell, Fails, Refused, Stopped};
use super::{Attack, attack};
use crate::bench::When::{Begun, Called, Computing};
use crate::bench::wat;
use crate::children::floods;
use crate::commands::command_02;
use crate::guests::{Task, command, raw, task, task_with};
use crate::hostile::LOOP;

const OVERFLOW: super::Answer = Fails(FailureKind::Trap, "stack-overflow");
const MEMORY: super::Answer = Fails(FailureKind::MemoryLimit, "memory-limit");
const TABLE: super::Answer = Fails(FailureKind::MemoryLimit, "table-limit");
const TRAP: super::Answer = Fails(FailureKind::Trap, "trap");
const CALL: super::Answer = Fails(FailureKind::PayloadTooLarge, "call-too-large");
const RESULT: super::Answer = Fails(FailureKind::PayloadTooLarge, "result-too-large");

pub(super) fn attacks() -> Vec<Attack> {
    [endless(), deep(), greedy(), bulky(), broken(), loud(), lying(), ending()]
        .into_iter()
        .flatten()
        .collect()
}

fn endless() -> Vec<Attack> {
    const START: &str = "(func $begin (loop $again (br $again))) (start $begin)";
    const INITIALIZE: &str = r#"(func (export "_initialize") (loop $again (br $again)))"#;
    vec![
        attack("loops for ever in its entry", || wat(&task(LOOP)), Stopped(Computing)),
        attack(
            "loops for ever in the start function of a component",
            || wat(&task_with(START, "", "(unreachable)")),
            Stopped(Computing),
        ),
        attack(
            "loops for ever in the start function of a core module",
            || wat(&raw(START, "", "(i32.const 0)")),
            Stopped(Computing),
        ),
        attack(
            "loops for ever while it is initialised, as a core module",
            || wat(&raw(INITIALIZE, "", "(i32.const 0)")),
            Stopped(Computing),
        ),
        attack(
            "loops for ever while it is initialised, as a command",
            || wat(&command(INITIALIZE, "", "")),
            Stopped(Computing),
        ),
        attack(
            "loops for ever in its allocator",
            || wat(&Task { realloc: LOOP, ..Task::default() }.wat()),
            Stopped(Computing),
        ),
        attack(
            "loops for ever after its return",
            || {
                let post_return = "(loop $again (br $again))";
                wat(&Task { post_return, ..Task::default() }.wat())
            },
            Stopped(Computing),
        ),
        attack(
            "loops for ever in the destructor of a resource",
            || {
                let drops = Task {
                    imports: r#"(core module $end-m (func (export "end") (param i32) (loop $again (br $again))))
                        (core instance $end (instantiate $end-m))
                        (type $thing (resource (rep i32) (dtor (core func $end "end"))))"#,
                    lowered: "(core func $new (canon resource.new $thing)) (core func $drop (canon resource.drop $thing))",
                    exports: r#"(export "new" (func $new)) (export "drop" (func $drop))"#,
                    more: r#"(import "host" "new" (func $new (param i32) (result i32))) (import "host" "drop" (func $drop (param i32)))---"#,
                    run: "(call $drop (call $new (i32.const 1))) (call $answer (i32.const 0))",
                    ..Task::default()
                };
                wat(&drops.wat())
            },
            Stopped(Computing),
        ),
        Attack {
            prepare: |bench| bench.limits.cpu = Duration::from_millis(20),
            ..attack(
                "loops over its CPU time",
                || wat(&task(LOOP)),
                Fails(FailureKind::CpuLimit, "cpu-limit"),
            )
        },
        attack(
            "loops for ever by tail calls",
            || {
                let two = "(func $one (param i32) (result i32) (return_call $two (local.get 0)))
                    (func $two (param i32) (result i32) (return_call $one (local.get 0)))";
                wat(&task_with(two, "", "(call $one (i32.const 1))"))
            },
            Stopped(Computing),
        ),
        attack(
            "loops for ever by tail calls through a table",
            || {
                let one = "(type $step (func (param i32) (result i32))) (table 1 funcref) (elem (i32.const 0) $one)
                    (func $one (type $step) (return_call_indirect (type $step) (local.get 0) (i32.const 0)))";
                wat(&task_with(one, "", "(call $one (i32.const 1))"))
            },
            Stopped(Computing),
        ),
        attack(
            "waits for ever for one thing",
            || {
                let wait = "(call $block (call $after (i64.const -1))) (i32.const 0)";
                wat(&command_02("0.2.12", "", wait))
            },
            Stopped(Begun),
        ),
        attack(
            "sleeps for ever",
            || {
                wat(&task(
                    "(call $here) (call $sleep (i64.const -1) (i32.const 256)) (unreachable)",
                ))
            },
            Stopped(Called),
        ),
        attack(
            "polls an empty list",
            || {
                let polls =
                    "(call $poll (i32.const 0) (i32.const 0) (i32.const 1024)) (i32.const 0)";
                wat(&command_02("0.2.12", "", polls))
            },
            TRAP,
        ),
    ]
}

fn deep() -> Vec<Attack> {
    const DOWN: &str = "(call $down (i32.const 1)) (unreachable)";
    vec![
        attack(
            "recurses",
            || {
                let down = "(func $down (param i32) (call $down (local.get 0)) (i32.store (i32.const 0) (local.get 0)))";
                wat(&task_with(down, "", DOWN))
            },
            OVERFLOW,
        ),
        attack(
            "recurses by two functions",
            || {
                let two = "(func $down (param i32) (call $up (local.get 0)) (i32.store (i32.const 0) (local.get 0)))
                    (func $up (param i32) (call $down (local.get 0)) (i32.store (i32.const 4) (local.get 0)))";
                wat(&task_with(two, "", DOWN))
            },
            OVERFLOW,
        ),
        attack(
            "recurses by two functions through a table",
            || {
                let two = "(type $step (func (param i32))) (table 2 funcref) (elem (i32.const 0) $down $up)
                    (func $down (type $step) (call_indirect (type $step) (local.get 0) (i32.const 1)) (i32.store (i32.const 0) (local.get 0)))
                    (func $up (type $step) (call_indirect (type $step) (local.get 0) (i32.const 0)) (i32.store (i32.const 4) (local.get 0)))";
                wat(&task_with(two, "", DOWN))
            },
            OVERFLOW,
        ),
        attack(
            "recurses with a thousand locals in each frame",
            || {
                let each = |text: fn(u32) -> String| (1..1_000).map(text).collect::<String>();
                let locals = "(local i64)".repeat(1_000);
                let sets = each(|n| format!("(local.set {n} (i64.extend_i32_u (local.get 0)))"));
                let gets = each(|n| format!("(i64.store (i32.const 0) (local.get {n}))"));
                let down = format!(
                    "(func $down (param i32) {locals} {sets} (call $down (local.get 0)) {gets})"
                );
                wat(&task_with(&down, "", DOWN))
            },
            OVERFLOW,
        ),
        attack(
            "recurses and calls the host from each frame",
            || {
                let down = "(func $down (param i32) (call $here) (call $down (local.get 0)) (i32.store (i32.const 0) (local.get 0)))";
                wat(&task_with(down, "", DOWN))
            },
            OVERFLOW,
        ),
    ]
}

fn greedy() -> Vec<Attack> {
    const NONE: &str = "(i32.const 0)";
    vec![
        attack(
            "takes all memory at once",
            || {
                wat(&task(
                    "(if (i32.eq (i32.const -1) (memory.grow (i32.const 65000))) (then unreachable)) (unreachable)",
                ))
            },
            MEMORY,
        ),
        attack(
            "takes memory page by page and writes to each",
            || {
                wat(&task(
                    "(loop $again (if (i32.eq (i32.const -1) (memory.grow (i32.const 1))) (then unreachable))
                       (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 65536)) (i32.const 1) (i32.const 65536)) (br $again))
                     (unreachable)",
                ))
            },
            MEMORY,
        ),
        attack(
            "asks for memory for ever",
            || {
                wat(&task(
                    "(loop $again (drop (memory.grow (i32.const 1))) (br $again)) (unreachable)",
                ))
            },
            Stopped(Computing),
        ),
        attack(
            "takes three memories that together are too large",
            || wat(&raw("(memory 90) (memory 90) (memory 90)", "", NONE)),
            MEMORY,
        ),
        attack(
            "declares five memories",
            || wat(&raw("(memory 1) (memory 1) (memory 1) (memory 1)", "", NONE)),
            Refused("memories"),
        ),
        attack(
            "declares a memory of 4 GiB",
            || {
                wat(&raw("", "", NONE)
                    .replace("(export \"memory\") 2)", "(export \"memory\") 65536)"))
            },
            Refused("byte size"),
        ),
        attack(
            "declares a table over its limit",
            || wat(&raw("(table 1001 funcref)", "", NONE)),
            TABLE,
        ),
        attack(
            "declares a table of ten million",
            || wat(&raw("(table 10000000 funcref)", "", NONE)),
            Refused("table"),
        ),
        attack(
            "grows a table by ten million",
            || {
                let grow = "(table.grow $t (ref.null func) (i32.const 10000000))";
                let run =
                    format!("(if (i32.eq (i32.const -1) {grow}) (then unreachable)) (unreachable)");
                wat(&task_with("(table $t 1 funcref)", "", &run))
            },
            TABLE,
        ),
        attack(
            "makes handles without end",
            || {
                let makes = "(loop $again (drop (call $after (i64.const 1000000000))) (br $again)) (unreachable)";
                wat(&command_02("0.2.12", "", makes))
            },
            TRAP,
        ),
        attack(
            "makes resources of its own without end",
            || {
                let own = Task {
                    imports: "(type $thing (resource (rep i32)))",
                    lowered: "(core func $new (canon resource.new $thing))",
                    exports: r#"(export "new" (func $new))"#,
                    more: r#"(import "host" "new" (func $new (param i32) (result i32)))---"#,
                    run: "(loop $again (drop (call $new (i32.const 1))) (br $again)) (unreachable)",
                    ..Task::default()
                };
                wat(&own.wat())
            },
            TRAP,
        ),
        Attack {
            prepare: |bench| bench.granted.grants.children = vec![NamePattern::new("a").unwrap()],
            ..attack(
                "enqueues tasks until it is refused",
                || wat(&floods(r#"[{"task_name":"a"},{"task_name":"a"},{"task_name":"a"}]"#)),
                EndsWell,
            )
        },
        attack(
            "enqueues a task that it may not",
            || {
                let call = "(call $children_enqueue (i32.const 512) (i32.const 19) (i32.const 0) (i32.const 4096) (i32.const 4096))";
                let run =
                    format!("(if (i32.ne (i32.const -1) {call}) (then unreachable)) (i32.const 0)");
                wat(&raw("", r#"[{\"task_name\":\"a\"}]"#, &run))
            },
            EndsWell,
        ),
    ]
}

/// Bulk operations, which are not interrupted while they are under way, over all that there is.
fn bulky() -> Vec<Attack> {
    fn memory(bulk: &str) -> Vec<u8> {
        wat(&task(&format!(
            "(drop (memory.grow (i32.const 250))) (call $here) (loop $again {bulk} (br $again)) (unreachable)"
        )))
    }
    fn table(bulk: &str) -> Vec<u8> {
        wat(&task_with(
            "(table $t 500 funcref) (table $u 500 funcref) (elem $e func $f $f $f $f) (func $f)",
            "",
            &format!("(call $here) (loop $again {bulk} (br $again)) (unreachable)"),
        ))
    }
    vec![
        attack(
            "fills all of its memory again and again",
            || memory("(memory.fill (i32.const 0) (i32.const 7) (i32.const 16000000))"),
            Stopped(Called),
        ),
        attack(
            "copies all of its memory again and again",
            || memory("(memory.copy (i32.const 0) (i32.const 1) (i32.const 16000000))"),
            Stopped(Called),
        ),
        attack(
            "fills all of a table again and again",
            || table("(table.fill $t (i32.const 0) (ref.func $f) (i32.const 500))"),
            Stopped(Called),
        ),
        attack(
            "copies all of a table again and again",
            || table("(table.copy $t $u (i32.const 0) (i32.const 0) (i32.const 500))"),
            Stopped(Called),
        ),
        attack(
            "initialises a table again and again",
            || table("(table.init $t $e (i32.const 496) (i32.const 0) (i32.const 4))"),
            Stopped(Called),
        ),
        attack(
            "has fifty thousand data segments over each other",
            || {
                let segment = format!("(data (i32.const 1024) \"{}\")", "x".repeat(20));
                wat(&raw(&segment.repeat(50_000 - 1), "", "(i32.const 0)"))
            },
            EndsWell,
        ),
        attack(
            "has more data segments",
            || wat(&raw(&"(data (i32.const 0) \"\")".repeat(50_000), "", "(i32.const 0)")),
            Refused("number of segments"),
        ),
        attack(
            "has a data segment outside of its memory",
            || wat(&raw("(data (i32.const 131072) \"x\")", "", "(i32.const 0)")),
            Fails(FailureKind::Trap, "memory-out-of-bounds"),
        ),
    ]
}

/// What is no module, or not one of ours.
fn broken() -> Vec<Attack> {
    vec![
        attack("is empty", Vec::new, Refused("the file is empty")),
        attack("is a script", || b"#!/bin/sh\n".to_vec(), Refused("does not begin")),
        attack("is text of WebAssembly", || b"(module)".to_vec(), Refused("text format")),
        attack(
            "is a program of this system",
            || {
                use std::io::Read as _;
                let mut bytes = Vec::new();
                let program = std::fs::File::open("/proc/self/exe").unwrap();
                program.take(1 << 20).read_to_end(&mut bytes).unwrap();
                bytes
            },
            Refused("native code"),
        ),
        attack(
            "is compiled already",
            || {
                let engine = wasmtime::Engine::default();
                engine.precompile_module(&wat("(module (func (export \"_start\")))")).unwrap()
            },
            Refused("native code"),
        ),
        attack(
            "is cut off in the middle of its code",
            || {
                let mut bytes = wat(&raw("", "", "(i32.const 0)"));
                let code = bytes.iter().rposition(|byte| *byte == 0x41).unwrap();
                bytes.truncate(code);
                bytes
            },
            Refused("not a WebAssembly module"),
        ),
        attack(
            "imports what nobody offers",
            || {
                wat(r#"(module (import "env" "system" (func)) (memory (export "memory") 1)
                    (func (export "stem_run") (result i32) (i32.const 0)))"#)
            },
            Refused("imports what no worker offers: env.system"),
        ),
        attack(
            "imports a function of the worker with another type",
            || {
                wat(
                    r#"(module (import "stem0" "heartbeat" (func (param i64))) (memory (export "memory") 1)
                    (func (export "stem_run") (result i32) (i32.const 0)))"#,
                )
            },
            Refused("cannot be linked"),
        ),
        attack(
            "has no entry",
            || wat(r#"(module (memory (export "memory") 1) (func (export "main")))"#),
            Refused("not a task"),
        ),
        attack(
            "has a shared memory",
            || wat("(module (memory 1 1 shared) (func (export \"_start\")))"),
            Refused("cannot be compiled"),
        ),
        attack(
            "has a memory of 64 bits",
            || wat("(module (memory i64 1) (func (export \"_start\")))"),
            Refused("cannot be compiled"),
        ),
    ]
}

/// Floods of calls, lines and output.
fn loud() -> Vec<Attack> {
    fn a_hundred_thousand(call: &str) -> Vec<u8> {
        wat(&task(&format!(
            "(local $n i32)
             (loop $again {call} (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $again (i32.lt_u (local.get $n) (i32.const 100000))))
             (call $answer (i32.const 0))"
        )))
    }
    vec![
        Attack {
            prepare: |bench| bench.limits.host_calls_per_second = 1_000,
            ..attack(
                "calls the host more often than it may",
                || a_hundred_thousand("(call $heartbeat (i32.const 256))"),
                Fails(FailureKind::CpuLimit, "host-call-limit"),
            )
        },
        attack(
            "calls the host for ever",
            || wat(&task("(loop $again (call $here) (br $again)) (unreachable)")),
            Stopped(Called),
        ),
        attack(
            "writes a hundred thousand lines into the log",
            || {
                a_hundred_thousand(
                    "(call $write (i32.const 2) (i32.const 16) (i32.const 16) (i32.const 0) (i32.const 0))",
                )
            },
            EndsWell,
        ),
        attack(
            "writes a line of 13 MB into the log",
            || {
                wat(&task(
                    "(drop (memory.grow (i32.const 200)))
                     (call $write (i32.const 2) (i32.const 0) (i32.const 13000000) (i32.const 0) (i32.const 0))
                     (call $answer (i32.const 0))",
                ))
            },
            CALL,
        ),
        attack(
            "reports progress of 13 MB",
            || {
                wat(&task(
                    "(drop (memory.grow (i32.const 200)))
                     (call $progress (i32.const 0) (f64.const 0) (i32.const 1) (i32.const 1024) (i32.const 13000000)
                       (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 256))
                     (call $answer (i32.const 0))",
                ))
            },
            CALL,
        ),
        attack(
            "prints for ever",
            || {
                wat(&command(
                    "",
                    "",
                    "(loop $again (drop (call $write (i32.const 1) (i32.const 1024) (i32.const 65536))) (br $again))",
                ))
            },
            RESULT,
        ),
        attack(
            "gives a result of 1 MB",
            || {
                wat(&task(
                    "(drop (memory.grow (i32.const 20))) (call $ok (i32.const 0) (i32.const 1000000))",
                ))
            },
            RESULT,
        ),
    ]
}

/// Arguments that claim what is not there.
fn lying() -> Vec<Attack> {
    /// A list of so many pairs of strings of this length, as fields of a log line.
    fn fields(count: &str, len: &str) -> Vec<u8> {
        wat(&task(&format!(
            "(local $n i32)
             (drop (memory.grow (i32.const 60)))
             (loop $again
               (i32.store (i32.add (i32.const 1024) (local.get $n)) (i32.const 0))
               (i32.store (i32.add (i32.const 1028) (local.get $n)) (i32.const {len}))
               (local.set $n (i32.add (local.get $n) (i32.const 8)))
               (br_if $again (i32.lt_u (local.get $n) (i32.const 3000000))))
             (call $write (i32.const 2) (i32.const 16) (i32.const 4) (i32.const 1024) (i32.const {count}))
             (call $answer (i32.const 0))"
        )))
    }
    vec![
        attack(
            "asks for 2⁶³ random bytes",
            || {
                let asks =
                    "(call $random (i64.const 0x8000000000000000) (i32.const 1024)) (i32.const 0)";
                wat(&command_02("0.2.12", "", asks))
            },
            TRAP,
        ),
        attack(
            "passes a hundred thousand strings that all are the same 64 KiB",
            || fields("100000", "65536"),
            CALL,
        ),
        attack("passes a list of more than there is memory", || fields("0x0fffffff", "1"), TRAP),
        attack("passes a string outside of its memory", || fields("1", "-1"), TRAP),
        attack(
            "names an offset outside of its memory",
            || wat(&raw("", "", "(call $output_write (i32.const -4) (i32.const 16))")),
            Fails(FailureKind::Trap, "memory-out-of-bounds"),
        ),
        attack(
            "reads a bucket, a setting and a secret without a grant",
            || {
                let denied =
                    |call: &str| format!("(if (i32.ne (i32.const -1) {call}) (then unreachable))");
                let bucket = "(call $kv_get (i32.const 512) (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 1024) (i32.const 9) (i32.const 2048))";
                let setting = "(call $config_get (i32.const 512) (i32.const 1) (i32.const 1024) (i32.const 9))";
                let secret = "(call $secret_reveal (i32.const 512) (i32.const 1) (i32.const 1024) (i32.const 9))";
                let run: String = [bucket, setting, secret].map(denied).concat();
                wat(&raw("", "A", &format!("{run} (i32.const 0)")))
            },
            EndsWell,
        ),
    ]
}

/// Traps and exits.
fn ending() -> Vec<Attack> {
    vec![
        attack("traps", || wat(&task("(unreachable)")), Fails(FailureKind::Trap, "unreachable")),
        attack(
            "divides by zero",
            || wat(&raw("", "", "(i32.div_u (i32.const 1) (i32.const 0))")),
            Fails(FailureKind::Trap, "division-by-zero"),
        ),
        attack(
            "reads outside of its memory",
            || wat(&raw("", "", "(i32.load (i32.const -8))")),
            Fails(FailureKind::Trap, "memory-out-of-bounds"),
        ),
        attack(
            "calls a function that is not in its table",
            || {
                let table = "(type $none (func (result i32))) (table 1 funcref)";
                wat(&raw(table, "", "(call_indirect (type $none) (i32.const 0))"))
            },
            Fails(FailureKind::Trap, "indirect-call-to-null"),
        ),
        attack(
            "exits in the middle of its work",
            || wat(&command("", "", "(call $proc_exit (i32.const 3)) (unreachable)")),
            Fails(FailureKind::Error, "exit-3"),
        ),
    ]
}
