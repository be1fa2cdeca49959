//! A policy file, from text to [`Policy`].

use std::path::{Path, PathBuf};

use stem_core::grants::{ANY, NamePattern};
use stem_core::id::TrustClass;
use stem_core::text::printable;
use stem_isolate::Secret;
use toml::{Table, Value};

use super::{Policy, PolicyError, Rules, Ruling, default_class, trusted};
use crate::manifest::PROBLEM_BYTES;
use crate::manifest::grants::{self, Side, is_file_name, is_variable};
use crate::manifest::limits::{self, UNCAPPED};
use crate::manifest::part::{self, Part};

/// Largest policy.
const POLICY_BYTES: u64 = 1 << 20;
/// Largest secret.
const SECRET_BYTES: u64 = 64 << 10;

const KEYS: [&str; 7] = ["limits", "grants", "class", "handlers", "config", "secrets", "inputs"];

impl Policy {
    /// Reads a policy and the secrets that it names. The policy and the files of secrets must be plain files of this
    /// user or root that nobody else can write.
    pub fn open(path: &Path) -> Result<Self, PolicyError> {
        let refuse = |problem: String| PolicyError {
            file: path.to_owned(),
            problem: printable(&problem, PROBLEM_BYTES),
        };
        let file = trusted::read(path, POLICY_BYTES).map_err(refuse)?;
        let text =
            String::from_utf8(file.bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))?;
        let mut rules = rules(&text).map_err(refuse)?;
        rules.files.insert(0, (path.to_owned(), file.mark));
        Ok(Self(Some(rules)))
    }
}

fn rules(text: &str) -> Result<Rules, String> {
    let table = part::table(text)?;
    let part = Part::new("", &table, &KEYS)?;
    let mut rules = Rules::default();
    for (at, name, value) in part.names("config")? {
        if !is_variable(name) {
            return Err(format!(
                "{at}: {name:?} is not made of A-Z a-z 0-9 _, or begins with a digit or STEM_"
            ));
        }
        let value = value
            .as_str()
            .ok_or_else(|| format!("{at} is {}, not text in quotes", value.type_str()))?;
        rules.config.insert(name.to_owned(), value.to_owned());
    }
    for (at, name, value) in part.names("secrets")? {
        let secret = secret(&at, name, value, &mut rules)?;
        rules.secrets.insert(name.to_owned(), secret);
    }
    for (at, name, value) in part.names("inputs")? {
        rules.inputs.insert(name.to_owned(), input(&at, name, value)?);
    }
    let general = Layer::of(&part)?;
    rules.general = general.ruling("", &rules)?;
    rules.special = special(&part, &general, &rules)?;
    Ok(rules)
}

/// `[handlers.…]`, the most specific first. Whatever matches a name and is less specific than the table that does so best
/// covers that, so what it names less specifically can be put below it here.
fn special(
    part: &Part<'_>,
    general: &Layer,
    rules: &Rules,
) -> Result<Vec<(NamePattern, Ruling)>, String> {
    let mut layers = Vec::new();
    for (at, pattern, value) in part.names("handlers")? {
        let part = Part::of(at.as_str(), value, &["limits", "grants", "class"])?;
        let pattern = NamePattern::new(pattern).map_err(|error| {
            format!("{at}: {pattern:?} is not a pattern of task names: {error}")
        })?;
        layers.push((at, pattern, Layer::of(&part)?));
    }
    // A name in full before any beginning, a longer beginning before a shorter one.
    layers.sort_by_key(|(_, pattern, _)| {
        let is_beginning = pattern.as_str().ends_with('*');
        (is_beginning, std::cmp::Reverse(pattern.as_str().len()))
    });
    layers
        .iter()
        .enumerate()
        .map(|(index, (at, pattern, layer))| {
            let below = layers[index + 1..].iter().filter(|(_, other, _)| other.covers(pattern));
            let layer =
                below.map(|(_, _, layer)| layer).chain([general]).fold(layer.clone(), Layer::over);
            Ok((pattern.clone(), layer.ruling(at, rules)?))
        })
        .collect()
}

/// `[limits]`, `[grants]` and `class`, of all handlers or of some, before they are put over one another.
#[derive(Clone)]
struct Layer {
    limits: Table,
    grants: Table,
    class: Option<TrustClass>,
}

