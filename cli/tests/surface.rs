//! The surface: help, usage errors, strict values, completions, manual pages.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use clap::CommandFactory;
use support::{BUILD, Place, WITH_SERVICES};

/// Every command by its words, groups included.
fn commands() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, path: &[String], into: &mut Vec<Vec<String>>) {
        into.push(path.to_vec());
        for sub in command.get_subcommands() {
            let mut path = path.to_vec();
            path.push(sub.get_name().to_owned());
            walk(sub, &path, into);
        }
    }
    let mut all = Vec::new();
    walk(&stem_cli::args::Cli::command(), &[], &mut all);
    all
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    let all = commands();
    assert!(all.len() > 30, "{all:?}");
    let mut abouts = std::collections::BTreeMap::new();
    for path in all {
        let mut words: Vec<&str> = path.iter().map(String::as_str).collect();
        words.push("--help");
        let ran = place.stem(&words).expect(0);
        assert!(
            ran.stdout.contains("Example") && ran.stdout.contains("  stem "),
            "{path:?}: {}",
            ran.stdout
        );
        // The description of a group of flags must not replace the command's own.
        let about = ran.stdout.lines().next().unwrap_or_default().to_owned();
        assert!(about.len() > 10 && !about.starts_with("Usage"), "{path:?}: {about}");
        if let Some(other) = abouts.insert(about.clone(), path.clone()) {
            panic!("{path:?} and {other:?} are both described as {about:?}");
        }
        words.pop();
        words.insert(0, "help");
        place.stem(&words).expect(0);
    }
}

/// The words of a line as a shell has them, up to where it goes on with another program or a file. Enough for our own
/// examples: quotes without escapes, and for what a variable would give some name.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, ' ') => words.push(String::new()),
            (_, letter) => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    let end = words.iter().position(|word| [">", "|", "&&", "#"].contains(&word.as_str()));
    words.truncate(end.unwrap_or(words.len()));
    for word in &mut words {
        match word.as_str() {
            "$digest" => BUILD.clone_into(word),
            name if name.starts_with('$') => "some-name".clone_into(word),
            _ => {}
        }
    }
    words
}

#[test]
fn every_example_is_a_command_that_there_is() {
    use clap::Parser;
    use clap::error::ErrorKind::{ArgumentConflict, InvalidSubcommand, UnknownArgument};
    let place = Place::new();
    let mut examples = 0;
    for path in commands() {
        let mut asked: Vec<&str> = path.iter().map(String::as_str).collect();
        asked.push("--help");
        let help = place.stem(&asked).expect(0).stdout;
        for line in help.lines().map(str::trim_start).filter(|line| line.starts_with("stem ")) {
            let parsed = stem_cli::args::Cli::try_parse_from(words(line));
            assert!(parsed.is_ok(), "{path:?}: {line}: {}", parsed.unwrap_err());
            examples += 1;
        }
    }
    assert!(examples > 40, "{examples}");

    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let there_is = readme.split("## Not yet").next().unwrap();
    let in_prose = there_is.split('`').filter(|code| code.starts_with("stem "));
    let in_blocks = there_is
        .lines()
        .map(|line| line.split_once("$(").map_or(line, |(_, inner)| inner.trim_end_matches(')')));
    for line in in_prose.chain(in_blocks.filter(|line| line.starts_with("stem "))) {
        let parsed = stem_cli::args::Cli::try_parse_from(words(line));
        // What is only named lacks what it needs, which is no mistake.
        let wrong = parsed.err().filter(|error| {
            [ArgumentConflict, InvalidSubcommand, UnknownArgument].contains(&error.kind())
        });
        assert!(wrong.is_none(), "README.md: {line}: {}", wrong.unwrap());
    }
}

