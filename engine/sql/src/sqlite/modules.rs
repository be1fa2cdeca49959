//! [`ModuleStore`] on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::modules::{
    Assigned, History, LOOSE_TTL, ModuleStore, Pushed, Removed, check_module, check_push,
};
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{
    Ask, Assign, Assignment, Catalogue, Change, Push, Remove, Rollout, Shelf, next_revision,
};
use stem_core::time::Timestamp;

use super::Sqlite;
use super::writer::{Operation, Topics};
use crate::bells::{Topic, changed};
use crate::codec::{millis, signed, to_json, unsigned};
use crate::fault::Fault;
use crate::shelf::{catalogue, read};

struct Put {
    digest: Digest,
    bytes: Vec<u8>,
}

#[async_trait]
impl Operation for Put {
    type Output = ();
    const ACTION: &'static str = "store a module";
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO modules (digest, put_at, bytes) VALUES (?1, ?2, ?3)
             ON CONFLICT (digest) DO UPDATE SET put_at = excluded.put_at, bytes = excluded.bytes",
        )
        .bind(self.digest.to_string())
        .bind(now.unix_millis())
        .bind(&self.bytes[..])
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// A column as somebody may have written it.
type Bytes = Option<Vec<u8>>;

async fn shelf(conn: &mut SqliteConnection, name: &TaskName) -> Result<Shelf, Fault> {
    // One statement, for readers, between whose statements somebody may write.
    let rows: Vec<(i64, Bytes, Bytes)> = sqlx::query_as(
        "SELECT last, assignment, release FROM module_names LEFT JOIN releases USING (name) WHERE name = ?1",
    )
    .bind(name.as_str())
    .fetch_all(conn)
    .await?;
    let row = rows.first().map(|(last, assignment, _)| (*last, text(assignment.clone())));
    let releases: Vec<String> =
        rows.into_iter().filter_map(|(_, _, release)| text(release)).collect();
    read(row, &releases)
}

/// Somebody else may have put bytes into a column that are no text.
fn text(bytes: Option<Vec<u8>>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
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
    const RINGS: Topics = Topics::MODULES;

    fn wrote((_, changed): &Self::Output) -> bool {
        *changed
    }

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        if let Some((digest, missing)) = self.ask.needs() {
            let there: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM modules WHERE digest = ?1)")
                    .bind(digest.to_string())
                    .fetch_one(&mut *conn)
                    .await?;
            if !there {
                return Ok((missing, false));
            }
        }
        let mut shelf = shelf(&mut *conn, &self.name).await?;
        let (answer, change) = self.ask.act(&mut shelf, now);
        if !change.is_none() {
            write(conn, &self.name, &shelf, &change, now).await?;
        }
        Ok((answer, !change.is_none()))
    }
}

async fn write(
    conn: &mut SqliteConnection,
    name: &TaskName,
    shelf: &Shelf,
    change: &Change,
    now: Timestamp,
) -> Result<(), Fault> {
    if change.head {
        sqlx::query(
            "INSERT INTO module_names (name, last, assignment) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET last = excluded.last, assignment = excluded.assignment",
        )
        .bind(name.as_str())
        .bind(i64::from(shelf.last))
        .bind(shelf.head().as_ref().map(to_json))
        .execute(&mut *conn)
        .await?;
    }
    if let Some(release) = &change.new {
        sqlx::query(
            "INSERT INTO releases (name, version, digest, release) VALUES (?1, ?2, ?3, ?4)",
        )
        .bind(name.as_str())
        .bind(i64::from(release.version))
        .bind(release.digest.to_string())
        .bind(to_json(release))
        .execute(&mut *conn)
        .await?;
    }
    for release in &change.gone {
        sqlx::query("DELETE FROM releases WHERE name = ?1 AND version = ?2")
            .bind(name.as_str())
            .bind(i64::from(release.version))
            .execute(&mut *conn)
            .await?;
    }
    let gone: Vec<_> = change.gone.iter().map(|release| release.digest).collect();
    sqlx::query(
        "DELETE FROM modules WHERE (put_at <= ?1 OR digest IN (SELECT value FROM json_each(?2)))
             AND NOT EXISTS (SELECT 1 FROM releases WHERE releases.digest = modules.digest)",
    )
    .bind(now.unix_millis() - millis(LOOSE_TTL))
    .bind(to_json(&gone))
    .execute(&mut *conn)
    .await?;
    let last = revision(&mut *conn).await?;
    sqlx::query("UPDATE module_revision SET revision = ?1")
        .bind(signed(next_revision(last, now)))
        .execute(conn)
        .await?;
    Ok(())
}

async fn revision(conn: &mut SqliteConnection) -> Result<u64, Fault> {
    let revision: i64 =
        sqlx::query_scalar("SELECT revision FROM module_revision").fetch_one(conn).await?;
    Ok(unsigned(revision))
}

impl Sqlite {
    async fn alter<A: Ask>(&self, name: &TaskName, ask: A) -> Result<A::Answer, BackendError> {
        Ok(self.write(Alter { name: name.clone(), ask }).await?.0)
    }
}

#[async_trait]
impl ModuleStore for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        check_module(&self.service, bytes)?;
        self.write(Put { digest: *digest, bytes: bytes.to_vec() }).await
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        let read = async {
            let mut reader = self.reader().await?;
            Ok(sqlx::query_scalar("SELECT bytes FROM modules WHERE digest = ?1")
                .bind(digest.to_string())
                .fetch_optional(&mut *reader)
                .await?)
        };
        self.bounded("read a module", read).await
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        check_push(&self.service, push)?;
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
        let read = async {
            let mut reader = self.reader().await?;
            Ok(shelf(&mut reader, name).await?.history())
        };
        self.bounded("list releases", read).await
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        let read = async {
            let mut reader = self.reader().await?;
            // Asked of a text that is no JSON, `->>` would be an error of the whole statement.
            let rows: Vec<(i64, Bytes, Bytes, Bytes)> = sqlx::query_as(
                "SELECT revision, module_names.name, assignment, release FROM module_revision
                 LEFT JOIN module_names ON assignment IS NOT NULL
                 LEFT JOIN releases ON releases.name = module_names.name AND version IN (
                     CASE WHEN json_valid(assignment) THEN assignment ->> '$.version' END,
                     CASE WHEN json_valid(assignment) THEN assignment ->> '$.canary.version' END)
                 ORDER BY module_names.name",
            )
            .fetch_all(&mut *reader)
            .await?;
            let rows = rows.into_iter().map(|(revision, name, assignment, release)| {
                (revision, text(name), text(assignment), text(release))
            });
            Ok(catalogue(rows.collect()))
        };
        self.bounded("list what serves", read).await
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        const ACTION: &str = "follow releases";
        let subscribed = async { self.changes.subscribe(Topic::Modules).await };
        let news = self.bounded(ACTION, subscribed).await?;
        let look = || async {
            let read = async { revision(&mut *self.reader().await?).await };
            self.bounded(ACTION, read).await
        };
        changed(news, seen, wait, look).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
