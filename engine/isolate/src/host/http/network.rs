//! A thread for the sockets of guests, and the certificates that they trust; made when the first request is sent.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::crypto::ring;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

/// Apart from the guests' threads, which have no timers and give long turns, and from the timers' thread, which must not
/// wait for a handshake.
#[derive(Default)]
pub(crate) struct Network {
    runtime: Mutex<Option<Runtime>>,
    tls: OnceCell<Arc<ClientConfig>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl Network {
    /// Runs something where sockets and timers work.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if runtime.is_none() {
            let made = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
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

    /// The system's certificates, read once: tens of milliseconds.
    pub(super) async fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        self.tls
            .get_or_try_init(|| async {
                tokio::task::spawn_blocking(system_certificates).await.map_err(io::Error::other)?
            })
            .await
            .cloned()
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
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
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
