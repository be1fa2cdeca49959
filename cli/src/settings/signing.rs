//! Settings of the keys that commands, replies and tasks are signed with.

use std::path::PathBuf;
use std::sync::Arc;

use stem_core::id::KeyId;
use stem_engine::signing::{Algorithm, KeyFiles, Keys};

use super::{Layers, Setting, Source, optional, parse};
use crate::env::{self, Variable};
use crate::error::CliError;

/// Which keys, and where they lie.
#[derive(Clone, Debug)]
pub struct Signing {
    /// Whom this process believes, and what must be signed.
    pub public: Setting<Option<PathBuf>>,
    /// What it signs with.
    pub private: Setting<Option<PathBuf>>,
    /// Secrets that sign and verify.
    pub shared: Setting<Option<PathBuf>>,
    /// The key to sign with wherever it may.
    pub active: Setting<Option<KeyId>>,
    /// Which kind is made, and signed with where both kinds may.
    pub algorithm: Setting<Algorithm>,
}

impl Signing {
    /// Resolves them; the flag is `--signers`.
    pub(super) fn load(signers: Option<PathBuf>, from: &Layers<'_>) -> Result<Self, CliError> {
        let file = |flag, variable: Variable, key| {
            let read = |text: &str| Ok(PathBuf::from(text));
            from.resolve(flag, "--signers", &[variable], key, read).map(optional)
        };
        let (active, algorithm) = (&[env::SIGNING_ACTIVE_KEY], &[env::SIGNING_ALGORITHM]);
        Ok(Self {
            public: file(signers, env::SIGNING_PUBLIC_KEYS, "signing-public-keys")?,
            private: file(None, env::SIGNING_PRIVATE_KEYS, "signing-private-keys")?,
            shared: file(None, env::SIGNING_KEYS, "signing-keys")?,
            active: optional(from.resolve(
                None,
                "",
                active,
                "signing-active-key",
                parse::<KeyId>,
            )?),
            algorithm: from
                .resolve(None, "", algorithm, "signing-algorithm", parse::<Algorithm>)?
                .unwrap_or_else(|| Setting::default(Algorithm::Ed25519)),
        })
    }

    /// Key, value and source of each, as [`Settings::rows`](super::Settings::rows) shows them.
    pub(super) fn rows(&self) -> Vec<(&'static str, serde_json::Value, &Source)> {
        let path = |setting: &Setting<Option<PathBuf>>| {
            setting.value.as_ref().map(|path| path.display().to_string()).into()
        };
        let active = self.active.value.as_ref().map(ToString::to_string);
        vec![
            ("signing-public-keys", path(&self.public), &self.public.source),
            ("signing-private-keys", path(&self.private), &self.private.source),
            ("signing-keys", path(&self.shared), &self.shared.source),
            ("signing-active-key", active.into(), &self.active.source),
            ("signing-algorithm", self.algorithm.value.as_str().into(), &self.algorithm.source),
        ]
    }

    /// Where the keys lie.
    pub fn files(&self) -> KeyFiles {
        KeyFiles {
            public: self.public.value.clone(),
            private: self.private.value.clone(),
            shared: self.shared.value.clone(),
            active: self.active.value.clone(),
            algorithm: self.algorithm.value,
        }
    }

    /// Reads the keys.
    pub fn open(&self) -> Result<Arc<Keys>, CliError> {
        Keys::open(self.files()).map_err(|problem| {
            CliError::usage(
                problem,
                "`stem config show` says where each signing-… setting comes from; `stem help keys new` says what such a file holds",
            )
        })
    }
}
