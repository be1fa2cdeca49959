//! What must be on the machine beside Rust itself, and is installed through the system's package manager when it is not:
//! a C compiler, for the SQLite that is built in; and for the tests alone Redis, Postgres, Prometheus, tmux,
//! what checks the units and the rotation of logs, what makes networks of their own, and what builds tasks in other languages.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::go;
use crate::step::Step;

/// A package manager, as the commands that it takes.
struct Manager {
    program: &'static str,
    refresh: &'static [&'static str],
    /// The packages follow.
    install: &'static [&'static str],
    packages: fn(&Packages) -> &'static [&'static str],
}

const MANAGERS: [Manager; 4] = [
    Manager {
        program: "apt-get",
        refresh: &["apt-get", "-qq", "update"],
        // Through `env`, since `sudo` lets no variable through.
        install: &[
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-qq",
            "install",
            "--yes",
            "--no-install-recommends",
        ],
        packages: |packages| packages.apt,
    },
    Manager {
        program: "dnf",
        refresh: &[],
        install: &["dnf", "--assumeyes", "install"],
        packages: |packages| packages.dnf,
    },
    Manager {
        program: "apk",
        refresh: &[],
        install: &["apk", "add", "--quiet"],
        packages: |packages| packages.apk,
    },
    Manager {
        program: "pacman",
        refresh: &[],
        install: &["pacman", "--sync", "--refresh", "--needed", "--noconfirm"],
        packages: |packages| packages.pacman,
    },
];

/// Something that must be there.
struct Need {
    name: &'static str,
    is_there: fn(&Path) -> bool,
    packages: Packages,
}

/// The packages that bring it, for each manager.
struct Packages {
    apt: &'static [&'static str],
    dnf: &'static [&'static str],
    apk: &'static [&'static str],
    pacman: &'static [&'static str],
}

/// With the C library's headers.
const COMPILER: Need = Need {
    name: "a C compiler",
    // The name that the build of SQLite looks for.
    is_there: |root| runs(root, &env::var("CC").unwrap_or_else(|_| "cc".to_owned())),
    packages: Packages {
        apt: &["gcc", "libc6-dev"],
        dnf: &["gcc"],
        apk: &["gcc", "musl-dev"],
        pacman: &["gcc"],
    },
};

/// What libFuzzer is written in.
const CPP_COMPILER: Need = Need {
    name: "a C++ compiler",
    is_there: |root| runs(root, &env::var("CXX").unwrap_or_else(|_| "c++".to_owned())),
    packages: Packages { apt: &["g++"], dnf: &["gcc-c++"], apk: &["g++"], pacman: &["gcc"] },
};

/// Valkey is the same to us; Arch and newer Fedoras have it instead. dnf finds whichever has the file.
const REDIS: Need = Need {
    name: "redis-server",
    is_there: |root| runs(root, "redis-server") || runs(root, "valkey-server"),
    packages: Packages {
        apt: &["redis-server"],
        dnf: &["/usr/bin/redis-server"],
        apk: &["redis"],
        pacman: &["valkey"],
    },
};

/// The server with its client. Alpine has the full `setpriv`, by which tests start it, in a package of its own.
const POSTGRES: Need = Need {
    name: "initdb of Postgres",
    is_there: |root| postgres_places().iter().any(|place| has_postgres(root, place)),
    packages: Packages {
        apt: &["postgresql"],
        dnf: &["postgresql-server"],
        apk: &["postgresql", "postgresql-client", "setpriv"],
        pacman: &["postgresql"],
    },
};

/// The terminal in which tests look at `stem top`. It knows no `--version`.
const TMUX: Need = Need {
    name: "tmux",
    is_there: |root| Step::new(root, "tmux").args(["-V"]).succeeds(),
    packages: Packages { apt: &["tmux"], dnf: &["tmux"], apk: &["tmux"], pacman: &["tmux"] },
};

/// By which tests make system calls that no safe function makes.
const PERL: Need = Need {
    name: "perl",
    is_there: |root| runs(root, "perl"),
    packages: Packages { apt: &["perl-base"], dnf: &["perl"], apk: &["perl"], pacman: &["perl"] },
};

/// What reads the units and the rotation of logs that come with the program, and says what is wrong with them. Alpine has
/// another init system, and no such program; there a test fails, and says which.
const SYSTEMD_ANALYZE: Need = Need {
    name: "systemd-analyze",
    is_there: |root| runs(root, "systemd-analyze"),
    packages: Packages { apt: &["systemd"], dnf: &["systemd"], apk: &[], pacman: &["systemd"] },
};

/// Debian has it where only root looks for programs.
const LOGROTATE: Need = Need {
    name: "logrotate",
    is_there: |root| runs(root, "logrotate") || runs(root, "/usr/sbin/logrotate"),
    packages: Packages {
        apt: &["logrotate"],
        dnf: &["logrotate"],
        apk: &["logrotate"],
        pacman: &["logrotate"],
    },
};

/// What makes a network for one test, in which any address can be this machine's. Debian has the first where only root looks.
const NETWORKS: Need = Need {
    name: "ip and unshare",
    is_there: |root| {
        let ip = |program| Step::new(root, program).args(["-V"]).succeeds();
        (ip("ip") || ip("/usr/sbin/ip")) && runs(root, "unshare")
    },
    packages: Packages {
        apt: &["iproute2", "util-linux"],
        dnf: &["iproute", "util-linux"],
        apk: &["iproute2", "util-linux-misc"],
        pacman: &["iproute2", "util-linux"],
    },
};

