//! The second wall: what a process gives up for good, so that native code that got out of the sandbox finds little.
//!
//! | module | what is given up | by |
//! |---|---|---|
//! | here | new privileges, most of root's, core dumps | `no_new_privs`, capabilities, a limit |
//! | `files` | files but those that were named, listening on other ports, signals to other processes | Landlock |
//! | `calls` | system calls that a worker never makes | seccomp |
//!
//! What stays: the process's own memory, its open files and connections, and the network: connecting is not bounded.
//! Nothing here can be taken back; threads and children that come later inherit it.

mod calls;
mod files;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

pub use calls::denied_calls;

/// How much is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What the kernel can; what it cannot is said.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// Everything, or the process does not go on.
    Require,
}

impl Mode {
    /// The word used in flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Require => "require",
        }
    }
}

/// What the process may go on using. A right is that of a file or directory and all below it as they are now: what is
/// put in the place of a named file or directory later has none. So name the directory of a file that is replaced.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Files and directories to read.
    pub read: Vec<PathBuf>,
    /// Files and directories to read, write, make, rename and remove in.
    pub write: Vec<PathBuf>,
    /// Programs to read and start.
    pub exec: Vec<PathBuf>,
    /// TCP ports to listen on; 0 is one that the kernel chooses.
    pub listen: Vec<u16>,
    /// Whether Unix sockets without a file, made by other programs, can be connected to.
    pub abstract_sockets: bool,
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was wanted.
    pub mode: Mode,
    /// Whether starting a program can bring no new privileges; read back from the kernel.
    pub no_new_privs: bool,
    /// The version of Landlock by which files are bounded, tried out; `None` if they are not.
    pub landlock_abi: Option<i32>,
    /// Whether system calls are filtered; read back from the kernel.
    pub seccomp: bool,
    /// Why what is not there is not there: the wall, and the reason.
    pub off: Vec<(&'static str, String)>,
    /// Where it may write.
    pub writable: Vec<PathBuf>,
    /// What was named and is not there; it stays closed if it comes.
    pub missing: Vec<PathBuf>,
}

impl Report {
    fn nothing(mode: Mode) -> Self {
        Self {
            mode,
            no_new_privs: false,
            landlock_abi: None,
            seccomp: false,
            off: Vec::new(),
            writable: Vec::new(),
            missing: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.no_new_privs.then(|| "no_new_privs".to_owned()));
        parts.extend(self.landlock_abi.map(|abi| format!("landlock (abi {abi})")));
        parts.extend(self.seccomp.then(|| "seccomp".to_owned()));
        parts.extend(self.off.iter().map(|(wall, why)| format!("no {wall}: {why}")));
        f.write_str(&parts.join(", "))
    }
}

/// Why a process is not what it was to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HardenError {
    /// Everything was required, and this is not to be had.
    #[error("there is no {wall}: {why}")]
    Missing {
        /// Which wall.
        wall: &'static str,
        /// Why not.
        why: String,
    },
    /// It would hold for one thread, and the others could do for it what it may not. A library that was loaded into the
    /// process may have started them.
    #[error("this process has {0} threads already, and can be hardened only while it has one")]
    Threads(usize),
}

const NO_NEW_PRIVS: &str = "no_new_privs";
const LANDLOCK: &str = "landlock";
const SECCOMP: &str = "seccomp";

/// Gives up everything but what is named. Once, and while the process has one thread.
///
/// # Errors
/// With [`Mode::Require`] when one of the walls cannot be had, which with more than one thread is none; what was given up
/// before that stays given up.
pub fn apply(mode: Mode, paths: &Paths) -> Result<Report, HardenError> {
    if mode == Mode::Off {
        return Ok(Report::nothing(mode));
    }
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        let error = HardenError::Threads(threads);
        if mode == Mode::Require {
            return Err(error);
        }
        let off = [NO_NEW_PRIVS, LANDLOCK, SECCOMP].map(|wall| (wall, error.to_string()));
        return Ok(Report { off: off.into(), ..Report::nothing(mode) });
    }
    write_no_core();
    give_up(mode, paths)
}

