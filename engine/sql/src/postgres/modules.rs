//! [`ModuleStore`] on Postgres. Bytes travel in pieces, each a call of its own; releases change under the lock of one row,
//! which carries the revision, so that the order of revisions is that of commits.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::modules::{
    Assigned, History, LOOSE_TTL, ModuleStore, Pushed, Removed, check_module, check_push,
};
use stem_core::backend::{BackendError, ErrorClass, Health, ServiceId};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{
    Ask, Assign, Assignment, Catalogue, Change, Push, Remove, Rollout, Shelf, next_revision,
};

use super::Postgres;
use super::error::Trouble;
use super::transact::Operation;
use crate::bells::{Topic, Topics, changed};
use crate::codec::{limit, millis, signed, time, to_json, unsigned};
use crate::fault::Fault;
use crate::shelf::{ServedRow, catalogue, read};

/// What one call carries of a module: a tenth of a second on a slow network.
const PIECE: usize = 1 << 20;

/// How often a module is read anew because somebody has stored it again meanwhile.
const AGAIN: u32 = 8;

struct Begin;

#[async_trait]
impl Operation for Begin {
    type Output = i64;
    const ACTION: &'static str = "store a module";

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<i64, Trouble> {
        Ok(sqlx::query_scalar("SELECT nextval('module_puts')").fetch_one(conn).await?)
    }
}

struct PutPiece {
    put: i64,
    piece: i64,
    bytes: Vec<u8>,
}

#[async_trait]
impl Operation for PutPiece {
    type Output = ();
    const ACTION: &'static str = "store a module";
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        sqlx::query(
            "INSERT INTO module_pieces (put, piece, put_at, bytes) VALUES ($1, $2, stem_now($3), $4)
             ON CONFLICT (put, piece) DO NOTHING",
        )
        .bind(self.put)
        .bind(self.piece)
        .bind(now)
        .bind(&self.bytes[..])
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// Makes the pieces of one storing a module's bytes.
struct Place {
    digest: Digest,
    put: i64,
    pieces: i64,
}

#[async_trait]
impl Operation for Place {
    type Output = bool;
    const ACTION: &'static str = "store a module";
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<bool, Trouble> {
        let (_, now) = lock(&mut *conn, now).await?;
        // Whoever was so slow that they were swept begins again.
        let there: i64 = sqlx::query_scalar("SELECT count(*) FROM module_pieces WHERE put = $1")
            .bind(self.put)
            .fetch_one(&mut *conn)
            .await?;
        if there != self.pieces {
            return Ok(false);
        }
        sqlx::query(
            "WITH old AS (SELECT put FROM modules WHERE digest = $1 AND put <> $2)
             DELETE FROM module_pieces USING old WHERE module_pieces.put = old.put",
        )
        .bind(self.digest.to_string())
        .bind(self.put)
        .execute(&mut *conn)
        .await?;
        sqlx::query(
            "INSERT INTO modules (digest, put, pieces, put_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (digest) DO UPDATE
             SET put = excluded.put, pieces = excluded.pieces, put_at = excluded.put_at",
        )
        .bind(self.digest.to_string())
        .bind(self.put)
        .bind(self.pieces)
        .bind(now)
        .execute(conn)
        .await?;
        Ok(true)
    }
}

/// Which pieces are a module's.
struct Find(Digest);

#[async_trait]
impl Operation for Find {
    type Output = Option<(i64, i64)>;
    const ACTION: &'static str = "read a module";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        Ok(sqlx::query_as("SELECT put, pieces FROM modules WHERE digest = $1")
            .bind(self.0.to_string())
            .fetch_optional(conn)
            .await?)
    }
}

struct GetPiece {
    put: i64,
    piece: i64,
}

#[async_trait]
impl Operation for GetPiece {
    type Output = Option<Vec<u8>>;
    const ACTION: &'static str = "read a module";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        Ok(sqlx::query_scalar("SELECT bytes FROM module_pieces WHERE put = $1 AND piece = $2")
            .bind(self.put)
            .bind(self.piece)
            .fetch_optional(conn)
            .await?)
    }
}

