//! `stem worker diagnose`: everything a worker of this machine needs, looked at without starting one.

mod policy;
mod signing;

use std::ffi::OsString;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde::Serialize;
use stem_core::time::Clock;
use stem_engine::{QuotaFile, SystemClock, units};
use stem_harden::Mode;

use super::super::{Context, health};
use crate::args::DiagnoseArgs;
use crate::connect::ServiceUrl;
use crate::env::{self, Environment};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::nodes::env_file::{self, EnvFile, EnvFileError};
use crate::nodes::pidfile::{self, Dead, Found, Why};
use crate::nodes::process::Condition;
use crate::nodes::roster::without_secrets;
use crate::nodes::safe;
use crate::output::{Printer, table};
use crate::settings::{Settings, Source};

/// How bad it is that a check failed. One that did not is `info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Warning,
    Error,
}

/// What was looked at, and what was found.
#[derive(Debug, Serialize)]
struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    ok: bool,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    status: &'static str,
    checks: Vec<Check>,
}

/// The checks so far.
#[derive(Default)]
struct Findings(Vec<Check>);

impl Findings {
    fn fine(&mut self, check: &'static str, message: impl fmt::Display) {
        let message = message.to_string();
        self.0.push(Check { name: check, ok: true, level: Level::Info, message, hint: None });
    }

    fn warn(&mut self, check: &'static str, message: impl fmt::Display, hint: &str) {
        self.add(check, Level::Warning, &message, hint);
    }

    fn fail(&mut self, check: &'static str, message: impl fmt::Display, hint: &str) {
        self.add(check, Level::Error, &message, hint);
    }

    fn add(&mut self, check: &'static str, level: Level, message: &dyn fmt::Display, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.0.push(Check { name: check, ok: false, level, message: message.to_string(), hint });
    }
}

pub(super) async fn run(context: &Context, args: DiagnoseArgs) -> Outcome {
    let mut findings = Findings::default();
    let variables = args.env_file.as_deref().and_then(|path| variables(path, &mut findings));
    // What is in a file that cannot be used is not known, and without it a worker would use other services.
    let known = variables.is_some() || args.env_file.is_none();
    let environment = match &variables {
        Some(file) => context.environment.with(file.iter()),
        None => context.environment.clone(),
    };
    let named = |given: Option<PathBuf>, variable, findings: &mut Findings| match given {
        Some(path) => Some(path),
        None => read(&environment, variable, findings).map(PathBuf::from),
    };
    if let Some(path) = named(args.pidfile, env::WORKER_PIDFILE, &mut findings) {
        directory("pidfile-directory", &path, &mut findings);
        pidfile(&path, &mut findings);
    }
    if let Some(path) = named(args.logfile, env::WORKER_LOGFILE, &mut findings) {
        directory("logfile-directory", &path, &mut findings);
        logfile(&path, &mut findings);
    }
    command(&environment, variables.as_ref(), &mut findings);
    let context = Context { services: context.services.clone(), environment };
    let read = context.settings(|flags| {
        flags.policy.clone_from(&args.policy.policy);
        flags.quotas.clone_from(&args.quotas);
    });
    match read {
        Ok(_) if !known => findings.warn(
            "settings",
            "no service was asked, since the environment file may name others",
            "mend the environment file first",
        ),
        Ok(settings) => {
            hardening(settings.hardening.value, &mut findings);
            let asked = policy::look(&settings, args.modules.as_deref(), &mut findings);
            signing::look(&settings, &mut findings);
            quotas(&settings, &mut findings);
            services(&settings, &mut findings).await;
            if let Some(asked) = asked.filter(|_| names_a_service(&settings)) {
                asked.of_releases(&settings, &mut findings).await;
            }
        }
        Err(error) => findings.fail("settings", error.what, &error.hint),
    }
    let failed = findings.0.iter().any(|check| check.level == Level::Error);
    let report = Report { status: if failed { "error" } else { "ok" }, checks: findings.0 };
    Printer::new(args.json.json).print(&report, || text(&report))?;
    if !failed {
        return Ok(Ending::Done);
    }
    let count = report.checks.iter().filter(|check| check.level == Level::Error).count();
    let checks = if count == 1 { "check" } else { "checks" };
    Err(CliError::failed(
        format!("{count} {checks} failed"),
        "each says above what to do; warnings do not count",
    ))
}

