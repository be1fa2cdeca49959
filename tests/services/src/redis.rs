//! [`RedisServer`]: a private Redis.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::clock::{self, Ahead};
use crate::power::{self, Power};
use crate::server::{self, Server};
use crate::{disk, preload, programs};

/// No answer takes longer.
const REPLY: Duration = Duration::from_secs(10);

/// When Redis hands its append-only file to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the system likes to.
    No,
    /// Once a second.
    Everysec,
    /// Before it answers.
    Always,
}

impl Fsync {
    fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Everysec => "everysec",
            Self::Always => "always",
        }
    }
}

/// How a server is set.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Whether it keeps an append-only file. Without one a restart loses everything: no snapshots are made.
    pub appendonly: bool,
    /// When that file is synced.
    pub appendfsync: Fsync,
    /// What the user `default` must show. It becomes a part of [`RedisServer::url`].
    pub password: Option<String>,
    /// Whether its files lie on a file system of their own, which [`RedisServer::fill_disk`] can fill. Needs a superuser.
    pub own_disk: bool,
    /// Whether it has a wall clock of its own, which [`RedisServer::set_clock`] sets.
    pub own_clock: bool,
    /// Whether it notes what it has synced, so that [`RedisServer::cut_power`] can take the rest.
    pub own_power: bool,
    /// More arguments of the command line, for instance `["--maxmemory", "8mb"]`. A later one wins.
    pub extra: Vec<String>,
}

impl Default for RedisSettings {
    /// An append-only file, synced every second; no password.
    fn default() -> Self {
        Self {
            appendonly: true,
            appendfsync: Fsync::Everysec,
            password: None,
            own_disk: false,
            own_clock: false,
            own_power: false,
            extra: Vec::new(),
        }
    }
}

/// A private Redis on a port of 127.0.0.1, in a directory of its own; gone when dropped.
///
/// It evicts nothing (`maxmemory-policy noeviction`), makes no snapshots, and allows `DEBUG` from this machine.
#[derive(Debug)]
pub struct RedisServer {
    server: Server,
    settings: Arc<RedisSettings>,
}

