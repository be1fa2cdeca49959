//! Lock files against a database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustsec::advisory::{Date, Id, Informational, Metadata};
use rustsec::report::Settings;
use rustsec::{Database, Lockfile, Report, package::Package};
use toml::Table;

/// A database whose newest advisory is older knows little of today.
const OLD_DAYS: u64 = 60;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Findings {
    /// How many the database has.
    pub(crate) advisories: usize,
    /// When the last of them was published.
    pub(crate) newest: String,
    /// What must not stay.
    pub(crate) vulnerabilities: Vec<String>,
    /// What should be known.
    pub(crate) warnings: Vec<String>,
}

/// What `deny.toml` says does not matter here: the advisory, and why.
pub(crate) fn ignored(rules: &str) -> Result<BTreeMap<String, String>, String> {
    let table: Table = rules.parse().map_err(|error| format!("deny.toml: {error}"))?;
    let list = table.get("advisories").and_then(|table| table.get("ignore"));
    let list = list.and_then(toml::Value::as_array).into_iter().flatten();
    list.map(|entry| {
        let text = |key| entry.get(key).and_then(toml::Value::as_str).filter(|it| !it.is_empty());
        match (text("id"), text("reason")) {
            (Some(id), Some(reason)) => Ok((id.to_owned(), reason.to_owned())),
            _ => Err(format!(
                "deny.toml: [advisories] ignore has {entry}, which needs an id and a reason"
            )),
        }
    })
    .collect()
}

/// Looks in a database for every version that these lock files name; `now` is the time since 1970.
pub(crate) fn audit(
    database: &Path,
    locks: &[PathBuf],
    ignored: &BTreeMap<String, String>,
    now: Duration,
) -> Result<Findings, String> {
    let shown = database.display();
    let known = Database::open(database)
        .map_err(|error| format!("{shown} is no database of advisories: {error}"))?;
    let newest = known.iter().map(|advisory| &advisory.metadata.date).max_by_key(|date| days(date));
    let newest = newest.ok_or_else(|| format!("{shown} holds no advisory"))?;
    let mut findings = Findings {
        advisories: known.iter().count(),
        newest: newest.as_str().to_owned(),
        vulnerabilities: Vec::new(),
        warnings: Vec::new(),
    };
    let age = (now.as_secs() / 86_400).saturating_sub(days(newest));
    if age > OLD_DAYS {
        findings.warnings.push(format!(
            "the database's newest advisory is {age} days old; what came since is not known here"
        ));
    }
    let settings = Settings {
        informational_warnings: vec![
            Informational::Notice,
            Informational::Unmaintained,
            Informational::Unsound,
        ],
        ..Settings::default()
    };
    let mut unused = ignored.clone();
    for lock in locks {
        let file = lock.display();
        let versions =
            Lockfile::load(lock).map_err(|error| format!("{file} cannot be read: {error}"))?;
        let report = Report::generate(&known, &versions, &settings);
        for found in &report.vulnerabilities.list {
            let line = line(lock, &found.package, &found.advisory);
            unused.remove(found.advisory.id.as_str());
            match reason(ignored, &found.advisory.id) {
                None => findings.vulnerabilities.push(line),
                Some(reason) => findings.warnings.push(format!("{line} (ignored: {reason})")),
            }
        }
        for found in report.warnings.values().flatten() {
            let Some(advisory) = &found.advisory else { continue };
            unused.remove(advisory.id.as_str());
            if reason(ignored, &advisory.id).is_none() {
                let line = line(lock, &found.package, advisory);
                findings.warnings.push(format!("{}: {line}", found.kind.as_str()));
            }
        }
    }
    for id in unused.keys() {
        findings.warnings.push(format!("deny.toml ignores {id}, which is no matter here any more"));
    }
    Ok(findings)
}

fn reason<'a>(ignored: &'a BTreeMap<String, String>, id: &Id) -> Option<&'a String> {
    ignored.get(id.as_str())
}

fn line(lock: &Path, package: &Package, advisory: &Metadata) -> String {
    let Metadata { id, title, .. } = advisory;
    format!("{id}: {} {} of {}: {title}", package.name, package.version, lock.display())
}

