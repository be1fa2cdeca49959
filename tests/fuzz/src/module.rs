//! Modules, which anybody may have pushed: from bytes to something that could be started. What they do when they are is
//! for the tests of the sandbox.

use std::sync::{Arc, OnceLock};

use stem_isolate::admission::{self, Encoded};
use stem_isolate::compile::CompileError;
use stem_isolate::{Compiler, IsolateRuntime, LoadError, ModuleKind, RuntimeConfig};
use tokio::runtime::Runtime;

use crate::Met;
use crate::told::told;

/// Names that mean something, and the beginnings of sections.
pub const WORDS: &[&str] = &[
    "\0asm\u{1}\0\0\0",
    "\0asm\r\0\u{1}\0",
    "\u{8}stem_run",
    "\u{6}_start",
    "\u{6}memory",
    "\u{5}stem0",
    "\u{9}heartbeat",
    "\u{16}wasi_snapshot_preview1",
    "\u{9}proc_exit",
    "\u{15}stem:task/types@0.1.0",
    "\u{4}name",
    "\u{1}\u{4}\u{1}`\0\u{0}",
    "\u{3}\u{2}\u{1}\0",
    "\u{5}\u{3}\u{1}\0\u{1}",
    "\u{a}\u{4}\u{1}\u{2}\0\u{b}",
    "A\0\u{b}",
    "\u{3}@\u{b}",
    "\u{7f}ELF",
];

/// The longest that is said of one that is refused: 2,000 bytes of what it holds, and the words around them.
const TOLD: usize = 2_300;
/// Larger ones are not compiled: what takes long is for the tests that have a child to do it.
const COMPILED_BYTES: usize = 16 << 10;

static SANDBOX: OnceLock<(Runtime, Arc<IsolateRuntime>)> = OnceLock::new();

/// The outline of whatever passes is what it says, and it is compiled and linked, or refused by a word: the compiler never
/// breaks down.
pub fn check(bytes: &[u8]) -> Met {
    let encoded = match admission::check(bytes) {
        Ok(encoded) => encoded,
        Err(error) => return Met::Refused(told(&error, TOLD)),
    };
    if bytes.len() > COMPILED_BYTES {
        return Met::Refused(format!("{encoded:?}, too large to be compiled here"));
    }
    let (runtime, sandbox) = SANDBOX.get_or_init(sandbox);
    match runtime.block_on(sandbox.load(bytes)) {
        Ok(module) => {
            let of_a_component = module.kind() == ModuleKind::Component;
            assert!(!of_a_component || encoded == Encoded::Component, "{module:?}");
            assert!(module.kind() != ModuleKind::Raw || encoded == Encoded::Core, "{module:?}");
            assert_eq!(module.digest(), admission::digest(bytes));
            assert!(module.outline().unknown.is_empty(), "{:?}", module.outline());
            let again = runtime.block_on(sandbox.load(bytes)).expect("it was loaded before");
            assert!(Arc::ptr_eq(&module, &again), "the same bytes are two modules");
            let outline = module.outline();
            Met::Read(format!(
                "{} {:?} {:?}",
                module.kind().as_str(),
                outline.imports,
                outline.exports
            ))
        }
        Err(error) => {
            if let LoadError::Compile(
                CompileError::Died(_) | CompileError::TooSlow(_) | CompileError::Unavailable(_),
            ) = error
            {
                panic!("the compiler broke down: {error}");
            }
            Met::Refused(told(&error, TOLD))
        }
    }
}

fn sandbox() -> (Runtime, Arc<IsolateRuntime>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // As the compiling child's main thread has.
        .thread_stack_size(8 << 20)
        .build()
        .expect("a runtime can be made");
    let sandbox = IsolateRuntime::new(&RuntimeConfig {
        isolates: 1,
        memory_cap_bytes: 64 << 20,
        threads: 1,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: None,
        scratch_dir: None,
    });
    (runtime, sandbox.expect("a sandbox can be made"))
}
