//! A thread for the sockets of guests, what it may use up, and the certificates that they trust; made when the first
//! request is sent.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring;
use tokio::runtime::Runtime;
use tokio::sync::{AcquireError, OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// Most lookups of names at once. Each takes a thread for as long as the system's resolver likes, since nothing ends one
/// that hangs.
const LOOKUPS: usize = 32;
/// Most connections at once, however many files this process may open; otherwise half of those, so that no guest takes
/// the worker's own.
const CONNECTIONS: usize = 4_096;

/// Asks for the addresses of a host, and waits for the answer.
type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The right to one connection: one of its attempt's, and one of the worker's.
pub(super) type Turn = Arc<(OwnedSemaphorePermit, OwnedSemaphorePermit)>;

/// Apart from the guests' threads, which have no timers and give long turns, and from the timers' thread, which must not
/// wait for a handshake.
pub(crate) struct Network {
    runtime: Mutex<Option<Runtime>>,
    tls: OnceCell<Arc<ClientConfig>>,
    untrusting: AtomicBool,
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    resolve: Arc<Resolve>,
}

impl Default for Network {
    /// Asks the system's resolver.
    fn default() -> Self {
        Self::resolving(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// Asks this for addresses.
    pub(super) fn resolving(
        resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let connections = usize::try_from(files / 2).unwrap_or(usize::MAX).clamp(1, CONNECTIONS);
        Self {
            runtime: Mutex::default(),
            tls: OnceCell::new(),
            untrusting: AtomicBool::new(false),
            connections: Arc::new(Semaphore::new(connections)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            resolve: Arc::new(resolve),
        }
    }

    /// Runs something where sockets and timers work.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if runtime.is_none() {
            let made = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                // And one that reads certificates.
                .max_blocking_threads(LOOKUPS + 1)
                .thread_name("stem-network")
                .enable_all()
                .build()?;
            *runtime = Some(made);
        }
        let Some(runtime) = &*runtime else {
            return Err(io::Error::other("no thread for sockets"));
        };
        Ok(runtime.spawn(work))
    }

    /// Waits for a connection to be free. Cancel-safe.
    pub(super) async fn turn(&self, attempt: &Arc<Semaphore>) -> Result<Turn, AcquireError> {
        let ours = Arc::clone(attempt).acquire_owned().await?;
        Ok(Arc::new((ours, Arc::clone(&self.connections).acquire_owned().await?)))
    }

    /// Where a host is: asked once, so that there is one answer to check and to go to. The lookup goes on when this is
    /// dropped, and keeps its turn: an attempt whose lookups hang begins no more and more of them.
    pub(super) async fn addresses(
        &self,
        host: &str,
        port: u16,
        turn: &Turn,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let lookup = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let (resolve, host, turn) = (Arc::clone(&self.resolve), host.to_owned(), Arc::clone(turn));
        let found = tokio::task::spawn_blocking(move || {
            let _kept = (lookup, turn);
            resolve(&host, port)
        });
        found.await.map_err(io::Error::other)?
    }

    /// The system's certificates, read once: tens of milliseconds. A system without any is said in the log once.
    pub(super) async fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        let read = self.tls.get_or_try_init(|| async {
            tokio::task::spawn_blocking(system_certificates).await.map_err(io::Error::other)?
        });
        let config = read.await.cloned();
        if let Err(error) = &config
            && !self.untrusting.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "requests of guests that use TLS fail; install the system's certificates, or name them in SSL_CERT_FILE");
        }
        config
    }
}

fn system_certificates() -> io::Result<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(io::Error::other(format!("this system has no certificates to trust{why}")));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A ticket of one attempt's connection would be shown again by another's.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Drop for Network {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            // Without waiting: this may be dropped on a thread that must not.
            runtime.shutdown_background();
        }
    }
}
