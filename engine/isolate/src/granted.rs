//! What an attempt is granted, with the values that stand behind the names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use stem_core::grants::Grants;

/// A secret. Shown nowhere; the memory is overwritten by nobody, since guests and the allocator copy it anyway.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Grants that a policy has capped, with what the worker knows of them. Shared by all attempts of a handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What is granted. Everything else is denied.
    pub grants: Grants,
    /// Values of `grants.env` and `grants.config`, by name; a name without a value is not there.
    pub settings: BTreeMap<String, String>,
    /// Values of `grants.secrets`, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Directories of `grants.inputs`, by name.
    pub inputs: BTreeMap<String, PathBuf>,
    /// Arguments of a command after its name.
    pub arguments: Vec<String>,
    /// Where a command finds its payload instead of on its standard input, which is then empty: the path of a file
    /// right in the scratch directory, for instance `/scratch/in.png`. Needs the grant of one. A payload that is one JSON
    /// string is its text there.
    pub input_file: Option<String>,
    /// Where a command leaves its result instead of on its standard output, whose lines then go to the log: the path of
    /// a file right in the scratch directory. Needs the grant of one.
    pub result_file: Option<String>,
}
