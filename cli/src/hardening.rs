//! What a worker's process gives up before it has threads, and what it keeps: the files that its settings name.
//!
//! A right is that of the directory that was there then. So it is the directory of a file that matters, since files are
//! replaced; a directory that is replaced as a whole needs a restart.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use stem_engine::Hardening;
use stem_engine::policy::Policy;
use stem_harden::{HardenError, Mode, Paths, Report, apply, of_this_program};
use url::Url;

use crate::connect::ServiceUrl;
use crate::env::{self, Environment};
use crate::error::CliError;
use crate::nodes::own::Own;
use crate::nodes::safe;
use crate::settings::{Settings, module_cache};

/// What of the system is read, where it is there: how names of hosts are resolved, who signs certificates, the time zone;
/// what the kernel says of this process and of the machine. Nothing of it is a user's.
const SYSTEM: [&str; 14] = [
    "/etc",
    "/usr/lib",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/nix/store",
    "/gnu/store",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/urandom",
];
/// Links in many systems, to places that differ.
const LINKED: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/localtime"];
/// Parameters of a service's URL that name files, for Redis and for Postgres.
const FILES: [&str; 10] = [
    "ca",
    "cert",
    "key",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "ssl-root-cert",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
];
/// Of the libraries that read certificates and passwords, and not of this program.
const FOREIGN: [&str; 5] =
    ["SSL_CERT_FILE", "PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];
/// Likewise; directories, with colons between them.
const FOREIGN_LIST: &str = "SSL_CERT_DIR";

/// What a worker is to reach.
#[derive(Debug)]
pub struct Needs<'a> {
    /// Its services, their certificates, and the page of metrics.
    pub settings: &'a Settings,
    /// Its PID file and its log.
    pub own: &'a Own,
    /// Its directory of modules.
    pub modules: Option<&'a Path>,
    /// What modules are given.
    pub policy: &'a Policy,
    /// Where its service manager listens.
    pub environment: &'a Environment,
}

/// What came of it. To be kept as long as the worker runs.
#[derive(Debug)]
pub struct Raised {
    /// For those who ask the worker.
    pub facts: Hardening,
    /// A lock on the directory for scratch directories, so that those who clean up leave it alone.
    _scratch: Option<File>,
}

/// Gives up everything else, as far as the settings ask for it. Once, while the process has one thread.
pub fn raise(needs: &Needs<'_>) -> Result<Raised, CliError> {
    let mode = needs.settings.hardening.value;
    let (mut reach, mut scratch) = (Reach::default(), None);
    if mode != Mode::Off {
        scratch = reach.all_of(needs);
    }
    let report = apply(mode, &reach.0).map_err(|error| match error {
        HardenError::Missing { .. } => CliError::usage(
            format!("the process cannot be hardened, which --hardening require asks for: {error}"),
            "use Linux 5.19 or later with Landlock switched on, or --hardening auto",
        ),
        HardenError::Threads(_) => CliError::failed(
            error,
            "leave out what starts threads in it (LD_PRELOAD), or use --hardening auto, which then gives up nothing",
        ),
    })?;
    if mode != Mode::Off {
        tracing::info!(mode = mode.as_str(), "hardened: {report}");
    }
    for path in &report.missing {
        tracing::debug!(path = %path.display(), "not there, and closed if it comes");
    }
    Ok(Raised { facts: facts(&report), _scratch: scratch })
}

fn facts(report: &Report) -> Hardening {
    Hardening {
        mode: report.mode.as_str(),
        no_new_privs: report.no_new_privs,
        landlock_abi: report.landlock_abi,
        seccomp: report.seccomp,
        off: report.off.iter().map(|(wall, why)| format!("{wall}: {why}")).collect(),
        writable: report.writable.iter().map(|path| path.display().to_string()).collect(),
        superuser: rustix::process::geteuid().is_root(),
    }
}

#[derive(Debug, Default)]
struct Reach(Paths);

impl Reach {
    /// Everything that a worker needs. Makes the directories that it would make later, when it could not any more; what
    /// cannot be made is said by whoever needs it.
    fn all_of(&mut self, needs: &Needs<'_>) -> Option<File> {
        let Needs { settings, own, modules, policy, environment } = needs;
        of_this_program(&mut self.0);
        self.0.read.extend(SYSTEM.map(PathBuf::from));
        for file in LINKED {
            self.read_beside(Some(Path::new(file)));
        }
        self.0.write.push("/dev/null".into());
        let manager = environment.foreign(env::NOTIFY_SOCKET);
        self.0.abstract_sockets = manager.is_some_and(|socket| socket.starts_with('@'));
        self.0.listen.extend(settings.metrics.value.map(|page| page.port()));

        for service in [&settings.broker_url, &settings.result_backend_url] {
            self.service(&service.value);
        }
        match &settings.revoke_store_url.value {
            // Beside it lies its lock, and what takes its place.
            ServiceUrl::File(path) => self.write_beside(path),
            url => self.service(url),
        }
        match &settings.module_store_url.value {
            ServiceUrl::File(path) if path.is_dir() => self.0.write.push(path.clone()),
            // A push makes it later.
            ServiceUrl::File(path) => self.write_beside(path),
            url => self.service(url),
        }
        for file in [&settings.tls_ca_cert, &settings.tls_client_cert, &settings.tls_client_key] {
            self.read_beside(file.value.as_deref());
        }
        self.foreign(|variable| std::env::var_os(variable));

        self.read_beside(settings.policy.value.as_deref());
        self.read_beside(settings.quotas.value.as_deref());
        self.read_beside(settings.module_trust.value.as_deref());
        let signing = settings.signing.files();
        for file in [&signing.public, &signing.private, &signing.shared] {
            self.read_beside(file.as_deref());
        }
        for file in policy.sources() {
            self.read_beside(Some(file));
        }
        self.0.read.extend(policy.inputs().map(Path::to_owned));
        self.0.read.extend(modules.map(Path::to_owned));

        // Beside it lie its lock, and what was full.
        if let Some(audit) = &settings.audit_log.value {
            self.write_beside(audit);
        }
        if let Some(pidfile) = &own.pidfile.value {
            let _ = safe::directory_of(pidfile);
            self.write_beside(pidfile);
        }
        if let Some(logfile) = &own.logfile.value {
            self.write_beside(logfile);
        }
        if let Some(cache) = module_cache() {
            make(&cache);
            self.0.write.push(cache);
        }
        let (scratch, held) = stem_isolate::hold_scratch_base().ok()?;
        self.0.write.push(scratch);
        Some(held)
    }

