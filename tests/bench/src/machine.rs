//! On what it was measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What decides figures beside the code, and the load at both ends of the run. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    pub(crate) redis: String,
    pub(crate) postgres: String,
    pub(crate) profile: String,
    pub(crate) load_at_start: String,
    pub(crate) load_at_end: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let cpu = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim_start_matches(['\t', ' ', ':']).to_owned()
        };
        Self {
            cpu: field(&cpu, "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory: field(&memory, "MemTotal"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: version("rustc"),
            redis: ["redis-server", "valkey-server"]
                .into_iter()
                .map(version)
                .find(|version| !version.is_empty())
                .unwrap_or_default(),
            postgres: version(postgres()),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" }.to_owned(),
            load_at_start: load(),
            load_at_end: String::new(),
        }
    }

    /// Everything but the load, with names.
    fn facts(&self) -> [(&'static str, String); 8] {
        [
            ("cpu", self.cpu.clone()),
            ("cores", self.cores.to_string()),
            ("memory", self.memory.clone()),
            ("kernel", self.kernel.clone()),
            ("rustc", self.rustc.clone()),
            ("redis", self.redis.clone()),
            ("postgres", self.postgres.clone()),
            ("profile", self.profile.clone()),
        ]
    }

    /// In what it differs from the machine of another run, its load left out.
    pub(crate) fn differs_from(&self, other: &Self) -> Vec<String> {
        let pairs = self.facts().into_iter().zip(other.facts());
        pairs
            .filter(|((_, here), (_, there))| here != there)
            .map(|((name, here), (_, there))| format!("{name}: {there} → {here}"))
            .collect()
    }

    /// A line for each fact.
    pub(crate) fn lines(&self) -> String {
        let facts = self.facts().into_iter().chain([
            ("load at the start", self.load_at_start.clone()),
            ("load at the end", self.load_at_end.clone()),
        ]);
        facts
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name:18} {value}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// The means over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The first line of what a program says of its version.
fn version(program: impl AsRef<std::ffi::OsStr>) -> String {
    let said = Command::new(program).arg("--version").output();
    let said = said.ok().filter(|said| said.status.success()).map(|said| said.stdout);
    let text = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The server that a private Postgres is started from: on the path, or the newest where Debian puts it.
fn postgres() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path().join("bin/postgres")))
    });
    let on_path = Path::new("postgres");
    if version(on_path).is_empty() {
        newest.max().map_or_else(|| on_path.to_owned(), |(_, program)| program)
    } else {
        on_path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_makes_no_other_machine() {
        let here = Machine::here();
        let later =
            Machine { load_at_start: "9 9 9".into(), load_at_end: "8 8 8".into(), ..here.clone() };
        assert!(later.differs_from(&here).is_empty());
    }

    #[test]
    fn a_difference_is_named_with_both_of_its_sides() {
        let there = Machine { cores: 2, kernel: "6.1".into(), ..Machine::default() };
        let here = Machine { cores: 64, ..there.clone() };
        assert_eq!(here.differs_from(&there), ["cores: 2 → 64"]);
    }

    #[test]
    fn this_machine_is_known() {
        let here = Machine::here();
        assert!(here.cores > 0);
        assert!(!here.kernel.is_empty());
        assert_eq!(here.load_at_start.split(' ').count(), 3);
    }
}