/// The quotas, if there are any.
fn quotas(settings: &Settings, findings: &mut Findings) {
    let Some(path) = &settings.quotas.value else { return };
    match QuotaFile::open(path) {
        Ok(_) => findings.fine("quotas", format!("{} can be used", path.display())),
        Err(problem) => {
            let hint = "correct the file; docs/operations.md has a whole one";
            findings.fail("quotas", problem, hint);
        }
    }
}

fn text(report: &Report) -> String {
    let rows = report.checks.iter().flat_map(|check| {
        let word = match check.level {
            Level::Info => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let cells = |word: &str, name: &str, message: &str| {
            let message = stem_core::text::printable(message, 2_000);
            vec![word.to_owned(), name.to_owned(), message]
        };
        let hint = check.hint.as_ref().map(|hint| cells("", "", &format!("hint: {hint}")));
        std::iter::once(cells(word, check.name, &check.message)).chain(hint)
    });
    table(&["", "CHECK", "FOUND"], rows)
}

/// A variable's value, if it can be read at all.
fn read(
    environment: &Environment,
    variable: env::Variable,
    findings: &mut Findings,
) -> Option<String> {
    match environment.read(variable) {
        Ok(value) => value.map(str::to_owned),
        Err(error) => {
            findings.fail("settings", error.what, &error.hint);
            None
        }
    }
}

/// The environment file, if it can be used; each bad line is a finding.
fn variables(path: &Path, findings: &mut Findings) -> Option<EnvFile> {
    const CHECK: &str = "env-file";
    let shown = path.display();
    match env_file::read(path) {
        Ok(file) => {
            let count = file.iter().count();
            findings.fine(CHECK, format!("{shown} sets {count} variables"));
            for (name, _) in file.iter().filter(|(name, _)| name.starts_with("STEM")) {
                if env::ALL.iter().all(|known| known.name != name) {
                    let known = env::ALL.iter().map(|known| known.name);
                    let near = units::nearest(name, known)
                        .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                    findings.warn(
                        CHECK,
                        format!("{shown} sets {name}, which nothing reads{near}"),
                        "`stem help environment` lists every variable",
                    );
                }
            }
            Some(file)
        }
        Err(EnvFileError::Lines(bad)) => {
            for bad in bad {
                findings.fail(
                    CHECK,
                    format!("{shown}, line {}: {}", bad.line, bad.problem),
                    "write NAME=value, NAME='value' or NAME=\"value\" on a line each",
                );
            }
            None
        }
        Err(error) => {
            let error = error.into_cli(path);
            findings.fail(CHECK, error.what, &error.hint);
            None
        }
    }
}

/// The directory of a file that a worker writes.
fn directory(check: &'static str, file: &Path, findings: &mut Findings) {
    let dir = safe::parent(file);
    let shown = dir.display();
    let problem = match std::fs::metadata(dir) {
        Ok(about) => unfit(dir, &about),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Whoever writes the file makes its directory.
            let above = dir.ancestors().skip(1).find(|above| above.exists());
            let above = above.filter(|above| !above.as_os_str().is_empty());
            let above = above.unwrap_or(Path::new("."));
            if std::fs::metadata(above).is_ok_and(|about| unfit(above, &about).is_none()) {
                return findings.warn(
                    check,
                    format!("{shown} is not there yet"),
                    "it is made when a worker starts",
                );
            }
            Some(format!("it is not there, and cannot be made in {}", above.display()))
        }
        Err(error) => Some(error.to_string()),
    };
    match problem {
        None => findings.fine(check, format!("{shown} can be written")),
        Some(problem) => findings.fail(
            check,
            format!("{shown} cannot be used: {problem}"),
            "make a directory there that the worker's user can write, and nobody else",
        ),
    }
}

