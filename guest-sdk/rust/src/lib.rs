//! Write [Stem](https://github.com/stem-engine/stem) tasks in Rust.
//!
//! A task is a function. It takes a [`Context`] and its arguments, and returns a result or a [`TaskError`]:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use stem_guest::testing::TestHost;
//! use stem_guest::{Context, TaskError};
//!
//! #[derive(Deserialize)]
//! struct Args {
//!     rows: Vec<String>,
//! }
//!
//! #[derive(Serialize)]
//! struct Sum {
//!     total: i64,
//! }
//!
//! #[stem_guest::task]
//! fn add_up(ctx: &Context, args: Args) -> Result<Sum, TaskError> {
//!     let mut total = 0;
//!     for (done, row) in args.rows.iter().enumerate() {
//!         total += row.parse::<i64>().map_err(|error| {
//!             TaskError::fatal("bad-row", format!("row {done}: {error}")).detail(row)
//!         })?;
//!         ctx.progress((done + 1) as f64 / args.rows.len() as f64, format!("row {done}"))?;
//!     }
//!     stem_guest::info!(ctx, "added up"; rows = args.rows.len());
//!     Ok(Sum { total })
//! }
//!
//! // The function is an ordinary one; a test host stands in for the worker.
//! let run = TestHost::new().args(&serde_json::json!({ "rows": ["40", "2"] })).run(add_up);
//! assert_eq!(run.json::<serde_json::Value>()["total"], 42);
//! assert_eq!(run.progress.last().unwrap().fraction, Some(1.0));
//!
//! let run = TestHost::new().args(&serde_json::json!({ "rows": ["x"] })).run(add_up);
//! assert_eq!(run.failure().code(), "bad-row");
//! ```
//!
//! # Building
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]   # the component, and what tests link
//!
//! [dependencies]
//! stem-guest = { path = "vendor/stem/guest-sdk/rust" }   # where `stem task new` puts it; it is not on crates.io
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` makes a component. For a module that imports nothing but `stem:task`,
//! build for `wasm32-unknown-unknown` and wrap the output by `wasm-tools component new`.
//!
//! A `stem.toml` beside the component says under which name the worker offers it and within which limits:
//!
//! ```toml
//! [handlers.add-up]
//! source = "file:add_up.wasm"
//! kind = "component"
//!
//! [handlers.add-up.limits]
//! memory = "32MiB"
//! hard = "60s"
//! ```
//!
//! # Arguments and results
//!
//! Arguments are any type that serde deserializes, results any type that serde serializes; they travel as JSON, at most 1 MiB
//! each unless the manifest asks for larger results. Arguments that do not fit the type fail the task for good with code `invalid-arguments` and serde's message, before
//! the function is called. For other data take or return [`Binary`], bytes with a media type.
//!
//! # Living with stops
//!
//! A task can be asked to stop: its operator revoked it, its soft time limit is over, its worker leaves. From then on
//! [`Context::heartbeat`] and [`Context::progress`] return an error to be passed up with `?`; [`Context::beat`] hands over the
//! [`StopNotice`] to those who want to tidy up. It can also be ended by force: then the next call of the context does not
//! return and nothing after it runs, no destructor either. So write as if every call could be the last:
//! [save a checkpoint](Context::checkpoint) now and then, and make outside effects repeatable with
//! [`Context::idempotency_key`].
//!
//! # What is granted
//!
//! A task reaches nothing outside unless its operator grants it in `stem.toml`:
//!
//! | call | grant |
//! |---|---|
//! | [`Context::children`]: enqueue further tasks | `children = ["thumb.*"]` |
//! | [`Context::kv`]: small values that tasks share | `kv = ["thumbs", "seen:rw"]` |
//! | [`Context::config`]: settings | `config = ["SIZE"]` |
//! | [`Context::secrets`]: placeholders for secrets, and secrets | `secrets = ["API_KEY@api.example.org", { name = "DB", reveal = true }]` |
//!
//! Without the grant a call fails with [`HostError::Denied`] and the line that is missing; the task goes on. A module
//! imports only what its task calls, so `stem module check` tells an operator what a task is going to ask for.
//!
//! # Failing
//!
//! [`TaskError::retryable`] asks for another attempt, [`TaskError::fatal`] says that none will help, [`TaskError::cancelled`]
//! answers a stop notice. A [`HostError`] passed up by `?` becomes one of these. A panic counts as a crash of the attempt; its
//! message and place reach the task's log on every target.
//!
//! # State
//!
//! Each attempt starts in fresh memory. Statics do not outlive it.

mod checkpoint;
mod children;
mod context;
mod error;
mod host;
mod kv;
mod log;
mod payload;
mod progress;
mod secrets;

#[cfg(target_family = "wasm")]
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated from the WIT files"
)]
#[allow(clippy::pedantic, clippy::all, reason = "generated from the WIT files")]
#[doc(hidden)]
pub mod bindings;
#[cfg(target_family = "wasm")]
mod wasm;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use checkpoint::Checkpoint;
pub use children::{Child, Children, Release};
pub use context::{Context, TimeLeft};
pub use error::{FailureKind, HostError, StopNotice, TaskError};
pub use kv::{Bucket, Entry, When};
pub use log::Level;
pub use payload::{Binary, Input, Output};
pub use progress::Progress;
pub use secrets::Secrets;
pub use stem_guest_macros::task;

/// What the expansion of `#[task]` names. Not part of the interface.
#[doc(hidden)]
#[cfg(target_family = "wasm")]
pub mod __private {
    pub use crate::bindings;
    pub use crate::bindings::export_guest;
    pub use crate::bindings::exports::stem::task::handler::{Guest, Payload, TaskError as Failure};
    pub use crate::wasm::run;
}