/// Reads the metrics of workers, with its tool that looks over a page.
const PROMETHEUS: Need = Need {
    name: "prometheus",
    is_there: |root| runs(root, "prometheus") && runs(root, "promtool"),
    packages: Packages {
        apt: &["prometheus"],
        dnf: &["/usr/bin/prometheus"],
        apk: &["prometheus"],
        pacman: &["prometheus"],
    },
};

/// Compiles tasks in C: with the C library, the linker and the compiler's own functions for WebAssembly at the places where clang
/// looks by itself. Other distributions than Debian put them elsewhere; there a test fails, and says which.
const CLANG: Need = Need {
    name: "clang for WebAssembly",
    is_there: |root| {
        let parts = "clang=\"clang --target=wasm32-wasi\"; test -f \"$($clang -print-file-name=crt1.o)\" \
            && test -f \"$($clang -print-libgcc-file-name)\" && test -f \"$($clang -print-prog-name=wasm-ld)\"";
        Step::new(root, "sh").args(["-c", parts]).succeeds()
    },
    packages: Packages {
        apt: &["clang", "lld", "wasi-libc", "libclang-rt-dev-wasm32"],
        dnf: &[],
        apk: &[],
        pacman: &[],
    },
};

/// For tasks in Python, and what brings Go and other tools. Debian has what makes virtual environments in a package of its own.
const PYTHON: Need = Need {
    name: "Python with venv",
    is_there: |root| Step::new(root, "python3").args(["-c", "import ensurepip, venv"]).succeeds(),
    packages: Packages {
        apt: &["python3", "python3-venv"],
        dnf: &["python3"],
        apk: &["python3"],
        pacman: &["python"],
    },
};

/// For tasks in JavaScript.
const NPM: Need = Need {
    name: "npm",
    is_there: |root| runs(root, "npm"),
    packages: Packages { apt: &["nodejs", "npm"], dnf: &["npm"], apk: &["npm"], pacman: &["npm"] },
};

/// Sees to it that there is what a build needs.
pub(crate) fn compiler(root: &Path) -> Result<()> {
    see_to(root, &[COMPILER])
}

/// The same for libFuzzer.
pub(crate) fn compilers(root: &Path) -> Result<()> {
    see_to(root, &[COMPILER, CPP_COMPILER])
}

/// The same for what comes from the Python package index.
pub(crate) fn python(root: &Path) -> Result<()> {
    see_to(root, &[PYTHON])
}

/// Sees to it that there are the servers that tests start for themselves, and the terminal. A service that a package brings is not used;
/// where there is no init system, as in most containers, Debian does not start it either.
pub(crate) fn services(root: &Path) -> Result<()> {
    see_to(root, &[REDIS, POSTGRES, PROMETHEUS, TMUX, PERL, SYSTEMD_ANALYZE, LOGROTATE, NETWORKS])
}

/// Sees to it that there are the tools for tasks in other languages than Rust. What is pinned and comes from a registry is got by
/// the projects themselves, but for Go, which is none of them.
pub(crate) fn languages(root: &Path) -> Result<()> {
    see_to(root, &[CLANG, PYTHON, NPM])?;
    go::setup(root)
}

fn see_to(root: &Path, needs: &[Need]) -> Result<()> {
    let (there, missing): (Vec<_>, Vec<_>) = needs.iter().partition(|need| (need.is_there)(root));
    for need in there {
        println!("{}: there", need.name);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let listed =
        |needs: &[&Need]| needs.iter().map(|need| need.name).collect::<Vec<_>>().join(" and ");
    let names = listed(&missing);
    let Some(manager) = MANAGERS.iter().find(|manager| runs(root, manager.program)) else {
        bail!("{names}: not on this machine, and no package manager known here to install it")
    };
    let has = |need: &&Need| !(manager.packages)(&need.packages).is_empty();
    let (missing, nowhere): (Vec<&Need>, Vec<&Need>) = missing.into_iter().partition(has);
    for need in nowhere {
        println!("{}: not on this machine, and {} has it not", need.name, manager.program);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = listed(&missing);
    println!("{names}: not on this machine; {} installs it", manager.program);
    let packages = missing.iter().flat_map(|need| (manager.packages)(&need.packages));
    let install: Vec<&str> = manager.install.iter().chain(packages).copied().collect();
    for command in [manager.refresh, &install] {
        if let [program, arguments @ ..] = command {
            as_root(root, program).args(arguments).run().with_context(|| {
                format!("{names} could not be installed; as root: {}", install.join(" "))
            })?;
        }
    }
    for need in missing {
        ensure!((need.is_there)(root), "{} was installed and still is not found", need.name);
    }
    Ok(())
}

fn runs(root: &Path, program: &str) -> bool {
    Step::new(root, program).args(["--version"]).succeeds()
}

/// Where the programs of Postgres may be: on the path, or where Debian puts them, which is not on the path.
fn postgres_places() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Links on the path lead to the place where the other programs are.
    let places = env::split_paths(&path).filter_map(|place| {
        Some(fs::canonicalize(place.join("initdb")).ok()?.parent()?.to_owned())
    });
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.chain(versions.map(|version| version.path().join("bin"))).collect()
}

fn has_postgres(root: &Path, place: &Path) -> bool {
    let programs = ["initdb", "postgres", "psql"];
    programs
        .iter()
        .all(|program| Step::new(root, place.join(program)).args(["--version"]).succeeds())
}

fn as_root(root: &Path, program: &str) -> Step {
    let is_root = Step::new(root, "sh").args(["-c", "test \"$(id -u)\" = 0"]).succeeds();
    if is_root { Step::new(root, program) } else { Step::new(root, "sudo").args([program]) }
}
