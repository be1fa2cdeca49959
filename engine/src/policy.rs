//! The worker's policy: the most that handlers get, and the values behind the names that manifests use.
//!
//! ```text
//! manifest (asks) ──┐
//! origin ───────────┼──► Policy::resolve ──► Resolved: limits, what is granted, what was refused and how to allow it
//! policy (caps) ────┘
//! ```
//! | module | what it holds |
//! |---|---|
//! | `read` | the file, from text to [`Policy`] |
//! | `trusted` | files that decide or hold something: who may write them |
//! | [`words`] | grants in words, and the line that would allow one |
//! | [`live`] | [`PolicyFile`]: a policy that follows its file |

pub mod live;
mod read;
pub(crate) mod trusted;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stem_core::grants::{ANY, BucketGrant, Grants, NamePattern, Scratch, SecretGrant};
use stem_core::id::{TaskName, TrustClass};
use stem_core::limits::Limits;
use stem_isolate::{Granted, Secret};

pub use self::live::PolicyFile;
use self::trusted::Mark;
use crate::manifest::HandlerManifest;
use crate::manifest::limits::UNCAPPED;

/// Where a module comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The worker's own directory, or a file that was named: its manifest is the operator's word.
    Local,
    /// The module store, to which others can push.
    Pushed,
}

/// Grants that the log names when a module does not get them.
const WARNINGS: usize = 32;

/// What handlers get. Shows no secret.
#[derive(Clone, Debug, Default)]
pub struct Policy(Option<Rules>);

/// What a policy file says.
#[derive(Clone, Debug, Default)]
struct Rules {
    /// For handlers without a word of their own.
    general: Ruling,
    /// For those with one, the most specific pattern first.
    special: Vec<(NamePattern, Ruling)>,
    config: BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
    /// The worker's variables that hold secrets; no handler gets one as a variable.
    secret_variables: BTreeSet<String>,
    inputs: BTreeMap<String, PathBuf>,
    /// Everything that was read, as it was then; the policy first.
    files: Vec<(PathBuf, Mark)>,
    warnings: Vec<String>,
}

impl Rules {
    fn of(&self, name: &TaskName) -> &Ruling {
        let special = self.special.iter().find(|(pattern, _)| pattern.matches(name));
        special.map_or(&self.general, |(_, ruling)| ruling)
    }
}

/// The most that some handlers get.
#[derive(Clone, Debug)]
struct Ruling {
    limits: Limits,
    grants: Grants,
    class: TrustClass,
}

impl Default for Ruling {
    fn default() -> Self {
        Self { limits: UNCAPPED, grants: Grants::default(), class: default_class() }
    }
}

/// Of every name to which no policy gives another.
fn default_class() -> TrustClass {
    TrustClass::new("default").expect("a constant that follows the rules")
}

/// What a pushed module may have where there is no policy: nothing that leads out of Stem, and nothing of the machine
/// but bounded space.
fn without_a_policy() -> Grants {
    Grants {
        scratch: Some(Scratch::DEFAULT),
        children: NamePattern::new(ANY).into_iter().collect(),
        kv: vec![BucketGrant { bucket: ANY.to_owned(), write: true }],
        ..Grants::default()
    }
}

/// A policy that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct PolicyError {
    /// Which file.
    pub file: PathBuf,
    /// What is wrong with it. Names secrets, but shows none.
    pub problem: String,
}

/// What a handler gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub granted: Arc<Granted>,
    /// What its manifest asks for and it does not get.
    pub refused: Vec<Refused>,
}

/// Something that a manifest asks for and its handler does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In words: `http api.example.org`.
    pub grant: String,
    /// Why it is not there.
    pub why: Why,
    /// What to write where, to allow it.
    pub remedy: String,
}

/// Why something is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The policy does not allow it.
    Policy,
    /// There is no policy, and pushed modules get it from one only.
    NoPolicy,
    /// It is allowed, and there is nothing behind the name.
    NoValue,
}

impl Why {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Policy => "the policy does not allow it",
            Self::NoPolicy => "a pushed module gets it from a policy only",
            Self::NoValue => "nothing is behind the name",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grant, why, remedy } = self;
        write!(f, "{grant} is asked for and not given: {}; {remedy}", why.words())
    }
}

