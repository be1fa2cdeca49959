//! What epoch checks cost: the same attempts, with the code that workers run and with code that lacks the checks.
//!
//! A guest without checks computes until it ends by itself: nothing stops it, no limit on CPU time reaches it, and no other
//! guest gets its thread. So this is a feature that only the benchmarks turn on, the sandbox without checks never leaves
//! this module, and code for the one sandbox is refused by the other.

use std::sync::Arc;

use wasmtime::Engine;

use crate::admission;
use crate::cache::Trusted;
use crate::compile::{self, CompileError};
use crate::config::{self, Compiler, RuntimeConfig};
use crate::host::AttemptHost;
use crate::isolate::{AttemptSpec, Exit};
use crate::module::{LoadError, Module};
use crate::runtime::{self, IsolateRuntime, RuntimeError};

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// There is no sandbox.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The module is refused.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// One module in two sandboxes that differ in the checks alone. Of modules that are trusted, and end by themselves.
#[derive(Debug)]
pub struct EpochChecks {
    with: Side,
    without: Side,
}

#[derive(Debug)]
struct Side {
    isolates: Arc<IsolateRuntime>,
    module: Arc<Module>,
}

impl EpochChecks {
    /// Compiles the module twice, in this process and without bounds. Blocks while it does.
    pub fn prepare(wasm: &[u8]) -> Result<Self, MeasureError> {
        let config = RuntimeConfig {
            isolates: 1,
            memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
            threads: 1,
            slice: RuntimeConfig::SLICE,
            compiler: Compiler::InProcess,
            cache_dir: None,
            scratch_dir: None,
        };
        let start = |error: wasmtime::Error| RuntimeError::Start(format!("{error:#}"));
        let (engine, allocator) = runtime::engine(&config).map_err(start)?;
        let with = IsolateRuntime::around(&config, engine, allocator)?;
        let mut engine = config::running(&config, allocator);
        engine.epoch_interruption(false);
        let engine = Engine::new(&engine).map_err(start)?;
        let without = IsolateRuntime::around(&config, engine, allocator)?;
        let mut compiling = config::compiling();
        let with = Side::new(with, &compiling, wasm)?;
        compiling.epoch_interruption(false);
        let without = Side::new(without, &compiling, wasm)?;
        Ok(Self { with, without })
    }

    /// An attempt as a worker has it.
    pub async fn with_checks(&self, spec: AttemptSpec, host: Arc<dyn AttemptHost>) -> Exit {
        self.with.attempt(spec, host).await
    }

    /// The same without checks.
    pub async fn without_checks(&self, spec: AttemptSpec, host: Arc<dyn AttemptHost>) -> Exit {
        self.without.attempt(spec, host).await
    }
}

impl Side {
    fn new(
        isolates: Arc<IsolateRuntime>,
        compiling: &wasmtime::Config,
        wasm: &[u8],
    ) -> Result<Self, LoadError> {
        let encoded = admission::check(wasm)?;
        let code =
            compile::compile_here(compiling, wasm, encoded).map_err(CompileError::Invalid)?;
        let code = Trusted::from_compiler(code);
        let module = isolates.link(admission::digest(wasm), encoded, &code)?;
        Ok(Self { isolates, module })
    }

    async fn attempt(&self, spec: AttemptSpec, host: Arc<dyn AttemptHost>) -> Exit {
        self.isolates.start(&self.module, spec, host).exit().await
    }
}
