//! [`ResultBackend`] on Redis. A record is one hash, with short names for its fields so that the server keeps most of them
//! in its compact form. What every move changes is one field, since a script pays for each that it reads or writes:
//!
//! | field | what | field | what |
//! |---|---|---|---|
//! | `r` | what moves change, see below | `w` | worker |
//! | `q` | queue | `pr` | progress, JSON |
//! | `n` | name | `f` | failure, JSON |
//! | `mr` | allowed retries | `rv` | how a revocation ended it, JSON |
//! | `eq` | enqueued at | `md`, `mv` | the module's digest as bytes, its version |
//! | `nb` | not before | `us` | usage, JSON |
//! | `o` | owner | `rt`, `rs` | the result's media type and bytes |
//! | `c` | there is a checkpoint | `wt` | how often changes were told, once somebody has asked |
//! | `pa` | the task that enqueued it | `ro` | the first task of its chain |
//!
//! `r` is a text of seven words: state, token, token of the newest settlement, finished at, attempt, deliveries, started at;
//! `-` is for what is not there. A record without it is of an older build, which had a field for each: `st`, `k`, `sk`, `fa`,
//! `a`, `dc`, `sa`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Value};
use serde::de::DeserializeOwned;
use stem_core::backend::result::{
    Begun, CHECKPOINT_BYTES, RECORD_TTL, RecordFilter, Recorded, ResultBackend, Until,
};
use stem_core::backend::{BackendError, ErrorClass, Health, ServiceId};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Digest, LeaseToken, QueueName, TaskId, TaskName, WorkerId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, ModuleRef, Progress, TaskRecord, TaskState};
use stem_core::time::Timestamp;

use crate::broker::{family_arguments, prove, record_arguments};
use crate::fault::Fault;
use crate::read::{self, Fields};
use crate::script::{self, Script};
use crate::{Inner, Redis};

/// The most that one script changes or looks at, so that none keeps the server for long.
const ITEMS: usize = 500;

/// Fields as `record_list.lua` answers them.
const LISTED: [&str; 15] =
    ["r", "q", "n", "mr", "eq", "nb", "w", "pr", "f", "rv", "md", "mv", "us", "pa", "ro"];

/// What stands in the field `r`, in its order, by the names of the fields that older builds had.
const SAID: [&str; 7] = ["st", "k", "sk", "fa", "a", "dc", "sa"];
const NOTHING: &str = "-";

/// A record's fields as they came.
pub(crate) struct Row(HashMap<String, Vec<u8>>);

impl Row {
    /// A hash as either version of the protocol sends it.
    pub(crate) fn of(value: Value) -> Result<Self, Fault> {
        let mut fields = HashMap::new();
        let mut keep = |field: Value, value: Value| -> Result<(), Fault> {
            if let Some(value) = read::bytes(value)? {
                fields.insert(read::text(field)?, value);
            }
            Ok(())
        };
        match value {
            Value::Map(pairs) => {
                for (field, value) in pairs {
                    keep(field, value)?;
                }
            }
            other => {
                let mut list = read::list(other)?.into_iter();
                while let (Some(field), Some(value)) = (list.next(), list.next()) {
                    keep(field, value)?;
                }
            }
        }
        Ok(Self(fields))
    }

    /// A hash as a script tells it: fields and values in turn, each behind its length.
    pub(crate) fn told(mut rest: &[u8]) -> Result<Self, Fault> {
        let mut next = || {
            let colon = rest.iter().position(|byte| *byte == b':')?;
            let length: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
            let (text, after) = rest[colon + 1..].split_at_checked(length)?;
            rest = after;
            Some(text)
        };
        let mut fields = HashMap::new();
        while let Some(field) = next() {
            let field = String::from_utf8(field.to_vec()).ok();
            let pair =
                field.zip(next()).ok_or_else(|| Fault::corrupt("a record was told in part"))?;
            fields.insert(pair.0, pair.1.to_vec());
        }
        Ok(Self(fields))
    }

