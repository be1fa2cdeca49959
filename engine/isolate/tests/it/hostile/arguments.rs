//! Guests that pass to the host, or ask of it, what does not fit; composed guests; and a fault of ours.

use std::sync::atomic::Ordering;

use stem_core::outcome::{FailureKind, Outcome};

use crate::bench::{Bench, exit, kind_and_code, text};
use crate::commands::command_02;
use crate::guests::{self, Task, command, raw, task};

// 15

#[tokio::test]
async fn random_bytes_without_measure_are_refused() {
    let bench = Bench::new();
    for len in ["0x8000000000000000", "0xffffffffffffffff", "1000000"] {
        let ended = bench
            .run(
                &command_02(
                    "0.2.12",
                    "",
                    &format!("(call $random (i64.const {len}) (i32.const 1024)) (i32.const 0)"),
                ),
                b"",
            )
            .await;
        assert_eq!(kind_and_code(&ended).0, FailureKind::Trap, "{len}");
    }
    let some =
        command_02("0.2.12", "", "(call $random (i64.const 64) (i32.const 1024)) (i32.const 0)");
    assert_eq!(text(&bench.run(&some, b"").await), "");
    // The old interface fills the guest's own buffer.
    let ended = bench
        .run(
            &command(
                "",
                "",
                "(if (call $random_get (i32.const 1024) (i32.const -1)) (then unreachable))",
            ),
            b"",
        )
        .await;
    assert_eq!(kind_and_code(&ended).0, FailureKind::Trap);
}

// 16

#[tokio::test]
async fn lists_that_claim_more_than_there_is_are_refused() {
    let bench = Bench::new();
    let fields = |count: &str, len: &str| {
        task(&format!(
            "(local $n i32)
             (drop (memory.grow (i32.const 60)))
             (loop $again
               (i32.store (i32.add (i32.const 1024) (local.get $n)) (i32.const 0))
               (i32.store (i32.add (i32.const 1028) (local.get $n)) (i32.const {len}))
               (local.set $n (i32.add (local.get $n) (i32.const 8)))
               (br_if $again (i32.lt_u (local.get $n) (i32.const 3000000))))
             (call $write (i32.const 2) (i32.const 16) (i32.const 4) (i32.const 1024) (i32.const {count}))
             (call $answer (i32.const 0))"
        ))
    };
    // 100,000 pairs of strings that all are the same 64 KiB: 13 GB to copy.
    let ended = bench.run(&fields("100000", "65536"), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "call-too-large"));
    // More pairs than there is memory.
    for count in ["0x0fffffff", "0x10000000", "0x7fffffff", "-1"] {
        let ended = bench.run(&fields(count, "1"), b"").await;
        let kind = kind_and_code(&ended).0;
        assert!(
            matches!(kind, FailureKind::Trap | FailureKind::PayloadTooLarge),
            "{count}: {ended:?}"
        );
    }
    // Strings outside the memory.
    let ended = bench.run(&fields("1", "-1"), b"").await;
    assert!(
        matches!(kind_and_code(&ended).0, FailureKind::Trap | FailureKind::PayloadTooLarge),
        "{ended:?}"
    );
    // Empty strings without number cost their places, and 32 of them are kept.
    assert_eq!(text(&bench.run(&fields("30000", "0"), b"").await), "");
}

// 17

#[tokio::test]
async fn a_bomb_of_handles_is_refused() {
    let bench = Bench::new();
    for handle in ["(call $after (i64.const 1000000000))", "(call $stdin)", "(call $stdout)"] {
        let bomb = command_02(
            "0.2.12",
            "",
            &format!("(loop $again (drop {handle}) (br $again)) (unreachable)"),
        );
        let ended = bench.run(&bomb, b"").await;
        assert_eq!(kind_and_code(&ended).0, FailureKind::Trap, "{handle}: {ended:?}");
    }
    let own = Task {
        imports: "(type $thing (resource (rep i32)))",
        lowered: "(core func $new (canon resource.new $thing))",
        exports: "(export \"new\" (func $new))",
        more: "(import \"host\" \"new\" (func $new (param i32) (result i32)))---",
        run: "(loop $again (drop (call $new (i32.const 1))) (br $again)) (unreachable)",
        ..Task::default()
    };
    let ended = bench.run(&own.wat(), b"").await;
    assert_eq!(kind_and_code(&ended).0, FailureKind::Trap, "{ended:?}");
}

