//! The table of bytes in docs/hostile-input.md: what is said of each file of the corpora that is refused.

use std::fmt::Write as _;
use std::path::Path;

use stem_fuzz::{Met, TARGETS, corpus};
use stem_services::marked;

/// Letters of an answer that the table has.
const SHOWN: usize = 160;

#[test]
fn what_is_refused_gets_the_answer_of_the_table_and_the_next_is_read() {
    let mut table = "| read as | what comes | answer |\n|---|---|---|\n".to_owned();
    for target in TARGETS {
        let files = corpus(target.name).unwrap();
        let good = files.iter().find(|(file, _)| file.starts_with("good")).unwrap();
        for (file, bytes) in &files {
            let Some(what) = file.strip_prefix("bad-") else { continue };
            let Met::Refused(words) = (target.check)(bytes) else {
                panic!("{}/{file} is read", target.name)
            };
            let what = what.trim_end_matches(".toml").replace('-', " ");
            writeln!(table, "| `{}` | {what} | {} |", target.name, cell(&words)).unwrap();
            assert!(matches!((target.check)(&good.1), Met::Read(_)), "{}, after {file}", good.0);
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/hostile-input.md");
    let text = std::fs::read_to_string(page).unwrap();
    assert!(
        marked::part(&text, "bytes") == Some(&table),
        "docs/hostile-input.md must have between its marks of `bytes`:\n\n{table}"
    );
}

/// As one line of a table, cut.
fn cell(words: &str) -> String {
    let words = answers(words);
    let mut cell: String = words.chars().take(SHOWN).collect();
    if cell.len() < words.len() {
        cell.push('…');
    }
    // Neither a column nor markup.
    format!("`{}`", cell.replace('|', "/").replace('`', "'"))
}

/// Some targets ask several readers, and list what they answered: each answer once.
fn answers(words: &str) -> String {
    let mut parts = words.trim_end_matches(" []").split("Err(\"");
    let first = parts.next().unwrap_or_default();
    let mut said = vec![first.trim_end_matches(['[', ' ']).to_owned()];
    said.retain(|first| !first.is_empty());
    for part in parts {
        let answer = part.rsplit_once("\")").map_or(part, |(answer, _)| answer);
        let answer = answer.replace("\\\"", "\"").replace("\\\\", "\\");
        if !said.contains(&answer) {
            said.push(answer);
        }
    }
    said.join("; ")
}
