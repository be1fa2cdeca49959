//! Who asks, and on which machine.

use stem_core::id::WorkerId;
use uuid::Uuid;

use crate::env::{self, Environment};
use crate::error::CliError;

/// The machine's name, fit for an id: as the environment says, else as the system does.
pub fn host(environment: &Environment) -> Result<String, CliError> {
    let Some(told) = environment.read(env::WORKER_HOST)? else { return Ok(system_host()) };
    // Half of an id: the rest of it needs room too.
    if told.len() <= 64 && WorkerId::new(told).is_ok() {
        return Ok(told.to_owned());
    }
    Err(CliError::usage(
        format!(
            "{} cannot be used: {told:?} is not a name of at most 64 letters, digits, . _ : -",
            env::WORKER_HOST.name
        ),
        env::WORKER_HOST.meaning,
    ))
}

/// The machine's name as the system has it, fit for an id.
pub fn system_host() -> String {
    let name = rustix::system::uname();
    let name: String = name
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(64)
        .collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { format!("host{name}") }
}

/// `HOST-PID-SUFFIX`: tells one start of a worker from the next, also where pids come back.
pub fn worker_id(host: &str) -> WorkerId {
    let boot = Uuid::now_v7().simple().to_string();
    let suffix = &boot[boot.len() - 6..];
    WorkerId::new(format!("{host}-{}-{suffix}", std::process::id()))
        .expect("each part follows the rules for names")
}

/// The user's name, as the system has it; else as the session says; else the number.
pub fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    known
        .or_else(|| std::env::var("USER").ok().filter(|user| !user.is_empty()))
        .map_or_else(|| format!("uid-{uid}"), |user| stem_core::text::printable(&user, 64))
}
