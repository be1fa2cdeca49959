//! The services behind a lab's database, for what no command does: writing past the control plane, and reading what it
//! left behind.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use stem_core::backend::Records;
use stem_core::backend::broker::Published;
use stem_core::backend::control::Position;
use stem_core::backend::result::RecordFilter;
use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Command, Order};
use stem_core::envelope::Envelope;
use stem_core::id::{Namespace, RequestId, TaskId, WorkerId};
use stem_core::revoke::{Revocation, RevokeRequest};
use stem_core::task::{TaskRecord, TaskState};
use stem_core::time::{Clock, Timestamp};
use stem_engine::{Backends, SystemClock};
use stem_redis::{Redis, RedisOptions};
use stem_sql::{Postgres, PostgresOptions, Sqlite, SqliteOptions};

use crate::lab::{Lab, PATIENCE, Worker};

/// Request ids made here; each lab has a log of its own.
static SENT: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Store {
    runtime: tokio::runtime::Runtime,
    backends: Backends,
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn namespace() -> Namespace {
    Namespace::new("stem").unwrap()
}

impl Store {
    pub(crate) fn open(path: &Path) -> Self {
        Self::open_with(path, Duration::from_secs(5))
    }

    /// The Redis at this URL.
    pub(crate) fn redis(url: &str) -> Self {
        let runtime = runtime();
        let service =
            runtime.block_on(Redis::open(RedisOptions { url: url.to_owned(), clock: None }));
        Self { runtime, backends: Backends::all_in_one(service.unwrap()) }
    }

    /// The Postgres at this URL.
    pub(crate) fn postgres(url: &str) -> Self {
        let runtime = runtime();
        let service = runtime.block_on(Postgres::open(PostgresOptions::new(url)));
        Self { runtime, backends: Backends::all_in_one(service.unwrap()) }
    }

    fn open_with(path: &Path, busy_timeout: Duration) -> Self {
        let runtime = runtime();
        let options = SqliteOptions {
            path: path.to_owned(),
            clock: Arc::new(SystemClock),
            create: true,
            busy_timeout,
        };
        let service = runtime.block_on(Sqlite::open(options)).unwrap();
        Self { runtime, backends: Backends::all_in_one(service) }
    }

    /// Revokes in the store alone: no worker is told.
    pub(crate) fn revoke(&self, tasks: &[&str], request: &RevokeRequest) -> Vec<Revocation> {
        let requests: Vec<_> =
            tasks.iter().map(|task| (TaskId::new(*task).unwrap(), request.clone())).collect();
        self.runtime.block_on(self.backends.revokes.revoke(&namespace(), &requests)).unwrap()
    }

    /// Freezes a worker outside of its transactions: one that is frozen inside holds the lock that all others wait for.
    pub(crate) fn freeze(lab: &Lab, worker: &Worker) {
        let store = Self::open_with(&lab.database(), Duration::from_millis(200));
        let since = Instant::now();
        loop {
            worker.signal("-STOP");
            let written = store.runtime.block_on(store.backends.revokes.prune(&namespace()));
            match written {
                Ok(_) => return,
                Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
            }
            worker.signal("-CONT");
        }
    }

    /// Enqueues these, all at once.
    pub(crate) fn publish(&self, envelopes: &[Envelope]) {
        let published =
            self.runtime.block_on(self.backends.broker.publish(envelopes, Records::Here));
        assert_eq!(published.unwrap(), vec![Published::Stored; envelopes.len()]);
    }

    /// Every record; in one state, if it is named.
    pub(crate) fn records(&self, state: Option<TaskState>) -> Vec<TaskRecord> {
        let filter = RecordFilter { state, limit: 100_000, ..RecordFilter::default() };
        self.runtime.block_on(self.backends.results.list(&filter)).unwrap()
    }

    /// Every command that lies in the log, can be read and has not expired.
    pub(crate) fn commands(&self) -> Vec<Command> {
        let namespace = namespace();
        let read = self.backends.control.commands(&namespace, Position::default(), Duration::ZERO);
        let texts = self.runtime.block_on(read).unwrap();
        texts.iter().filter_map(|(_, text)| wire::command(text.as_bytes()).ok()).collect()
    }

    /// Puts an order into the log that expires after so long.
    pub(crate) fn send(&self, order: Order, targets: Option<&[&str]>, expires_in: Duration) {
        self.put(&CommandFrame::plain(&Self::command(order, targets, expires_in)));
    }

    /// Puts a command into the log whose text is this, for as long as the test lasts.
    pub(crate) fn plant(&self, text: &str) {
        let command = Self::command(Order::Ping {}, None, PATIENCE * 10);
        self.put(&CommandFrame { text: text.to_owned(), ..CommandFrame::plain(&command) });
    }

    fn put(&self, frame: &CommandFrame) {
        self.runtime.block_on(self.backends.control.send(frame)).unwrap();
    }

    fn command(order: Order, targets: Option<&[&str]>, expires_in: Duration) -> Command {
        let now = SystemClock.now();
        Command {
            request_id: RequestId::new(format!("by-hand-{}", SENT.fetch_add(1, Relaxed))).unwrap(),
            namespace: namespace(),
            targets: targets
                .map(|names| names.iter().map(|name| WorkerId::new(*name).unwrap()).collect()),
            order,
            issued_at: now,
            expires_at: now.after(expires_in),
            requester: "a test".to_owned(),
        }
    }
}

/// The store's time, which is this machine's.
pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}
