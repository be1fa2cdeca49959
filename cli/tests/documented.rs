//! Every command that the documents tell people to type is one that there is, with flags that it has.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind::{ArgumentConflict, InvalidSubcommand, UnknownArgument};
use stem_cli::args::Cli;

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents.push(path);
        }
    }
    documents.sort();
    documents
}

/// The lines of a document's shell examples that call the program, without what only the shell reads.
fn typed(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for block in text.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default().replace("\\\n", " ");
        for line in block.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let line = line.strip_prefix("id=$(").map_or(line, |rest| rest.trim_end_matches(')'));
            commands.extend(line.starts_with("stem ").then(|| line.to_owned()));
        }
    }
    commands
}

fn words(command: &str) -> Vec<String> {
    let command = command.replace("$id", "id");
    shell_words::split(&command).unwrap_or_else(|error| panic!("{command}: {error}"))
}

#[test]
fn every_example_in_a_shell_block_can_be_typed_as_it_stands() {
    let mut count = 0;
    for document in documents() {
        for command in typed(&std::fs::read_to_string(&document).unwrap()) {
            let parsed = Cli::try_parse_from(words(&command));
            assert!(parsed.is_ok(), "{}: {command}: {}", document.display(), parsed.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn every_command_that_is_named_in_a_sentence_is_one_that_there_is() {
    let mut count = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        // Blocks have other rules.
        let prose: String = text.split("```").step_by(2).collect();
        for command in prose.split('`').filter(|text| text.starts_with("stem ")) {
            // Written short: alternatives, and names that stand for something.
            if command.contains(['|', '…', '<', '>']) || command.contains("...") {
                continue;
            }
            // What is only named lacks what it needs, which is no mistake.
            let wrong = Cli::try_parse_from(words(command)).err().filter(|error| {
                [ArgumentConflict, InvalidSubcommand, UnknownArgument].contains(&error.kind())
            });
            assert!(wrong.is_none(), "{}: {command}: {}", document.display(), wrong.unwrap());
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}
