//! A guest that writes a value again and again, for as long as it is let.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stem_engine::WorkerConfig;
use stem_engine::modules::{self, ModuleHandler};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig};

/// The name of its task, whose input is the key.
pub(crate) const WRITER: &str = "writer";
/// So often it reads the value and replaces it, each time after 25 ms: a second and a half.
const SOURCE: &str = r#"(module
  (import "stem0" "input_read" (func $input (param i32 i64 i32) (result i32)))
  (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
  (import "stem0" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_put" (func $put (param i32 i32 i32 i32 i32 i32 i32 i64 i64) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "written")
  (func (export "stem_run") (result i32)
    (local $len i32) (local $left i32)
    (local.set $len (call $input (i32.const 64) (i64.const 0) (i32.const 256)))
    (local.set $left (i32.const 60))
    (loop $again
      (drop (call $get (i32.const 0) (i32.const 7) (i32.const 64) (local.get $len)
        (i32.const 1024) (i32.const 8) (i32.const 1040)))
      (drop (call $put (i32.const 0) (i32.const 7) (i32.const 64) (local.get $len)
        (i32.const 64) (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)))
      (drop (call $sleep (i64.const 25)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (i32.const 0)))"#;
const MANIFEST: &str = "[handlers.writer]\nsource = \"file:writer.wasm\"\n[handlers.writer.grants]\nkv = [\"written:rw\"]\n";

fn place(directory: &Path) -> PathBuf {
    directory.join("modules")
}

/// Puts the module where the workers of a run look for it.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    let place = place(directory);
    fs::create_dir_all(&place)?;
    let bytes = wat::parse_str(SOURCE).map_err(io::Error::other)?;
    fs::write(place.join("writer.wasm"), bytes)?;
    fs::write(place.join("stem.toml"), MANIFEST)
}

/// What serves it in a worker that runs so many guests at once.
pub(super) async fn load(
    directory: &Path,
    isolates: u32,
    config: &WorkerConfig,
) -> anyhow::Result<(Arc<IsolateRuntime>, Vec<ModuleHandler>)> {
    let runtime = IsolateRuntime::new(&RuntimeConfig {
        isolates,
        memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
        threads: 2,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: None,
        scratch_dir: None,
    })?;
    let (policy, cap) = (config.policy.current(), &config.limits_cap);
    let handlers = modules::load_dir(&runtime, &place(directory), &policy, cap).await?;
    Ok((runtime, handlers))
}
