//! `cargo xtask audit`: what the `RustSec` database holds against the versions in our lock files.
//!
//! The database changes without a change of ours and is fetched by nobody here: it is a directory, from `--db`, from
//! `STEM_ADVISORY_DB`, or where `cargo audit` keeps its own. Without one nothing is known, which is said and is a code of
//! its own, so that nobody takes it for a pass.
//!
//! Exit code: 0 nothing is known against them; 1 something is; 2 the database or a file cannot be used; 3 not audited.

mod audit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use audit::{Findings, audit, ignored};

/// Of the workspace and of the guests', which are one of their own.
const LOCKS: [&str; 2] = ["Cargo.lock", "example-tasks/Cargo.lock"];

const NOT_AUDITED: u8 = 3;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => std::env::var_os("STEM_ADVISORY_DB").map(PathBuf::from),
        ["--db", directory] => Some(directory.into()),
        _ => {
            eprintln!("usage: cargo xtask audit [--db DIRECTORY]");
            return ExitCode::from(2);
        }
    };
    let Some(database) = named.or_else(usual) else {
        println!("!!! NOT AUDITED: there is no database of advisories on this machine");
        println!(
            "hint: git clone https://github.com/RustSec/advisory-db, and name it with --db or STEM_ADVISORY_DB"
        );
        return ExitCode::from(NOT_AUDITED);
    };
    match look(&database) {
        Ok(findings) => tell(&database, &findings),
        Err(problem) => {
            eprintln!("error: {problem}");
            eprintln!(
                "hint: name a checkout of https://github.com/RustSec/advisory-db with --db or STEM_ADVISORY_DB"
            );
            ExitCode::from(2)
        }
    }
}

/// Where `cargo audit` keeps its own, if it has one.
fn usual() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home)?;
    Some(cargo.join("advisory-db")).filter(|database| database.is_dir())
}

fn look(database: &Path) -> Result<Findings, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = root.ancestors().nth(2).ok_or("this program lies nowhere")?;
    let rules = root.join("deny.toml");
    let rules = std::fs::read_to_string(&rules)
        .map_err(|error| format!("cannot read {}: {error}", rules.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    audit(database, &LOCKS.map(|lock| root.join(lock)), &ignored(&rules)?, now)
}

fn tell(database: &Path, findings: &Findings) -> ExitCode {
    let Findings { advisories, newest, .. } = findings;
    println!("{advisories} advisories in {}, the newest of {newest}", database.display());
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    for vulnerability in &findings.vulnerabilities {
        println!("error: {vulnerability}");
    }
    if findings.vulnerabilities.is_empty() {
        println!(
            "nothing is known against what {} name; yanked versions were not looked for",
            LOCKS.join(" and ")
        );
        return ExitCode::SUCCESS;
    }
    println!(
        "hint: take a version without it, or write into deny.toml, under [advisories] ignore, why it does not matter here"
    );
    ExitCode::FAILURE
}
