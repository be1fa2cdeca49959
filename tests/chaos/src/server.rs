//! A private server of each kind, what can be done to it, and the network before it. A file of SQLite counts as a server whose
//! disk can be full.

#![expect(clippy::unwrap_used, reason = "a run says by panicking what it did not expect")]

use std::time::Duration;

use stem_services::{
    Disk, Fsync, Network, PostgresServer, PostgresSettings, Proxy, RedisServer, RedisSettings,
};

use crate::fault::Fault;

/// A piece of a slow network takes so long.
const SLOW: Duration = Duration::from_millis(100);
/// What Redis may still take before its memory is filled.
const MEMORY_LEFT: u64 = 8 << 20;
/// What fills it does so in pieces of this size, up to the second.
const PIECE: u64 = 1 << 20;
const PIECES: u64 = 64;
/// The key of somebody else whose value fills it.
const FILLER: &str = "somebody-else's";

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
    Sqlite(Disk),
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

    /// A Redis with an append-only file, on a disk that can be full.
    pub fn redis_on_a_disk(appendfsync: Fsync) -> Self {
        let settings = RedisSettings { appendfsync, own_disk: true, ..RedisSettings::default() };
        Self { kind: Kind::Redis(RedisServer::with(settings)), proxy: None }
    }

    /// A Postgres on a disk that can be full. It keeps its log short, since that disk is memory.
    pub fn postgres_on_a_disk() -> Self {
        let extra = vec![("max_wal_size".to_owned(), "128MB".to_owned())];
        let settings = PostgresSettings { own_disk: true, extra, ..PostgresSettings::default() };
        Self { kind: Kind::Postgres(PostgresServer::with(settings)), proxy: None }
    }

    /// A place for a file of SQLite, on a disk that can be full.
    pub fn sqlite_on_a_disk() -> Self {
        Self { kind: Kind::Sqlite(Disk::start()), proxy: None }
    }

    /// Behind a network that can be bad. There is none before a file.
    #[must_use]
    pub fn behind_a_network(self) -> Self {
        let proxy = self.port().map(Proxy::start);
        Self { proxy, ..self }
    }

    fn port(&self) -> Option<u16> {
        match &self.kind {
            Kind::Redis(server) => Some(server.port()),
            Kind::Postgres(server) => Some(server.port()),
            Kind::Sqlite(_) => None,
        }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        let url = match &self.kind {
            Kind::Redis(server) => server.url(),
            Kind::Postgres(server) => server.url(),
            Kind::Sqlite(disk) => format!("sqlite:{}", disk.path().join("stem.db").display()),
        };
        let (Some(proxy), Some(port)) = (&self.proxy, self.port()) else { return url };
        url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()))
    }

    /// How often it has said in its log that its disk is full. A file has none.
    pub fn complaints(&self) -> usize {
        let log = match &self.kind {
            Kind::Redis(server) => server.log(),
            Kind::Postgres(server) => server.log(),
            Kind::Sqlite(_) => String::new(),
        };
        // One that ends of it may say no more than what it could not write.
        log.matches("No space left on device").count() + log.matches("AOF write error").count()
    }

    fn network(&self, network: Network) {
        self.proxy.as_ref().expect("there is a network").set(network);
    }

    /// Whether this can be done to it.
    pub fn knows(&self, fault: Fault) -> bool {
        let is_redis = matches!(self.kind, Kind::Redis(_));
        let is_postgres = matches!(self.kind, Kind::Postgres(_));
        match fault {
            Fault::ServerKilled | Fault::ServerFrozen | Fault::ConnectionsCut | Fault::ReadOnly => {
                is_redis || is_postgres
            }
            Fault::ServerStopped => is_postgres,
            Fault::OutOfMemory | Fault::MemoryFilled | Fault::ScriptsForgotten => is_redis,
            Fault::DiskFull => match &self.kind {
                Kind::Redis(server) => server.has_disk(),
                Kind::Postgres(server) => server.has_disk(),
                Kind::Sqlite(_) => true,
            },
            Fault::NetworkSlow
            | Fault::NetworkSilent
            | Fault::NetworkTorn
            | Fault::NetworkHalfClosed => self.proxy.is_some(),
            Fault::WorkerKilled
            | Fault::WorkerFrozen
            | Fault::WorkerOutOfMemory
            | Fault::ProducerKilled => false,
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
                Kind::Sqlite(disk) => {
                    assert_eq!(fault, Fault::DiskFull, "nothing else can be done to a file");
                    disk.fill();
                }
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
                Kind::Sqlite(disk) => disk.free(),
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
        Fault::MemoryFilled => fill_memory(server),
        Fault::DiskFull => server.fill_disk(),
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
        Fault::MemoryFilled => {
            server.command(&["DEL", FILLER]).unwrap();
            server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
        }
        Fault::DiskFull => {
            server.free_disk();
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
        Fault::DiskFull => server.fill_disk(),
        other => panic!("{} is not for Postgres", other.kind()),
    }
}

fn end_on_postgres(server: &PostgresServer, fault: Fault) {
    match fault {
        Fault::ServerKilled | Fault::ServerStopped => server.restart(),
        Fault::ServerFrozen => server.thaw(),
        Fault::ReadOnly => read_only(server, false),
        Fault::DiskFull => server.free_disk(),
        _ => {}
    }
}

/// Gives it a limit that is not reached, and lets a value grow until it is.
fn fill_memory(server: &RedisServer) {
    let info = server.command(&["INFO", "memory"]).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    let limit = used.unwrap().trim().parse::<u64>().unwrap() + MEMORY_LEFT;
    server.command(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).unwrap();
    for piece in 1..=PIECES {
        let end = (piece * PIECE).to_string();
        if let Err(error) = server.command(&["SETRANGE", FILLER, &end, "x"]) {
            assert!(format!("{error:#}").contains("OOM"), "{error:#}");
            return;
        }
    }
    panic!("redis takes more than its {limit} bytes");
}

/// Of the sessions that begin later, and of those there are.
fn read_only(server: &PostgresServer, on: bool) {
    let value = if on { "on" } else { "off" };
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
    server.execute(&set).unwrap();
    server.execute("SELECT pg_reload_conf()").unwrap();
}