impl Layer {
    fn of(part: &Part<'_>) -> Result<Self, String> {
        // Read here too, so that what is wrong is said with its own place.
        let table = |key: &str, check: &dyn Fn(String, &Value) -> Result<(), String>| {
            let Some(value) = part.get(key) else { return Ok(Table::new()) };
            check(part.place(key), value)?;
            Ok::<_, String>(value.as_table().cloned().unwrap_or_default())
        };
        let class = part.text("class")?.map(TrustClass::new).transpose();
        Ok(Self {
            class: class.map_err(|error| format!("{}: {error}", part.place("class")))?,
            limits: table("limits", &|at, value| limits::read(at, value, &UNCAPPED).map(drop))?,
            grants: table("grants", &|at, value| grants::read(at, value, Side::Policy).map(drop))?,
        })
    }

    /// Its own keys, and those of the layer below that it does not name.
    fn over(mut self, below: &Self) -> Self {
        for (own, below) in [(&mut self.limits, &below.limits), (&mut self.grants, &below.grants)] {
            for (key, value) in below {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        self.class = self.class.or_else(|| below.class.clone());
        self
    }

    /// What it comes to, where every name that needs a value has one.
    fn ruling(&self, at: &str, rules: &Rules) -> Result<Ruling, String> {
        let place = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
        let limits = limits::read(place("limits"), &Value::Table(self.limits.clone()), &UNCAPPED)?;
        let grants =
            grants::read(place("grants"), &Value::Table(self.grants.clone()), Side::Policy)?;
        let at = place("grants");
        for secret in &grants.secrets {
            if !rules.secrets.contains_key(&secret.name) {
                return Err(format!(
                    "{at}.secrets allows {0:?}, which has no value; write secrets.{0}.file = \"/…\" or secrets.{0}.env = \"…\"",
                    secret.name
                ));
            }
        }
        let missing = |names: &[String], known: &dyn Fn(&str) -> bool| {
            names.iter().find(|name| *name != ANY && !known(name)).cloned()
        };
        if let Some(name) = missing(&grants.inputs, &|name| rules.inputs.contains_key(name)) {
            return Err(format!(
                "{at}.inputs allows {name:?}, which is nowhere; write inputs.{name}.path = \"/…\""
            ));
        }
        if let Some(name) = missing(&grants.config, &|name| rules.config.contains_key(name)) {
            return Err(format!(
                "{at}.config allows {name:?}, which has no value; write config.{name} = \"…\""
            ));
        }
        let class = self.class.clone().unwrap_or_else(default_class);
        Ok(Ruling { limits, grants, class })
    }
}

fn secret(at: &str, name: &str, value: &Value, rules: &mut Rules) -> Result<Secret, String> {
    let part = Part::of(at, value, &["file", "env"])?;
    if !is_file_name(name) {
        return Err(format!("{at}: the name of a secret is made of A-Z a-z 0-9 . _ -"));
    }
    let secret = match (part.text("file")?, part.text("env")?) {
        (Some(file), None) => {
            let path = absolute(&part.place("file"), file)?;
            let read = trusted::read(&path, SECRET_BYTES)
                .map_err(|problem| format!("{at}.file {file}: {problem}"))?;
            if read.mode & 0o004 != 0 {
                rules.warnings.push(format!(
                    "the secret {name} can be read by every user of this machine: chmod o-r {file}"
                ));
            }
            rules.files.push((path, read.mark));
            without_line_end(read.bytes)
        }
        (None, Some(variable)) => {
            let value = std::env::var_os(variable)
                .ok_or_else(|| format!("{at}.env names {variable}, which is not set"))?;
            rules.secret_variables.insert(variable.to_owned());
            std::os::unix::ffi::OsStringExt::into_vec(value)
        }
        _ => return Err(format!("{at} needs one of file = \"/…\" and env = \"…\"")),
    };
    if secret.is_empty() {
        return Err(format!("{at} is empty"));
    }
    Ok(Secret::new(secret))
}

/// Editors end the last line, which is no part of a secret.
fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

fn input(at: &str, name: &str, value: &Value) -> Result<PathBuf, String> {
    let part = Part::of(at, value, &["path"])?;
    if !is_file_name(name) {
        return Err(format!("{at}: the name of an input is made of A-Z a-z 0-9 . _ -"));
    }
    let text = part.text("path")?.ok_or_else(|| format!("{at} has no path"))?;
    let path = absolute(&part.place("path"), text)?;
    let cannot = |error: std::io::Error| {
        let hint = trusted::if_hardened(&error);
        format!("{at}.path {text} cannot be used: {error}{hint}")
    };
    if !std::fs::metadata(&path).map_err(cannot)?.is_dir() {
        return Err(format!("{at}.path {text} is not a directory"));
    }
    // Opened: a hardened process may look at what it may not open.
    std::fs::read_dir(&path).map_err(cannot)?;
    Ok(path)
}

fn absolute(at: &str, text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(format!("{at} {text:?} is not an absolute path"))
    }
}
