//! `cargo xtask sim`: runs seeds, replays one, or shows that planted faults are found.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use stem_sim::plants::PLANTS;
use stem_sim::soak::{Bounds, explain, soak};
use stem_sim::trace::Keep;
use stem_sim::{Options, plants, run};

const USAGE: &str = "\
usage: cargo xtask sim [--seeds A..B] [--threads N] [--minutes N] [--failures N]
       cargo xtask sim --seed N [--trace]
       cargo xtask sim --planted [NAME]

  --seeds A..B      run these seeds in their order, and print what happened in them; 0..2000 if nothing is said
  --threads N       so many at a time; as many as there are cores if nothing is said
  --minutes N       begin none after so long, and print from where to go on
  --failures N      begin none after so many have failed; 1 if nothing is said
  --seed N          run one again, and explain what went wrong
  --trace           print all of its facts
  --planted [NAME]  put every known fault in, or this one, and print the seed that finds it
";

/// Between two words about how a run goes.
const WORD: Duration = Duration::from_secs(30);
/// In so many seeds everything happens that a plan promises.
const EVERYTHING: u64 = 2_000;
/// Within so many seeds a planted fault is to be found.
const HUNT: u64 = 300;

enum What {
    Seeds(Range<u64>),
    Seed(u64),
    Planted(Option<String>),
}

struct Wish {
    what: What,
    bounds: Bounds,
    trace: bool,
    options: Options,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(wish) = wish(&words) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let is_well = match wish.what {
        What::Seeds(seeds) => run_seeds(seeds, &wish.bounds, &wish.options),
        What::Seed(seed) => run_one(seed, wish.trace, &wish.options),
        What::Planted(name) => run_planted(name.as_deref(), &wish.options),
    };
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wish(words: &[String]) -> Option<Wish> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bounds = Bounds { threads, time: None, failures: 1, word: Some(WORD) };
    let what = What::Seeds(0..EVERYTHING);
    let mut wish = Wish { what, bounds, trace: false, options: Options::default() };
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        match word {
            "--seeds" => {
                let (first, end) = words.next()?.split_once("..")?;
                wish.what = What::Seeds(first.parse().ok()?..end.parse().ok()?);
            }
            "--seed" => wish.what = What::Seed(words.next()?.parse().ok()?),
            "--threads" => wish.bounds.threads = words.next()?.parse().ok()?,
            "--failures" => wish.bounds.failures = words.next()?.parse().ok().filter(|n| *n > 0)?,
            "--minutes" => {
                let minutes: u64 = words.next()?.parse().ok()?;
                wish.bounds.time = Some(Duration::from_secs(minutes.saturating_mul(60)));
            }
            "--trace" => wish.trace = true,
            "--planted" => {
                let name = words.next_if(|word| !word.starts_with("--"));
                if name.is_some_and(|name| plants::by_name(name).is_none()) {
                    return None;
                }
                wish.what = What::Planted(name.map(str::to_owned));
            }
            _ => return None,
        }
    }
    Some(wish)
}

fn run_seeds(seeds: Range<u64>, bounds: &Bounds, options: &Options) -> bool {
    let end = seeds.end;
    let summary = soak(seeds, bounds, options);
    print!("{}", summary.table());
    let missing = summary.missing().join(", ");
    let is_whole = missing.is_empty() || summary.seeds < EVERYTHING;
    if !missing.is_empty() {
        println!("never happened: {missing}");
    }
    if summary.done < end {
        println!("go on with: cargo xtask sim --seeds {}..{end}", summary.done);
    }
    for (seed, violation) in &summary.failures {
        println!("seed {seed}: {violation}");
    }
    if let Some(seed) = summary.failures.keys().next() {
        print!("{}", explain(*seed, options));
    }
    summary.failures.is_empty() && is_whole
}

fn run_one(seed: u64, trace: bool, options: &Options) -> bool {
    let report = run(seed, &Options { keep: Keep::All, ..*options });
    if trace {
        print!("{}", report.trace.whole());
    }
    for (what, count) in &report.counts {
        println!("{count:>12}  {what}");
    }
    println!(
        "seed {seed}: {} s in {} ms, facts {:016x}, trouble: {}",
        report.ended,
        report.took.as_millis(),
        report.trace.hash(),
        report.kinds.words().join(", ")
    );
    if report.violation.is_some() {
        print!("{}", explain(seed, options));
    }
    report.violation.is_none()
}

fn run_planted(name: Option<&str>, options: &Options) -> bool {
    let mut is_well = true;
    for plant in PLANTS.iter().filter(|plant| name.is_none_or(|name| name == plant.name)) {
        let options = Options { plant: Some(plant), ..*options };
        let found = (0..HUNT).find_map(|seed| {
            let report = run(seed, &options);
            report.violation.map(|violation| (seed, report.took, violation))
        });
        if let Some((seed, took, violation)) = found {
            let (name, ms) = (plant.name, took.as_millis());
            println!("{name:<28} seed {seed:>3}, {ms:>4} ms: {violation}");
        } else {
            is_well = false;
            println!("{:<28} not found in {HUNT} seeds", plant.name);
        }
    }
    is_well
}
