//! Each target, for some seconds; what is said of each file of the corpora that is refused; and the search itself against a
//! planted fault. See the crate's documentation for what can be set.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

#[path = "smoke/answers.rs"]
mod answers;

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use stem_fuzz::mutate::Mutator;
use stem_fuzz::search::search;
use stem_fuzz::{Met, TARGETS, Target, corpus};

/// Seconds of each target unless something else is said. Without branches to see most of what is found is found early.
const SECONDS: u64 = 4;
/// Tried also where that takes longer.
const LEAST: u64 = 500;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap()
}

fn smoke(name: &str) {
    let target = target(name);
    let files = corpus(name).unwrap();
    for (file, bytes) in &files {
        let met = (target.check)(bytes);
        let read = matches!(met, Met::Read(_));
        assert!(file.starts_with(if read { "good" } else { "bad" }), "{name}/{file}: {met:?}");
    }
    let seed = number("STEM_TEST_SEED").unwrap_or_else(|| {
        SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.subsec_nanos().into())
    });
    println!("STEM_TEST_SEED={seed}");
    let most = Duration::from_secs(number("STEM_TEST_FUZZ").unwrap_or(SECONDS));
    let started = Instant::now();
    let inputs = files.into_iter().map(|(_, bytes)| bytes).collect();
    let enough = |runs| runs >= LEAST && started.elapsed() >= most;
    match search(target, inputs, seed, enough) {
        Ok(report) => {
            println!("{name}: {report:?} in {:?}", started.elapsed());
            stem_services::count("fuzz-inputs", report.runs);
            // Else it would look at nothing but how nonsense is refused, or not even at that.
            assert!(report.read > LEAST / 100 && report.read < report.runs, "{report:?}");
        }
        Err(found) => {
            let hex = found.input.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            panic!(
                "{name}, input {} of seed {seed}: {}\n{:?}\nto keep it: printf {hex} | xxd -r -p >tests/fuzz/corpus/{name}/bad-WHAT-IT-IS",
                found.runs,
                found.problem,
                String::from_utf8_lossy(&found.input),
            );
        }
    }
}

#[test]
fn whatever_an_envelope_is_it_is_read_or_refused() {
    smoke("envelope");
}

#[test]
fn whatever_stands_in_the_log_of_commands_it_is_read_or_refused() {
    smoke("control");
}

#[test]
fn whatever_a_manifest_or_policy_says_it_is_read_or_refused() {
    smoke("manifest");
}

#[test]
fn whatever_a_file_of_revocations_holds_nothing_of_it_is_lost() {
    smoke("revokes");
}

#[test]
fn whatever_a_module_is_it_is_admitted_or_refused() {
    smoke("module");
}

#[test]
fn whatever_a_file_of_variables_holds_it_is_read_or_refused() {
    smoke("env-file");
}

/// Each is a test above, has a program for libFuzzer, and a corpus that fits into a repository.
#[test]
fn every_target_has_all_that_belongs_to_it() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let this = std::fs::read_to_string(here.join("tests/smoke.rs")).unwrap();
    let programs = std::fs::read_to_string(here.join("libfuzzer/Cargo.toml")).unwrap();
    for Target { name, .. } in TARGETS {
        assert!(this.contains(&format!("smoke(\"{name}\");")), "{name} has no test");
        let program = format!("fuzz_targets/{name}.rs");
        assert!(programs.contains(&format!("name = \"{name}\"\npath = \"{program}\"")), "{name}");
        let program = std::fs::read_to_string(here.join("libfuzzer").join(program)).unwrap();
        assert!(program.contains(&format!("::{}::check", name.replace('-', "_"))), "{name}");
        let files = corpus(name).unwrap();
        let size: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(files.len() >= 5 && files.len() <= 60, "{name} has {} files", files.len());
        assert!(size <= 64 << 10, "the corpus of {name} has {size} bytes");
        for kind in ["good", "bad"] {
            assert!(files.iter().any(|(file, _)| file.starts_with(kind)), "{name}: no {kind} one");
        }
    }
}

/// Lines of `name = number`, and a fault three steps in: a length that wraps, behind a header, on a line of the right name.
fn planted(bytes: &[u8]) -> Met {
    let refused = |words: &str| Met::Refused(words.to_owned());
    let Ok(text) = std::str::from_utf8(bytes) else { return refused("no text") };
    let mut lines = text.lines();
    let mut has_length = false;
    if lines.next() != Some("header") {
        return refused("no header");
    }
    for line in lines {
        let Some((name, value)) = line.split_once(" = ") else { return refused("no =") };
        let Ok(value) = value.parse::<u64>() else { return refused("no number") };
        if name == "length" {
            has_length = true;
            // The fault.
            assert!(value.checked_add(16).is_some(), "the length wraps");
        } else if name != "width" {
            return refused("another name");
        }
    }
    Met::Read(if has_length { "with a length" } else { "without one" }.to_owned())
}

#[test]
fn a_planted_fault_is_found_from_every_seed_and_made_short() {
    let target = Target { name: "planted", check: planted, words: &["length", "width", " = "] };
    let corpus = vec![b"header\nwidth = 12\nwidth = 7".to_vec()];
    for seed in 0..10 {
        let found = search(&target, corpus.clone(), seed, |runs| runs > 200_000).unwrap_err();
        assert_eq!(found.problem, "the length wraps");
        let text = std::str::from_utf8(&found.input).unwrap();
        assert!(text.contains("\nlength = 184467440737095516"), "{text}");
        assert!(text.len() <= 60, "it was not made short: {text}");
        let again = search(&target, corpus.clone(), seed, |runs| runs > 200_000);
        assert_eq!(again, Err(found), "the same seed finds another");
    }
}

#[test]
fn a_seed_gives_the_same_changes_and_another_gives_others() {
    let pool = vec![b"one = 1\ntwo = [2]".to_vec(), b"\0asm\x01".to_vec(), Vec::new()];
    let of = |seed| {
        let mut mutator = Mutator::new(seed, &["word"]);
        (0..1_000).map(|_| mutator.next(&pool, 2)).collect::<Vec<_>>()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    let lengths: std::collections::BTreeSet<_> = of(1).iter().map(Vec::len).collect();
    assert!(lengths.len() > 100, "{lengths:?}");
}
