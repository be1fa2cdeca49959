//! The user that Postgres runs as. It refuses to run as root, which tests in a container often are.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::fs::{Gid, Uid};

/// Who a server's processes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// Whoever we are.
    Own,
    /// Somebody without rights, since we are root.
    Other { user: u32, group: u32 },
}

impl Account {
    /// Who can run a server that refuses root.
    pub(crate) fn unprivileged() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let accounts = fs::read_to_string("/etc/passwd").context("failed to read /etc/passwd")?;
        ["postgres", "nobody"].iter().find_map(|name| find(&accounts, name)).context(
            "Postgres refuses to run as root, and there is no user `postgres` or `nobody` for it",
        )
    }

    /// A command that runs as this user.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let Self::Other { user, group } = self else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={group}"))
            .args(["--clear-groups", "--"])
            .arg(program);
        command
    }

    /// Gives a directory to this user.
    pub(crate) fn give(self, directory: &Path) -> Result<()> {
        let Self::Other { user, group } = self else { return Ok(()) };
        rustix::fs::chown(directory, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .with_context(|| format!("failed to give {} to user {user}", directory.display()))
    }
}

/// Reads one line of `/etc/passwd`: name, password, user id, group id, and more that does not matter here.
fn find(accounts: &str, name: &str) -> Option<Account> {
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
    Some(Account::Other { user: line.get(2)?.parse().ok()?, group: line.get(3)?.parse().ok()? })
}
