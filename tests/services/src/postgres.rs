//! [`PostgresServer`]: a private Postgres.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::account::Account;
use crate::clock::{self, Ahead};
use crate::server::{self, Server};
use crate::shared::Shared;
use crate::{disk, preload, programs};

/// How a server is set.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// Whether it waits for the disk. Without, a kill of the server loses nothing, but a crash of the machine would.
    pub fsync: bool,
    /// Whether its files lie on a file system of their own, which [`PostgresServer::fill_disk`] can fill. Needs a
    /// superuser.
    pub own_disk: bool,
    /// Whether it has a wall clock of its own, which [`PostgresServer::set_clock`] sets.
    pub own_clock: bool,
    /// More settings, for instance `("max_connections", "5")`. A later one wins.
    pub extra: Vec<(String, String)>,
}

impl Default for PostgresSettings {
    /// Waits for the disk.
    fn default() -> Self {
        Self { fsync: true, own_disk: false, own_clock: false, extra: Vec::new() }
    }
}

/// A private Postgres on a port of 127.0.0.1, in a directory of its own; gone when dropped.
///
/// Its superuser `stem` needs no password. A test that does not disturb its server takes [`PostgresServer::shared`],
/// which costs milliseconds where this costs a second.
#[derive(Debug)]
pub struct PostgresServer {
    server: Server,
    cluster: Cluster,
    settings: Arc<PostgresSettings>,
}

