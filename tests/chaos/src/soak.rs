//! The long run: round after round, each with servers of its own and a verdict, until so many tasks have been through. Ends
//! at the first violation, and keeps what that round wrote down.
//!
//! After each round there is a line in `rounds.jsonl` and a new `table.md`, in a directory by the seed. A run that was
//! interrupted goes on with the next round when it is started again with its seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use stem_services::{Fsync, marked};

use crate::checker::{Counts, Rules};
use crate::dice::Dice;
use crate::fault::Fault;
use crate::place::Place;
use crate::server::Server;
use crate::storm::{EVERYSEC, Plan, storm};

/// What it is told.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Ends after the round in which so many tasks are full
    #[arg(long, default_value_t = 1_000_000)]
    pub tasks: u64,
    /// Repeats the faults of another run, or goes on with one that was interrupted
    #[arg(long)]
    pub seed: Option<u64>,
    /// Tasks of a round; the checker holds all of them in memory
    #[arg(long, default_value_t = 60_000)]
    pub round: u64,
    /// Where each run has a directory, by its seed
    #[arg(long, default_value = "target/chaos")]
    pub directory: PathBuf,
    /// A document whose part between `<!-- chaos: begin -->` and `<!-- chaos: end -->` becomes the table of this run
    #[arg(long, value_name = "FILE")]
    pub into: Option<PathBuf>,
}

/// Where deliveries and records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Services {
    RedisEverysec,
    RedisAlways,
    Postgres,
    RedisAndPostgres,
    Sqlite,
}

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kit {
    Kills,
    Network,
    Troubles,
    Clock,
}

impl Services {
    const ALL: [Self; 5] = [
        Self::RedisEverysec,
        Self::RedisAlways,
        Self::Postgres,
        Self::RedisAndPostgres,
        Self::Sqlite,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RedisEverysec => "redis everysec",
            Self::RedisAlways => "redis always",
            Self::Postgres => "postgres",
            Self::RedisAndPostgres => "redis with results in postgres",
            Self::Sqlite => "sqlite",
        }
    }

    fn rules(self) -> Rules {
        Rules {
            // A round is long, and what it has to do at its end is more than a storm of a test has.
            drain: Duration::from_mins(1),
            forgets: (self == Self::RedisEverysec).then_some(EVERYSEC),
            apart: self == Self::RedisAndPostgres,
        }
    }

    /// New ones, with disks of their own where these are to be full; the directory is for those that are a file.
    fn start(self, kit: Kit, directory: &Path) -> (Vec<Server>, Place) {
        let own_disk = kit.faults().contains(&Fault::DiskFull);
        let redis = |appendfsync| {
            if own_disk { Server::redis_on_a_disk(appendfsync) } else { Server::redis(appendfsync) }
        };
        let postgres = || if own_disk { Server::postgres_on_a_disk() } else { Server::postgres() };
        let servers: Vec<Server> = match self {
            Self::RedisEverysec => vec![redis(Fsync::Everysec)],
            Self::RedisAlways => vec![redis(Fsync::Always)],
            Self::Postgres => vec![postgres()],
            Self::RedisAndPostgres => vec![redis(Fsync::Always), postgres()],
            Self::Sqlite if own_disk => vec![Server::sqlite_on_a_disk()],
            Self::Sqlite => Vec::new(),
        };
        let servers: Vec<Server> = servers.into_iter().map(Server::behind_a_network).collect();
        let place = match servers.as_slice() {
            [] => Place::all_in_one(&format!("sqlite:{}", directory.join("stem.db").display())),
            [one] => Place::all_in_one(&one.url()),
            [broker, results, ..] => {
                Place { broker: broker.url(), results: results.url(), revokes: results.url() }
            }
        };
        (servers, place)
    }
}

impl Kit {
    const ALL: [Self; 4] = [Self::Kills, Self::Network, Self::Troubles, Self::Clock];

    fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Network => "network",
            Self::Troubles => "troubles",
            Self::Clock => "kills and a clock that jumps",
        }
    }

    fn faults(self) -> &'static [Fault] {
        match self {
            Self::Kills | Self::Clock => Fault::KILLS,
            Self::Network => Fault::NETWORK,
            Self::Troubles => Fault::TROUBLES,
        }
    }
}

