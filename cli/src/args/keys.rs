//! What `stem keys` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stem_core::id::{KeyId, Namespace, QueueName, WorkerId};
use stem_core::seal::Role;
use stem_core::time::Timestamp;
use stem_engine::signing::Algorithm;
use stem_engine::units::duration;

use super::JsonArg;

/// `stem keys …`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key to sign commands, replies or tasks with, and say who may do what by it
    #[command(
        after_help = "The secret half goes into the file of private keys (mode 0600, made if it is not there), the public half with its roles
into the file of public keys: the files that the settings signing-private-keys and signing-public-keys name, for whom no flag does.
With --algorithm hmac-sha256 there is one secret, in the file of signing-keys: whoever can check by it can sign by it.

A new file of public keys says \"permitted\" for what the key signs, and \"unchecked\" for the rest: nothing unsigned is refused until
you write \"required\" for commands, replies or tasks. Files are written anew; comments in them are lost.

Roles: inspect (ping, inspect, stats), control (those, revoke, shutdown, pause, resume), publish (enqueue tasks), worker (answer).

Examples:
  stem keys new ops --role control
  stem keys new shop --role publish --for-queue mail --algorithm hmac-sha256
  stem keys new w1 --role worker --for-worker w1 --private /etc/stem/w1.toml"
    )]
    New(NewArgs),
    /// Put a new key in the place of one, while both are good for a time
    #[command(
        after_help = "The public half of the new key is written at once; it signs after --lead, when the file has come to everybody who checks. The old
one is good for --overlap after that: as long as what it has signed may lie somewhere. No process is started anew.

Examples:
  stem keys rotate ops --lead 1h --overlap 7d
  stem keys rotate shop-20261122 --as shop-20270101"
    )]
    Rotate(RotateArgs),
    /// Let a key be good no more
    #[command(
        after_help = "What it has signed is refused from then on, whenever it was signed. Its entries stay in the files, and stay ended.

Examples:
  stem keys retire ops-20261122
  stem keys retire ops-20261122 --at 2026-12-01T00:00:00Z"
    )]
    Retire(RetireArgs),
    /// List the keys that are believed and signed with here; never a secret
    #[command(
        after_help = "Exit code: 0 there are keys, 2 no file of keys is set, 3 the files hold none.

Examples:
  stem keys list
  stem keys list --json"
    )]
    List {
        /// Which files.
        #[command(flatten)]
        files: KeyFileArgs,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Which files of keys.
#[derive(Args, Clone, Debug, Default)]
pub struct KeyFileArgs {
    /// The file of public keys [env: STEM_SIGNING_PUBLIC_KEYS]
    #[arg(long, value_name = "FILE")]
    pub public: Option<PathBuf>,
    /// The file of private keys [env: STEM_SIGNING_PRIVATE_KEYS]
    #[arg(long, value_name = "FILE")]
    pub private: Option<PathBuf>,
    /// The file of secrets that sign and verify [env: STEM_SIGNING_KEYS]
    #[arg(long, value_name = "FILE")]
    pub shared: Option<PathBuf>,
}

/// `stem keys new`
#[derive(Args, Clone, Debug)]
pub struct NewArgs {
    /// The key's id
    pub id: KeyId,
    /// What it may (repeatable, or with commas)
    #[arg(long, value_enum, required = true, value_delimiter = ',')]
    pub role: Vec<RoleArg>,
    /// How it signs [env: STEM_SIGNING_ALGORITHM] [default: ed25519]
    #[arg(long, value_enum)]
    pub algorithm: Option<AlgorithmArg>,
    /// Its commands and replies hold in this namespace only (repeatable)
    #[arg(long, value_name = "NS")]
    pub for_namespace: Vec<Namespace>,
    /// Its tasks hold in this queue only (repeatable)
    #[arg(long, value_name = "Q")]
    pub for_queue: Vec<QueueName>,
    /// It signs replies of this worker only (repeatable)
    #[arg(long, value_name = "ID")]
    pub for_worker: Vec<WorkerId>,
    /// It is good for so long [default: for ever]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub valid_for: Option<Duration>,
    /// Which files.
    #[command(flatten)]
    pub files: KeyFileArgs,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem keys rotate`
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// The key that is to end
    pub id: KeyId,
    /// The new key's id [default: the old one's without its date, and today's]
    #[arg(long = "as", value_name = "ID")]
    pub as_id: Option<KeyId>,
    /// The new key signs after so long
    #[arg(long, value_name = "D", value_parser = duration, default_value = "1h")]
    pub lead: Duration,
    /// The old one is good for so long after that [default: 7d; for tasks task-max-age, if that is longer]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub overlap: Option<Duration>,
    /// Which files.
    #[command(flatten)]
    pub files: KeyFileArgs,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem keys retire`
#[derive(Args, Clone, Debug)]
pub struct RetireArgs {
    /// The key
    pub id: KeyId,
    /// From when on, in RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// Which files.
    #[command(flatten)]
    pub files: KeyFileArgs,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// Roles, as they are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Ask workers how they are.
    Inspect,
    /// Give every command.
    Control,
    /// Enqueue tasks.
    Publish,
    /// Answer commands.
    Worker,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Inspect => Self::Inspect,
            RoleArg::Control => Self::Control,
            RoleArg::Publish => Self::Publish,
            RoleArg::Worker => Self::Worker,
        }
    }
}

/// Algorithms, as they are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AlgorithmArg {
    /// A secret half and a public one.
    Ed25519,
    /// One secret for both sides.
    HmacSha256,
}

impl From<AlgorithmArg> for Algorithm {
    fn from(algorithm: AlgorithmArg) -> Self {
        match algorithm {
            AlgorithmArg::Ed25519 => Self::Ed25519,
            AlgorithmArg::HmacSha256 => Self::HmacSha256,
        }
    }
}