/// The revision and the time. Nobody else changes anything until the transaction ends, which is on the disk then.
async fn lock(conn: &mut PgConnection, now: Option<i64>) -> Result<(i64, i64), Trouble> {
    sqlx::query(
        "SELECT set_config('synchronous_commit', 'on', true)
         WHERE current_setting('synchronous_commit') = 'off'",
    )
    .execute(&mut *conn)
    .await?;
    Ok(sqlx::query_as("SELECT revision, stem_now($1) FROM module_revision FOR UPDATE")
        .bind(now)
        .fetch_one(conn)
        .await?)
}

async fn shelf(conn: &mut PgConnection, name: &TaskName) -> Result<Shelf, Trouble> {
    let rows: Vec<(i64, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT last, assignment, release FROM module_names LEFT JOIN releases USING (name) WHERE name = $1",
    )
    .bind(name.as_str())
    .fetch_all(conn)
    .await?;
    let row = rows.first().map(|(last, assignment, _)| (*last, assignment.clone()));
    let releases: Vec<String> = rows.into_iter().filter_map(|(_, _, release)| release).collect();
    Ok(read(row, &releases)?)
}

/// A change of one name.
struct Alter<A> {
    name: TaskName,
    ask: A,
}

#[async_trait]
impl<A: Ask> Operation for Alter<A> {
    /// And whether anything is another than before.
    type Output = (A::Answer, bool);
    const ACTION: &'static str = "change releases";
    const SENDS_NEWS_FIRST: bool = true;

    fn rings((_, changed): &Self::Output) -> Topics {
        if *changed { Topics::MODULES } else { Topics::NONE }
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let (revision, now) = lock(&mut *conn, now).await?;
        if let Some((digest, missing)) = self.ask.needs() {
            let there: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM modules WHERE digest = $1)")
                    .bind(digest.to_string())
                    .fetch_one(&mut *conn)
                    .await?;
            if !there {
                return Ok((missing, false));
            }
        }
        let mut shelf = shelf(&mut *conn, &self.name).await?;
        let (answer, change) = self.ask.act(&mut shelf, time(now));
        if !change.is_none() {
            write(&mut *conn, &self.name, &shelf, &change).await?;
            sweep(&mut *conn, &change, now).await?;
            sqlx::query("UPDATE module_revision SET revision = $1")
                .bind(signed(next_revision(unsigned(revision), time(now))))
                .execute(conn)
                .await?;
        }
        Ok((answer, !change.is_none()))
    }
}

async fn write(
    conn: &mut PgConnection,
    name: &TaskName,
    shelf: &Shelf,
    change: &Change,
) -> Result<(), Trouble> {
    if change.head {
        let canary = shelf.assignment.and_then(|assignment| assignment.canary);
        sqlx::query(
            "INSERT INTO module_names (name, last, version, canary, assignment) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO UPDATE SET last = excluded.last, version = excluded.version,
                 canary = excluded.canary, assignment = excluded.assignment",
        )
        .bind(name.as_str())
        .bind(i64::from(shelf.last))
        .bind(shelf.assignment.map(|assignment| i64::from(assignment.version)))
        .bind(canary.map(|canary| i64::from(canary.version)))
        .bind(shelf.head().as_ref().map(to_json))
        .execute(&mut *conn)
        .await?;
    }
    if let Some(release) = &change.new {
        sqlx::query(
            "INSERT INTO releases (name, version, digest, release) VALUES ($1, $2, $3, $4)",
        )
        .bind(name.as_str())
        .bind(i64::from(release.version))
        .bind(release.digest.to_string())
        .bind(to_json(release))
        .execute(&mut *conn)
        .await?;
    }
    let gone: Vec<_> = change.gone.iter().map(|release| i64::from(release.version)).collect();
    sqlx::query("DELETE FROM releases WHERE name = $1 AND version = ANY($2)")
        .bind(name.as_str())
        .bind(gone)
        .execute(conn)
        .await?;
    Ok(())
}

