//! Hearing of changes that other processes have made: `LISTEN`, only ever as a wake-up.
//!
//! One connection for each open database, beside the bounded number of those that work. It is made when the first
//! waiter comes, and again whenever it is lost; then everybody looks, as news may have been missed. Where it cannot be
//! had at all (a pooler between, for instance) waiters still look every second.

use std::sync::OnceLock;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::bells::{Bells, News, Topic, Topics};

/// After so long without news the connection is tried: one that a network has dropped stays silent for ever.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the server may take to answer here.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(500);

/// News of one database.
pub(super) struct Changes {
    settings: PgConnectOptions,
    channel: String,
    /// What this process sends itself carries this mark; its own waiters were woken already.
    origin: String,
    runtime: Handle,
    bells: Bells,
    listener: OnceLock<Listener>,
}

struct Listener(AbortHandle);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Changes {
    pub(super) fn new(
        settings: PgConnectOptions,
        channel: String,
        origin: String,
        runtime: Handle,
        bells: Bells,
    ) -> Self {
        Self { settings, channel, origin, runtime, bells, listener: OnceLock::new() }
    }

    /// From the return on, no commit of this process goes unnoticed; those of others are heard of as soon as the
    /// connection stands.
    pub(super) fn subscribe(&self, topic: Topic) -> News {
        self.listener.get_or_init(|| {
            let task = self.runtime.spawn(listen(
                self.settings.clone(),
                self.channel.clone(),
                self.origin.clone(),
                self.bells.clone(),
            ));
            Listener(task.abort_handle())
        });
        self.bells.listen(topic)
    }
}

async fn listen(settings: PgConnectOptions, channel: String, origin: String, bells: Bells) {
    loop {
        match timeout(PATIENCE, connect(&settings, &channel)).await {
            Ok(Ok(listener)) => {
                bells.ring(Topics::ALL);
                hear(listener, &origin, &bells).await;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot listen for news; looking every second");
            }
            Err(_) => tracing::debug!("cannot listen for news: no answer; looking every second"),
        }
        sleep(RETRY).await;
    }
}

async fn connect(settings: &PgConnectOptions, channel: &str) -> Result<PgListener, sqlx::Error> {
    // The only way to a listener with settings of one's own leads through a pool; it holds this one connection.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(PATIENCE)
        // Never reached, so that the pool writes no warnings of its own.
        .acquire_slow_threshold(PATIENCE * 2)
        .connect_lazy_with(settings.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // A lost connection is to be seen here, where everybody is woken after a new one stands.
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// Rings for what comes, until the connection is lost.
async fn hear(mut listener: PgListener, origin: &str, bells: &Bells) {
    loop {
        // Dropped in the middle it has taken nothing: a message leaves the buffer only as a whole.
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(news))) => {
                let (topics, from) = news.payload().split_once(' ').unwrap_or_default();
                if from != origin {
                    // Words that are not ours come from a newer Stem; who hears them looks.
                    bells.ring(topics.parse().map_or(Topics::ALL, Topics));
                }
            }
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the connection that listens for news was lost");
                return;
            }
            Err(_) => {
                if !matches!(timeout(PATIENCE, listener.execute("SELECT 1")).await, Ok(Ok(_))) {
                    tracing::debug!("the connection that listens for news does not answer");
                    return;
                }
            }
        }
    }
}
