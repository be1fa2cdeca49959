//! [`ModuleStore`] on Redis.
//!
//! Bytes travel in pieces, each a call of its own, so that neither the server nor the one connection is kept by them for
//! long. What is asked of a name is decided here and written by a script if nobody else has changed the name meanwhile.

use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use stem_core::backend::modules::{
    Assigned, History, LOOSE_TTL, ModuleStore, Pushed, Removed, check_module, check_push,
};
use stem_core::backend::{BackendError, ErrorClass, Health, ServiceId};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{
    Ask, Assign, Assignment, Catalogue, Change, Head, Push, Release, Remove, Rollout, Served, Shelf,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::bell::Topic;
use crate::fault::Fault;
use crate::link::Hears;
use crate::read::{self, Fields};
use crate::script::Script;
use crate::{Inner, LOOK_AGAIN, Redis, script};

/// What one call carries of a module: a few milliseconds on a slow network.
const PIECE: usize = 256 << 10;

/// How much of the catalogue one call carries, about.
const PAGE: usize = 1 << 20;

/// How often something is read or decided anew because somebody has changed it meanwhile.
const AGAIN: u32 = 64;

/// A name as it was read.
struct Found {
    shelf: Shelf,
    /// The mark of its last change.
    mark: String,
    now: stem_core::time::Timestamp,
}

fn busy() -> Fault {
    Fault::new(ErrorClass::Transient, "others change it all the time; try again")
}

fn ttl() -> u64 {
    u64::try_from(LOOSE_TTL.as_millis()).expect("an hour fits")
}

impl Inner {
    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Fault> {
        let put = Uuid::now_v7().simple().to_string();
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let mut call = self.call(&script::MODULE_PIECE);
            call.arg(&put).arg(number).arg(piece);
            self.run(&script::MODULE_PIECE, &call).await?;
        }
        let mut call = self.call(&script::MODULE_PLACE);
        call.arg(digest.to_string()).arg(&put).arg(bytes.len().div_ceil(PIECE));
        match read::int(self.run(&script::MODULE_PLACE, &call).await?)? {
            0 => Err(Fault::new(ErrorClass::Transient, "what was sent of it is gone; try again")),
            _ => Ok(()),
        }
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Fault> {
        for _ in 0..AGAIN {
            let Some((put, pieces)) = self.find(digest).await? else { return Ok(None) };
            if let Some(bytes) = self.pieces(&put, pieces).await? {
                return Ok(Some(bytes));
            }
        }
        Err(busy())
    }

    /// Which storing a module's bytes are of, and how many pieces.
    async fn find(&self, digest: &Digest) -> Result<Option<(String, u64)>, Fault> {
        let mut call = redis::cmd("HMGET");
        call.arg(format!("{}m/bytes/{digest}", self.prefix)).arg("put").arg("pieces");
        let mut fields = Fields::of(self.link.ask(&call).await?)?;
        match fields.next()? {
            redis::Value::Nil => Ok(None),
            put => Ok(Some((read::text(put)?, read::large(fields.next()?)?))),
        }
    }

    /// All pieces of one storing; `None` if they have made way for another.
    async fn pieces(&self, put: &str, pieces: u64) -> Result<Option<Vec<u8>>, Fault> {
        let mut bytes = Vec::new();
        for piece in 0..pieces {
            let mut call = redis::cmd("HGET");
            call.arg(format!("{}m/put/{put}", self.prefix)).arg(piece);
            let Some(piece) = read::bytes(self.link.ask(&call).await?)? else { return Ok(None) };
            bytes.extend(piece);
        }
        Ok(Some(bytes))
    }

    async fn shelf(&self, name: &TaskName) -> Result<Found, Fault> {
        let mut call = self.call(&script::MODULE_NAME);
        call.arg(name.as_str());
        let mut answer = Fields::of(self.run(&script::MODULE_NAME, &call).await?)?;
        let now = read::time(answer.next()?)?;
        let mark = read::text(answer.next()?)?;
        let last = read::small(answer.next()?)?;
        let head: Option<Head> = serves(&read::text(answer.next()?)?)?;
        // What somebody else wrote beside them hides none.
        let releases = answer.rest().filter_map(|it| release(it).ok()).collect();
        Ok(Found { shelf: Shelf::of(last, head, releases), mark, now })
    }

    async fn alter<A: Ask>(
        &self,
        script: &Script,
        name: &TaskName,
        ask: A,
    ) -> Result<A::Answer, Fault> {
        for _ in 0..AGAIN {
            let mut found = self.shelf(name).await?;
            let (answer, change) = ask.act(&mut found.shelf, found.now);
            if change.is_none() {
                return Ok(answer);
            }
            match (self.change(script, name, &found, &change, ask.needs()).await?, ask.needs()) {
                (0, Some((_, missing))) => return Ok(missing),
                (-1, _) => {}
                _ => return Ok(answer),
            }
        }
        Err(busy())
    }

    async fn change<T>(
        &self,
        script: &Script,
        name: &TaskName,
        found: &Found,
        change: &Change,
        needs: Option<(Digest, T)>,
    ) -> Result<i64, Fault> {
        let shelf = &found.shelf;
        let mut call = self.call(script);
        call.arg(name.as_str())
            .arg(&found.mark)
            .arg(needs.map_or_else(String::new, |(digest, _)| digest.to_string()))
            .arg(shelf.last)
            .arg(shelf.head().as_ref().map_or_else(|| Ok(String::new()), serde_json::to_string)?)
            .arg(ttl())
            .arg(usize::from(change.new.is_some()));
        if let Some(release) = &change.new {
            let text = serde_json::to_string(release)?;
            call.arg(release.version).arg(release.digest.to_string()).arg(text);
        }
        for release in &change.gone {
            call.arg(release.version).arg(release.digest.to_string());
        }
        read::int(self.run(script, &call).await?)
    }

    async fn catalogue(&self) -> Result<Catalogue, Fault> {
        for _ in 0..AGAIN {
            if let Some(catalogue) = self.pages().await? {
                return Ok(catalogue);
            }
        }
        Err(busy())
    }

    /// All pages; `None` if they are not of one moment.
    async fn pages(&self) -> Result<Option<Catalogue>, Fault> {
        let mut catalogue = Catalogue::default();
        let mut after = Vec::new();
        loop {
            let mut call = self.call(&script::MODULE_CATALOGUE);
            call.arg(&after).arg(PAGE);
            let mut answer = Fields::of(self.run(&script::MODULE_CATALOGUE, &call).await?)?;
            let revision = read::large(answer.next()?)?;
            if !after.is_empty() && revision != catalogue.revision {
                return Ok(None);
            }
            catalogue.revision = revision;
            let mut rest = answer.rest();
            let before = after.clone();
            while let (Some(name), Some(serves), Some(one), Some(canary)) =
                (rest.next(), rest.next(), rest.next(), rest.next())
            {
                after = read::bytes(name)?.unwrap_or_default();
                let name = std::str::from_utf8(&after).ok().map(TaskName::new);
                let Some(Ok(name)) = name else { continue };
                match served(&name, serves, one, canary) {
                    Ok(served) => catalogue.served.push(served),
                    Err(_) => catalogue.unreadable.push(name),
                }
            }
            // Nothing has come, or only a name without a letter, which somebody else put there.
            if after == before {
                return Ok(Some(catalogue));
            }
        }
    }

    async fn revision(&self) -> Result<u64, Fault> {
        let mut call = redis::cmd("GET");
        call.arg(format!("{}m/revision", self.prefix));
        match self.link.ask(&call).await? {
            redis::Value::Nil => Ok(0),
            revision => read::large(revision),
        }
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), Fault> {
        let started = Instant::now();
        self.link.listen(Hears::BELL).await?;
        loop {
            // Made before looking, so that a ring between the look and the wait is not missed.
            let ring = self.bells.next(Topic::Modules);
            let now = self.revision().await?;
            let left = wait.saturating_sub(started.elapsed());
            if now != seen || left.is_zero() {
                return Ok(());
            }
            // Running out of time is no news: both ways it looks again.
            let _ = tokio::time::timeout(left.min(LOOK_AGAIN), ring).await;
        }
    }
}

/// What serves a name, and what did where that is asked for.
fn serves<T: DeserializeOwned>(text: &str) -> Result<Option<T>, Fault> {
    if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(text)?)) }
}