    /// The record, or `None` where there is no hash.
    pub(crate) fn into_record(self, id: &TaskId) -> Result<Option<TaskRecord>, Fault> {
        if self.0.is_empty() { Ok(None) } else { self.record(id.clone()).map(Some) }
    }

    fn text(&self, field: &str) -> Result<Option<&str>, Fault> {
        let text = self.0.get(field).map(|bytes| std::str::from_utf8(bytes)).transpose();
        text.map_err(|_| Fault::corrupt(format!("field {field} is not UTF-8")))
    }

    fn needed(&self, field: &str) -> Result<&str, Fault> {
        self.text(field)?.ok_or_else(|| Fault::corrupt(format!("field {field} is missing")))
    }

    fn number<N: std::str::FromStr>(&self, field: &str) -> Result<N, Fault> {
        let number = self.needed(field)?.parse();
        number.map_err(|_| Fault::corrupt(format!("field {field} is no such number")))
    }

    fn time(&self, field: &str) -> Result<Option<Timestamp>, Fault> {
        match self.text(field)? {
            None => Ok(None),
            Some(_) => Ok(Some(Timestamp::from_unix_millis(self.number(field)?))),
        }
    }

    fn json<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, Fault> {
        Ok(self.0.get(field).map(|bytes| serde_json::from_slice(bytes)).transpose()?)
    }

    fn module(&self) -> Result<Option<ModuleRef>, Fault> {
        let Some(digest) = self.0.get("md") else { return Ok(None) };
        let digest =
            digest.as_slice().try_into().map_err(|_| Fault::corrupt("a digest is short"))?;
        let version = self.text("mv")?.map(str::to_owned);
        Ok(Some(ModuleRef { digest: Digest(digest), version }))
    }

    /// Puts each word of the field `r` where its own field would be.
    fn unfold(&mut self) -> Result<(), Fault> {
        let Some(said) = self.text("r")?.map(str::to_owned) else { return Ok(()) };
        let words: Vec<&str> = said.split(' ').collect();
        if words.len() != SAID.len() {
            return Err(Fault::corrupt(format!("field r has {} words", words.len())));
        }
        for (field, word) in SAID.into_iter().zip(words) {
            if word == NOTHING {
                self.0.remove(field);
            } else {
                self.0.insert(field.to_owned(), word.as_bytes().to_vec());
            }
        }
        Ok(())
    }

    pub(crate) fn record(mut self, id: TaskId) -> Result<TaskRecord, Fault> {
        self.unfold()?;
        let result = match (self.text("rt")?.map(str::to_owned), self.0.remove("rs")) {
            (Some(media_type), Some(bytes)) => Some(Payload { media_type, bytes }),
            _ => None,
        };
        Ok(TaskRecord {
            id,
            name: TaskName::new(self.needed("n")?)?,
            queue: QueueName::new(self.needed("q")?)?,
            state: self.needed("st")?.parse().map_err(Fault::corrupt)?,
            attempt: self.number("a")?,
            max_retries: self.number("mr")?,
            delivery_count: self.number("dc")?,
            token: LeaseToken(self.number("k")?),
            enqueued_at: Timestamp::from_unix_millis(self.number("eq")?),
            not_before: self.time("nb")?,
            started_at: self.time("sa")?,
            finished_at: self.time("fa")?,
            worker: self.text("w")?.map(WorkerId::new).transpose()?,
            progress: self.json("pr")?,
            result,
            failure: self.json("f")?,
            revocation: self.json("rv")?,
            module: self.module()?,
            usage: self.json("us")?,
            parent_id: self.text("pa")?.map(TaskId::new).transpose()?,
            root_id: self.text("ro")?.map(TaskId::new).transpose()?,
        })
    }
}

fn recorded(value: Value) -> Result<Recorded, Fault> {
    Ok(if read::int(value)? == 1 { Recorded::Stored } else { Recorded::Stale })
}

impl Inner {
    fn record_key(&self, kind: &str, task: &TaskId) -> String {
        format!("{}t/{kind}/{task}", self.prefix)
    }

