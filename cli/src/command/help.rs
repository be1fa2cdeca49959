//! `stem help [TOPIC]`

use clap::CommandFactory;

use crate::args::Cli;
use crate::env;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{table, write_stdout};

pub(super) fn run(topic: &[String]) -> Outcome {
    let words: Vec<&str> = topic.iter().map(String::as_str).collect();
    let text = match words[..] {
        ["exit-codes"] => exit_codes(),
        ["environment"] => environment(),
        _ => of_command(&words)?,
    };
    write_stdout(text.as_bytes())?;
    Ok(Ending::Done)
}

fn exit_codes() -> String {
    let rows = Ending::ALL.map(|ending| {
        let (meaning, examples) = ending.meaning();
        vec![ending.code().to_string(), meaning.to_owned(), examples.to_owned()]
    });
    format!(
        "{}\nThe code is the same with and without --json.\n",
        table(&["CODE", "MEANING", "FOR INSTANCE"], rows)
    )
}

fn environment() -> String {
    let paragraphs = env::ALL.iter().map(|variable| {
        format!("{}\n    {}\n    Default: {}.\n", variable.name, variable.meaning, variable.default)
    });
    format!(
        "{}\nA flag beats the environment, which beats [settings] in stem.toml, which beats the default.\n\
         `stem config show` prints what holds.\n",
        paragraphs.collect::<String>()
    )
}

fn of_command(words: &[&str]) -> Result<String, CliError> {
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for word in words {
        let known: Vec<String> = found
            .get_subcommands()
            .map(|sub| sub.get_name().to_owned())
            .chain(topics(words))
            .collect();
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            let near = stem_engine::units::nearest(word, known.iter().map(String::as_str));
            CliError::usage(
                format!(
                    "there is no help on {:?}",
                    stem_core::text::printable(&words.join(" "), 100)
                ),
                near.map_or_else(
                    || format!("known are {}", known.join(", ")),
                    |near| format!("did you mean {near}?"),
                ),
            )
        })?;
    }
    Ok(found.render_long_help().to_string())
}

/// Topics beside the commands; only at the first word.
fn topics(words: &[&str]) -> Vec<String> {
    if words.len() == 1 {
        vec!["exit-codes".to_owned(), "environment".to_owned()]
    } else {
        Vec::new()
    }
}
