//! Who asks, and on which machine.

use stem_core::id::WorkerId;
use uuid::Uuid;

/// The machine's name, fit for an id.
pub fn host() -> String {
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
pub fn worker_id() -> WorkerId {
    let boot = Uuid::now_v7().simple().to_string();
    let suffix = &boot[boot.len() - 6..];
    WorkerId::new(format!("{}-{}-{suffix}", host(), std::process::id()))
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