/// One name of the catalogue.
fn served(
    name: &TaskName,
    serves: redis::Value,
    one: redis::Value,
    canary: redis::Value,
) -> Result<Served, Fault> {
    let Some(assignment) = self::serves::<Assignment>(&read::text(serves)?)? else {
        return Err(Fault::corrupt("a name that is served has nothing that serves it"));
    };
    let mut releases = vec![release(one)?];
    if assignment.canary.is_some_and(|it| it.version != assignment.version) {
        releases.push(release(canary)?);
    }
    if releases.iter().any(|release| release.name != *name) {
        return Err(Fault::corrupt("a release is of another name"));
    }
    Ok(Served { assignment, releases })
}

fn release(value: redis::Value) -> Result<Release, Fault> {
    Ok(serde_json::from_slice(&read::bytes(value)?.unwrap_or_default())?)
}

#[async_trait]
impl ModuleStore for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        check_module(&self.inner.service, bytes)?;
        let put = self.inner.put(digest, bytes).await;
        put.map_err(|fault| self.inner.during(fault, "store a module"))
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        let got = self.inner.get(digest).await;
        got.map_err(|fault| self.inner.during(fault, "read a module"))
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        check_push(&self.inner.service, push)?;
        let ask = (push.clone(), rollout);
        let pushed = self.inner.alter(&script::MODULE_PUSH, &push.name, ask).await;
        pushed.map_err(|fault| self.inner.during(fault, "push a release"))
    }

    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        let ask = Assign { seen, wanted: assignment };
        let assigned = self.inner.alter(&script::MODULE_CHANGE, name, ask).await;
        assigned.map_err(|fault| self.inner.during(fault, "change what serves"))
    }

    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        let removed = self.inner.alter(&script::MODULE_CHANGE, name, Remove(version)).await;
        removed.map_err(|fault| self.inner.during(fault, "remove a release"))
    }

    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        let found = self.inner.shelf(name).await;
        let found = found.map_err(|fault| self.inner.during(fault, "list releases"))?;
        Ok(found.shelf.history())
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        let catalogue = self.inner.catalogue().await;
        catalogue.map_err(|fault| self.inner.during(fault, "list what serves"))
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        let waited = self.inner.changed(seen, wait).await;
        waited.map_err(|fault| self.inner.during(fault, "follow releases"))
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}