/// Why nothing can be put into a directory, or nothing is safe there.
fn unfit(dir: &Path, about: &Metadata) -> Option<String> {
    if !about.is_dir() {
        return Some("it is no directory".to_owned());
    }
    if rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Some("this user cannot write it".to_owned());
    }
    safe::open_to_all(about).map(|mode| format!("everybody may change it (mode {mode:04o})"))
}

/// A PID file and the process that it names.
fn pidfile(path: &Path, findings: &mut Findings) {
    const FILE: &str = "pidfile";
    const PROCESS: &str = "process";
    let shown = path.display();
    let found = pidfile::look(path);
    let gives_way = found.as_ref().is_ok_and(Found::gives_way);
    match found {
        Ok(Found::Absent) => findings.warn(
            FILE,
            format!("there is no PID file {shown}"),
            "no worker runs with it; one that starts writes it",
        ),
        Ok(Found::Alive(record, seen)) => {
            findings.fine(FILE, format!("{shown} is held by its process"));
            let pid = record.identity.pid;
            let up = SystemClock.now().since(record.since).as_secs_f64();
            let message = format!(
                "process {pid} is worker {}, {}, for {up:.1}s",
                record.about.worker,
                record.state.as_str()
            );
            match seen.condition {
                Condition::Running => findings.fine(PROCESS, message),
                Condition::Stopped => findings.warn(
                    PROCESS,
                    format!("{message}, and was stopped (SIGSTOP, a debugger)"),
                    &format!("kill -CONT {pid} lets it go on"),
                ),
            }
        }
        Ok(Found::Dead(Dead { pid, why, .. })) => {
            findings.fine(FILE, format!("{shown} can be read"));
            let what = match why {
                Why::NotRunning => format!("process {pid} is not running, and {shown} is stale"),
                Why::Recycled => {
                    format!("process {pid} is not the worker that {shown} means, which is stale")
                }
                Why::NotHolding => format!("process {pid} lives and does not hold {shown}"),
            };
            let hint = if gives_way {
                "a worker that starts replaces the file; start it, or remove the file"
            } else {
                "a worker that starts leaves the file alone; look at what is there, and remove it"
            };
            findings.fail(PROCESS, what, hint);
        }
        Ok(Found::Invalid { problem } | Found::Held { problem }) => findings.fail(
            FILE,
            format!("{shown} is not the PID file of a worker: {problem}"),
            "look at what is there; a worker writes its own file when it starts",
        ),
        Err(error) => findings.fail(FILE, error.what, &error.hint),
    }
}

fn logfile(path: &Path, findings: &mut Findings) {
    const CHECK: &str = "logfile";
    let shown = path.display();
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => findings.warn(
            CHECK,
            format!("there is no log file {shown}"),
            "no worker has written to it yet",
        ),
        Err(error) => {
            let what = format!("{shown} cannot be looked at: {error}");
            findings.fail(CHECK, what, "make its directory readable for this user");
        }
        Ok(about) if !about.is_file() => findings.fail(
            CHECK,
            format!("{shown} is no plain file, so nothing is written to it"),
            "remove what is there, or choose another log file",
        ),
        Ok(about) => match (rustix::fs::access(path, Access::WRITE_OK), unfit_log(&about)) {
            (Ok(()), None) => findings.fine(CHECK, format!("{shown} has {} bytes", about.len())),
            (Ok(()), Some(problem)) => findings.fail(
                CHECK,
                format!("{shown} is refused by `stem worker multi`: {problem}"),
                "make it a file with one name, of the worker's user, that nobody else can write",
            ),
            (Err(error), _) => findings.fail(
                CHECK,
                format!("{shown} cannot be written: {error}"),
                "make it writable for the worker's user",
            ),
        },
    }
}

/// Why a node's output is not written there.
fn unfit_log(about: &Metadata) -> Option<String> {
    let names = about.nlink();
    safe::problem_of_file(about).or_else(|| (names > 1).then(|| format!("it has {names} names")))
}