/// A round that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Round {
    number: u64,
    services: Services,
    kit: Kit,
    counts: Counts,
    faults: BTreeMap<String, usize>,
    took: Duration,
    drained_after: Duration,
}

/// Runs, goes on, and says what came of it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(Dice::another_seed);
    let directory = args.directory.join(seed.to_string());
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    if let Some(into) = &args.into {
        // Rather known now than in an hour.
        put(into, None)?;
    }
    let path = directory.join("rounds.jsonl");
    let mut rounds = read(&path)?;
    println!("seed {seed}, {} rounds of it are done; see {}", rounds.len(), directory.display());
    while rounds.iter().map(|round| round.counts.enqueued as u64).sum::<u64>() < args.tasks {
        let number = rounds.len() as u64;
        let round = play(number, seed, args.round)?;
        let mut line = serde_json::to_vec(&round)?;
        line.push(b'\n');
        OpenOptions::new().create(true).append(true).open(&path)?.write_all(&line)?;
        rounds.push(round);
        fs::write(directory.join("table.md"), table(seed, &rounds))?;
    }
    let table = table(seed, &rounds);
    print!("{table}");
    if let Some(into) = &args.into {
        put(into, Some(&table))?;
    }
    Ok(())
}

/// Writes the table into its place in the page, or looks whether there is one.
fn put(page: &Path, table: Option<&str>) -> anyhow::Result<()> {
    let what = || page.display().to_string();
    let text = fs::read_to_string(page).with_context(what)?;
    let with = marked::with(&text, "chaos", table.unwrap_or_default());
    let with = with.context("it has no place for the table").with_context(what)?;
    if table.is_some() {
        fs::write(page, with).with_context(what)?;
    }
    Ok(())
}

/// The rounds of this seed that are done. A last line that was torn is none.
fn read(path: &Path) -> anyhow::Result<Vec<Round>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    if whole.len() < text.len() {
        fs::write(path, whole)?;
    }
    let rounds = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    rounds.with_context(|| format!("{} is not what a run writes", path.display()))
}

/// One service after the other, and each with another kit than the last time.
fn what_is_played(number: usize) -> (Services, Kit) {
    let (place, time) = (number % Services::ALL.len(), number / Services::ALL.len());
    (Services::ALL[place], Kit::ALL[(place + time) % Kit::ALL.len()])
}

fn play(number: u64, seed: u64, tasks: u64) -> anyhow::Result<Round> {
    let start = Instant::now();
    let (services, kit) = what_is_played(usize::try_from(number)?);
    let what = format!("round {number}, {}, {}", services.name(), kit.name());
    let directory = tempfile::tempdir()?;
    let (servers, place) = services.start(kit, directory.path());
    let plan = Plan {
        tasks,
        faults: kit.faults(),
        clock_jumps: kit == Kit::Clock,
        rules: services.rules(),
    };
    let dice = Dice::new(seed.wrapping_add(number));
    let (lab, verdict) = storm(&what, &servers, place, plan, dice);
    println!("{what}: {verdict}");
    if !verdict.violations.is_empty() {
        bail!("{what}: there are violations; histories and logs are in {}", lab.keep().display());
    }
    Ok(Round {
        number,
        services,
        kit,
        counts: verdict.counts,
        faults: verdict.faults,
        took: start.elapsed(),
        drained_after: verdict.drained_after.unwrap_or_default(),
    })
}

fn sum<'a>(rounds: impl IntoIterator<Item = &'a Round>) -> Counts {
    let mut all = Counts::default();
    for round in rounds {
        all.add(round.counts);
    }
    all
}

