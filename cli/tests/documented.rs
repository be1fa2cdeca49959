//! Every command that the documents tell people to type is one that there is, with flags that it has; every manifest and
//! policy that they show is one that is taken.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::PermissionsExt;
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

/// The blocks of TOML in a document that have a table of this name.
fn blocks(text: &str, table: &str) -> Vec<String> {
    let blocks = text.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .filter(|block| block.lines().any(|line| line.starts_with(table)))
        .collect()
}

#[test]
fn every_manifest_and_policy_that_is_shown_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("srv/models")).unwrap();
    let (mut manifests, mut policies) = (0, 0);
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for block in blocks(&text, "[handlers.") {
            if block.contains("source = ") {
                let read = stem_engine::manifest::read(&document, &block);
                assert!(read.is_ok(), "{block}: {}", read.unwrap_err());
                manifests += 1;
            }
        }
        for block in blocks(&text, "[grants]") {
            let key = dir.path().join("key");
            std::fs::write(&key, "of no worth").unwrap();
            // The files that it names lie elsewhere than here.
            let here =
                |text: String, from: &str, to: &Path| text.replace(from, &to.display().to_string());
            let block = here(block, "/etc/stem/api-key", &key);
            let block = here(block, "/srv/models", &dir.path().join("srv/models"));
            let path = dir.path().join("policy.toml");
            std::fs::write(&path, &block).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            let read = stem_engine::policy::Policy::open(&path);
            assert!(read.is_ok(), "{block}: {}", read.unwrap_err());
            policies += 1;
        }
    }
    assert!(manifests > 1 && policies > 0, "{manifests} {policies}");
}
