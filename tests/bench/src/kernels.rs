//! Loops for which epoch checks matter most, as text: the fewer instructions between two checks, the more.

/// A small loop, and what is to be shown by it.
pub(crate) struct Kernel {
    pub(crate) what: &'static str,
    /// Of a raw module.
    pub(crate) text: String,
}

fn kernel(what: &'static str, functions: &str) -> Kernel {
    let text = format!(
        "(module (memory (export \"memory\") 17) (global $out (mut i64) (i64.const 0)) {functions})"
    );
    Kernel { what, text }
}

/// The module's only entry: these locals, this body.
fn entry(locals: &str, body: &str) -> String {
    format!(r#"(func (export "stem_run") (result i32) {locals} {body} (i32.const 0))"#)
}

/// A loop that ends when `$i`, counted down by one each time, is zero.
fn count(name: &str, from: u32, body: &str) -> String {
    format!(
        "(local.set ${name} (i32.const {from})) (loop $of-{name} {body} \
         (br_if $of-{name} (local.tee ${name} (i32.sub (local.get ${name}) (i32.const 1)))))"
    )
}

/// Those of which the table in `docs/authors.md` speaks, each about 50 ms.
pub(crate) fn all() -> Vec<Kernel> {
    let step = "(local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))";
    let out = "(global.set $out (local.get $x))";
    let numbers = "(local $i i32) (local $x i64)";
    // One look at memory that is written too: 1 MiB, over and over.
    let walk = "(i64.store (local.get $p) (i64.add (i64.load (local.get $p)) (i64.load offset=8 (local.get $p)))) \
                (local.set $p (i32.and (i32.add (local.get $p) (i32.const 8)) (i32.const 0xffff8)))";
    let mixing = "(local.set $x (i64.mul (i64.xor (i64.rotl (local.get $x) (i64.const 13)) (i64.shr_u (local.get $x) (i64.const 7))) (i64.const -7046029254386353131)))".repeat(8);
    let copy = "(i32.store8 offset=0x80000 (local.get $j) (i32.load8_u (local.get $j)))";
    let bulk = "(memory.copy (i32.const 0x80000) (i32.const 0) (i32.const 0x40000))";
    let fib = "(func $fib (param $n i32) (result i32) (if (result i32) (i32.lt_u (local.get $n) (i32.const 2)) (then (local.get $n)) \
               (else (i32.add (call $fib (i32.sub (local.get $n) (i32.const 1))) (call $fib (i32.sub (local.get $n) (i32.const 2)))))))";
    vec![
        kernel("a loop of nothing but its counter", &entry(numbers, &count("i", 150_000_000, ""))),
        kernel("a dot product, one element a round", &matrices(1)),
        kernel("a dot product, eight elements a round", &matrices(8)),
        kernel(
            "random numbers (LCG), one a round",
            &entry(numbers, &(count("i", 50_000_000, step) + out)),
        ),
        kernel(
            "random numbers (LCG), eight a round",
            &entry(numbers, &(count("i", 6_250_000, &step.repeat(8)) + out)),
        ),
        kernel(
            "a walk through memory, two loads and a store a round",
            &entry("(local $i i32) (local $p i32)", &count("i", 40_000_000, walk)),
        ),
        kernel(
            "copying bytes one by one",
            &entry("(local $i i32) (local $j i32)", &count("i", 200, &count("j", 1 << 18, copy))),
        ),
        kernel("copying them by memory.copy", &entry("(local $i i32)", &count("i", 4_000, bulk))),
        kernel(
            "a function that calls itself (fib)",
            &(fib.to_owned() + &entry("", "(drop (call $fib (i32.const 34)))")),
        ),
        kernel(
            "mixing as a hash does, 32 operations a round",
            &entry(numbers, &(count("i", 5_000_000, &mixing) + out)),
        ),
    ]
}

/// 128 by 128 numbers times as many, 30 times, with a dot product that takes so many elements in each round of its loop.
fn matrices(at_once: usize) -> String {
    let element = |index: usize| {
        let (a, b) = (index * 8, index * 1024);
        format!(
            "(local.set $s (f64.add (local.get $s) (f64.mul (f64.load offset={a} (local.get $a)) (f64.load offset={} (local.get $b)))))",
            b + 0x20000
        )
    };
    let elements: String = (0..at_once).map(element).collect();
    let dot = format!(
        "(local.set $s (f64.const 0)) (local.set $a (i32.shl (local.get $i) (i32.const 10))) (local.set $b (i32.shl (local.get $j) (i32.const 3))) \
         {} (f64.store offset=0x40000 (i32.add (i32.shl (local.get $i) (i32.const 10)) (i32.shl (local.get $j) (i32.const 3))) (local.get $s))",
        count(
            "k",
            u32::try_from(128 / at_once).unwrap_or(1),
            &format!(
                "{elements} (local.set $a (i32.add (local.get $a) (i32.const {}))) (local.set $b (i32.add (local.get $b) (i32.const {})))",
                8 * at_once,
                1024 * at_once
            )
        )
    );
    entry(
        "(local $r i32) (local $i i32) (local $j i32) (local $k i32) (local $a i32) (local $b i32) (local $s f64)",
        &count("r", 30, &count("i", 127, &count("j", 127, &dot))),
    )
}
