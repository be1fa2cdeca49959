//! A private server of either kind.

use stem_services::{Fsync, PostgresServer, RedisServer, RedisSettings};

/// What a run can have more than one of.
pub(crate) enum Server {
    Redis(RedisServer),
    Postgres(PostgresServer),
}

impl Server {
    /// A Redis with an append-only file.
    pub(crate) fn redis(appendfsync: Fsync) -> Self {
        let settings = RedisSettings { appendfsync, ..RedisSettings::default() };
        Self::Redis(RedisServer::with(settings))
    }

    /// A Postgres that waits for the disk.
    pub(crate) fn postgres() -> Self {
        Self::Postgres(PostgresServer::start())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Postgres(server) => server.url(),
        }
    }

    pub(crate) fn kill(&self) {
        match self {
            Self::Redis(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    pub(crate) fn restart(&self) {
        match self {
            Self::Redis(server) => server.restart(),
            Self::Postgres(server) => server.restart(),
        }
    }
}
