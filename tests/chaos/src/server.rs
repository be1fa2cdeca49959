//! A private server of either kind, what can be done to it, and the network before it.

#![expect(clippy::unwrap_used, reason = "a run says by panicking what it did not expect")]

use std::time::Duration;

use stem_services::{Fsync, Network, PostgresServer, Proxy, RedisServer, RedisSettings};

use crate::fault::Fault;

/// A piece of a slow network takes so long.
const SLOW: Duration = Duration::from_millis(100);

/// What a run can have more than one of.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    proxy: Option<Proxy>,
}

#[derive(Debug)]
enum Kind {
    Redis(RedisServer),
    Postgres(PostgresServer),
}

impl Server {
    /// A Redis with an append-only file.
    pub fn redis(appendfsync: Fsync) -> Self {
        let settings = RedisSettings { appendfsync, ..RedisSettings::default() };
        Self { kind: Kind::Redis(RedisServer::with(settings)), proxy: None }
    }

    /// A Postgres that waits for the disk.
    pub fn postgres() -> Self {
        Self { kind: Kind::Postgres(PostgresServer::start()), proxy: None }
    }

    /// Behind a network that can be bad.
    #[must_use]
    pub fn behind_a_network(self) -> Self {
        let proxy = Proxy::start(self.port());
        Self { proxy: Some(proxy), ..self }
    }

    fn port(&self) -> u16 {
        match &self.kind {
            Kind::Redis(server) => server.port(),
            Kind::Postgres(server) => server.port(),
        }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        let url = match &self.kind {
            Kind::Redis(server) => server.url(),
            Kind::Postgres(server) => server.url(),
        };
        let Some(proxy) = &self.proxy else { return url };
        url.replace(&format!(":{}/", self.port()), &format!(":{}/", proxy.port()))
    }

    fn network(&self, network: Network) {
        self.proxy.as_ref().expect("there is a network").set(network);
    }

    /// Whether this can be done to it.
    pub fn knows(&self, fault: Fault) -> bool {
        let is_redis = matches!(self.kind, Kind::Redis(_));
        match fault {
            Fault::ServerKilled | Fault::ServerFrozen | Fault::ConnectionsCut | Fault::ReadOnly => {
                true
            }
            Fault::ServerStopped => !is_redis,
            Fault::OutOfMemory | Fault::ScriptsForgotten | Fault::DiskFull => is_redis,
            Fault::NetworkSlow
            | Fault::NetworkSilent
            | Fault::NetworkTorn
            | Fault::NetworkHalfClosed => self.proxy.is_some(),
            Fault::WorkerKilled | Fault::WorkerFrozen | Fault::ProducerKilled => false,
        }
    }

    /// Does it.
    ///
    /// # Panics
    ///
    /// If it cannot be done to this server, or something is done to it already.
    pub fn begin(&self, fault: Fault) {
        match fault {
            Fault::NetworkSlow => self.network(Network::Slow(SLOW)),
            Fault::NetworkSilent => self.network(Network::Silent),
            Fault::NetworkTorn => self.network(Network::Torn),
            Fault::NetworkHalfClosed => self.network(Network::HalfClosed),
            _ => match &self.kind {
                Kind::Redis(server) => begin_on_redis(server, fault),
                Kind::Postgres(server) => begin_on_postgres(server, fault),
            },
        }
    }

    /// Makes it well again.
    ///
    /// # Panics
    ///
    /// If it does not become well.
    pub fn end(&self, fault: Fault) {
        match fault {
            Fault::NetworkSlow
            | Fault::NetworkSilent
            | Fault::NetworkTorn
            | Fault::NetworkHalfClosed => self.network(Network::Good),
            _ => match &self.kind {
                Kind::Redis(server) => end_on_redis(server, fault),
                Kind::Postgres(server) => end_on_postgres(server, fault),
            },
        }
    }
}

fn begin_on_redis(server: &RedisServer, fault: Fault) {
    match fault {
        Fault::ServerKilled => server.kill(),
        Fault::ServerFrozen => server.freeze(),
        Fault::ConnectionsCut => {
            for kind in ["normal", "pubsub"] {
                server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).unwrap();
            }
        }
        // Nobody listens there, so it keeps its data.
        Fault::ReadOnly => drop(server.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap()),
        Fault::OutOfMemory => {
            drop(server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap());
        }
        Fault::ScriptsForgotten => drop(server.command(&["SCRIPT", "FLUSH"]).unwrap()),
        Fault::DiskFull => server.limit_files(Some(1)),
        other => panic!("{} is not for Redis", other.kind()),
    }
}

fn end_on_redis(server: &RedisServer, fault: Fault) {
    match fault {
        Fault::ServerKilled => server.restart(),
        Fault::ServerFrozen => server.thaw(),
        Fault::ReadOnly => drop(server.command(&["REPLICAOF", "NO", "ONE"]).unwrap()),
        Fault::OutOfMemory => {
            drop(server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap());
        }
        Fault::DiskFull => {
            server.limit_files(None);
            // One that writes before it answers has ended rather than answer what it has not written.
            if !server.is_running() {
                server.restart();
            }
        }
        _ => {}
    }
}

fn begin_on_postgres(server: &PostgresServer, fault: Fault) {
    match fault {
        Fault::ServerKilled => server.kill(),
        Fault::ServerStopped => server.stop_immediate(),
        Fault::ServerFrozen => server.freeze(),
        Fault::ConnectionsCut => {
            let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            drop(server.execute(all).unwrap());
        }
        Fault::ReadOnly => read_only(server, true),
        other => panic!("{} is not for Postgres", other.kind()),
    }
}

fn end_on_postgres(server: &PostgresServer, fault: Fault) {
    match fault {
        Fault::ServerKilled | Fault::ServerStopped => server.restart(),
        Fault::ServerFrozen => server.thaw(),
        Fault::ReadOnly => read_only(server, false),
        _ => {}
    }
}

/// Of the sessions that begin later, and of those there are.
fn read_only(server: &PostgresServer, on: bool) {
    let value = if on { "on" } else { "off" };
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
    server.execute(&set).unwrap();
    server.execute("SELECT pg_reload_conf()").unwrap();
}