/// What was done how often, and what came of it. A round with a violation has no line: the run ended there.
fn table(seed: u64, rounds: &[Round]) -> String {
    let all = sum(rounds);
    let took: Duration = rounds.iter().map(|round| round.took).sum();
    let mut text = format!(
        "Seed {seed}: {} tasks in {} rounds and {} min, each with its own servers. {} revocations, {} tasks ended by one, {} of these after their start; \
         {} checkpoints and calls for children; {} tasks started again after a lost lease; {} settlements, renewals and \
         checkpoints refused as stale; {} calls refused by servers without room or without the right to write; {} tasks forgotten by a killed Redis with `appendfsync everysec`, within its two seconds.\n\n",
        all.enqueued,
        rounds.len(),
        took.as_secs() / 60,
        all.revoked,
        all.ended_revoked,
        all.terminated,
        all.effects,
        all.duplicates,
        all.refused,
        all.declined,
        all.forgotten,
    );
    text.push_str("| fault | times | tasks in those rounds | lost | double-terminal | stale accepted | stuck | started again | longest drain |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    let mut rows: BTreeMap<&str, (usize, Vec<&Round>)> = BTreeMap::new();
    for round in rounds {
        let jumps = (round.kit == Kit::Clock).then_some(("clock-jumps", &1));
        let faults = round.faults.iter().map(|(kind, times)| (kind.as_str(), times));
        for (kind, times) in faults.chain(jumps) {
            let row = rows.entry(kind).or_default();
            row.0 += times;
            row.1.push(round);
        }
    }
    rows.insert("all", (rows.values().map(|row| row.0).sum(), rounds.iter().collect()));
    for (kind, (times, rounds)) in rows {
        let of = sum(rounds.iter().copied());
        let drain = rounds.iter().map(|round| round.drained_after).max().unwrap_or_default();
        let (tasks, again) = (of.enqueued, of.duplicates);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {kind} | {times} | {tasks} | 0 | 0 | 0 | 0 | {again} | {:.1} s |",
            drain.as_secs_f64()
        );
    }
    text.push_str("\n| services | rounds | tasks | tasks a second |\n|---|---|---|---|\n");
    for services in Services::ALL {
        let of: Vec<&Round> = rounds.iter().filter(|round| round.services == services).collect();
        let tasks: usize = of.iter().map(|round| round.counts.enqueued).sum();
        let took: f64 = of.iter().map(|round| round.took.as_secs_f64()).sum();
        if tasks > 0 {
            #[expect(clippy::cast_precision_loss, reason = "tasks of a run are few for a float")]
            let rate = tasks as f64 / took;
            let _ = writeln!(text, "| {} | {} | {tasks} | {rate:.0} |", services.name(), of.len());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(number: u64) -> Round {
        Round {
            number,
            services: Services::Sqlite,
            kit: Kit::Clock,
            counts: Counts { enqueued: 10, duplicates: 2, ..Counts::default() },
            faults: BTreeMap::from([("worker-killed".to_owned(), 3)]),
            took: Duration::from_secs(2),
            drained_after: Duration::from_millis(1_500),
        }
    }

    #[test]
    fn a_run_goes_on_after_its_last_whole_round() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rounds.jsonl");
        assert!(read(&path).unwrap().is_empty());
        let line = |number| serde_json::to_string(&round(number)).unwrap();
        fs::write(&path, format!("{}\n{}\n{}", line(0), line(1), &line(2)[..20])).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
        assert!(
            fs::read_to_string(&path).unwrap().ends_with("}\n"),
            "the next one needs its own line"
        );
        fs::write(&path, "words\n").unwrap();
        read(&path).unwrap_err();
    }

    #[test]
    fn every_kit_comes_to_every_service() {
        let mut played: Vec<_> = (0..20).map(what_is_played).collect();
        played.sort_by_key(|(services, kit)| (services.name(), kit.name()));
        played.dedup();
        assert_eq!(played.len(), 20);
    }

    #[test]
    fn the_table_sums_what_was_done() {
        let text = table(7, &[round(0), round(1)]);
        assert!(text.contains("Seed 7: 20 tasks in 2 rounds"), "{text}");
        for row in [
            "| worker-killed | 6 | 20 | 0 | 0 | 0 | 0 | 4 | 1.5 s |",
            "| clock-jumps | 2 | 20 |",
            "| all | 8 | 20 |",
            "| sqlite | 2 | 20 | 5 |",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
    }
}