/// Days from 1970 to a date of the usual calendar.
fn days(date: &Date) -> u64 {
    let (year, month) = (u64::from(date.year()), u64::from(date.month()));
    // The year begins in March, so that its last day is the one that may be missing.
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400;
    (days + (153 * month + 2) / 5 + u64::from(date.day())).saturating_sub(719_469)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A database, and a lock file that names `holey` 1.2.3 and `left` 0.1.0.
    struct Place(tempfile::TempDir);

    const NONE: [&str; 0] = [];

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.path("crates")).unwrap();
            let package = |name: &str, version: &str| {
                format!(
                    "[[package]]\nname = {name:?}\nversion = {version:?}\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n"
                )
            };
            let text =
                format!("version = 4\n{}{}", package("holey", "1.2.3"), package("left", "0.1.0"));
            fs::write(place.path("Cargo.lock"), text).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn advisory(&self, id: &str, package: &str, more: &str, patched: &str) {
            let directory = self.path("crates").join(package);
            fs::create_dir_all(&directory).unwrap();
            let text = format!(
                "```toml\n[advisory]\nid = {id:?}\npackage = {package:?}\ndate = \"2026-05-04\"\n{more}\n[versions]\npatched = [{patched}]\n```\n\n# A hole in it\n\nWords.\n"
            );
            fs::write(directory.join(format!("{id}.md")), text).unwrap();
        }

        fn audit(&self, rules: &str) -> Result<Findings, String> {
            // 1 June 2026.
            let now = Duration::from_hours(20_605 * 24);
            audit(self.0.path(), &[self.path("Cargo.lock")], &ignored(rules)?, now)
        }
    }

    #[test]
    fn what_is_known_against_a_version_is_found_and_what_is_mended_is_not() {
        let place = Place::new();
        assert!(place.audit("").unwrap_err().contains("holds no advisory"));
        place.advisory("RUSTSEC-2026-0001", "holey", "", "\">= 1.2.3\"");
        let clean = place.audit("").unwrap();
        assert_eq!((clean.advisories, clean.newest.as_str()), (1, "2026-05-04"));
        assert_eq!((clean.vulnerabilities, clean.warnings), (Vec::new(), Vec::new()));
        place.advisory("RUSTSEC-2026-0002", "holey", "", "\">= 1.2.4\"");
        place.advisory("RUSTSEC-2026-0003", "left", "informational = \"unmaintained\"", "");
        place.advisory("RUSTSEC-2026-0004", "absent", "", "");
        let found = place.audit("").unwrap();
        assert_eq!(found.vulnerabilities.len(), 1);
        assert!(found.vulnerabilities[0].starts_with("RUSTSEC-2026-0002: holey 1.2.3 of "));
        assert!(found.vulnerabilities[0].ends_with(": A hole in it"));
        assert_eq!(found.warnings.len(), 1);
        assert!(found.warnings[0].starts_with("unmaintained: RUSTSEC-2026-0003: left 0.1.0"));
    }

    #[test]
    fn what_is_ignored_has_a_reason_and_is_still_told() {
        let place = Place::new();
        place.advisory("RUSTSEC-2026-0002", "holey", "", "\">= 1.2.4\"");
        let rules = |entry: &str| format!("[advisories]\nignore = [{entry}]");
        let entry = "{ id = \"RUSTSEC-2026-0002\", reason = \"not called\" }";
        let found = place.audit(&rules(entry)).unwrap();
        assert_eq!(found.vulnerabilities, NONE);
        assert!(found.warnings[0].ends_with("(ignored: not called)"), "{:?}", found.warnings);
        let entry = entry.replace("0002", "0009");
        let found = place.audit(&rules(&entry)).unwrap();
        assert_eq!(found.vulnerabilities.len(), 1);
        assert!(found.warnings[0].contains("RUSTSEC-2026-0009, which is no matter"));
        for bad in ["\"RUSTSEC-2026-0002\"", "{ id = \"RUSTSEC-2026-0002\" }"] {
            assert!(place.audit(&rules(bad)).unwrap_err().contains("needs an id and a reason"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_no_pass_and_an_old_database_is_said() {
        let place = Place::new();
        place.advisory("RUSTSEC-2026-0001", "absent", "", "");
        assert!(audit(&place.path("crates"), &[], &BTreeMap::new(), Duration::ZERO).is_err());
        assert!(audit(&place.path("nowhere"), &[], &BTreeMap::new(), Duration::ZERO).is_err());
        let lock = [place.path("nowhere.lock")];
        assert!(audit(place.0.path(), &lock, &BTreeMap::new(), Duration::ZERO).is_err());
        let late = Duration::from_hours(20_638 * 24);
        let found = audit(place.0.path(), &[], &BTreeMap::new(), late).unwrap();
        assert!(found.warnings[0].contains("61 days old"), "{:?}", found.warnings);
    }
}