#[test]
fn help_explains_exit_codes_and_environment() {
    let place = Place::new();
    let codes = place.stem(&["help", "exit-codes"]).expect(0).stdout;
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 "] {
        assert!(codes.lines().any(|line| line.starts_with(code)), "{codes}");
    }
    let environment = place.stem(&["help", "environment"]).expect(0).stdout;
    for variable in stem_cli::env::ALL {
        assert!(
            environment.contains(variable.name) && environment.contains(variable.meaning),
            "{environment}"
        );
    }
    place.stem(&["help", "exit-code"]).expect(2).complains().says("did you mean exit-codes?");
    place.stem(&["help", "task", "exit-codes"]).expect(2).complains();
}

#[test]
fn wrong_usage_is_code_2_with_a_hint_and_no_output() {
    let place = Place::new();
    place.stem(&[]).expect(2).complains();
    place.stem(&["tsk"]).expect(2).complains().says("task");
    for command in WITH_SERVICES.iter().copied().chain([
        &["task", "run", "x.wasm"][..],
        &["task", "new", "x", "--lang", "c"],
        &["task", "build"],
        &["task", "test"],
        &["module", "check", "x.wasm"],
        &["module", "push", "x.wasm"],
        &["module", "key", "new", "x.key"],
        &["config", "show"],
        &["audit"],
        &["completions", "bash"],
        &["man"],
        &["top"],
    ]) {
        let mut words = command.to_vec();
        words.push("--no-such-flag");
        let ran = place.stem(&words).expect(2).complains().says("--no-such-flag");
        assert!(ran.stdout.is_empty(), "{ran:?}");
    }
    for missing in [
        &["worker", "revoke"][..],
        &["worker", "healthcheck"],
        &["worker", "pause"],
        &["worker", "resume"],
        &["revokes", "undo"],
        &["task", "enqueue"],
        &["task", "show"],
        &["dlq", "show"],
        &["queue", "purge"],
        &["module", "check"],
        &["module", "push"],
        &["module", "canary", "job"],
        &["module", "remove", "job"],
        &["completions"],
    ] {
        place.stem(missing).expect(2).complains();
    }
    assert!(!place.database().exists(), "a usage error must not touch anything");
}

