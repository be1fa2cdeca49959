//! Workers and clients: the drivers that perform what `stem-core` decides.
//!
//! | module | what it holds |
//! |---|---|
//! | [`audit`] | who ordered what, and what was refused, in a file of this machine |
//! | [`backends`] | [`Backends`]: the services that a worker or client is given |
//! | [`client`] | [`Client`]: enqueue, look, wait, revoke |
//! | [`worker`] | [`Worker`]: takes deliveries, runs attempts, obeys operators; its documentation is the life of a task |
//! | [`inline`] | [`TaskContext`]: what a native handler is given |
//! | [`manifest`] | `stem.toml`: what a module asks for |
//! | [`signing`] | who published a release, and who is trusted |
//! | [`modules`] | a directory of modules, read and loaded |
//! | [`policy`] | the worker's policy: the most that handlers get, and values behind names |
//! | [`quotas`] | how much of a worker each tenant and queue may have |
//! | [`clock`] | the only readers of the system's clock |
//! | [`units`] | durations and sizes as people write them |
//!
//! A worker with a native handler:
//!
//! ```
//! # use std::sync::Arc;
//! # use stem_engine::{Backends, Client, EnqueueOptions, SystemClock, Worker, WorkerConfig};
//! # use stem_core::{envelope::Payload, id::TaskName};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = stem_memory::Memory::new(Arc::new(SystemClock));
//! let backends = Backends::all_in_one(memory);
//! let worker = Worker::builder(backends.clone(), WorkerConfig::new("worker-1".parse()?))
//!     .inline("double", |context, number: i64| async move {
//!         context.heartbeat()?;
//!         Ok(number * 2)
//!     })?
//!     .build()?;
//! let handle = worker.handle();
//! let running = tokio::spawn(worker.run());
//!
//! let client = Client::new(backends, Arc::new(SystemClock));
//! let task = client.enqueue(TaskName::new("double")?, Payload::json("21"), EnqueueOptions::default()).await?;
//! let record = client.wait(&task.id, None, |_| {}).await?.expect("it was enqueued");
//! assert_eq!(record.result.expect("it succeeded").bytes, b"42");
//!
//! handle.shutdown(stem_core::control::Drain::Warm, None);
//! running.await??;
//! # Ok(())
//! # }
//! ```

pub mod audit;
pub mod backends;
pub mod client;
pub mod clock;
pub mod inline;
pub mod manifest;
pub mod modules;
pub mod policy;
mod quiet;
pub mod quotas;
pub mod revocations;
pub mod signing;
pub mod units;
pub mod worker;

pub use backends::{Backends, purge};
pub use client::{Client, EnqueueError, EnqueueOptions, Enqueued};
pub use clock::SystemClock;
pub use inline::{Interrupted, TaskContext, TaskError};
pub use quotas::QuotaFile;
pub use stem_isolate::{Child, Release};
pub use worker::{
    AutoscaleRules, Hardening, RevokePolicy, Worker, WorkerBuilder, WorkerConfig, WorkerError,
    WorkerHandle,
};