#[tokio::test]
async fn preview_1_refuses_lists_without_measure() {
    let bench = Bench::new();
    for count in ["1000000", "0x10000000", "0x20000001", "-1"] {
        for call in [
            format!(
                "(call $poll_oneoff (i32.const 1024) (i32.const 1024) (i32.const {count}) (i32.const 8))"
            ),
            format!(
                "(call $fd_write (i32.const 1) (i32.const 1024) (i32.const {count}) (i32.const 8))"
            ),
            format!(
                "(call $fd_write (i32.const 2) (i32.const 1024) (i32.const {count}) (i32.const 8))"
            ),
            format!(
                "(call $fd_read (i32.const 0) (i32.const 1024) (i32.const {count}) (i32.const 8))"
            ),
            // One buffer, of that size.
            format!("(call $write (i32.const 1) (i32.const 1024) (i32.const {count}))"),
        ] {
            let tries = command(
                "",
                "",
                &format!("(if (i32.eqz {call}) (then (call $proc_exit (i32.const 1))))"),
            );
            let ended = bench.run(&tries, b"payload").await;
            // An error that the guest can live with, or the end of it.
            match &ended.outcome {
                Outcome::Succeeded(result) => assert_eq!(result.bytes, b"", "{call}"),
                _ => assert_eq!(kind_and_code(&ended).0, FailureKind::Trap, "{call}"),
            }
        }
    }
}

// 21: what is below HTTP

#[tokio::test]
async fn no_socket_is_made_and_no_name_is_resolved() {
    let codes = "unknown access-denied not-supported invalid-argument out-of-memory timeout concurrency-conflict \
        not-in-progress would-block invalid-state new-socket-limit address-not-bindable address-in-use \
        remote-unreachable connection-refused connection-reset connection-aborted datagram-too-large \
        name-unresolvable temporary-resolver-failure permanent-resolver-failure";
    let (denied, unresolved) = (1, 20);
    let codes = codes.split_whitespace().collect::<Vec<_>>().join("\" \"");
    let makes = |protocol: &str| {
        format!(
            r#"(import "wasi:sockets/{protocol}@0.2.12" (instance ${protocol}
              (export "{protocol}-socket" (type (sub resource)))))
            (alias export ${protocol} "{protocol}-socket" (type ${protocol}-socket))
            (import "wasi:sockets/{protocol}-create-socket@0.2.12" (instance ${protocol}-create
              (alias outer 1 $code (type $c0)) (export "error-code" (type $c (eq $c0)))
              (alias outer 1 $family (type $f0)) (export "ip-address-family" (type $f (eq $f0)))
              (alias outer 1 ${protocol}-socket (type $s0)) (export "{protocol}-socket" (type $s (eq $s0)))
              (export "create-{protocol}-socket" (func (param "address-family" $f) (result (result (own $s) (error $c)))))))"#
        )
    };
    let imports = format!(
        r#"(import "wasi:sockets/network@0.2.12" (instance $network-i
              (export "network" (type (sub resource)))
              (type $codes (enum "{codes}")) (export "error-code" (type (eq $codes)))
              (type $families (enum "ipv4" "ipv6")) (export "ip-address-family" (type (eq $families)))))
            (alias export $network-i "network" (type $network))
            (alias export $network-i "error-code" (type $code))
            (alias export $network-i "ip-address-family" (type $family))
            {tcp} {udp}
            (import "wasi:sockets/instance-network@0.2.12" (instance $ours
              (alias outer 1 $network (type $n0)) (export "network" (type $n (eq $n0)))
              (export "instance-network" (func (result (own $n))))))
            (import "wasi:sockets/ip-name-lookup@0.2.12" (instance $lookup
              (alias outer 1 $network (type $n0)) (export "network" (type $n (eq $n0)))
              (alias outer 1 $code (type $c0)) (export "error-code" (type $c (eq $c0)))
              (export "resolve-address-stream" (type $s (sub resource)))
              (export "resolve-addresses" (func (param "network" (borrow $n)) (param "name" string)
                (result (result (own $s) (error $c)))))))"#,
        tcp = makes("tcp"),
        udp = makes("udp"),
    );
    let tries = Task {
        imports: &imports,
        lowered: r#"(core func $tcp (canon lower (func $tcp-create "create-tcp-socket") (memory $memory)))
          (core func $udp (canon lower (func $udp-create "create-udp-socket") (memory $memory)))
          (core func $ours (canon lower (func $ours "instance-network")))
          (core func $resolve (canon lower (func $lookup "resolve-addresses") (memory $memory)))"#,
        exports: r#"(export "tcp" (func $tcp)) (export "udp" (func $udp)) (export "ours" (func $ours))
          (export "resolve" (func $resolve))"#,
        more: r#"(import "host" "tcp" (func $tcp (param i32 i32)))
          (import "host" "udp" (func $udp (param i32 i32)))
          (import "host" "ours" (func $ours (result i32)))
          (import "host" "resolve" (func $resolve (param i32 i32 i32 i32)))---"#,
        data: "localhost",
        run: "(call $tcp (i32.const 0) (i32.const 256)) (call $tcp (i32.const 1) (i32.const 264))
          (call $udp (i32.const 0) (i32.const 272)) (call $udp (i32.const 1) (i32.const 280))
          (call $resolve (call $ours) (i32.const 512) (i32.const 9) (i32.const 288))
          (call $ok (i32.const 256) (i32.const 40))",
        ..Task::default()
    };
    let told = text(&Bench::new().run(&tries.wat(), b"").await);
    let answers: Vec<_> = told.as_bytes().chunks(8).map(|answer| (answer[0], answer[4])).collect();
    assert_eq!(answers, [(1, denied), (1, denied), (1, denied), (1, denied), (1, unresolved)]);
}

