//! From a URL to a service. The only place that names concrete backends.
//!
//! | scheme | what it is |
//! |---|---|
//! | `sqlite:///path`, `sqlite://relative/path` | a SQLite file |
//! | `redis://[user[:password]@]host[:port][/database]`, `rediss://` with TLS | a Redis; `?prefix=name` keeps several apart |
//! | `postgres://[user[:password]@]host[:port]/database`, `postgresql://` | a Postgres database; `?sslmode=verify-full` for TLS, `schema=name` keeps several apart |
//! | `memory://` | this process's memory; gone when it ends |
//! | `file:///path`, or a bare path | a file of JSON lines for revocations, a directory for modules; nothing else |

mod late;
mod tls;
mod url;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, Broker, ModuleStore, Presence, ResultBackend, RevokeStore};
use stem_engine::{Backends, RevokePolicy, SystemClock};
use stem_file::{FileStore, FileStoreOptions, ModuleDirectory, ModuleDirectoryOptions};
use stem_memory::Memory;
use stem_redis::{Redis, RedisOptions};
use stem_sql::{Postgres, PostgresOptions, Sqlite, SqliteOptions};

pub use self::tls::Tls;
pub use self::url::{Secret, ServiceUrl, mask};
use crate::error::CliError;
use crate::exit::Ending;
use crate::settings::{Setting, Settings};

/// How long to wait for a database's lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One opened service.
#[derive(Clone)]
enum Service {
    Sqlite(Arc<Sqlite>),
    Redis(Arc<Redis>),
    Postgres(Arc<Postgres>),
    Memory(Arc<Memory>),
}

impl Service {
    fn backends(&self) -> Backends {
        match self {
            Self::Sqlite(service) => Backends::all_in_one(Arc::clone(service)),
            Self::Redis(service) => Backends::all_in_one(Arc::clone(service)),
            Self::Postgres(service) => Backends::all_in_one(Arc::clone(service)),
            Self::Memory(service) => Backends::all_in_one(Arc::clone(service)),
        }
    }

    async fn open(url: &ServiceUrl, tls: &Tls) -> Result<Self, CliError> {
        Ok(match url {
            ServiceUrl::Memory => Self::Memory(Memory::new(Arc::new(SystemClock))),
            ServiceUrl::Sqlite(path) => Self::Sqlite(open_sqlite(path).await?),
            ServiceUrl::Redis(url) => {
                let url = tls.for_redis(url.expose());
                Self::Redis(Redis::open(RedisOptions { url, clock: None }).await?)
            }
            ServiceUrl::Postgres(url) => {
                let url = tls.for_postgres(url.expose());
                Self::Postgres(Postgres::open(PostgresOptions::new(url)).await?)
            }
            ServiceUrl::File(_) => {
                let what = "a file can hold revocations or modules and nothing else";
                return Err(CliError::usage(what, SUPPORTED));
            }
        })
    }
}

/// Opens services; equal URLs give one service.
pub struct Opener<'a> {
    settings: &'a Settings,
    opened: Vec<(ServiceUrl, Service)>,
    tls: Tls,
}

impl fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opened = self.opened.iter().map(|(url, _)| url);
        f.debug_list().entries(opened).finish()
    }
}

impl<'a> Opener<'a> {
    /// Nothing is opened yet.
    pub fn new(settings: &'a Settings) -> Self {
        Self { settings, opened: Vec::new(), tls: settings.tls() }
    }

    /// The revoke store alone.
    pub async fn revokes(&mut self) -> Result<Arc<dyn RevokeStore>, CliError> {
        match &self.settings.revoke_store_url.value {
            ServiceUrl::File(path) => Ok(revoke_file(path)),
            _ => Ok(self.open(&self.settings.revoke_store_url).await?.backends().revokes),
        }
    }

    /// The module store alone.
    pub async fn modules(&mut self) -> Result<Arc<dyn ModuleStore>, CliError> {
        match &self.settings.module_store_url.value {
            ServiceUrl::File(path) => Ok(module_directory(path)),
            _ => Ok(self.open(&self.settings.module_store_url).await?.backends().modules),
        }
    }

