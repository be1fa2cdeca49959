//! Files, ports and signals, by Landlock.
//!
//! Exactly what version 6 knows is bounded, on whatever kernel: a later one would begin to bound connections to Unix
//! sockets (version 9) and UDP (version 10), and each of these is a decision.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use crate::Paths;

/// What can be done with files, as Linux 6.10 knows it.
const KNOWN: ABI = ABI::V5;
/// In no rule, as long as it is not named.
const ROOT: &str = "/";
/// Without the right to move files between directories every such move fails, and with version 1 there is no such right.
const TOO_OLD: &str = "the kernel has no Landlock of version 2 or later (Linux 5.19)";

/// What holds now.
pub(crate) struct Bounded {
    pub(crate) abi: i32,
    pub(crate) missing: Vec<PathBuf>,
}

/// Bounds the calling thread; the error is why nothing is bounded.
pub(crate) fn bound(paths: &Paths) -> Result<Bounded, String> {
    let root = Path::new(ROOT);
    let is_root = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == root);
    if paths.read.iter().chain(&paths.write).any(is_root) {
        return Err(format!("{ROOT} itself is in use, and everything lies in it"));
    }
    let refused = |error: RulesetError| format!("the kernel refuses it: {error}");
    let ruleset = handled().map_err(|_| TOO_OLD.to_owned())?;
    let ruleset = ruleset.handle_access(AccessNet::BindTcp).map_err(refused)?;
    let ruleset = if paths.abstract_sockets {
        ruleset
    } else {
        ruleset.scope(Scope::AbstractUnixSocket).map_err(refused)?
    };
    let mut ruleset = ruleset.create().map_err(refused)?;
    let mut missing = Vec::new();
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let exec = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let write = AccessFs::from_all(KNOWN)
        & !(AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::IoctlDev);
    for (list, rights) in [(&paths.read, read), (&paths.exec, exec), (&paths.write, write)] {
        for path in list {
            ruleset = allow(ruleset, path, rights, &mut missing)?;
        }
    }
    for port in &paths.listen {
        let rule = NetPort::new(*port, AccessNet::BindTcp);
        ruleset = ruleset.add_rule(rule).map_err(refused)?;
    }
    let status = ruleset.restrict_self().map_err(refused)?;
    let (
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
        LandlockStatus::Available { effective_abi, .. },
    ) = (status.ruleset, status.landlock)
    else {
        return Err(TOO_OLD.to_owned());
    };
    // Tried out: nothing in `/proc` tells of it.
    match File::open(ROOT) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Ok(Bounded { abi: effective_abi as i32, missing })
        }
        _ => Err("the kernel accepted it, and it does nothing".to_owned()),
    }
}

/// Closes every file, every port and every way to other processes.
pub(crate) fn close() -> Result<(), RulesetError> {
    handled()?
        .handle_access(AccessNet::BindTcp)?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(Scope::AbstractUnixSocket)?
        .create()?
        .restrict_self()
        .map(drop)
}

/// Files, and signals to processes that are not our own children. An error where there is no Landlock that suffices; what
/// follows is as much as there is.
fn handled() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::Signal)
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
    missing: &mut Vec<PathBuf>,
) -> Result<RulesetCreated, String> {
    let (Ok(about), Ok(opened)) = (path.metadata(), PathFd::new(path)) else {
        missing.push(path.to_owned());
        return Ok(ruleset);
    };
    let rights = if about.is_dir() { rights } else { rights & AccessFs::from_file(KNOWN) };
    ruleset
        .add_rule(PathBeneath::new(opened, rights))
        .map_err(|error| format!("the kernel refuses {}: {error}", path.display()))
}
