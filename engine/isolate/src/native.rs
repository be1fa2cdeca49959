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