/// What a worker's process would give up here, and what it could not.
fn hardening(mode: Mode, findings: &mut Findings) {
    const CHECK: &str = "hardening";
    if rustix::process::geteuid().is_root() {
        findings.warn(
            CHECK,
            "a worker of this user runs as root",
            "give workers a user of their own; the systemd unit of docs/operations.md does",
        );
    }
    if mode == Mode::Off {
        return findings.warn(
            CHECK,
            "it is off: a module that got out of the sandbox has everything of this user",
            "use --hardening auto, or leave STEM_HARDENING out",
        );
    }
    match stem_harden::try_out() {
        Ok(report) if report.off.is_empty() => {
            findings.fine(CHECK, format!("{}: {report}", mode.as_str()));
        }
        Ok(report) if mode == Mode::Require => findings.fail(
            CHECK,
            format!("require, and a worker would not start: {report}"),
            "use Linux 5.19 or later with Landlock switched on, or --hardening auto",
        ),
        Ok(report) => findings.warn(
            CHECK,
            format!("{}: {report}", mode.as_str()),
            "use Linux 5.19 or later with Landlock switched on; containers may deny it",
        ),
        Err(error) => findings.warn(CHECK, format!("it cannot be tried out: {error}"), ""),
    }
}

/// What `stem worker multi` would start.
fn command(environment: &Environment, file: Option<&EnvFile>, findings: &mut Findings) {
    const CHECK: &str = "worker-command";
    let variable = env::WORKER_COMMAND;
    let words = match read(environment, variable, findings) {
        None if file.is_some() => {
            return findings.warn(
                CHECK,
                format!("{} is not set", variable.name),
                "`stem worker multi` starts `stem worker start` then; other supervisors have commands of their own",
            );
        }
        None => return,
        Some(text) => match shell_words::split(&text) {
            Ok(words) => words,
            Err(problem) => {
                let what = format!("{} cannot be used: {problem}", variable.name);
                return findings.fail(CHECK, what, variable.meaning);
            }
        },
    };
    let program = words.first().map_or("", String::as_str);
    let shown = without_secrets(program);
    if program.contains('%') {
        return findings.fine(CHECK, format!("{shown} is another program for each node"));
    }
    // As for the node, the file's beats this process's.
    let path = file.and_then(|file| file.get("PATH")).map(OsString::from);
    let path = path.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    let places: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        std::env::split_paths(&path).map(|dir| dir.join(program)).collect()
    };
    let is_program = |place: &&PathBuf| {
        place.is_file() && rustix::fs::access(place.as_path(), Access::EXEC_OK).is_ok()
    };
    match places.iter().find(is_program) {
        Some(place) => {
            let place = without_secrets(&place.to_string_lossy());
            findings.fine(CHECK, format!("{place} can be executed"));
        }
        None => findings.fail(
            CHECK,
            format!("{}: there is no program {shown}", variable.name),
            "give the path of a program that this user may execute",
        ),
    }
}

fn urls(settings: &Settings) -> [(&'static str, &ServiceUrl, &Source); 4] {
    [
        ("broker", &settings.broker_url.value, &settings.broker_url.source),
        ("result-backend", &settings.result_backend_url.value, &settings.result_backend_url.source),
        ("revoke-store", &settings.revoke_store_url.value, &settings.revoke_store_url.source),
        ("module-store", &settings.module_store_url.value, &settings.module_store_url.source),
    ]
}

/// Whether somebody said which services there are; the default's file is not made for a look.
fn names_a_service(settings: &Settings) -> bool {
    urls(settings)
        .iter()
        .any(|(.., source)| !matches!(source, Source::Default | Source::Follows(_)))
}

/// Broker, result backend, revoke store and module store, where somebody said which.
async fn services(settings: &Settings, findings: &mut Findings) {
    if !names_a_service(settings) {
        return findings.fine(
            "broker",
            format!("no URL is set, so it would be {}", settings.broker_url.value),
        );
    }
    let found = health::look(settings).await;
    for ((check, url, source), found) in urls(settings).into_iter().zip(found) {
        match found.found {
            Ok(health) => {
                findings.fine(check, format!("{} answers: {}", health.service, health.detail));
                // What is one service is warned about once.
                for warning in health.warnings {
                    if !matches!(source, Source::Follows(_)) {
                        findings.warn(check, format!("{url}: {warning}"), "");
                    }
                }
            }
            Err(error) => findings.fail(check, error.what, &error.hint),
        }
    }
}
