//! [`ModuleStore`]: builds of modules by their digest, and which of them serve a task name.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, Health, ServiceId};
use crate::id::{Digest, TaskName};
use crate::release::{Assignment, Catalogue, Push, Release, Rollout};

/// Largest module that a store takes, in bytes.
pub const MODULE_BYTES: usize = 32 << 20;

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// A new version, or the newest one if that has the same digest, manifest and signatures.
    Release(Release),
    /// The store does not hold these bytes: [`ModuleStore::put`] comes first.
    NoSuchModule,
}

/// What became of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assigned {
    /// It holds.
    Done,
    /// The name has no such version.
    NoSuchVersion,
    /// It is not as the caller saw it: nothing was changed.
    Conflict,
}

/// What became of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Gone, and its bytes too unless another release has them.
    Done,
    /// It serves tasks: nothing was changed.
    InUse,
    /// The name has no such version.
    NoSuchVersion,
}

/// Every release of one task name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Which serve; `None` while none does.
    pub assignment: Option<Assignment>,
    /// Newest first, at most [`crate::release::RELEASES`].
    pub releases: Vec<Release>,
}

/// Keeps modules by their SHA-256, releases by task name and version, and what serves a name. Each method is one atomic
/// step, durable before it answers; a crash leaves at most bytes that no release names, which the next removal takes.
/// Implementations are held to the cases of `tests/conformance/src/modules.rs`.
#[async_trait]
pub trait ModuleStore: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Stores a module's bytes, at most [`MODULE_BYTES`], under the digest that the caller has computed of them. Storing
    /// them again does no harm.
    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError>;

    /// A module's bytes. The caller checks that they have the digest.
    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError>;

    /// Makes a release and rolls it out. Pushing again what the newest release is answers that one, with its rollout.
    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError>;

    /// Changes what serves a name, if it still is as the caller saw it.
    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError>;

    /// Removes a release that serves nothing, and modules that no release names any more.
    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError>;

    /// Every release of a name; `None` if there never was one or all are gone.
    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError>;

    /// What serves each name.
    async fn catalogue(&self) -> Result<Catalogue, BackendError>;

    /// Waits until the catalogue may be another than of this revision, at most `wait`. May return early for no reason.
    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError>;

    /// Whether it can be written to.
    async fn health(&self) -> Result<Health, BackendError>;
}