    /// The same, opened with the first call unless it is one of the services that are open: who needs no module need not
    /// wait for it.
    fn modules_when_asked(&self) -> Arc<dyn ModuleStore> {
        let url = &self.settings.module_store_url.value;
        match (url, self.opened.iter().find(|(opened, _)| opened == url)) {
            (ServiceUrl::File(path), _) => module_directory(path),
            (_, Some((_, service))) => service.backends().modules,
            (_, None) => late::store(url.clone(), self.tls.clone()),
        }
    }

    /// Everything. Presence and buckets lie with the results; control and dead letters with the broker. A worker that is
    /// to fail open is not kept from starting by a revoke store that cannot be opened: it is opened when it can be.
    pub async fn all(&mut self, policy: RevokePolicy) -> Result<Backends, CliError> {
        let broker = self.open(&self.settings.broker_url).await?.backends();
        let results = self.open(&self.settings.result_backend_url).await?.backends();
        let revokes = match self.revokes().await {
            Ok(revokes) => revokes,
            Err(error) if policy == RevokePolicy::FailOpen && error.ending != Ending::Usage => {
                let url = &self.settings.revoke_store_url.value;
                tracing::warn!(store = %url, error = %error.what, "the revoke store cannot be opened; it is tried again at each look");
                late::store(url.clone(), self.tls.clone())
            }
            Err(error) => return Err(error),
        };
        let modules = self.modules_when_asked();
        Ok(Backends {
            results: results.results,
            presence: results.presence,
            buckets: results.buckets,
            revokes,
            modules,
            ..broker
        })
    }

    async fn open(&mut self, setting: &Setting<ServiceUrl>) -> Result<Service, CliError> {
        let url = &setting.value;
        if let Some((_, service)) = self.opened.iter().find(|(opened, _)| opened == url) {
            return Ok(service.clone());
        }
        let service = Service::open(url, &self.tls).await?;
        self.opened.push((url.clone(), service.clone()));
        Ok(service)
    }
}

/// The hint under a URL that cannot be used.
pub const SUPPORTED: &str = "supported are sqlite:///path, redis://host:port, rediss://host:port, postgres://host/database and memory://, and for revocations and modules file:///path too";

/// A file of revocations. Nothing is looked at yet.
pub fn revoke_file(path: &Path) -> Arc<FileStore> {
    FileStore::open(FileStoreOptions {
        path: path.to_owned(),
        clock: Arc::new(SystemClock),
        lock_timeout: FileStoreOptions::DEFAULT_LOCK_TIMEOUT,
    })
}

/// A directory of modules. Nothing is looked at yet.
fn module_directory(path: &Path) -> Arc<ModuleDirectory> {
    ModuleDirectory::open(ModuleDirectoryOptions {
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

/// Opens everything.
pub async fn connect(settings: &Settings) -> Result<Backends, CliError> {
    Opener::new(settings).all(RevokePolicy::FailClosed).await
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
    Ok(Opener::new(settings).open(&settings.broker_url).await?.backends().broker)
}

/// Opens the broker, and where heartbeats are kept.
pub async fn broker_and_presence(
    settings: &Settings,
) -> Result<(Arc<dyn Broker>, Arc<dyn Presence>), CliError> {
    let mut opener = Opener::new(settings);
    let broker = opener.open(&settings.broker_url).await?.backends().broker;
    let presence = opener.open(&settings.result_backend_url).await?.backends().presence;
    Ok((broker, presence))
}

/// Opens the broker, and where records are kept.
pub async fn broker_and_results(
    settings: &Settings,
) -> Result<(Arc<dyn Broker>, Arc<dyn ResultBackend>), CliError> {
    let mut opener = Opener::new(settings);
    let broker = opener.open(&settings.broker_url).await?.backends().broker;
    let results = opener.open(&settings.result_backend_url).await?.backends().results;
    Ok((broker, results))
}

/// Opens the result backend alone.
pub async fn results(settings: &Settings) -> Result<Arc<dyn ResultBackend>, CliError> {
    Ok(Opener::new(settings).open(&settings.result_backend_url).await?.backends().results)
}

/// Opens the revoke store alone.
pub async fn revokes(settings: &Settings) -> Result<Arc<dyn RevokeStore>, CliError> {
    Opener::new(settings).revokes().await
}

/// Opens the module store alone.
pub async fn modules(settings: &Settings) -> Result<Arc<dyn ModuleStore>, CliError> {
    Opener::new(settings).modules().await
}
