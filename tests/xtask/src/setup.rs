//! What must be on the machine before the workspace can be built, beside Rust itself: a C compiler, for the SQLite that is
//! built in. It is installed through the system's package manager when it is missing.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::Step;

/// A package manager, and how it is told to install a C compiler with the C library's headers.
struct Manager {
    program: &'static str,
    refresh: &'static [&'static str],
    install: &'static [&'static str],
}

const MANAGERS: [Manager; 4] = [
    Manager {
        program: "apt-get",
        refresh: &["-qq", "update"],
        install: &["-qq", "install", "--yes", "--no-install-recommends", "gcc", "libc6-dev"],
    },
    Manager { program: "dnf", refresh: &[], install: &["--assumeyes", "install", "gcc"] },
    Manager { program: "apk", refresh: &[], install: &["add", "--quiet", "gcc", "musl-dev"] },
    Manager {
        program: "pacman",
        refresh: &[],
        install: &["--sync", "--refresh", "--needed", "--noconfirm", "gcc"],
    },
];

/// Sees to it that there is a C compiler.
pub(crate) fn c_compiler(root: &Path) -> Result<()> {
    // The name that the build of SQLite looks for.
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    if works(root, &compiler) {
        println!("C compiler: {compiler}");
        return Ok(());
    }
    let found =
        |manager: &&Manager| Step::new(root, manager.program).args(["--version"]).succeeds();
    let Some(manager) = MANAGERS.iter().find(found) else {
        bail!("there is no C compiler {compiler}, and no package manager known here to install one")
    };
    println!("C compiler: {compiler} is missing; {} installs one", manager.program);
    for arguments in [manager.refresh, manager.install] {
        if !arguments.is_empty() {
            as_root(root, manager.program).args(arguments).run().with_context(|| {
                format!(
                    "no C compiler could be installed; as root: {} {}",
                    manager.program,
                    manager.install.join(" ")
                )
            })?;
        }
    }
    ensure!(works(root, &compiler), "a C compiler was installed and {compiler} still does not run");
    Ok(())
}

fn works(root: &Path, compiler: &str) -> bool {
    Step::new(root, compiler).args(["--version"]).succeeds()
}

fn as_root(root: &Path, program: &str) -> Step {
    let is_root = Step::new(root, "sh").args(["-c", "test \"$(id -u)\" = 0"]).succeeds();
    if is_root { Step::new(root, program) } else { Step::new(root, "sudo").args([program]) }
}