impl Resolved {
    /// Warns of each thing that is not given; of very many only of the first, since whoever can push a module must not
    /// fill the log.
    pub fn warn(&self, task: &TaskName) {
        for refused in self.refused.iter().take(WARNINGS) {
            tracing::warn!(%task, grant = %refused.grant, "{refused}");
        }
        let more = self.refused.len().saturating_sub(WARNINGS);
        if more > 0 {
            tracing::warn!(%task, more, "further grants are asked for and not given; `stem module check` shows all");
        }
    }
}

impl Policy {
    /// No policy.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// What is unsafe about it and its files.
    pub fn warnings(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |rules| &rules.warnings)
    }

    /// The files that it was read from: its own, and those of its secrets.
    pub fn sources(&self) -> impl Iterator<Item = &Path> {
        self.files().iter().map(|(path, _)| path.as_path())
    }

    /// The directories that it gives to handlers.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().flat_map(|rules| rules.inputs.values().map(PathBuf::as_path))
    }

    /// How far a task name's handler is trusted: a word that workers choose by whose tasks they run.
    pub fn class(&self, name: &TaskName) -> TrustClass {
        self.0.as_ref().map_or_else(default_class, |rules| rules.of(name).class.clone())
    }

    /// Every class that it gives to some name.
    pub fn classes(&self) -> BTreeSet<&TrustClass> {
        let rules = self.0.iter();
        let rulings = rules.flat_map(|rules| {
            rules.special.iter().map(|(_, ruling)| ruling).chain([&rules.general])
        });
        rulings.map(|ruling| &ruling.class).collect()
    }

    /// Every file that was read, as it was then.
    pub(crate) fn files(&self) -> &[(PathBuf, Mark)] {
        self.0.as_ref().map_or(&[], |rules| &rules.files)
    }

    /// What a handler gets of what its manifest asks for; `cap` is the worker's own bound, which no policy raises.
    /// Without a policy a manifest of the worker's own holds as it stands, and a pushed one gets scratch space, children
    /// and buckets.
    pub fn resolve(&self, manifest: &HandlerManifest, origin: Origin, cap: &Limits) -> Resolved {
        let asked = &manifest.grants;
        let ruling = self.0.as_ref().map(|rules| rules.of(&manifest.name));
        let limits = ruling.map_or(&manifest.limits, |ruling| &ruling.limits);
        let limits = manifest.limits.capped_by(limits).capped_by(cap);
        let (mut grants, words) = match (ruling, origin) {
            (Some(ruling), _) => asked.capped_by(&ruling.grants),
            (None, Origin::Local) => (asked.clone(), Vec::new()),
            (None, Origin::Pushed) => asked.capped_by(&without_a_policy()),
        };
        let why = if self.is_some() { Why::Policy } else { Why::NoPolicy };
        let mut refused: Vec<Refused> = words
            .into_iter()
            .map(|grant| Refused { remedy: words::remedy(&grant), grant, why })
            .collect();
        let mut valueless = |what: &str, name: &str| {
            let grant = format!("{what} {name}");
            refused.push(Refused { remedy: words::value(what, name), grant, why: Why::NoValue });
        };

        let nothing = Rules::default();
        let rules = self.0.as_ref().unwrap_or(&nothing);
        let mut settings = BTreeMap::new();
        grants.env.retain(|name| {
            let ours = !rules.secret_variables.contains(name);
            if !ours {
                valueless("env", name);
            }
            ours
        });
        for name in &grants.env {
            settings.extend(std::env::var(name).ok().map(|value| (name.clone(), value)));
        }
        // A setting of the policy says more than a variable of the same name.
        for name in &grants.config {
            match rules.config.get(name) {
                Some(value) => drop(settings.insert(name.clone(), value.clone())),
                None => valueless("config", name),
            }
        }
        let mut secrets = BTreeMap::new();
        for SecretGrant { name, .. } in &grants.secrets {
            match rules.secrets.get(name) {
                Some(secret) => drop(secrets.insert(name.clone(), secret.clone())),
                None => valueless("secrets", name),
            }
        }
        let mut inputs = BTreeMap::new();
        for name in &grants.inputs {
            match rules.inputs.get(name) {
                Some(path) => drop(inputs.insert(name.clone(), path.clone())),
                None => valueless("inputs", name),
            }
        }
        let arguments = manifest.arguments.clone();
        let granted = Arc::new(Granted {
            grants,
            settings,
            secrets,
            inputs,
            arguments,
            input_file: manifest.input_file.clone(),
            result_file: manifest.result_file.clone(),
        });
        Resolved { limits, granted, refused }
    }
}

#[cfg(test)]
mod tests;