    fn foreign(&mut self, variable: impl Fn(&str) -> Option<OsString>) {
        for path in FOREIGN.iter().filter_map(|name| variable(name)).map(PathBuf::from) {
            // One of them may hold the certificate itself.
            if path.exists() {
                self.read_beside(Some(&path));
            }
        }
        let list = variable(FOREIGN_LIST).unwrap_or_default();
        self.0.read.extend(std::env::split_paths(&list).filter(|path| path.is_dir()));
    }

    fn service(&mut self, url: &ServiceUrl) {
        match url {
            ServiceUrl::Sqlite(path) => {
                make(safe::parent(path));
                self.write_beside(path);
            }
            ServiceUrl::Redis(url) => self.certificates(url.expose()),
            ServiceUrl::Postgres(url) => {
                self.certificates(url.expose());
                let home = std::env::var_os("HOME").map(PathBuf::from);
                // The file alone: its directory holds everything of the user.
                self.0.read.extend(home.map(|home| home.join(".pgpass")));
            }
            ServiceUrl::Memory | ServiceUrl::File(_) => {}
        }
    }

    fn certificates(&mut self, url: &str) {
        let Ok(url) = Url::parse(url) else { return };
        for (name, value) in url.query_pairs() {
            if FILES.contains(&&*name) && Path::new(&*value).exists() {
                self.read_beside(Some(Path::new(&*value)));
            }
        }
    }

    fn read_beside(&mut self, file: Option<&Path>) {
        let Some(file) = file else { return };
        for directory in directories(file) {
            // Everything lies below the root, so there it is the file alone; one that is replaced is closed then.
            let everything = directory.canonicalize().is_ok_and(|it| it.parent().is_none());
            self.0.read.push(if everything { file.to_owned() } else { directory });
        }
    }

    fn write_beside(&mut self, file: &Path) {
        self.0.write.extend(directories(file));
    }
}

/// Where a file lies, by its name, and where what it links to lies.
fn directories(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let named = safe::parent(file).to_owned();
    let linked = file.canonicalize().ok().map(|file| safe::parent(&file).to_owned());
    let linked = linked.filter(|linked| named.canonicalize().ok().as_ref() != Some(linked));
    std::iter::once(named).chain(linked)
}

/// As SQLite's own opening and the cache do it: for this user alone.
fn make(directory: &Path) {
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
}

/// Reads a mode.
pub fn mode(text: &str) -> Result<Mode, String> {
    [Mode::Auto, Mode::Off, Mode::Require]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| format!("{text:?} is not auto, off or require"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_a_url_or_a_librarys_variable_names_stay_readable() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["ca", "client", "one", "two"] {
            std::fs::create_dir(path(name)).unwrap();
            std::fs::write(path(name).join("file.pem"), "").unwrap();
        }
        let file = |name: &str| path(name).join("file.pem").display().to_string();

        let mut reach = Reach::default();
        reach.certificates(&format!(
            "postgres://host/db?ssl-ca={}&ssl-key={}&host=/nowhere",
            file("ca"),
            file("client")
        ));
        assert_eq!(reach.0.read, [path("ca"), path("client")]);

        let mut reach = Reach::default();
        reach.foreign(|name| match name {
            "PGSSLROOTCERT" => Some(file("ca").into()),
            "PGSSLCERT" => Some("-----BEGIN CERTIFICATE-----".into()),
            "SSL_CERT_DIR" => std::env::join_paths([path("one"), path("none"), path("two")]).ok(),
            _ => None,
        });
        assert_eq!(reach.0.read, [path("ca"), path("one"), path("two")]);
    }

    #[test]
    fn a_file_right_below_the_root_opens_itself_and_not_everything() {
        let mut reach = Reach::default();
        reach.read_beside(Some(Path::new("/policy.toml")));
        reach.read_beside(Some(Path::new("/etc/../trust")));
        reach.read_beside(Some(Path::new("/etc/stem/policy.toml")));
        let expected = ["/policy.toml", "/etc/../trust", "/etc/stem"];
        assert_eq!(reach.0.read, expected.map(PathBuf::from));
    }
}
