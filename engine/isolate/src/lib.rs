//! The sandbox: one WebAssembly isolate for each attempt. The only crate that names wasmtime.
//!
//! ```text
//! bytes ──admission──► compile (child process, cache) ──► Module ──start──► Isolate ──► Exit
//! ```
//! | module | what it holds |
//! |---|---|
//! | [`config`] | every engine knob, with what it costs |
//! | [`runtime`] | [`IsolateRuntime`]: engine, linkers, the guests' threads; one for a process |
//! | [`admission`] | what is refused before anything is compiled |
//! | [`compile`], [`cache`] | compiling in a bounded child process; compiled code that cannot be forged |
//! | [`module`] | [`Module`]: compiled, linked, shared by all attempts |
//! | [`interrupt`] | stopping a guest from outside, wherever it is |
//! | `ticker` | turns for guests, repeated stops, and taking down what stopped guests leave |
//! | [`granted`] | what an attempt may reach beside its own memory |
//! | [`limiter`] | memory and tables, summed over the isolate |
//! | [`isolate`] | one attempt: store, limits, run |
//! | [`exit`] | traps and errors → outcomes; the only place that classifies them |
//! | `report` | failures that commands and core modules tell as text |
//! | `measure` | what epoch checks cost; only with the feature of this name |
//! | [`host`] | the functions that guests may call, one interface a file |

pub mod admission;
pub mod cache;
pub mod compile;
pub mod config;
pub mod exit;
pub mod granted;
pub mod host;
pub mod interrupt;
pub mod isolate;
pub mod limiter;
#[cfg(feature = "measure")]
pub mod measure;
pub mod module;
mod native;
mod report;
pub mod runtime;
mod ticker;

pub use config::{Compiler, RuntimeConfig};
pub use granted::{Granted, Secret};
pub use host::files::{hold_scratch_base, is_scratch_file};
pub use host::{AttemptHost, Child, LogLevel, Refusal, Release};
pub use interrupt::InterruptHandle;
pub use isolate::{AttemptSpec, Exit, RunningIsolate, TaskInfo};
pub use module::{LoadError, Module, ModuleKind, OnFailure};
pub use runtime::IsolateRuntime;
