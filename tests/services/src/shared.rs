//! [`Shared`]: one Postgres for all test processes.
//!
//! cargo-nextest runs every test in a process of its own, so a server for each test would cost each of them a second.
//! The first process that comes starts a server; it stays until nobody has used it for a while.
//!
//! Four files lie in `target/stem-services/postgres-UID`, and locks on them say what is so. A lock ends with its
//! process, however that ends.
//!
//! | file | locked by | for |
//! |---|---|---|
//! | `users` | each [`Shared`], shared | as long as it lives |
//! | `users` | the supervisor, exclusively | a look whether there are users, and while it stops the server |
//! | `start` | who looks for the server, exclusively | the look, and the start if there is none |
//! | `supervisor` | the supervisor, exclusively | as long as it lives |
//! | `server` | nobody; written under `start` | directory and port of the newest server |
//!
//! The server's log lies beside them, its data under `/tmp`: Postgres runs as another user when we are root, who may not
//! be able to reach the target directory.
//!
//! The supervisor is a detached shell process and the server's parent. When it is killed, the server gets SIGKILL from
//! the system, so a free lock on `supervisor` means that there is no server, and what an old one left may be removed.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use crate::postgres::Cluster;
use crate::server::{self, BURY, lock, wait_until};

/// Starts the server in `$4…`, looks every two seconds, and stops it when it has seen no users `$3` times in a row or when
/// it ended by itself. The locks of this shell are not for its children.
const SUPERVISE: &str = r#"
place=$1 directory=$2 looks=$3
shift 3
exec 8>"$place/supervisor" 9>"$place/users"
flock -x 8 || exit 1
"$@" 8>&- 9>&- &
server=$!
idle=0
while test $idle -lt $looks && sleep 2 8>&- 9>&- && kill -0 $server 2>/dev/null; do
    if flock -x -n 9; then
        idle=$((idle + 1))
        test $idle -ge $looks || flock -u 9
    else
        idle=0
    fi
done
kill -QUIT $server 2>/dev/null
wait $server
bury "$directory"
"#;

/// Half a minute: tests that need a server come in bursts.
const LOOKS: u32 = 15;

/// How often a start is tried: its port or its supervisor can be lost to others.
const STARTS: usize = 5;

/// A Postgres that all test processes of this user and this target directory share.
///
/// It runs with `fsync=off`, since nobody kills it: a test must not stop, disturb or configure it, and takes a
/// [`PostgresServer`](crate::PostgresServer) for that. It stays for half a minute after its last user.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Use>);

/// As long as this lives the server does.
#[derive(Debug)]
struct Use {
    cluster: Cluster,
    /// Holds the lock.
    _users: File,
}

/// A database of a [`Shared`] server with a name of its own; removed when dropped, with the connections it has.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    server: Shared,
}

impl Shared {
    /// Creates a database; 50 ms.
    #[track_caller]
    pub fn database(&self) -> Database {
        let cluster = &self.0.cluster;
        let name = cluster.create_database().unwrap_or_else(|error| panic!("{error:#}"));
        Database { url: cluster.url(&name), name, server: self.clone() }
    }

    pub(crate) fn find_or_start() -> Result<Self> {
        Self::find_or_start_in(&place()?, LOOKS)
    }

    fn find_or_start_in(place: &Path, looks: u32) -> Result<Self> {
        fs::create_dir_all(place).with_context(|| format!("failed to make {}", place.display()))?;
        let users = open(&place.join("users"))?;
        lock(&users, |file| file.try_lock_shared().is_ok())?;
        let start = open(&place.join("start"))?;
        lock(&start, |file| file.try_lock().is_ok())?;
        for _ in 0..STARTS {
            if let Some(cluster) = find(place)? {
                return Ok(Self(Arc::new(Use { cluster, _users: users })));
            }
            start_anew(place, looks)?;
        }
        let log = fs::read_to_string(place.join("log")).unwrap_or_default();
        bail!("the shared Postgres does not stay; its last log:\n{log}")
    }
}

impl Database {
    /// `postgres://stem@127.0.0.1:PORT/NAME`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements in it through `psql`. Answers the rows, a line for each, columns separated by `|`.
    pub fn execute(&self, sql: &str) -> Result<String> {
        self.server.0.cluster.execute(&self.name, sql)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // What stays goes with the server.
        let _ = self.server.0.cluster.drop_database(&self.name);
    }
}

/// The server that runs, once it takes connections. `None` if there is none, or if it ends before it does.
fn find(place: &Path) -> Result<Option<Cluster>> {
    let supervisor = open(&place.join("supervisor"))?;
    let mut cluster = None;
    let decided = wait_until(|| {
        if supervisor.try_lock().is_ok() {
            // Let go when the file is closed, at the end of this function; nobody else asks for it meanwhile.
            return true;
        }
        cluster = noted(place).filter(is_up);
        cluster.is_some()
    });
    ensure!(decided, "the shared Postgres takes no connections; see {}", place.display());
    Ok(cluster)
}