impl PostgresServer {
    /// With the default settings.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(PostgresSettings::default())
    }

    /// With these settings.
    #[track_caller]
    pub fn with(settings: PostgresSettings) -> Self {
        let settings = Arc::new(settings);
        let start = || {
            let server = Server::new("postgres")?;
            let cluster = Cluster::new(server.directory(), server.port())?;
            if settings.own_disk {
                disk::mount(&server.disk())?;
                cluster.account.give(&server.disk())?;
            }
            if settings.own_clock {
                clock::make(server.directory())?;
            }
            let mut init = cluster.init()?;
            server.log_to(&mut init)?;
            let status = init.status().context("failed to run initdb")?;
            ensure!(status.success(), "initdb failed, {status}:\n{}", server.log());
            let new = Self { server, cluster, settings: settings.clone() };
            new.launch()?;
            Ok(new)
        };
        server::on_a_free_port(start).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The server that all test processes share; see [`Shared`].
    #[track_caller]
    pub fn shared() -> Shared {
        Shared::find_or_start().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// `postgres://stem@127.0.0.1:PORT/postgres`: the database that is always there.
    pub fn url(&self) -> String {
        self.cluster.url("postgres")
    }

    /// Creates a database and answers its URL.
    #[track_caller]
    pub fn database(&self) -> String {
        let name = self.cluster.create_database().unwrap_or_else(|error| panic!("{error:#}"));
        self.cluster.url(&name)
    }

    /// Where it listens on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The postmaster.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = self.server.pid().expect("the server runs");
        pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Everything it has logged since it was first started.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Kills the postmaster and all its children with SIGKILL and waits until they are gone. The directory stays for
    /// [`PostgresServer::restart`].
    #[track_caller]
    pub fn kill(&self) {
        self.server.kill().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Stops it as `pg_ctl stop -m immediate` does: connections are cut, nothing is finished, the next start recovers.
    #[track_caller]
    pub fn stop_immediate(&self) {
        self.server.stop(Signal::QUIT).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Starts it again on the same port and directory, killing it first if it runs. Waits until it takes connections.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        self.launch().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Stops the postmaster and all its children with SIGSTOP: connections stay open and nothing answers. When this
    /// returns, nothing runs.
    #[track_caller]
    pub fn freeze(&self) {
        self.server.freeze().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Lets it go on after [`PostgresServer::freeze`].
    pub fn thaw(&self) {
        self.server.thaw();
    }

    /// Leaves its own disk no room.
    #[track_caller]
    pub fn fill_disk(&self) {
        disk::fill(&self.server.disk()).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Gives its own disk its room back, and waits until it takes connections. It ends at once what it cannot write to its
    /// log, and begins anew by itself; where it has no room for that either, it ends, and is started again here.
    #[track_caller]
    pub fn free_disk(&self) {
        disk::free(&self.server.disk()).unwrap_or_else(|error| panic!("{error:#}"));
        let mut answers = false;
        let decided = server::wait_until(|| {
            answers = self.execute("SELECT 1").is_ok();
            answers || !self.server.is_running()
        });
        assert!(decided, "postgres takes no connections though there is room:\n{}", self.log());
        if !answers {
            self.restart();
        }
    }

    /// Whether it has a disk of its own.
    pub fn has_disk(&self) -> bool {
        self.settings.own_disk
    }

    /// Sets its own clock, which is as far off from now on, and sees to it that the server goes by it.
    #[track_caller]
    pub fn set_clock(&self, ahead: Ahead) {
        assert!(self.settings.own_clock, "it goes by the system's clock");
        clock::set(self.server.directory(), ahead)
            .and_then(|()| {
                self.execute("SELECT floor(extract(epoch FROM clock_timestamp()))::bigint")
            })
            .and_then(|shown| clock::must_show(&shown, ahead))
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Runs statements in the database `postgres` through `psql`, for administration. Answers the rows, a line for each,
    /// columns separated by `|`.
    pub fn execute(&self, sql: &str) -> Result<String> {
        self.cluster.execute("postgres", sql)
    }

    fn launch(&self) -> Result<()> {
        let fsync = if self.settings.fsync { "on" } else { "off" };
        let mut command = self.cluster.postgres();
        command.args(["-c", &format!("fsync={fsync}"), "-c", "synchronous_commit=on"]);
        for (name, value) in &self.settings.extra {
            command.args(["-c", &format!("{name}={value}")]);
        }
        if self.settings.own_clock {
            clock::wear(&mut command, self.server.directory());
            preload::load(&mut command, self.server.directory(), &[clock::NAME]);
        }
        self.server.launch(command, |pid| self.cluster.ready() == Some(pid))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Stopped in this way it gives its shared memory back itself. What is still there after that is killed.
        self.server.thaw();
        let _ = self.server.stop(Signal::QUIT);
    }
}

/// A directory with a cluster of databases, and the programs that work on it. It knows nothing of processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    directory: PathBuf,
    port: u16,
    programs: PathBuf,
    account: Account,
}

impl Cluster {
    /// Of a directory that was made for it, on this port.
    pub(crate) fn new(directory: &Path, port: u16) -> Result<Self> {
        let programs = programs::postgres_programs()?;
        let account = Account::unprivileged()?;
        Ok(Self { directory: directory.to_owned(), port, programs, account })
    }

    /// Fills the empty directory. Nothing is synced: data that must survive does not exist yet.
    pub(crate) fn init(&self) -> Result<Command> {
        self.account.give(&self.directory)?;
        let mut command = self.program("initdb");
        command
            .args(["--username=stem", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--pgdata"])
            .arg(self.data());
        Ok(command)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The postmaster, in the foreground.
    pub(crate) fn postgres(&self) -> Command {
        self.with_settings(self.program("postgres"))
    }

    /// A postmaster that gets SIGKILL when its parent ends, for the shared server. The inner `setpriv` asks for that
    /// after the outer one has changed the user, since a change of user takes it back.
    pub(crate) fn postgres_of_a_parent(&self) -> Command {
        let mut command = self.account.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.programs.join("postgres"));
        let mut command = self.with_settings(command);
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        command
    }

    /// Dynamic shared memory lies in files of the directory, which go with it, rather than in `/dev/shm`.
    fn with_settings(&self, mut command: Command) -> Command {
        let port = format!("port={}", self.port);
        let settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",
            "max_connections=200",
            "shared_buffers=32MB",
        ];
        command.arg("-D").arg(self.data());
        for setting in settings.into_iter().chain([port.as_str()]) {
            command.args(["-c", setting]);
        }
        command
    }

    /// The postmaster, once it takes connections, if only those of readers. Its lock file says so: the first line is the
    /// process, the eighth how far it is. The file of one that was killed stays.
    pub(crate) fn ready(&self) -> Option<u32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        let takes = matches!(lines.get(7), Some(&"ready" | &"standby"));
        if takes { lines.first()?.parse().ok() } else { None }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://stem@127.0.0.1:{}/{database}", self.port)
    }

    /// A database with a new name. From `template0`, which nobody is ever connected to and can so be copied at any time.
    /// The strategy `file_copy` saves 7 ms of 32, and old versions do not know it.
    pub(crate) fn create_database(&self) -> Result<String> {
        let name = format!("test_{:016x}", server::random());
        self.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"))?;
        Ok(name)
    }

    pub(crate) fn drop_database(&self, name: &str) -> Result<()> {
        self.execute("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).map(drop)
    }

    pub(crate) fn execute(&self, database: &str, sql: &str) -> Result<String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", &self.url(database), "--command", sql])
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null())
            .output()
            .context("failed to run psql")?;
        if !output.status.success() {
            bail!("psql failed at {sql:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.account.command(self.programs.join(name));
        // The working directory is what tells to whom a process belongs; and that of the test may be closed to the user.
        command.current_dir(&self.directory);
        command
    }
}