/// Removes the bytes of releases that are gone, and what nobody has pushed for long.
async fn sweep(conn: &mut PgConnection, change: &Change, now: i64) -> Result<(), Trouble> {
    let gone: Vec<_> = change.gone.iter().map(|release| release.digest.to_string()).collect();
    let before = now - millis(LOOSE_TTL);
    let puts: Vec<i64> = sqlx::query_scalar(
        "DELETE FROM modules WHERE (put_at <= $1 OR digest = ANY($2))
             AND NOT EXISTS (SELECT 1 FROM releases WHERE releases.digest = modules.digest)
         RETURNING put",
    )
    .bind(before)
    .bind(&gone)
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM module_pieces WHERE put = ANY($1) OR (put_at <= $2
             AND NOT EXISTS (SELECT 1 FROM modules WHERE modules.put = module_pieces.put))",
    )
    .bind(puts)
    .bind(before)
    .execute(conn)
    .await?;
    Ok(())
}

struct GetShelf(TaskName);

#[async_trait]
impl Operation for GetShelf {
    type Output = Shelf;
    const ACTION: &'static str = "list releases";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Shelf, Trouble> {
        shelf(conn, &self.0).await
    }
}

struct GetCatalogue;

#[async_trait]
impl Operation for GetCatalogue {
    type Output = Catalogue;
    const ACTION: &'static str = "list what serves";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Catalogue, Trouble> {
        let rows: Vec<ServedRow> = sqlx::query_as(
            "SELECT revision, module_names.name, assignment, release FROM module_revision
             LEFT JOIN module_names ON assignment IS NOT NULL
             LEFT JOIN releases ON releases.name = module_names.name
                 AND releases.version IN (module_names.version, module_names.canary)
             ORDER BY module_names.name",
        )
        .fetch_all(conn)
        .await?;
        Ok(catalogue(rows))
    }
}

struct GetRevision;

#[async_trait]
impl Operation for GetRevision {
    type Output = u64;
    const ACTION: &'static str = "follow releases";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<u64, Trouble> {
        let revision: i64 =
            sqlx::query_scalar("SELECT revision FROM module_revision").fetch_one(conn).await?;
        Ok(unsigned(revision))
    }
}

impl Postgres {
    async fn alter<A: Ask>(&self, name: &TaskName, ask: A) -> Result<A::Answer, BackendError> {
        Ok(self.call(Alter { name: name.clone(), ask }).await?.0)
    }

    /// All pieces of one storing; `None` if they are not what was found any more.
    async fn pieces(&self, put: i64, pieces: i64) -> Result<Option<Vec<u8>>, BackendError> {
        let mut bytes = Vec::new();
        for piece in 0..pieces {
            let Some(some) = self.call(GetPiece { put, piece }).await? else { return Ok(None) };
            bytes.extend(some);
        }
        Ok(Some(bytes))
    }

    fn moved(&self, action: &'static str) -> BackendError {
        let problem = "others store and remove it all the time; try again";
        Fault::new(ErrorClass::Transient, problem).during(&self.core.service, action)
    }
}

#[async_trait]
impl ModuleStore for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        check_module(&self.core.service, bytes)?;
        let put = self.call(Begin).await?;
        let pieces = limit(bytes.len().div_ceil(PIECE));
        for (piece, bytes) in (0..).zip(bytes.chunks(PIECE)) {
            self.call(PutPiece { put, piece, bytes: bytes.to_vec() }).await?;
        }
        if self.call(Place { digest: *digest, put, pieces }).await? {
            Ok(())
        } else {
            Err(self.moved(Place::ACTION))
        }
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        for _ in 0..AGAIN {
            let Some((put, pieces)) = self.call(Find(*digest)).await? else { return Ok(None) };
            if let Some(bytes) = self.pieces(put, pieces).await? {
                return Ok(Some(bytes));
            }
        }
        Err(self.moved(Find::ACTION))
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        check_push(&self.core.service, push)?;
        self.alter(&push.name, (push.clone(), rollout)).await
    }

    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        self.alter(name, Assign { seen, wanted: assignment }).await
    }

    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        self.alter(name, Remove(version)).await
    }

    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        Ok(self.call(GetShelf(name.clone())).await?.history())
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        self.call(GetCatalogue).await
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        let news = self.changes.subscribe(Topic::Modules);
        changed(news, seen, wait, || self.call(GetRevision)).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