// 29

#[tokio::test]
async fn an_exit_in_the_allocator_ends_the_guest() {
    let bench = Bench::new();
    // The host asks it for room, and it exits instead.
    let exits = command_02(
        "0.2.12",
        "",
        "(call $read (call $stdin) (i64.const 4) (i32.const 1024)) (i32.const 0)",
    )
    .replacen(
        "(core module $space-m",
        "(core func $early (canon lower (func $exit \"exit\")))
          (core module $space-m (import \"host\" \"exit\" (func $exit (param i32)))",
        1,
    )
    .replacen(
        "(instantiate $space-m)",
        "(instantiate $space-m (with \"host\" (instance (export \"exit\" (func $early)))))",
        1,
    )
    .replacen("(global.get $heap)", "(call $exit (i32.const 1)) (global.get $heap)", 1);
    let ended = bench.run(&exits, b"payload").await;
    assert_eq!(kind_and_code(&ended).0, FailureKind::Trap);
    // A task that is no command, with success and without.
    for status in [0, 1] {
        let exits = Task {
            imports: "(import \"wasi:cli/exit@0.2.12\" (instance $cli (export \"exit\" (func (param \"status\" (result))))))",
            lowered: "(core func $exit (canon lower (func $cli \"exit\")))",
            exports: "(export \"exit\" (func $exit))",
            more: "(import \"host\" \"exit\" (func $exit (param i32)))---",
            run: &format!("(call $exit (i32.const {status})) (unreachable)"),
            ..Task::default()
        };
        let ended = bench.run(&exits.wat(), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "exit"), "{ended:?}");
    }
}

// 31

#[tokio::test]
async fn a_composed_component_passes_strings_and_resources_between_its_parts() {
    let bench = Bench::new();
    // The first part: a resource that keeps a string, a memory for it, and a destructor that counts.
    let maker = r#"(component $maker
    (core module $end-m (global $ended (mut i32) (i32.const 0))
      (func (export "end") (param i32) (global.set $ended (i32.add (global.get $ended) (i32.const 1))))
      (func (export "ended") (result i32) (global.get $ended)))
    (core instance $end (instantiate $end-m))
    (type $thing-r (resource (rep i32) (dtor (core func $end "end"))))
    (export $thing "thing" (type $thing-r))
    (core func $new (canon resource.new $thing-r))
    (core module $m
      (import "" "new" (func $new (param i32) (result i32)))
      (memory (export "memory") 1)
      (global $heap (mut i32) (i32.const 1024))
      (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
        (global.get $heap)
        (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $size)) (i32.const 7)) (i32.const -8))))
      (func (export "make") (param $at i32) (param $len i32) (result i32)
        (i32.store (i32.const 16) (local.get $at)) (i32.store (i32.const 20) (local.get $len))
        (call $new (i32.const 16)))
      (func (export "text") (param $thing i32) (result i32) (local.get $thing)))
    (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
    (func (export "make") (param "text" string) (result (own $thing))
      (canon lift (core func $i "make") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
    (func (export "text") (param "self" (borrow $thing)) (result string)
      (canon lift (core func $i "text") (memory (core memory $i "memory"))))
    (func (export "ended") (result u32) (canon lift (core func $end "ended"))))"#;
    // The second: a task that makes one, reads it back and drops it.
    let user = Task {
        imports: r#"(import "things" (instance $things
            (export "thing" (type $thing (sub resource)))
            (export "make" (func (param "text" string) (result (own $thing))))
            (export "text" (func (param "self" (borrow $thing)) (result string)))
            (export "ended" (func (result u32)))))
          (alias export $things "thing" (type $thing))"#,
        lowered: r#"(core func $make (canon lower (func $things "make") (memory $memory)))
          (core func $text (canon lower (func $things "text") (memory $memory) (realloc $realloc)))
          (core func $ended (canon lower (func $things "ended")))
          (core func $drop (canon resource.drop $thing))"#,
        exports: r#"(export "make" (func $make)) (export "text" (func $text)) (export "ended" (func $ended))
          (export "drop" (func $drop))"#,
        more: r#"(import "host" "make" (func $make (param i32 i32) (result i32)))
          (import "host" "text" (func $text (param i32 i32)))
          (import "host" "ended" (func $ended (result i32)))
          (import "host" "drop" (func $drop (param i32)))---"#,
        run: "(local $thing i32)
          (local.set $thing (call $make (local.get $in) (local.get $len)))
          (call $text (local.get $thing) (i32.const 256))
          (call $drop (local.get $thing))
          (if (i32.ne (call $ended) (i32.const 1)) (then unreachable))
          (call $heartbeat (i32.const 288))
          (call $ok (i32.load (i32.const 256)) (i32.load (i32.const 260)))",
        ..Task::default()
    };
    let composed = user.composed_with(maker);
    assert_eq!(
        text(&bench.run(&composed, "through two inner memories: ä".as_bytes()).await),
        "through two inner memories: ä"
    );
    // The sum over both memories counts, of which the larger alone would fit.
    let mut bench = bench;
    bench.limits.memory_bytes = 2 << 16;
    let ended = bench.run(&composed, b"x").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::MemoryLimit, "memory-limit"));
}

// A fault of ours

#[tokio::test]
async fn a_panic_in_a_host_function_fails_the_attempt_and_no_more() {
    let bench = Bench::new();
    bench.worker.panics.store(true, Ordering::SeqCst);
    for text in [
        task("(call $here) (call $answer (i32.const 0))"),
        raw("", "", "(call $progress (i32.const 1) (i32.const 0) (i32.const 0))"),
    ] {
        for _ in 0..20 {
            let ended = bench.run(&text, b"").await;
            assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "host-panic"));
        }
    }
    let module = bench.load(&guests::good()).await;
    assert_eq!(text(&exit(bench.start(&module, b"abc")).await), "ABC");
}