impl RedisServer {
    /// With the default settings.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(RedisSettings::default())
    }

    /// With these settings.
    #[track_caller]
    pub fn with(settings: RedisSettings) -> Self {
        let settings = Arc::new(settings);
        let start = || {
            let server = Self { server: Server::new("redis")?, settings: settings.clone() };
            if settings.own_disk {
                disk::mount(&server.server.disk())?;
            }
            if settings.own_clock {
                clock::make(server.server.directory())?;
            }
            if settings.own_power {
                Power::make(server.server.directory())?;
            }
            server.launch()?;
            Ok(server)
        };
        server::on_a_free_port(start).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// `redis://127.0.0.1:PORT/0`, with the password if there is one.
    pub fn url(&self) -> String {
        let user = self.settings.password.as_ref().map(|password| format!(":{password}@"));
        format!("redis://{}127.0.0.1:{}/0", user.unwrap_or_default(), self.port())
    }

    /// Where it listens on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The server's process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = self.server.pid().expect("the server runs");
        pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Everything it has logged since it was first started.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Kills it with SIGKILL and waits until it is gone. Its directory stays for [`RedisServer::restart`].
    #[track_caller]
    pub fn kill(&self) {
        self.server.kill().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Kills it as a cut of the power does, which also takes of its append-only file what was not synced; answers how many
    /// bytes that was.
    #[track_caller]
    pub fn cut_power(&self) -> u64 {
        assert!(self.settings.own_power, "it does not note what it has synced");
        self.kill();
        power::cut_all(&self.data().join("appendonlydir"), "aof")
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Starts it again on the same port and directory, killing it first if it runs. Waits until it has loaded its data.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        self.launch().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Stops it with SIGSTOP: connections stay open and nothing answers. When this returns, nothing runs.
    #[track_caller]
    pub fn freeze(&self) {
        self.server.freeze().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Leaves its own disk no room.
    #[track_caller]
    pub fn fill_disk(&self) {
        disk::fill(&self.server.disk()).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Gives its own disk its room back.
    #[track_caller]
    pub fn free_disk(&self) {
        disk::free(&self.server.disk()).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Sets its own clock, which is as far off from now on, and sees to it that the server goes by it.
    #[track_caller]
    pub fn set_clock(&self, ahead: Ahead) {
        assert!(self.settings.own_clock, "it goes by the system's clock");
        clock::set(self.server.directory(), ahead)
            .and_then(|()| {
                self.command(&["TIME"])
                    .map(|time| time.lines().next().unwrap_or_default().to_owned())
            })
            .and_then(|shown| clock::must_show(&shown, ahead))
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Whether it has a disk of its own.
    pub fn has_disk(&self) -> bool {
        self.settings.own_disk
    }

    /// Whether it runs; one that ended by itself does not.
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// Lets it go on after [`RedisServer::freeze`].
    pub fn thaw(&self) {
        self.server.thaw();
    }

    /// Runs one command on a connection of its own and answers with its reply as text: an array has a line for each
    /// element, nil is empty. For administration, such as `CONFIG SET`, `CLIENT KILL` or `SCRIPT FLUSH`.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let address = (Ipv4Addr::LOCALHOST, self.port());
        let stream = TcpStream::connect(address).context("failed to connect to redis")?;
        stream.set_read_timeout(Some(REPLY))?;
        stream.set_write_timeout(Some(REPLY))?;
        let mut connection = BufReader::new(stream);
        if let Some(password) = &self.settings.password {
            ask(&mut connection, &["AUTH", password])?;
        }
        ask(&mut connection, words).with_context(|| format!("redis refused {words:?}"))
    }

    fn data(&self) -> PathBuf {
        if self.settings.own_disk { self.server.disk() } else { self.server.directory().to_owned() }
    }

    fn launch(&self) -> Result<()> {
        let settings = &self.settings;
        let mut command = Command::new(programs::redis_server()?);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port().to_string()])
            .args(["--daemonize", "no", "--save", "", "--dir"])
            .arg(self.data())
            .args(["--appendonly", if settings.appendonly { "yes" } else { "no" }])
            .args(["--appendfsync", settings.appendfsync.as_str()])
            .args(["--maxmemory-policy", "noeviction", "--enable-debug-command", "local"]);
        if let Some(password) = &settings.password {
            command.args(["--requirepass", password]);
        }
        command.args(&settings.extra);
        let directory = self.server.directory();
        if settings.own_clock {
            clock::wear(&mut command, directory);
        }
        let own = [(settings.own_clock, clock::NAME), (settings.own_power, power::NAME)];
        let loads: Vec<&str> = own.iter().filter(|(own, _)| *own).map(|(_, name)| *name).collect();
        preload::load(&mut command, directory, &loads);
        // The process id tells this server from another one that was faster to listen on the port.
        self.server.launch(command, |pid| {
            self.command(&["PING"]).is_ok()
                && self
                    .command(&["INFO", "server"])
                    .is_ok_and(|info| info.lines().any(|line| line == format!("process_id:{pid}")))
        })
    }
}

/// Sends a command and reads its reply.
fn ask(connection: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        write!(bytes, "${}\r\n{word}\r\n", word.len())?;
    }
    connection.get_mut().write_all(&bytes)?;
    read(connection)
}

/// Reads a reply of version 2 of Redis' protocol.
fn read(connection: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let line = line.trim_end_matches("\r\n");
    let Some((kind, rest)) = line.split_at_checked(1) else { bail!("the connection was closed") };
    match kind {
        "+" | ":" => Ok(rest.to_owned()),
        "-" => bail!("{rest}"),
        "$" => {
            // A negative length is nil.
            let Ok(length) = usize::try_from(rest.parse::<i64>()?) else {
                return Ok(String::new());
            };
            let mut bytes = vec![0; length + 2];
            connection.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let count = rest.parse::<i64>()?.max(0);
            let lines: Result<Vec<String>> = (0..count).map(|_| read(connection)).collect();
            Ok(lines?.join("\n"))
        }
        _ => bail!("redis answered {line:?}"),
    }
}
