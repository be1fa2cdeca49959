//! Handing compiled code to the engine: the one place with `unsafe`.
//!
//! Compiled code is native code. Loading bytes that our own compiler did not make is running them. Both functions are
//! private to the crate and take [`Trusted`] only: bytes that came from the compiler a moment ago over a pipe, carry a
//! valid MAC made with this installation's key, or were read back from the engine, which runs them.

#![expect(
    unsafe_code,
    reason = "wasmtime's deserialize trusts its input; the callers above make sure that it may"
)]

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::cache::Trusted;

pub(crate) fn component(engine: &Engine, code: &Trusted) -> wasmtime::Result<Component> {
    // SAFETY: `Trusted` is only made of the compiler's own output, unchanged; see its documentation.
    unsafe { Component::deserialize(engine, code.bytes()) }
}

pub(crate) fn core_module(engine: &Engine, code: &Trusted) -> wasmtime::Result<Module> {
    // SAFETY: as above.
    unsafe { Module::deserialize(engine, code.bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Encoded;
    use crate::{compile, config};

    #[test]
    fn code_that_cannot_be_stopped_is_refused() {
        let wasm = wat::parse_str("(module (func (export \"_start\") (loop $l (br $l))))").unwrap();
        let worker = Engine::new(&config::compiling()).unwrap();
        let mut config = config::compiling();
        let load = |config: &wasmtime::Config| {
            let code = compile::compile_here(config, &wasm, Encoded::Core).unwrap();
            core_module(&worker, &Trusted::from_compiler(code))
        };
        assert!(load(&config).is_ok());
        config.epoch_interruption(false);
        let error = format!("{:#}", load(&config).unwrap_err());
        assert!(error.contains("epoch"), "{error}");
    }
}