/// What [`apply`] would come to on this machine: done by a thread that ends with it. The rest of the process stays as it is.
///
/// # Errors
/// Where no thread can be started.
pub fn try_out() -> io::Result<Report> {
    let tried = std::thread::Builder::new().spawn(|| {
        let paths = Paths { read: vec!["/proc".into()], ..Paths::default() };
        give_up(Mode::Auto, &paths).unwrap_or_else(|_| Report::nothing(Mode::Auto))
    })?;
    tried.join().map_err(|_| io::Error::other("the thread that tried it broke"))
}

/// By the calling thread, for itself and what it starts from now on.
fn give_up(mode: Mode, paths: &Paths) -> Result<Report, HardenError> {
    let mut report = Report::nothing(mode);
    let mut lacks = |wall, why: String| {
        if mode == Mode::Require {
            return Err(HardenError::Missing { wall, why });
        }
        report.off.push((wall, why));
        Ok(())
    };
    // Opened before files are bounded, read after.
    let status = File::open("/proc/thread-self/status");
    give_up_privileges();
    match files::bound(paths) {
        Ok(bounded) => {
            report.landlock_abi = Some(bounded.abi);
            report.missing = bounded.missing;
            report.writable.clone_from(&paths.write);
        }
        Err(why) => lacks(LANDLOCK, why)?,
    }
    // Last: what it denies must not be in the way of the others.
    let filtered = calls::filter();
    // Asked of the kernel, whatever the calls have answered.
    let status = status.and_then(io::read_to_string).unwrap_or_default();
    if has(&status, "NoNewPrivs:", "1") {
        report.no_new_privs = true;
    } else {
        lacks(NO_NEW_PRIVS, "the kernel does not say that it holds".to_owned())?;
    }
    match filtered {
        Ok(()) if has(&status, "Seccomp:", "2") => report.seccomp = true,
        Ok(()) => lacks(SECCOMP, "the kernel does not say that it holds".to_owned())?,
        Err(why) => lacks(SECCOMP, why)?,
    }
    Ok(report)
}

/// Gives up everything that a compiler which has read its input does not need: every file, every socket, starting
/// programs. What cannot be had is left out, since the compiler has bounds of its own and what it writes is checked; so
/// it never fails. While the process has one thread.
pub fn confine_compiler() {
    write_no_core();
    give_up_privileges();
    // Each does without the other.
    let _ = files::close();
    let _ = calls::filter_compiler();
}

/// None of these can fail on a kernel that is young enough to run us.
fn give_up_privileges() {
    let _ = set_no_new_privs(true);
    let _ = keep_capabilities(KEPT);
}

/// A core dump would hold every secret that the process holds.
fn write_no_core() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// What root is left with: files of others, where Landlock leaves them, ports below 1024, priorities and limits. Gone is
/// what looks into other processes, past Landlock too.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SYS_RESOURCE);

fn keep_capabilities(kept: CapabilitySet) -> rustix::io::Result<()> {
    for gone in CapabilitySet::all().difference(kept).iter() {
        // Also for programs that root starts. Nobody else may, nor has any.
        let _ = remove_capability_from_bounding_set(gone);
    }
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    let [effective, permitted, inheritable] =
        [effective, permitted, inheritable].map(|set| set.intersection(kept));
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
}

fn has(status: &str, key: &str, value: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.is_some_and(|found| found.trim() == value)
}

/// The files that this process was made of, for [`Paths`]: its libraries' directories to read, and what starts it once
/// more. From `/proc/self/maps`, whatever the distribution.
pub fn of_this_program(paths: &mut Paths) {
    paths.exec.push("/proc/self/exe".into());
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for path in maps.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| path) {
        let path = Path::new("/").join(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(directory) = path.parent().filter(|_| name.contains(".so")) else { continue };
        // The directory, since an upgrade replaces the file.
        let list = if name.starts_with("ld-") { &mut paths.exec } else { &mut paths.read };
        if !list.iter().any(|known| known == directory) {
            list.push(directory.to_owned());
        }
    }
}
