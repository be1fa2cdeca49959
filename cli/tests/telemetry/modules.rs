//! Small modules, each of which ends in its own way.

use std::path::PathBuf;

use crate::support::Place;

/// A core module with these words in its memory and this body.
fn raw(data: &str, body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            (import "stem0" "info" (func $info (param i32 i32) (result i32)))
            (import "stem0" "log" (func $log (param i32 i32 i32)))
            (import "stem0" "output_write" (func $output_write (param i32 i32) (result i32)))
            (import "stem0" "heartbeat" (func $heartbeat (result i32)))
            (import "stem0" "fail" (func $fail (param i32 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{data}")
            (func (export "stem_run") (result i32) (local $length i32) {body}))"#
    ))
    .unwrap()
}

/// Logs a line, and tells what it was told of its attempt.
fn tell() -> Vec<u8> {
    raw(
        "a line of the guest",
        "(call $log (i32.const 2) (i32.const 64) (i32.const 19))
         (local.set $length (call $info (i32.const 1024) (i32.const 8192)))
         (call $output_write (i32.const 1024) (local.get $length))",
    )
}

/// Goes on until it is asked to stop, and then does.
fn obey() -> Vec<u8> {
    let told = r"{\22code\22:\22told\22,\22message\22:\22\22}";
    raw(
        told,
        "(loop $more (br_if $more (i32.eqz (call $heartbeat))))
         (drop (call $fail (i32.const 3) (i64.const 0) (i32.const 64) (i32.const 28)))
         (i32.const 1)",
    )
}

/// Writes all of them into a directory of the place: `tell`, `obey`, `spin` (for ever) and `trap`.
pub(crate) fn write(place: &Place) -> PathBuf {
    place.write("modules/tell.wasm", tell());
    place.write("modules/obey.wasm", obey());
    place.write("modules/spin.wasm", raw("", "(loop $more (br $more)) (i32.const 0)"));
    place.write("modules/trap.wasm", raw("", "unreachable"));
    place.path("modules")
}
