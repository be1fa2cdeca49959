//! From a URL to a service. The only place that names concrete backends.
//!
//! | scheme | what it is |
//! |---|---|
//! | `sqlite:///path`, `sqlite://relative/path` | a SQLite file |
//! | `memory://` | this process's memory; gone when it ends |
//! | `file:///path`, or a bare path | a file of JSON lines; revocations only |

mod late;
mod url;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, Broker, ResultBackend, RevokeStore};
use stem_engine::{Backends, RevokePolicy, SystemClock};
use stem_file::{FileStore, FileStoreOptions};
use stem_memory::Memory;
use stem_sql::{Sqlite, SqliteOptions};

pub use self::url::{ServiceUrl, mask};
use crate::error::CliError;
use crate::settings::{Setting, Settings};

/// How long to wait for a database's lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One opened service.
#[derive(Clone)]
enum Service {
    Sqlite(Arc<Sqlite>),
    Memory(Arc<Memory>),
}

impl Service {
    fn backends(&self) -> Backends {
        match self {
            Self::Sqlite(service) => Backends::all_in_one(Arc::clone(service)),
            Self::Memory(service) => Backends::all_in_one(Arc::clone(service)),
        }
    }
}

/// Opens services; equal URLs give one service.
#[derive(Default)]
struct Opener {
    opened: Vec<(ServiceUrl, Service)>,
}

impl Opener {
    async fn open(&mut self, setting: &Setting<ServiceUrl>) -> Result<Service, CliError> {
        let url = &setting.value;
        if let Some((_, service)) = self.opened.iter().find(|(opened, _)| opened == url) {
            return Ok(service.clone());
        }
        let service = match url {
            ServiceUrl::Memory => Service::Memory(Memory::new(Arc::new(SystemClock))),
            ServiceUrl::Sqlite(path) => Service::Sqlite(open_sqlite(path).await?),
            ServiceUrl::File(_) | ServiceUrl::NotYet(_) => return Err(unsupported(setting)),
        };
        self.opened.push((url.clone(), service.clone()));
        Ok(service)
    }

    async fn revokes(
        &mut self,
        setting: &Setting<ServiceUrl>,
    ) -> Result<Arc<dyn RevokeStore>, CliError> {
        match &setting.value {
            ServiceUrl::File(path) => Ok(revoke_file(path)),
            _ => Ok(self.open(setting).await?.backends().revokes),
        }
    }
}

/// The hint under a URL that cannot be used.
pub const SUPPORTED: &str =
    "this build supports sqlite:///path and memory://, and for revocations file:///path";

fn unsupported(setting: &Setting<ServiceUrl>) -> CliError {
    CliError::usage(
        format!("{} ({}) is not supported by this build yet", setting.value, setting.source),
        SUPPORTED,
    )
}

/// A file of revocations. Nothing is looked at yet.
pub fn revoke_file(path: &Path) -> Arc<FileStore> {
    FileStore::open(FileStoreOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        lock_timeout: FileStoreOptions::DEFAULT_LOCK_TIMEOUT,
    })
}

async fn open_sqlite(path: &Path) -> Result<Arc<Sqlite>, BackendError> {
    let options = SqliteOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        create: true,
        busy_timeout: BUSY_TIMEOUT,
    };
    Sqlite::open(options).await
}

/// Opens broker, result backend and revoke store. Presence lies with the results; control and dead letters with the broker.
pub async fn connect(settings: &Settings) -> Result<Backends, CliError> {
    connect_by(settings, RevokePolicy::FailClosed).await
}

/// The same for a worker. One that is to fail open is not kept from starting by a revoke store that cannot be opened: it
/// is opened when it can be.
pub async fn connect_by(settings: &Settings, policy: RevokePolicy) -> Result<Backends, CliError> {
    let mut opener = Opener::default();
    let broker = opener.open(&settings.broker_url).await?.backends();
    let results = opener.open(&settings.result_backend_url).await?.backends();
    let setting = &settings.revoke_store_url;
    let revokes = match (opener.revokes(setting).await, &setting.value, policy) {
        (Ok(revokes), _, _) => revokes,
        (Err(error), ServiceUrl::Sqlite(path), RevokePolicy::FailOpen) => {
            tracing::warn!(store = %setting.value, error = %error.what, "the revoke store cannot be opened; it is tried again at each look");
            late::sqlite(path)
        }
        (Err(error), _, _) => return Err(error),
    };
    Ok(Backends { results: results.results, presence: results.presence, revokes, ..broker })
}

/// Refuses what would be lost when this process ends.
pub fn refuse_memory(url: &Setting<ServiceUrl>, what: &str) -> Result<(), CliError> {
    if url.value != ServiceUrl::Memory {
        return Ok(());
    }
    Err(CliError::usage(
        format!(
            "memory:// ({}) is this process's own memory, so {what} would be gone when this command ends",
            url.source
        ),
        "use a store that outlives the process, for instance STEM_BROKER_URL=sqlite:///path/to/stem.db",
    ))
}

/// Opens the broker alone.
pub async fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, CliError> {
    Ok(Opener::default().open(&settings.broker_url).await?.backends().broker)
}

/// Opens the result backend alone.
pub async fn results(settings: &Settings) -> Result<Arc<dyn ResultBackend>, CliError> {
    Ok(Opener::default().open(&settings.result_backend_url).await?.backends().results)
}

/// Opens the revoke store alone.
pub async fn revokes(settings: &Settings) -> Result<Arc<dyn RevokeStore>, CliError> {
    Opener::default().revokes(&settings.revoke_store_url).await
}
