//! A file of variables for workers, which decides what runs.

use self::text::{EnvFile, parse};
use crate::Met;
use crate::told::told;

// The very file that the command line compiles, without the command line: that would link every backend.
#[path = "../../../cli/src/nodes/env_file/text.rs"]
pub mod text;

/// What may stand in such a file.
pub const WORDS: &[&str] = &[
    "export ",
    "A=",
    "='",
    "=\"",
    "\\\"",
    "\\\\",
    "\\$",
    "\\`",
    "#",
    "\n",
    "\r\n",
    "\t",
    "LD_",
    "LD_PRELOAD=",
    "$(",
    "`",
    "~",
    "\u{202e}",
    "\u{a0}",
    "\u{85}",
    "\u{feff}",
    "STEM_LOG=info",
];

/// The longest that is said of one line.
const TOLD: usize = 400;

/// Names are names, each once; a value is what it was written as; and of a bad line its value is not told.
pub fn check(bytes: &[u8]) -> Met {
    let lines = bytes.split(|byte| *byte == b'\n').count();
    let bad = match parse(bytes) {
        Ok(file) => return Met::Read(read(&file)),
        Err(bad) => bad,
    };
    let mut words = Vec::new();
    let mut before = 0;
    for bad in &bad {
        assert!((before + 1..=lines).contains(&bad.line), "line {} of {lines}", bad.line);
        before = bad.line;
        words.push(told(&bad.problem, TOLD));
    }
    assert!(!bad.is_empty(), "it is refused without a line");
    assert_eq!(parse(&masked(bytes)).as_ref(), Err(&bad), "what is said depends on a value");
    words.sort();
    words.dedup();
    Met::Refused(words.join("; "))
}

fn read(file: &EnvFile) -> String {
    let mut seen = std::collections::BTreeSet::new();
    let mut again = String::new();
    for (name, value) in file.iter() {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        assert!(name.starts_with(begins) && name.chars().all(fits), "the name {name:?}");
        assert!(!name.starts_with("LD_"), "{name} would be given to a worker");
        assert!(seen.insert(name), "{name} is there twice");
        assert!(!value.contains(|c: char| c.is_control() && c != '\t'), "{name} is {value:?}");
        assert_eq!(file.get(name), Some(value));
        let quoted: String = value
            .chars()
            .flat_map(|c| "\"\\$`".contains(c).then_some('\\').into_iter().chain([c]))
            .collect();
        again.extend([name, "=\"", &quoted, "\"\r\n"]);
    }
    assert_eq!(parse(again.as_bytes()).as_ref(), Ok(file), "written again it is another");
    let shape = |value: &str| -> String {
        let kinds = [" \t", "'", "\"", "\\", "$`"];
        let has = |kind: &str| if value.contains(|c| kind.contains(c)) { 'x' } else { '-' };
        kinds.into_iter().map(has).chain(value.is_empty().then_some('0')).collect()
    };
    let mut shapes: Vec<String> = file.iter().map(|(_, value)| shape(value)).collect();
    shapes.sort();
    shapes.dedup();
    shapes.join(" ")
}

/// The same with every letter and digit of a value another, but for one behind a backslash, which an error may name.
fn masked(bytes: &[u8]) -> Vec<u8> {
    let line = |line: &[u8]| {
        let value = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        let mut masked = line.to_vec();
        for at in value..line.len() {
            if line[at].is_ascii_alphanumeric() && line[at - 1] != b'\\' {
                masked[at] = b'x';
            }
        }
        masked
    };
    bytes.split(|byte| *byte == b'\n').map(line).collect::<Vec<_>>().join(&b'\n')
}
