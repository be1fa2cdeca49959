//! For tests: gives up what it is told to, tries things, and says how each went.
//!
//! ```text
//! stem-harden-probe MODE [WORD:VALUE…] -- ACTION…
//! ```
//! Words: `read`, `write` and `exec` with a path, `listen` with a port; `program:` lets it start itself; `threads:` starts
//! a thread first; `lacks:landlock` and `lacks:seccomp` play a kernel without; `compiler:` confines it as a compiler
//! instead. It prints the report, then a line for each action: the action, a tab, and `ok` or the number of the error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use stem_harden::{Mode, Paths, apply, confine_compiler, of_this_program};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut halves = words.splitn(2, |word| word == "--");
    let wanted = halves.next().unwrap_or_default();
    let actions = halves.next().unwrap_or_default();
    if let Err(problem) = harden(wanted) {
        println!("{problem}");
        return ExitCode::FAILURE;
    }
    for action in actions {
        let went = act(action);
        println!("{action}\t{}", word(&went));
    }
    ExitCode::SUCCESS
}

fn harden(wanted: &[String]) -> Result<(), String> {
    let mode = match wanted.first().map(String::as_str) {
        Some("auto") => Mode::Auto,
        Some("require") => Mode::Require,
        _ => Mode::Off,
    };
    let mut paths = Paths::default();
    let mut compiler = false;
    for word in wanted.iter().skip(1) {
        let (word, value) = word.split_once(':').unwrap_or((word, ""));
        match word {
            "read" => paths.read.push(value.into()),
            "write" => paths.write.push(value.into()),
            "exec" => paths.exec.push(value.into()),
            "listen" => paths.listen.extend(value.parse::<u16>()),
            "program" => of_this_program(&mut paths),
            "threads" => drop(std::thread::spawn(std::thread::park)),
            "lacks" => lack(value),
            "compiler" => compiler = true,
            other => return Err(format!("{other} is unknown")),
        }
    }
    if compiler {
        confine_compiler();
    } else {
        let report = apply(mode, &paths).map_err(|error| error.to_string())?;
        println!("{report}");
    }
    Ok(())
}

/// From now on the kernel does not know this.
fn lack(what: &str) {
    let call =
        if what == "landlock" { libc::SYS_landlock_create_ruleset } else { libc::SYS_seccomp };
    let action = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().expect("a processor that seccomp is known for");
    let calls = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, action, arch);
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    apply_filter(&program.expect("one number")).expect("a kernel with seccomp");
}

fn act(action: &str) -> io::Result<()> {
    let words: Vec<&str> = action.split(':').collect();
    let path = |at: usize| PathBuf::from(words.get(at).copied().unwrap_or_default());
    match words[0] {
        "read" => fs::read(path(1)).map(drop),
        "list" => fs::read_dir(path(1)).map(drop),
        "write" => fs::write(path(1), "text"),
        "make" => fs::create_dir(path(1)),
        "remove" => fs::remove_file(path(1)),
        "mode" => fs::set_permissions(path(1), PermissionsExt::from_mode(0o600)),
        "rename" => fs::rename(path(1), path(2)),
        "link" => fs::hard_link(path(1), path(2)),
        "socket" => UnixListener::bind(path(1)).map(drop),
        "listen" => TcpListener::bind(("127.0.0.1", words[1].parse().unwrap_or(0))).map(drop),
        "signal" => {
            let pid = words[1].parse().ok().and_then(Pid::from_raw);
            Ok(rustix::process::test_kill_process(pid.ok_or(io::ErrorKind::InvalidInput)?)?)
        }
        // Another thread does the rest.
        "thread" => {
            let rest = words[1..].join(":");
            std::thread::spawn(move || act(&rest)).join().expect("it does not panic")
        }
        // A child of ours does the rest.
        "child" => {
            let rest = words[1..].join(":");
            let mut child = Command::new("/proc/self/exe");
            let child = child.args(["off", "--", &rest]).stdin(Stdio::null()).output()?;
            let said = String::from_utf8_lossy(&child.stdout).into_owned();
            match said.lines().last().and_then(|line| line.rsplit('\t').next()) {
                Some("ok") => Ok(()),
                code => {
                    let code = code.and_then(|code| code.parse().ok()).unwrap_or_default();
                    Err(io::Error::from_raw_os_error(code))
                }
            }
        }
        // Another program; what it says is said.
        "run" => Command::new(words[1]).args(&words[2..]).status().map(drop),
        // Until a line comes: the other side changes something meanwhile.
        "wait" => {
            println!("waiting");
            io::stdin().read_line(&mut String::new()).map(drop)
        }
        "status" => {
            println!("{}", fs::read_to_string("/proc/thread-self/status")?);
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn word(went: &io::Result<()>) -> String {
    match went {
        Ok(()) => "ok".to_owned(),
        Err(error) => {
            error.raw_os_error().map_or_else(|| error.to_string(), |code| code.to_string())
        }
    }
}