    /// Runs one script for each portion of a batch; answers what each said for its items.
    async fn in_portions<T>(
        &self,
        script: &Script,
        batch: &[T],
        mut argue: impl FnMut(&mut Cmd, &[T]),
    ) -> Result<Vec<Value>, Fault> {
        let mut answers = Vec::new();
        for portion in batch.chunks(ITEMS) {
            let mut call = self.call(script);
            argue(&mut call, portion);
            answers.push(self.run(script, &call).await?);
        }
        Ok(answers)
    }

    async fn record_answers<T>(
        &self,
        script: &Script,
        batch: &[T],
        argue: impl FnMut(&mut Cmd, &[T]),
    ) -> Result<Vec<Recorded>, Fault> {
        let mut all = Vec::with_capacity(batch.len());
        for answers in self.in_portions(script, batch, argue).await? {
            for answer in read::list(answers)? {
                all.push(recorded(answer)?);
            }
        }
        Ok(all)
    }

    pub(crate) async fn fetch_record(&self, task: &TaskId) -> Result<Option<TaskRecord>, Fault> {
        let mut get = redis::cmd("HGETALL");
        get.arg(self.record_key("task", task));
        Row::of(self.link.ask(&get).await?)?.into_record(task)
    }

    async fn list_records(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, Fault> {
        let (mut listed, mut seen, mut offset) = (Vec::new(), HashSet::new(), 0);
        while listed.len() < filter.limit {
            let mut call = self.call(&script::RECORD_LIST);
            call.arg(offset)
                .arg(ITEMS)
                .arg(filter.limit - listed.len())
                .arg(filter.state.map_or("", TaskState::as_str))
                .arg(filter.queue.as_ref().map_or("", QueueName::as_str))
                .arg(filter.name.as_ref().map_or("", TaskName::as_str));
            let mut page = Fields::of(self.run(&script::RECORD_LIST, &call).await?)?;
            let looked = read::large(page.next()?)?;
            for found in page.rest() {
                let mut found = Fields::of(found)?;
                let id = TaskId::new(&read::text(found.next()?)?)?;
                let mut row = HashMap::new();
                for (field, value) in LISTED.iter().zip(read::list(found.next()?)?) {
                    if let Some(value) = read::bytes(value)? {
                        row.insert((*field).to_owned(), value);
                    }
                }
                // A record that came meanwhile moves the others on by one place.
                if seen.insert(id.clone()) {
                    listed.push(Row(row).record(id)?);
                }
            }
            if looked == 0 {
                break;
            }
            offset += looked;
        }
        Ok(listed)
    }

    async fn prune_records(&self) -> Result<u64, Fault> {
        let now = match &self.clock {
            Some(clock) => clock.now(),
            None => self.server_time().await?,
        };
        let ttl = i64::try_from(RECORD_TTL.as_millis()).expect("a week fits");
        let before = now.unix_millis() - ttl;
        let (mut removed, mut offset) = (0, 0);
        loop {
            let mut call = self.call(&script::RECORD_PRUNE);
            call.arg(before).arg(offset).arg(ITEMS);
            let mut step = Fields::of(self.run(&script::RECORD_PRUNE, &call).await?)?;
            let (looked, gone) = (read::large(step.next()?)?, read::large(step.next()?)?);
            removed += gone;
            offset += looked - gone;
            if looked < ITEMS as u64 {
                return Ok(removed);
            }
        }
    }

    pub(crate) async fn server_time(&self) -> Result<Timestamp, Fault> {
        let mut time = Fields::of(self.link.ask(&redis::cmd("TIME")).await?)?;
        let (seconds, micros) = (read::int(time.next()?)?, read::int(time.next()?)?);
        Ok(Timestamp::from_unix_millis(seconds * 1000 + micros / 1000))
    }
}

fn name_all(call: &mut Cmd, tasks: &[TaskId]) {
    for task in tasks {
        call.arg(task.as_str());
    }
}

#[async_trait]
impl ResultBackend for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        let done = self.inner.in_portions(&script::RECORD_QUEUED, envelopes, |call, portion| {
            for envelope in portion {
                let not_before = envelope.not_before.map(Timestamp::unix_millis);
                call.arg(envelope.id.as_str())
                    .arg(envelope.queue.as_str())
                    .arg(envelope.name.as_str())
                    .arg(envelope.retry.max_retries)
                    .arg(envelope.enqueued_at.unix_millis())
                    .arg(not_before.map_or_else(String::new, |at| at.to_string()));
                family_arguments(call, envelope);
            }
        });
        done.await.map(|_| ()).map_err(|fault| self.inner.during(fault, "record new tasks"))
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let done = self.inner.record_answers(&script::RECORD_BEGUN, begun, |call, portion| {
            for begun in portion {
                prove(call, &begun.receipt);
                call.arg(begun.attempt)
                    .arg(begun.deliveries)
                    .arg(begun.at.unix_millis())
                    .arg(begun.worker.as_str());
            }
        });
        done.await.map_err(|fault| self.inner.during(fault, "record that attempts began"))
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let done = self.inner.record_answers(&script::RECORD_SETTLED, batch, |call, portion| {
            call.arg(portion.len());
            for settle in portion {
                prove(call, &settle.receipt);
                record_arguments(call, settle);
            }
        });
        done.await.map_err(|fault| self.inner.during(fault, "record how attempts ended"))
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let done = self.inner.record_answers(&script::RECORD_REPLAYED, letters, |call, portion| {
            for (task, token) in portion {
                call.arg(task.as_str()).arg(token.0);
            }
        });
        done.await.map_err(|fault| self.inner.during(fault, "record replays"))
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let done = self.inner.record_answers(&script::RECORD_PROGRESS, updates, |call, portion| {
            for (receipt, progress) in portion {
                prove(call, receipt);
                call.arg(serde_json::to_vec(progress).expect("progress can be written"));
            }
        });
        done.await.map_err(|fault| self.inner.during(fault, "record progress"))
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        const ACTION: &str = "save a checkpoint";
        if state.len() > CHECKPOINT_BYTES {
            let problem =
                format!("it is {} bytes; at most {CHECKPOINT_BYTES} are kept", state.len());
            let fault = Fault::new(ErrorClass::Unsupported, problem);
            return Err(self.inner.during(fault, ACTION));
        }
        let mut call = self.inner.call(&script::CHECKPOINT);
        prove(&mut call, receipt);
        call.arg(state);
        let saved = self.inner.run(&script::CHECKPOINT, &call).await.and_then(recorded);
        saved.map_err(|fault| self.inner.during(fault, ACTION))
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        let mut get = redis::cmd("GET");
        get.arg(self.inner.record_key("checkpoint", task));
        let loaded = self.inner.link.ask(&get).await.and_then(read::bytes);
        loaded.map_err(|fault| self.inner.during(fault, "load a checkpoint"))
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        let fetched = self.inner.fetch_record(task).await;
        fetched.map_err(|fault| self.inner.during(fault, "read a task's record"))
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        let mut get = redis::cmd("LRANGE");
        get.arg(self.inner.record_key("failed", task)).arg(0).arg(-1);
        let history = async { histories(self.inner.link.ask(&get).await?) }.await;
        history.map_err(|fault| self.inner.during(fault, "read a task's history"))
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        let listed = self.inner.list_records(filter).await;
        listed.map_err(|fault| self.inner.during(fault, "list tasks"))
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        let watched = self.inner.watch_record(task, until, wait).await;
        watched.map_err(|fault| self.inner.during(fault, "wait for a record"))
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let forgotten = async {
            let mut count = 0;
            for answer in self.inner.in_portions(&script::FORGET, tasks, name_all).await? {
                count += read::large(answer)?;
            }
            Ok(count)
        };
        forgotten.await.map_err(|fault| self.inner.during(fault, "remove records"))
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let pruned = self.inner.prune_records().await;
        pruned.map_err(|fault| self.inner.during(fault, "remove old records"))
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}

/// Failed attempts, oldest first.
pub(crate) fn histories(value: Value) -> Result<Vec<FailedAttempt>, Fault> {
    let mut history = Vec::new();
    for failed in read::list(value)? {
        history.push(serde_json::from_slice(&read::bytes(failed)?.unwrap_or_default())?);
    }
    Ok(history)
}
