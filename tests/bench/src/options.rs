//! What is asked for on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What may be measured by itself. The comments are what `--list` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// What one attempt costs: a fresh isolate beside an inline handler
    Attempts,
    /// What checks for stops add to tasks on real inputs, and to the loops that pay most
    Epoch,
    /// From the order to stop until no guest code runs, alone and among 100
    Stopping,
    /// Terminate through a whole worker, over SQLite and Redis, and what it does to neighbours
    Terminate,
    /// Tasks from the enqueue to the stored result: memory, SQLite, Redis, Postgres
    Endtoend,
    /// A million revocations in each store: how long a worker reads them, and what they keep
    Revocations,
    /// A worker process from its start until it is ready, with 20 modules and 100,000 revocations
    Start,
    /// A worker process without work: resident memory, and CPU over 10 s
    Idle,
    /// `stem worker ping` as a process, with 10 workers
    Ping,
    /// 10,000 isolates that sleep in one worker: resident memory, all finish, all are stopped
    Suspended,
    /// What a task costs while 1,000 or 1,000,000 wait
    Backlog,
    /// Tasks/s and latency against concurrency, payload and workers; drawn as SVG
    Growth,
    /// A worker on Redis beside its own commands from a bare client, and isolates beside inline handlers
    Replay,
    /// Isolates on Redis beside four other task queues, which tests/bench/peers/setup.sh gets before
    Peers,
    /// One task in Rust, C, Go, JavaScript and Python: module, build, compiling, calls; builds all of them first
    Languages,
}

impl Group {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn about(self) -> String {
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help());
        help.map_or_else(String::new, ToString::to_string)
    }

    /// A line for each, as `--list` shows them.
    pub(crate) fn list() -> String {
        let groups = Self::value_variants().iter();
        let lines = groups.map(|group| format!("{:12} {}", group.name(), group.about()));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Measures Stem, prints a table, and writes target/bench.json and a picture of each group, target/bench/GROUP.svg
///
/// No figure decides the exit code: it is 0 when everything that was asked for was measured.
#[derive(Debug, Parser)]
#[command(
    name = "stem-bench",
    after_help = "Examples:
  cargo xtask bench
  cargo xtask bench growth idle
  cargo xtask bench --against /tmp/before.json attempts
  cargo xtask bench --save"
)]
pub(crate) struct Options {
    /// Measure only these groups [default: all]
    #[arg(value_enum, value_name = "GROUP", hide_possible_values = true)]
    groups: Vec<Group>,
    /// Show the groups, and measure nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Keep the run as tests/bench/last.json and in docs/performance.md; a whole run only, since ratios hold within one run
    #[arg(long, conflicts_with = "groups")]
    pub(crate) save: bool,
    /// Where tests/bench/peers/setup.sh has put the peers [default: target/peers]
    #[arg(long, value_name = "DIR")]
    pub(crate) peers: Option<PathBuf>,
    /// Compare with this run [default: tests/bench/last.json, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
}

impl Options {
    /// What to measure, each once and in the order of the list.
    pub(crate) fn chosen(&self) -> Vec<Group> {
        let all = Group::value_variants().iter().copied();
        all.filter(|group| self.groups.is_empty() || self.groups.contains(group)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from([&["stem-bench"], words].concat())
    }

    #[test]
    fn without_names_it_is_everything() {
        assert_eq!(parse(&[]).unwrap().chosen(), Group::value_variants());
    }

    #[test]
    fn groups_are_measured_once_and_in_order() {
        let options = parse(&["growth", "attempts", "growth"]).unwrap();
        assert_eq!(options.chosen(), [Group::Attempts, Group::Growth]);
    }

    #[test]
    fn an_unknown_name_is_wrong_usage_and_the_nearest_is_named() {
        let error = parse(&["attemps"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'attempts'"), "{error}");
    }

    #[test]
    fn a_part_of_a_run_is_not_kept() {
        assert!(parse(&["--save"]).unwrap().save);
        assert_eq!(parse(&["growth", "--save"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn every_group_is_listed_with_what_it_is() {
        let list = Group::list();
        assert_eq!(list.lines().count(), Group::value_variants().len());
        for line in list.lines() {
            assert!(line.split_whitespace().count() > 3, "{line}");
        }
    }
}