/// Whether it takes connections. The lock file of one that was killed says so too.
fn is_up(cluster: &Cluster) -> bool {
    cluster.ready().is_some_and(|pid| server::belongs(&pid.to_string(), cluster.directory()))
}

/// Removes what an earlier server left, and starts one with a supervisor. Waits until it takes connections or has
/// ended: [`find`] tells.
fn start_anew(place: &Path, looks: u32) -> Result<()> {
    if let Some(old) = noted(place) {
        let script = format!("{BURY}\nbury \"$1\"");
        Command::new("sh").args(["-c", &script, "sh"]).arg(old.directory()).status()?;
    }
    let directory = server::directory("postgres-shared")?;
    let port = server::free_port()?;
    fs::write(place.join("server"), format!("{}\n{port}\n", directory.display()))?;
    let cluster = Cluster::new(&directory, port)?;
    let output = cluster.init()?.output().context("failed to run initdb")?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "initdb failed, {}:\n{problem}", output.status);
    let log = File::create(place.join("log"))?;
    let postgres = cluster.postgres_of_a_parent();
    let mut supervisor = Command::new("setsid")
        .args(["sh", "-c", &format!("{BURY}\n{SUPERVISE}"), "sh"])
        .arg(place)
        .arg(&directory)
        .arg(looks.to_string())
        .arg(postgres.get_program())
        .args(postgres.get_args())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("failed to run setsid")?;
    let over = wait_until(|| {
        is_up(&cluster) || supervisor.try_wait().is_ok_and(|status| status.is_some())
    });
    ensure!(over, "the shared Postgres takes no connections; see {}", place.display());
    Ok(())
}

/// The server that was started last; it may be gone.
fn noted(place: &Path) -> Option<Cluster> {
    let note = fs::read_to_string(place.join("server")).ok()?;
    let (directory, port) = note.trim_end().split_once('\n')?;
    Cluster::new(Path::new(directory), port.parse().ok()?).ok()
}

/// In Cargo's target directory, which is known by the tag that Cargo leaves there for backup programs.
fn place() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .context("a shared server is for tests that Cargo built: there is no target directory")?;
    let user = rustix::process::geteuid().as_raw();
    Ok(target.join(format!("stem-services/postgres-{user}")))
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    options.open(path).with_context(|| format!("failed to open {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use rustix::process::{Pid, Signal, kill_process};
    use tempfile::TempDir;

    use super::*;

    /// A place of its own, and a server in it that stays for two seconds after its last user.
    fn start() -> (TempDir, Shared) {
        let place = tempfile::tempdir().unwrap();
        let shared = Shared::find_or_start_in(place.path(), 1).unwrap();
        (place, shared)
    }

    fn postmaster(shared: &Shared) -> Pid {
        Pid::from_raw(shared.0.cluster.ready().unwrap().cast_signed()).unwrap()
    }

    fn parent(pid: Pid) -> Pid {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    }

    fn exists(pid: Pid) -> bool {
        // One that ended and was not waited for has no working directory.
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
    }

    #[test]
    fn a_server_goes_with_its_data_after_its_last_user_and_not_before() {
        let (place, first) = start();
        let second = Shared::find_or_start_in(place.path(), 1).unwrap();
        let (pid, directory) = (postmaster(&first), first.0.cluster.directory().to_owned());
        assert_eq!(postmaster(&second), pid);
        drop(first);
        // Longer than it would stay without a user.
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert_eq!(second.database().execute("SELECT 1").unwrap(), "1");
        drop(second);
        assert!(wait_until(|| !exists(pid) && !directory.exists()));
    }

    #[test]
    fn who_comes_while_it_ends_gets_a_new_one() {
        let (place, first) = start();
        let directory = first.0.cluster.directory().to_owned();
        drop(first);
        assert!(wait_until(|| !directory.exists()));
        let second = Shared::find_or_start_in(place.path(), 1).unwrap();
        assert_ne!(second.0.cluster.directory(), directory);
        assert_eq!(second.database().execute("SELECT 1").unwrap(), "1");
    }

    #[test]
    fn a_killed_supervisor_takes_the_server_along_and_the_next_user_cleans_up() {
        let (place, first) = start();
        let (pid, directory) = (postmaster(&first), first.0.cluster.directory().to_owned());
        kill_process(parent(pid), Signal::KILL).unwrap();
        assert!(wait_until(|| !exists(pid)));
        assert!(directory.exists());
        let second = Shared::find_or_start_in(place.path(), 1).unwrap();
        assert!(!directory.exists());
        assert_eq!(second.database().execute("SELECT 1").unwrap(), "1");
    }

    #[test]
    fn a_killed_server_is_replaced() {
        let (place, first) = start();
        let (pid, directory) = (postmaster(&first), first.0.cluster.directory().to_owned());
        kill_process(pid, Signal::KILL).unwrap();
        assert!(wait_until(|| !exists(pid)));
        let second = Shared::find_or_start_in(place.path(), 1).unwrap();
        assert!(!directory.exists());
        assert_eq!(second.database().execute("SELECT 1").unwrap(), "1");
    }
}
