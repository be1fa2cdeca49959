//! [`ModuleStore`]: builds of modules by their digest, and which of them serve a task name.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, ErrorClass, Health, ServiceId};
use crate::id::{Digest, TaskName};
use crate::release::{Assignment, Catalogue, Push, Release, Rollout};

/// Largest module that a store takes, in bytes.
pub const MODULE_BYTES: usize = 32 << 20;

/// How long bytes that no release names are kept at least, so that nobody removes what somebody is about to push.
pub const LOOSE_TTL: Duration = Duration::from_hours(1);

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
    /// It is neither as the caller saw it nor as the caller wants it: nothing was changed.
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
    /// Versions that served every task before the one that does, the latest last; none that was only held or on trial.
    pub before: Vec<u32>,
    /// Newest first, at most [`crate::release::RELEASES`].
    pub releases: Vec<Release>,
}

/// Refuses bytes that are more than a store takes.
pub fn check_module(service: &ServiceId, bytes: &[u8]) -> Result<(), BackendError> {
    if bytes.len() <= MODULE_BYTES {
        return Ok(());
    }
    let problem =
        format!("the module has {} bytes; a store takes {MODULE_BYTES} at most", bytes.len());
    Err(BackendError::new(ErrorClass::Refused, &service.0, "store a module", problem))
}

/// Refuses a release whose parts are larger than a store takes.
pub fn check_push(service: &ServiceId, push: &Push) -> Result<(), BackendError> {
    push.check().map_err(|problem| {
        BackendError::new(ErrorClass::Refused, &service.0, "push a release", problem)
    })
}

/// Keeps modules by their SHA-256, releases by task name and version, and what serves a name. Each method is one atomic
/// step, durable before it answers. What becomes of one name is decided by [`Shelf`](crate::release::Shelf), whatever the
/// store. A crash, and whoever stores bytes and pushes nothing, leave at most bytes that no release names: once they were
/// not stored again for [`LOOSE_TTL`], a later push or removal takes them away. What is larger than the bounds is refused.
/// Implementations are held to the cases of `tests/conformance/src/modules.rs`.
#[async_trait]
pub trait ModuleStore: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Stores a module's bytes, at most [`MODULE_BYTES`], under the digest that the caller has computed of them. Storing
    /// them again does no harm, and puts right what lies there if it is not these bytes. Who reads meanwhile gets one
    /// or the other, whole.
    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError>;

    /// A module's bytes. The caller checks that they have the digest.
    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError>;

    /// Makes a release and rolls it out; see [`Shelf::push`](crate::release::Shelf::push). One that is sent again with
    /// its [`PushId`](crate::release::PushId) changes nothing and answers the release that it made. Another push of what
    /// the newest release is makes none: it answers that one, rolled out as asked. Older releases go as
    /// [`RELEASES`](crate::release::RELEASES) says, and their bytes as by a removal.
    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError>;

    /// Changes what serves a name, if it still is as the caller saw it, or is as wanted already: who did not hear the
    /// answer may ask again. `None`: nothing serves it. Of several at once that saw the same, one wins.
    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError>;

    /// Removes a release that serves nothing, at once with its bytes if no other release names them. Its version is
    /// never given out again.
    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError>;

    /// Every release of a name; `None` if there never was one or all are gone.
    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError>;

    /// What serves each name: one picture, of one moment.
    async fn catalogue(&self) -> Result<Catalogue, BackendError>;

    /// Waits until the catalogue may be another than of this revision, at most `wait`. Returns at once if it is another
    /// already. May return early for no reason.
    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError>;

    /// Whether it can be written to.
    async fn health(&self) -> Result<Health, BackendError>;
}
