//! What `stem audit` takes.

use std::path::PathBuf;

use clap::Args;
use stem_core::id::KeyId;

use super::dead::since;
use super::{JsonArg, Since};

/// `stem audit`
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// Only what was written at or after this time (RFC 3339), or so long ago at most (24h)
    #[arg(long, value_name = "TIME|D", value_parser = since)]
    pub since: Option<Since>,
    /// Only what was written before this time, or longer ago than that
    #[arg(long, value_name = "TIME|D", value_parser = since)]
    pub until: Option<Since>,
    /// Only this order, or this command, in its last word or in all of them (revoke, 'queue pause')
    #[arg(long, value_name = "WORD")]
    pub what: Option<String>,
    /// Only what this key has signed
    #[arg(long, value_name = "ID")]
    pub key: Option<KeyId>,
    /// Only what was refused
    #[arg(long)]
    pub refused: bool,
    /// At most so many, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value = "100")]
    pub limit: u32,
    /// Go on, and write each entry as it comes; with --json one object a line
    #[arg(long)]
    pub follow: bool,
    /// List nothing: hold every line against its sum, and say what was changed or is missing
    #[arg(long, conflicts_with_all = ["since", "until", "what", "key", "refused", "follow"])]
    pub verify: bool,
    /// Read this log [env: STEM_AUDIT_LOG]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}
