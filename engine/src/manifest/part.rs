//! [`Part`]: a table of a manifest or a policy, read key by key. What is wrong is said with its place.

use std::time::Duration;

use toml::{Table, Value};

use crate::units;

/// Reads TOML. The error has the parser's words and the line's number, not the line: it may hold a secret.
pub(crate) fn table(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or_else(String::new, |span| {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: ")
        });
        format!("{at}{}", error.message())
    })
}

/// One table and its place in the file. Its keys are known ones.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    at: String,
    table: &'a Table,
}

impl<'a> Part<'a> {
    /// Refuses keys that are not known. The outermost table has no place.
    pub(crate) fn new(
        at: impl Into<String>,
        table: &'a Table,
        known: &[&str],
    ) -> Result<Self, String> {
        let at = at.into();
        let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) else {
            return Ok(Self { at, table });
        };
        let whose = if at.is_empty() { "there is".to_owned() } else { format!("{at} has") };
        Err(match units::nearest(key, known.iter().copied()) {
            Some(near) => format!("{whose} an unknown key {key:?}; did you mean {near:?}?"),
            None => format!("{whose} an unknown key {key:?}; known are {}", known.join(", ")),
        })
    }

    /// The same for a value, which must be a table.
    pub(crate) fn of(
        at: impl Into<String>,
        value: &'a Value,
        known: &[&str],
    ) -> Result<Self, String> {
        let at = at.into();
        let table =
            value.as_table().ok_or_else(|| format!("{at} is {}, not a table", value.type_str()))?;
        Self::new(at, table, known)
    }

    /// The place of a key.
    pub(crate) fn place(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    /// Its own place.
    pub(crate) fn at(&self) -> &str {
        &self.at
    }

    /// What a key holds.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.table.get(key)
    }

    /// A table below it whose keys are names.
    pub(crate) fn names(&self, key: &str) -> Result<Vec<(String, &'a str, &'a Value)>, String> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let at = self.place(key);
        let table =
            value.as_table().ok_or_else(|| format!("{at} is {}, not a table", value.type_str()))?;
        Ok(table
            .iter()
            .map(|(name, value)| (format!("{at}.{name}"), name.as_str(), value))
            .collect())
    }

    /// Text.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(format!("{} is {}, not text in quotes", self.place(key), other.type_str()))
            }
        }
    }

    /// A list of text, each with its place.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<(String, &'a str)>, String> {
        self.list(key)?
            .into_iter()
            .map(|(at, value)| match value {
                Value::String(text) => Ok((at, text.as_str())),
                other => Err(format!("{at} is {}, not text in quotes", other.type_str())),
            })
            .collect()
    }

    /// A list, each item with its place.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<(String, &'a Value)>, String> {
        let at = self.place(key);
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok((0..)
                .zip(items)
                .map(|(index, item): (usize, _)| (format!("{at}[{index}]"), item))
                .collect()),
            Some(other) => Err(format!("{at} is {}, not a list in [ ]", other.type_str())),
        }
    }

    /// `true` or `false`; `false` where it is not there.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(other) => {
                Err(format!("{} is {}, not true or false", self.place(key), other.type_str()))
            }
        }
    }

    /// A duration above 0.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match units::duration(text) {
            Ok(duration) if duration.is_zero() => {
                Err(format!("{} must be above 0", self.place(key)))
            }
            Ok(duration) => Ok(Some(duration)),
            Err(error) => Err(format!("{}: {error}", self.place(key))),
        }
    }

    /// A size.
    pub(crate) fn bytes(&self, key: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        units::bytes(text).map(Some).map_err(|error| format!("{}: {error}", self.place(key)))
    }

    /// A whole number above 0.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(count)) if *count > 0 => Ok(Some(count.unsigned_abs())),
            Some(other) => {
                let what = match other {
                    Value::Integer(number) => number.to_string(),
                    other => other.type_str().to_owned(),
                };
                Err(format!("{} is {what}, not a whole number above 0", self.place(key)))
            }
        }
    }
}
