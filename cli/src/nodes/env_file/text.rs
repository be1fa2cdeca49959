//! The text of a file of variables, in memory: what it may hold, and what it means.

use std::collections::BTreeMap;
use std::fmt;

use stem_core::text::printable;

/// The longest name, in bytes: what is said of a line has it in it.
const NAME_BYTES: usize = 255;

/// The variables of a file, in its order. Each name is there once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EnvFile {
    variables: Vec<(String, String)>,
}

impl EnvFile {
    /// Name and value, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it. Never its value, which may be a secret.
    pub problem: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// Reads the lines of a file; the errors are all of those that are not understood, in order.
pub(super) fn parse(bytes: &[u8]) -> Result<EnvFile, Vec<BadLine>> {
    let mut file = EnvFile::default();
    let mut first_at: BTreeMap<String, usize> = BTreeMap::new();
    let mut bad = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        match variable(line) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                if let Some(first) = first_at.get(&name) {
                    let problem = format!("{name} is set in line {first} already");
                    bad.push(BadLine { line: number, problem });
                } else {
                    first_at.insert(name.clone(), number);
                    file.variables.push((name, value));
                }
            }
            Err(problem) => bad.push(BadLine { line: number, problem }),
        }
    }
    if bad.is_empty() { Ok(file) } else { Err(bad) }
}

/// Name and value of a line, if it has any.
fn variable(line: &[u8]) -> Result<Option<(String, String)>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_suffix('\r').unwrap_or(text).trim_matches([' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return Err("it has a control character".to_owned());
    }
    let text =
        text.strip_prefix("export ").map_or(text, |rest| rest.trim_start_matches([' ', '\t']));
    let (name, value) = text.split_once('=').ok_or("there is no =")?;
    let first = name.chars().next().ok_or("there is no name before the =")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if first.is_ascii_digit() || !name.chars().all(fits) {
        return Err(
            "the name before the = is not made of A-Z a-z 0-9 _, or begins with a digit".to_owned()
        );
    }
    if name.len() > NAME_BYTES {
        return Err(format!("the name before the = has more than {NAME_BYTES} characters"));
    }
    if name.starts_with("LD_") {
        return Err(format!("{name} would load other code into the worker"));
    }
    let value = match value.chars().next() {
        Some('\'') => single(&value[1..]),
        Some('"') => double(&value[1..]),
        _ => bare(value),
    };
    value
        .map(|value| Some((name.to_owned(), value)))
        .map_err(|problem| format!("{name}: {problem}"))
}

fn bare(text: &str) -> Result<String, String> {
    match text.chars().find(|c| c.is_whitespace() || "'\"\\$`".contains(*c)) {
        None => Ok(text.to_owned()),
        Some(c) if c.is_whitespace() => Err("a value with white space needs quotes".to_owned()),
        Some(c) => Err(format!("a value with {c} needs single quotes")),
    }
}

fn single(text: &str) -> Result<String, String> {
    match text.split_once('\'') {
        None => Err("the single quote is not closed on this line".to_owned()),
        Some((value, "")) => Ok(value.to_owned()),
        Some(_) => Err("something follows the closing quote".to_owned()),
    }
}

fn double(text: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if letters.as_str().is_empty() => return Ok(value),
            '"' => return Err("something follows the closing quote".to_owned()),
            '\\' => match letters.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => value.push(escaped),
                Some(other) => {
                    let other = printable(&other.to_string(), 8);
                    return Err(format!("\\{other} is not one of \\\" \\\\ \\$ \\`"));
                }
                None => break,
            },
            '$' | '`' => {
                return Err(format!(
                    "{letter} is not expanded here: write \\{letter}, or use single quotes"
                ));
            }
            plain => value.push(plain),
        }
    }
    Err("the double quote is not closed on this line".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_a_shell_and_systemd_would() {
        let text = concat!(
            "# comment\n\n  \t\nA=1\n  export  B=two\r\nURL=postgres://u:p@h/d?a=b&c=d#e\nEMPTY=\nQ=''\n",
            "C='$x `y` \\z \"q\"'\nD=\"a \\\"b\\\" \\\\ \\$x \\` it's\"\nE=a=b\n"
        );
        let file = parse(text.as_bytes()).unwrap();
        let got: Vec<_> = file.iter().collect();
        assert_eq!(
            got,
            [
                ("A", "1"),
                ("B", "two"),
                ("URL", "postgres://u:p@h/d?a=b&c=d#e"),
                ("EMPTY", ""),
                ("Q", ""),
                ("C", "$x `y` \\z \"q\""),
                ("D", "a \"b\" \\ $x ` it's"),
                ("E", "a=b"),
            ]
        );
        assert_eq!((file.get("B"), file.get("b")), (Some("two"), None));
        assert!(!format!("{file:?}").contains("two"), "{file:?}");
    }

    #[test]
    fn every_bad_line_is_named_and_no_value_is_shown() {
        let bad: &[(&[u8], &str)] = &[
            (b"hunter2", "no ="),
            (b"=hunter2", "no name"),
            (b"1A=hunter2", "name before"),
            (b"A B=hunter2", "name before"),
            (b"A =hunter2", "name before"),
            (b"A=hunter2 # comment", "white space"),
            (b"A=hunter2$x", "single quotes"),
            (b"A=$(hunter2)", "single quotes"),
            (b"A=`hunter2`", "single quotes"),
            (b"A=hunter2\\", "single quotes"),
            (b"A=hunter2'x'", "single quotes"),
            (b"A='hunter2", "not closed"),
            (b"A='hunter2' x", "something follows"),
            (b"A=\"hunter2", "not closed"),
            (b"A=\"hunter2\\", "not closed"),
            (b"A=\"hunter2\"x", "something follows"),
            (b"A=\"hunter2\\n\"", "\\n is not one of"),
            (b"A=\"$hunter2\"", "not expanded"),
            (b"A=hunter2\0", "control character"),
            (b"A=hunter2\xff", "UTF-8"),
            (b"LD_PRELOAD=hunter2.so", "other code"),
            (b"export LD_AUDIT=hunter2", "other code"),
        ];
        for (line, words) in bad {
            let text = [b"OK=1\n", *line, b"\nFINE=1\n"].concat();
            let found = parse(&text).unwrap_err();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].line, 2);
            let said = found[0].to_string();
            assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
        }
        let twice = parse(b"A=1\nB\nA=2\n").unwrap_err();
        assert_eq!(
            twice.iter().map(BadLine::to_string).collect::<Vec<_>>(),
            ["line 2: there is no =", "line 3: A is set in line 1 already"]
        );
    }
}
