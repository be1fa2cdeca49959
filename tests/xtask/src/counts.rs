//! What tests say that they have done, summed: less than there is to be is an error, and not a shorter line that nobody
//! reads.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// The variable that names the file to which tests add a line each: what, and how many.
pub(crate) const FILE: &str = "STEM_TEST_COUNTS";

/// What all tests together do at least.
const LEAST: [(&str, u64); 4] =
    [("chaos", 60_000), ("modules", 20_000), ("plants", 120), ("seeds", 2_000)];

/// Forgets what an earlier run has left there.
pub(crate) fn begin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Says the sums; fails if one is too small.
pub(crate) fn end(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("no test has counted anything in {}", path.display()))?;
    let sums = sums(&text)?;
    for (what, sum) in &sums {
        println!("counted: {what} {sum}");
    }
    for (what, least) in LEAST {
        let sum = sums.get(what).copied().unwrap_or_default();
        ensure!(sum >= least, "{what}: the tests have had {sum}, and are to have {least} at least");
    }
    Ok(())
}

fn sums(text: &str) -> Result<BTreeMap<&str, u64>> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let Some((what, Ok(count))) =
            line.split_once(' ').map(|(what, count)| (what, count.parse::<u64>()))
        else {
            bail!("{line:?} is no count");
        };
        *sums.entry(what).or_default() += count;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_by_what_they_count() {
        let all = sums("chaos 2\nother 1\nchaos 40\n").unwrap();
        assert_eq!(all, BTreeMap::from([("chaos", 42), ("other", 1)]));
        assert!(sums("chaos\n").is_err());
        assert!(sums("chaos many\n").is_err());
    }

    #[test]
    fn too_few_and_none_at_all_are_errors() {
        let path = std::env::temp_dir().join(format!("stem-counts-{}", std::process::id()));
        begin(&path).unwrap();
        assert!(end(&path).is_err(), "nothing was counted");
        let line = |what: &str, count: u64| format!("{what} {count}\n");
        let all = LEAST.map(|(what, least)| line(what, least)).concat();
        fs::write(&path, &all).unwrap();
        end(&path).unwrap();
        for (what, least) in LEAST {
            fs::write(&path, all.replace(&line(what, least), &line(what, least - 1))).unwrap();
            let error = end(&path).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(&least.to_string()), "{error}");
        }
        begin(&path).unwrap();
        assert!(!path.exists());
    }
}
