//! `wasi:http`: what a guest that makes requests leaves behind, at their server and in the worker's memory.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use stem_core::grants::{HostPattern, HttpGrant};
use stem_core::outcome::{FailureKind, StopReason};

use crate::bench::{Bench, PATIENCE, exit, kind_and_code, within};
use crate::guests::granted::Texts;
use crate::guests::http::asks;

/// Everything that a client sends before it closes its connection. Says once when a piece of the body is there.
fn read_to_the_end(mut stream: TcpStream, half: &mpsc::Sender<()>) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    let mut said = false;
    // A connection that is reset has ended too.
    while let Ok(size @ 1..) = stream.read(&mut piece) {
        all.extend_from_slice(&piece[..size]);
        if !said && all.windows(4).any(|window| window == b"half") {
            said = true;
            half.send(()).unwrap();
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_its_guest_left_half_written_never_looks_whole() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = server.local_addr().unwrap().to_string();
    let mut bench = Bench::new();
    bench.granted.grants.http = vec![HttpGrant {
        hosts: vec![HostPattern::new(&authority).unwrap()],
        methods: vec!["POST".to_owned()],
        plain: true,
        private: false,
        requests: 1,
        bytes: 1 << 20,
        timeout: PATIENCE,
    }];
    let (said, half) = mpsc::channel();
    let (sent, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let _ = sent.send(read_to_the_end(stream.unwrap(), &said));
        }
    });
    let writes = |then: &str| {
        let mut texts = Texts::new();
        let (authority, path, half) = (texts.put(&authority), texts.put("/"), texts.put("half"));
        asks(
            &texts,
            &format!(
                "(local $request i32) (local $out i32)
                 (local.set $request (call $post {authority}))
                 (if (call $set-path (local.get $request) (i32.const 1) {path}) (then unreachable))
                 (local.set $out (call $writer (local.get $request)))
                 (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 256))
                 (call $check-write (local.get $out) (i32.const 256))
                 (call $write-piece (local.get $out) {half} (i32.const 256))
                 {then}"
            ),
        )
    };
    let wait = "(call $sleep (i64.const 300) (i32.const 256))";
    let waits = bench.load(&writes("(loop $again (call $here) (br $again)) unreachable")).await;
    let traps = bench.load(&writes(&format!("{wait} unreachable"))).await;
    let returns = bench.load(&writes(&format!("{wait} (call $answer (i32.const 0))"))).await;
    // Which thread is first is luck, so that once is not enough.
    for module in std::iter::repeat_n(&waits, 20).chain([&traps, &returns]) {
        let (interrupt, end) = bench.start(module, b"").into_parts();
        tokio::task::block_in_place(|| half.recv_timeout(PATIENCE)).unwrap();
        if std::ptr::eq(module, &raw const waits) {
            interrupt.stop(StopReason::Revoked, true);
        }
        within(end).await;
        let request = tokio::task::block_in_place(|| requests.recv_timeout(PATIENCE)).unwrap();
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains("transfer-encoding: chunked"), "{request}");
        assert!(
            request.ends_with("4\r\nhalf\r\n"),
            "the server took half a body for a whole one: {request}"
        );
    }
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn requests_in_the_making_are_small_whatever_is_put_into_them() {
    let bench = Bench::new();
    // Sums up at 384 what the worker took of as much as could be written, over many requests that are all held.
    let mut texts = Texts::new();
    let (name, host) = (texts.put("x"), texts.put("a"));
    let holds = asks(
        &texts,
        &format!(
            "(local $n i32) (local $fields i32) (local $request i32) (local $out i32) (local $size i32)
             (drop (memory.grow (i32.const 32)))
             (memory.fill (i32.const 131072) (i32.const 0x61) (i32.const 2000000))
             (loop $more
               (local.set $fields (call $new-fields))
               (call $append (local.get $fields) {name} (i32.const 131072) (i32.const 16000) (i32.const 256))
               (if (i32.load8_u (i32.const 256)) (then unreachable))
               (call $took (i32.const 16000))
               (local.set $request (call $post {host}))
               (local.set $size (i32.const 1900000))
               (loop $again
                 (if (i32.eqz (call $set-authority (local.get $request) (i32.const 1) (i32.const 131072) (local.get $size)))
                   (then (call $took (local.get $size)) (local.set $size (i32.const 0))))
                 (if (i32.eqz (call $set-method (local.get $request) (i32.const 9) (i32.const 131072) (local.get $size)))
                   (then (call $took (local.get $size)) (local.set $size (i32.const 0))))
                 (local.set $size (i32.shr_u (local.get $size) (i32.const 1)))
                 (br_if $again (local.get $size)))
               (local.set $out (call $writer (local.get $request)))
               (loop $again
                 (call $check-write (local.get $out) (i32.const 256))
                 (local.set $size (i32.load (i32.const 264)))
                 (if (i32.and (i32.eqz (i32.load8_u (i32.const 256))) (i32.ne (local.get $size) (i32.const 0)))
                   (then
                     (call $write-piece (local.get $out) (i32.const 131072) (local.get $size) (i32.const 256))
                     (call $took (local.get $size))
                     (br $again))))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const 500))))
             (call $ok (i32.const 384) (i32.const 8))"
        ),
    );
    let ended = exit(bench.start(&bench.load(&holds).await, b"")).await;
    let stem_core::outcome::Outcome::Succeeded(result) = &ended.outcome else {
        panic!("{ended:?}")
    };
    let held = u64::from_le_bytes(result.bytes.as_slice().try_into().unwrap());
    assert!((500 * 20_000..500 * (64 << 10)).contains(&held), "{held} bytes of 500 requests");

    // There is no answer for headers that are too large.
    let mut texts = Texts::new();
    let name = texts.put("x");
    let large = asks(
        &texts,
        &format!(
            "(memory.fill (i32.const 65536) (i32.const 0x61) (i32.const 17000))
             (call $append (call $new-fields) {name} (i32.const 65536) (i32.const 17000) (i32.const 256))
             (call $answer (i32.const 0))"
        ),
    );
    assert_eq!(kind_and_code(&bench.run(&large, b"").await), (FailureKind::Trap, "trap"));
}