#[test]
fn durations_are_strict_everywhere() {
    let place = Place::new();
    for flag in [
        &["worker", "ping", "--timeout"][..],
        &["worker", "inspect", "--timeout"],
        &["worker", "stats", "--timeout"],
        &["worker", "revoke", "--task", "t", "--timeout"],
        &["worker", "revoke", "--task", "t", "--grace"],
        &["worker", "revoke", "--task", "t", "--expires-in"],
        &["worker", "shutdown", "--timeout"],
        &["worker", "shutdown", "--mode", "soft", "--grace"],
        &["worker", "pause", "--queue", "q", "--timeout"],
        &["worker", "resume", "--queue", "q", "--timeout"],
        &["worker", "status", "--timeout"],
        &["worker", "status", "--stale-after"],
        &["worker", "healthcheck", "--pidfile", "p", "--ready", "--timeout"],
        &["worker", "multi", "start", "n", "--timeout"],
        &["worker", "multi", "stop", "n", "--timeout"],
        &["worker", "multi", "restart", "n", "--timeout"],
        &["worker", "start", "--print-config", "--lease"],
        &["worker", "start", "--print-config", "--terminate-grace"],
        &["worker", "start", "--print-config", "--soft-grace"],
        &["task", "enqueue", "x", "--delay"],
        &["task", "enqueue", "x", "--expires-in"],
        &["task", "enqueue", "x", "--timeout"],
        &["task", "wait", "t", "--timeout"],
        &["dlq", "list", "--since"],
        &["config", "show", "--timeout"],
        &["audit", "--since"],
        &["top", "--interval"],
    ] {
        for bad in ["5", "5sec", "s", "1.5s", "", "5 s", "99999999999999999999s", "5S"] {
            let mut words = flag.to_vec();
            words.push(bad);
            let ran = place.stem(&words).expect(2).complains();
            assert!(bad.is_empty() || ran.stderr.contains(bad), "{words:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("250ms, 5s, 2m, 1h, 7d"), "{words:?}: {}", ran.stderr);
        }
    }
    let ran =
        place.stem_env(&[("STEM_CONTROL_TIMEOUT", "5")], &["worker", "ping"]).expect(2).complains();
    assert!(
        ran.stderr.contains("STEM_CONTROL_TIMEOUT") && ran.stderr.contains("250ms, 5s"),
        "{}",
        ran.stderr
    );
}

#[test]
fn bad_values_are_refused_with_the_offending_text() {
    let place = Place::new();
    for words in [
        &["task", "show", "a b"][..],
        &["task", "enqueue", "no/name"],
        &["task", "enqueue", "x", "--priority", "10"],
        &["task", "enqueue", "x", "--eta", "tomorrow"],
        &["task", "enqueue", "x", "--max-retries", "-1"],
        &["task", "enqueue", "x", "--max-retries", "1001"],
        &["task", "enqueue", "x", "--header", "novalue"],
        &["task", "enqueue", "x", "--tenant", "a b"],
        &["task", "enqueue", "x", "--queue", "a/b"],
        &["task", "enqueue", "x", "--delay", "1s", "--eta", "2030-01-01T00:00:00Z"],
        &["task", "enqueue", "x", "--delay", "2s", "--expires-in", "1s"],
        &["task", "enqueue", "x", "--timeout", "0s"],
        &["task", "enqueue", "x", "--json-args", "1", "--args-file", "f"],
        &["task", "list", "--state", "done"],
        &["task", "list", "--limit", "0"],
        &["worker", "ping", "--worker", "a,,b"],
        &["worker", "ping", "--namespace", "a b"],
        &["worker", "shutdown", "--mode", "gentle"],
        &["worker", "shutdown", "--mode", "warm", "--grace", "5s"],
        &["worker", "revoke", "--task", "t", "--grace", "1s", "--cooperative"],
        &["worker", "revoke", "--task", "t", "--expires-in", "0s"],
        &["worker", "revoke", "--task", "t", "--reason", ""],
        &["worker", "revoke", "--module", "sha256:12"],
        &["module", "canary", "job", "--percent", "0"],
        &["module", "push", "x.wasm", "--canary", "5", "--hold"],
        &["worker", "start", "--concurrency", "0"],
        &["worker", "start", "--lease", "10ms"],
        &["worker", "start", "--queue", "a b"],
        &["worker", "multi", "status", "a/b"],
        &["worker", "multi", "names", "a", "--queue", "a b"],
        &["worker", "start", "--modules", "no-such-directory"],
        &["worker", "healthcheck", "--pidfile", "p", "--node", "a b"],
        &["dlq", "list", "--reason", "tired"],
        &["dlq", "replay", "--yes", "--dry-run"],
        &["audit", "--limit", "0"],
        &["audit", "--verify", "--refused"],
        &["completions", "tcsh"],
    ] {
        let ran = place.stem(words).expect(2).complains();
        assert!(ran.stdout.is_empty(), "{ran:?}");
    }
}

#[test]
fn completions_and_manual_pages_are_written() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.stem(&["completions", shell]).expect(0).stdout;
        assert!(script.len() > 1_000 && script.contains("enqueue"), "{shell}");
    }
    let page = place.stem(&["man"]).expect(0).stdout;
    assert!(page.contains(".TH") && page.contains("enqueue") || page.contains("worker"), "{page}");
    place.stem(&["man", "--dir", "pages"]).expect(0);
    let pages = std::fs::read_dir(place.path("pages")).unwrap().count();
    assert_eq!(pages, commands().len());
    assert!(place.path("pages/stem-task-enqueue.1").exists());
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let place = Place::new();
    for words in [
        &["completions", "bash"][..],
        &["help", "environment"],
        &["--help"],
        &["task", "list", "--json"],
    ] {
        let mut child = place.command(words).spawn().unwrap();
        drop(child.stdout.take());
        support::Ran::of(child.wait_with_output().unwrap()).expect(0);
    }
}
