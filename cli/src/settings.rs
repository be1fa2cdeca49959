//! Settings and where each comes from: flag, then environment, then `stem.toml`, then default.

mod signing;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use etcetera::base_strategy::{BaseStrategy, Xdg};
use stem_core::envelope::MAX_RETRIES;
use stem_core::id::{Namespace, QueueName};
use stem_core::retry::RetryPolicy;
use stem_engine::client::DEFAULT_QUEUE;
use stem_engine::manifest::TABLES;
use stem_engine::units;
use stem_harden::Mode;
use stem_telemetry::Endpoint;

use crate::connect::{SUPPORTED, ServiceUrl, Tls};
use crate::env::{self, Environment, Variable};
use crate::error::CliError;
use crate::logging::{LogFilter, LogFormat};
use crate::{hardening, telemetry};

pub use self::signing::Signing;

/// The file that is read when no other is named, if it is there.
pub const FILE: &str = "stem.toml";
/// Largest settings file.
const FILE_BYTES: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This flag.
    Flag(&'static str),
    /// This environment variable.
    Environment(&'static str),
    /// This file.
    File(PathBuf),
    /// No one said anything.
    Default,
    /// It follows another setting.
    Follows(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Follows(key) => write!(f, "default, follows {key}"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// What holds.
    pub value: T,
    /// Who said so.
    pub source: Source,
}

impl<T> Setting<T> {
    /// The default.
    pub fn default(value: T) -> Self {
        Self { value, source: Source::Default }
    }
}

/// What flags say; each beats everything else.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--broker`.
    pub broker: Option<String>,
    /// `--backend`.
    pub backend: Option<String>,
    /// `--revoke-store`.
    pub revoke_store: Option<String>,
    /// `--module-store`.
    pub module_store: Option<String>,
    /// `--namespace`.
    pub namespace: Option<Namespace>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--queue` of a task.
    pub task_queue: Option<QueueName>,
    /// `--queue` of a worker.
    pub worker_queues: Vec<QueueName>,
    /// `--max-retries`.
    pub max_retries: Option<u32>,
    /// `--metrics`.
    pub metrics: Option<SocketAddr>,
    /// `--policy`.
    pub policy: Option<PathBuf>,
    /// `--quotas`.
    pub quotas: Option<PathBuf>,
    /// `--trust`.
    pub module_trust: Option<PathBuf>,
    /// `--hardening`.
    pub hardening: Option<Mode>,
    /// `--signers`.
    pub signers: Option<PathBuf>,
    /// `--audit-log`.
    pub audit_log: Option<PathBuf>,
}

/// Every setting.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where tasks wait.
    pub broker_url: Setting<ServiceUrl>,
    /// Where records, results and heartbeats are kept.
    pub result_backend_url: Setting<ServiceUrl>,
    /// Where revocations are kept.
    pub revoke_store_url: Setting<ServiceUrl>,
    /// Where pushed modules are kept.
    pub module_store_url: Setting<ServiceUrl>,
    /// Who signs the servers' certificates, where a URL names nobody.
    pub tls_ca_cert: Setting<Option<PathBuf>>,
    /// The client's own certificate, where a URL names none.
    pub tls_client_cert: Setting<Option<PathBuf>>,
    /// The key to that.
    pub tls_client_key: Setting<Option<PathBuf>>,
    /// The scope of control commands, revocations and heartbeats.
    pub namespace: Setting<Namespace>,
    /// How long control commands wait.
    pub control_timeout: Setting<Duration>,
    /// Where tasks go that name no queue.
    pub default_queue: Setting<QueueName>,
    /// What a worker serves.
    pub worker_queues: Setting<Vec<QueueName>>,
    /// How often a worker says that it lives.
    pub heartbeat_interval: Setting<Duration>,
    /// Retries of a task that names no number.
    pub max_retries: Setting<u32>,
    /// Times the concurrency that a worker asks for at once.
    pub prefetch_multiplier: Setting<u32>,
    /// Where a worker's metrics are to be read.
    pub metrics: Setting<Option<SocketAddr>>,
    /// What says what modules may reach.
    pub policy: Setting<Option<PathBuf>>,
    /// What says how much of a worker each tenant and queue may have.
    pub quotas: Setting<Option<PathBuf>>,
    /// Who is trusted to have published what runs.
    pub module_trust: Setting<Option<PathBuf>>,
    /// What a worker's process gives up.
    pub hardening: Setting<Mode>,
    /// What commands, replies and tasks are signed with.
    pub signing: Signing,
    /// Where orders and refusals are noted.
    pub audit_log: Setting<Option<PathBuf>>,
    /// Where metrics and traces are sent.
    pub otlp_endpoint: Setting<Option<Endpoint>>,
    /// What is logged; `None` leaves it to the command.
    pub log: Setting<Option<LogFilter>>,
    /// How it is logged.
    pub log_format: Setting<LogFormat>,
}

/// Every key of the table `[settings]`.
pub const KEYS: [&str; 28] = [
    "broker-url",
    "result-backend-url",
    "revoke-store-url",
    "module-store-url",
    "tls-ca-cert",
    "tls-client-cert",
    "tls-client-key",
    "namespace",
    "control-timeout",
    "default-queue",
    "worker-queues",
    "heartbeat-interval",
    "max-retries",
    "prefetch-multiplier",
    "metrics",
    "policy",
    "quotas",
    "module-trust",
    "signing-public-keys",
    "signing-private-keys",
    "signing-keys",
    "signing-active-key",
    "signing-algorithm",
    "audit-log",
    "hardening",
    "otlp-endpoint",
    "log",
    "log-format",
];

impl Settings {
    /// Resolves every setting.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, CliError> {
        let file = SettingsFile::find(flags.config.as_deref())?;
        let from = Layers { environment, file: &file };
        let broker_url = match from.resolve(
            url_flag(flags.broker.as_deref(), "--broker", ServiceUrl::parse)?,
            "--broker",
            &[env::BROKER_URL],
            "broker-url",
            ServiceUrl::parse,
        )? {
            Some(setting) => setting,
            None => Setting::default(ServiceUrl::Sqlite(default_database()?)),
        };
        let result_backend_url = from
            .resolve(
                url_flag(flags.backend.as_deref(), "--backend", ServiceUrl::parse)?,
                "--backend",
                &[env::RESULT_BACKEND_URL],
                "result-backend-url",
                ServiceUrl::parse,
            )?
            .unwrap_or_else(|| Setting {
                value: broker_url.value.clone(),
                source: Source::Follows("broker-url"),
            });
        let revoke_store_url = from
            .resolve(
                url_flag(
                    flags.revoke_store.as_deref(),
                    "--revoke-store",
                    ServiceUrl::parse_revoke_store,
                )?,
                "--revoke-store",
                &[env::REVOKE_STORE_URL],
                "revoke-store-url",
                ServiceUrl::parse_revoke_store,
            )?
            .unwrap_or_else(|| Setting {
                value: result_backend_url.value.clone(),
                source: Source::Follows("result-backend-url"),
            });
        let module_store_url = from
            .resolve(
                url_flag(
                    flags.module_store.as_deref(),
                    "--module-store",
                    ServiceUrl::parse_module_store,
                )?,
                "--module-store",
                &[env::MODULE_STORE_URL],
                "module-store-url",
                ServiceUrl::parse_module_store,
            )?
            .unwrap_or_else(|| Setting {
                value: broker_url.value.clone(),
                source: Source::Follows("broker-url"),
            });
        let default_queue = from
            .resolve(
                flags.task_queue.clone(),
                "--queue",
                &[env::DEFAULT_QUEUE],
                "default-queue",
                parse::<QueueName>,
            )?
            .unwrap_or_else(|| {
                Setting::default(
                    QueueName::new(DEFAULT_QUEUE).expect("a constant that follows the rules"),
                )
            });
        let worker_queues = from
            .resolve(
                Some(flags.worker_queues.clone()).filter(|queues| !queues.is_empty()),
                "--queue",
                &[env::WORKER_QUEUES],
                "worker-queues",
                queues,
            )?
            .unwrap_or_else(|| Setting {
                value: vec![default_queue.value.clone()],
                source: Source::Follows("default-queue"),
            });
        let file = |variable, key| -> Result<Setting<Option<PathBuf>>, CliError> {
            let named = from.resolve(None, "", &[variable], key, |text| Ok(PathBuf::from(text)))?;
            Ok(named.map_or_else(
                || Setting::default(None),
                |named| Setting { value: Some(named.value), source: named.source },
            ))
        };
        Ok(Self {
            tls_ca_cert: file(env::TLS_CA_CERT, "tls-ca-cert")?,
            tls_client_cert: file(env::TLS_CLIENT_CERT, "tls-client-cert")?,
            tls_client_key: file(env::TLS_CLIENT_KEY, "tls-client-key")?,
            namespace: from
                .resolve(
                    flags.namespace.clone(),
                    "--namespace",
                    &[env::CONTROL_NAMESPACE, env::WORKER_NAMESPACE],
                    "namespace",
                    parse::<Namespace>,
                )?
                .unwrap_or_else(|| {
                    Setting::default(
                        Namespace::new("stem").expect("a constant that follows the rules"),
                    )
                }),
            control_timeout: from
                .resolve(
                    flags.timeout,
                    "--timeout",
                    &[env::CONTROL_TIMEOUT],
                    "control-timeout",
                    units::duration,
                )?
                .unwrap_or_else(|| Setting::default(Duration::from_secs(5))),
            heartbeat_interval: from
                .resolve(None, "", &[env::HEARTBEAT_INTERVAL], "heartbeat-interval", interval)?
                .unwrap_or_else(|| Setting::default(Duration::from_secs(5))),
            max_retries: from
                .resolve(
                    flags.max_retries,
                    "--max-retries",
                    &[env::DEFAULT_MAX_RETRIES],
                    "max-retries",
                    retries,
                )?
                .unwrap_or_else(|| Setting::default(RetryPolicy::DEFAULT.max_retries)),
            prefetch_multiplier: from
                .resolve(None, "", &[env::PREFETCH_MULTIPLIER], "prefetch-multiplier", multiplier)?
                .unwrap_or_else(|| Setting::default(1)),
            metrics: optional(from.resolve(
                flags.metrics,
                "--metrics",
                &[env::METRICS],
                "metrics",
                telemetry::address,
            )?),
            policy: optional(from.resolve(
                flags.policy.clone(),
                "--policy",
                &[env::POLICY],
                "policy",
                |text| Ok(PathBuf::from(text)),
            )?),
            quotas: optional(from.resolve(
                flags.quotas.clone(),
                "--quotas",
                &[env::QUOTAS],
                "quotas",
                |text| Ok(PathBuf::from(text)),
            )?),
            module_trust: optional(from.resolve(
                flags.module_trust.clone(),
                "--trust",
                &[env::MODULE_TRUST],
                "module-trust",
                |text| Ok(PathBuf::from(text)),
            )?),
            signing: Signing::load(flags.signers.clone(), &from)?,
            audit_log: optional(from.resolve(
                flags.audit_log.clone(),
                "--audit-log",
                &[env::AUDIT_LOG],
                "audit-log",
                |text| Ok(PathBuf::from(text)),
            )?),
            hardening: from
                .resolve(
                    flags.hardening,
                    "--hardening",
                    &[env::HARDENING],
                    "hardening",
                    hardening::mode,
                )?
                .unwrap_or_else(|| Setting::default(Mode::default())),
            otlp_endpoint: optional(from.resolve(
                None,
                "",
                &[env::OTLP_ENDPOINT],
                "otlp-endpoint",
                telemetry::endpoint,
            )?),
            log: from.resolve(None, "", &[env::LOG], "log", LogFilter::parse)?.map_or_else(
                || Setting::default(None),
                |log| Setting { value: Some(log.value), source: log.source },
            ),
            log_format: from
                .resolve(None, "", &[env::LOG_FORMAT], "log-format", LogFormat::parse)?
                .unwrap_or_else(|| Setting::default(LogFormat::Pretty)),
            broker_url,
            result_backend_url,
            revoke_store_url,
            module_store_url,
            default_queue,
            worker_queues,
        })
    }

    /// Which certificates connections go by.
    pub fn tls(&self) -> Tls {
        Tls {
            ca_cert: self.tls_ca_cert.value.clone(),
            client_cert: self.tls_client_cert.value.clone(),
            client_key: self.tls_client_key.value.clone(),
        }
    }

    /// Key, value and source of every setting, for people and programs; secrets are masked.
    pub fn rows(&self) -> Vec<(&'static str, serde_json::Value, &Source)> {
        let text = |value: &dyn fmt::Display| serde_json::Value::from(value.to_string());
        let duration = |value: Duration| serde_json::Value::from(units::write_duration(value));
        let path = |setting: &Setting<Option<PathBuf>>| {
            setting.value.as_ref().map(|path| path.display().to_string()).into()
        };
        let queues: Vec<&str> = self.worker_queues.value.iter().map(QueueName::as_str).collect();
        let log = self.log.value.as_ref().map_or("", LogFilter::as_str);
        let log = if log.is_empty() { serde_json::Value::Null } else { log.into() };
        let mut rows = vec![
            ("broker-url", text(&self.broker_url.value), &self.broker_url.source),
            (
                "result-backend-url",
                text(&self.result_backend_url.value),
                &self.result_backend_url.source,
            ),
            ("revoke-store-url", text(&self.revoke_store_url.value), &self.revoke_store_url.source),
            ("module-store-url", text(&self.module_store_url.value), &self.module_store_url.source),
            ("tls-ca-cert", path(&self.tls_ca_cert), &self.tls_ca_cert.source),
            ("tls-client-cert", path(&self.tls_client_cert), &self.tls_client_cert.source),
            ("tls-client-key", path(&self.tls_client_key), &self.tls_client_key.source),
            ("namespace", text(&self.namespace.value), &self.namespace.source),
            ("control-timeout", duration(self.control_timeout.value), &self.control_timeout.source),
            ("default-queue", text(&self.default_queue.value), &self.default_queue.source),
            ("worker-queues", queues.into(), &self.worker_queues.source),
            (
                "heartbeat-interval",
                duration(self.heartbeat_interval.value),
                &self.heartbeat_interval.source,
            ),
            ("max-retries", self.max_retries.value.into(), &self.max_retries.source),
            (
                "prefetch-multiplier",
                self.prefetch_multiplier.value.into(),
                &self.prefetch_multiplier.source,
            ),
            ("metrics", self.metrics.value.map(|at| at.to_string()).into(), &self.metrics.source),
            ("policy", path(&self.policy), &self.policy.source),
            ("quotas", path(&self.quotas), &self.quotas.source),
            ("module-trust", path(&self.module_trust), &self.module_trust.source),
        ];
        rows.extend(self.signing.rows());
        rows.extend([
            ("audit-log", path(&self.audit_log), &self.audit_log.source),
            ("hardening", self.hardening.value.as_str().into(), &self.hardening.source),
            (
                "otlp-endpoint",
                self.otlp_endpoint.value.as_ref().map(ToString::to_string).into(),
                &self.otlp_endpoint.source,
            ),
            ("log", log, &self.log.source),
            ("log-format", self.log_format.value.as_str().into(), &self.log_format.source),
        ]);
        rows
    }
}

/// A setting without a default.
fn optional<T>(set: Option<Setting<T>>) -> Setting<Option<T>> {
    match set {
        Some(set) => Setting { value: Some(set.value), source: set.source },
        None => Setting::default(None),
    }
}

/// URLs are read here and not by the parser of the command line, which would repeat a refused one with its secrets.
fn url_flag(
    text: Option<&str>,
    flag: &str,
    read: impl Fn(&str) -> Result<ServiceUrl, String>,
) -> Result<Option<ServiceUrl>, CliError> {
    text.map(read)
        .transpose()
        .map_err(|problem| CliError::usage(format!("{flag} cannot be used: {problem}"), SUPPORTED))
}

/// The layers below the flags.
struct Layers<'a> {
    environment: &'a Environment,
    file: &'a SettingsFile,
}

impl Layers<'_> {
    fn resolve<T>(
        &self,
        flag: Option<T>,
        flag_name: &'static str,
        variables: &[Variable],
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Setting<T>>, CliError> {
        if let Some(value) = flag {
            return Ok(Some(Setting { value, source: Source::Flag(flag_name) }));
        }
        for variable in variables {
            if let Some(text) = self.environment.read(*variable)? {
                let value = read(text).map_err(|problem| {
                    CliError::usage(
                        format!("{} cannot be used: {problem}", variable.name),
                        variable.meaning,
                    )
                })?;
                return Ok(Some(Setting { value, source: Source::Environment(variable.name) }));
            }
        }
        let Some(text) = self.file.text(key)? else { return Ok(None) };
        let value = read(&text).map_err(|problem| {
            self.file.refuse(format!("settings.{key} cannot be used: {problem}"))
        })?;
        Ok(Some(Setting { value, source: Source::File(self.file.path.clone()) }))
    }
}

/// The table `[settings]` of a file; empty if there is no file.
struct SettingsFile {
    path: PathBuf,
    table: toml::Table,
}

impl SettingsFile {
    fn find(named: Option<&Path>) -> Result<Self, CliError> {
        let path = named.map_or_else(|| PathBuf::from(FILE), Path::to_owned);
        let absent = Self { path: path.clone(), table: toml::Table::new() };
        match std::fs::metadata(&path) {
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(absent);
            }
            Err(error) => return Err(absent.refuse(format!("it cannot be read: {error}"))),
            Ok(about) if about.len() > FILE_BYTES => {
                return Err(absent.refuse(format!(
                    "it has {} bytes; at most {FILE_BYTES} are allowed",
                    about.len()
                )));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| absent.refuse(format!("it cannot be read: {error}")))?;
        Self::read(path, &text)
    }

    fn read(path: PathBuf, text: &str) -> Result<Self, CliError> {
        let mut file = Self { path, table: toml::Table::new() };
        let mut all: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let at = error.span().map_or_else(String::new, |span| {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!("line {line}: ")
            });
            // Only the parser's words, not the line itself: it may hold a secret.
            file.refuse(format!("{at}{}", error.message()))
        })?;
        let settings = all.remove("settings");
        // The rest of the file is the manifest of modules and how they are built, which is read where modules are.
        if let Some(unknown) = all.keys().find(|key| !TABLES.contains(&key.as_str())) {
            return Err(file.refuse(unknown_key("", unknown, &TABLES)));
        }
        match settings {
            None => {}
            Some(toml::Value::Table(table)) => file.table = table,
            Some(other) => {
                return Err(file.refuse(format!("settings is {}, not a table", other.type_str())));
            }
        }
        match file.table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            None => Ok(file),
            Some(unknown) => Err(file.refuse(unknown_key("settings.", unknown, &KEYS))),
        }
    }

    fn refuse(&self, problem: impl fmt::Display) -> CliError {
        CliError::usage(
            format!("{}: {problem}", self.path.display()),
            "correct the file, or name another with --config; `stem config show` lists every key",
        )
    }

    /// A value as text, so that every layer is read by the same parser.
    fn text(&self, key: &str) -> Result<Option<String>, CliError> {
        let wrong =
            |kind: &str| self.refuse(format!("settings.{key} is {kind}, not text in quotes"));
        match self.table.get(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text.clone())),
            Some(toml::Value::Integer(number)) => Ok(Some(number.to_string())),
            Some(toml::Value::Array(items)) if key == "worker-queues" => {
                let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
                items
                    .map(|items| Some(items.join(",")))
                    .ok_or_else(|| wrong("a list of something else"))
            }
            Some(other) => Err(wrong(other.type_str())),
        }
    }
}

fn unknown_key(at: &str, unknown: &str, known: &[&str]) -> String {
    match units::nearest(unknown, known.iter().copied()) {
        Some(near) => format!("unknown key {at}{unknown}; did you mean {at}{near}?"),
        None => format!("unknown key {at}{unknown}; known are {}", known.join(", ")),
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn queues(text: &str) -> Result<Vec<QueueName>, String> {
    text.split(',').map(|queue| parse(queue.trim())).collect()
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = units::duration(text)?;
    if interval < Duration::from_millis(10) || interval > Duration::from_hours(1) {
        return Err(format!("{text:?} is not between 10ms and 1h"));
    }
    Ok(interval)
}

fn retries(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|retries| *retries <= MAX_RETRIES)
        .ok_or_else(|| format!("{text:?} is not a whole number from 0 to {MAX_RETRIES}"))
}

fn multiplier(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|multiplier| (1..=1_000).contains(multiplier))
        .ok_or_else(|| format!("{text:?} is not a whole number from 1 to 1000"))
}

/// The embedded default: one file for this user.
fn default_database() -> Result<PathBuf, CliError> {
    Xdg::new()
        .ok()
        .and_then(|xdg| xdg.state_dir())
        .map(|state| state.join("stem").join("stem.db"))
        .ok_or_else(|| {
            CliError::usage(
                "there is no state directory for the default database: this user has no home",
                format!("set {}=sqlite:///path/to/stem.db, or HOME", env::BROKER_URL.name),
            )
        })
}

/// Where compiled modules are kept between starts; `None` where this user has no home.
pub fn module_cache() -> Option<PathBuf> {
    Some(Xdg::new().ok()?.cache_dir().join("stem").join("modules"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: &str,
        environment: &[(&'static str, &str)],
        flags: &Flags,
    ) -> Result<Settings, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stem.toml");
        std::fs::write(&path, file).unwrap();
        Settings::load(
            &Flags { config: Some(path), ..flags.clone() },
            &Environment::of(environment),
        )
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let file = "[settings]\nnamespace = \"from-file\"\ncontrol-timeout = \"1s\"\n[handlers.x]\nsource = \"file:x.wasm\"";
        let environment =
            [("STEM_CONTROL_NAMESPACE", "from-env"), ("STEM_WORKER_NAMESPACE", "second")];
        let namespace = |settings: &Settings| settings.namespace.value.to_string();
        assert_eq!(namespace(&load("", &[], &Flags::default()).unwrap()), "stem");
        let settings = load(file, &[], &Flags::default()).unwrap();
        assert_eq!(namespace(&settings), "from-file");
        assert!(matches!(settings.namespace.source, Source::File(_)));
        assert_eq!(settings.control_timeout.value, Duration::from_secs(1));
        assert_eq!(namespace(&load(file, &environment[1..], &Flags::default()).unwrap()), "second");
        assert_eq!(namespace(&load(file, &environment, &Flags::default()).unwrap()), "from-env");
        let flags = Flags { namespace: Some("from-flag".parse().unwrap()), ..Flags::default() };
        let settings = load(file, &environment, &flags).unwrap();
        assert_eq!(
            (namespace(&settings), &settings.namespace.source),
            ("from-flag".to_owned(), &Source::Flag("--namespace"))
        );
    }

    #[test]
    fn stores_follow_one_another() {
        let environment =
            [("STEM_BROKER_URL", "sqlite:///b"), ("STEM_RESULT_BACKEND_URL", "sqlite:///r")];
        let settings = load("", &environment, &Flags::default()).unwrap();
        assert_eq!(settings.revoke_store_url.value, ServiceUrl::Sqlite("/r".into()));
        assert_eq!(settings.module_store_url.value, ServiceUrl::Sqlite("/b".into()));
        let settings = load("", &environment[..1], &Flags::default()).unwrap();
        assert_eq!(settings.result_backend_url.value, ServiceUrl::Sqlite("/b".into()));
        assert_eq!(settings.revoke_store_url.value, ServiceUrl::Sqlite("/b".into()));
    }

    #[test]
    fn what_is_wrong_is_refused_and_named() {
        for (file, words) in [
            ("[settings", "line 1"),
            ("[setings]", "did you mean settings?"),
            ("settings = 1", "not a table"),
            ("[settings]\nnamspace = \"x\"", "did you mean settings.namespace?"),
            ("[settings]\ncontrol-timeout = 5", "not a duration"),
            ("[settings]\ncontrol-timeout = true", "not text"),
            ("[settings]\nbroker-url = \"redi://x\"", "did you mean redis://"),
            ("[settings]\nworker-queues = [1]", "list of something else"),
            ("[settings]\nmax-retries = -1", "whole number"),
            ("[settings]\nlog-format = \"yaml\"", "json or pretty"),
            ("[settings]\nhardening = \"on\"", "auto, off or require"),
            ("[settings]\nlog = \"inof\"", "inof"),
            ("[settings]\nmetrics = \"9464\"", "like 127.0.0.1:9464"),
            ("[settings]\notlp-endpoint = \"grpc://h\"", "not gRPC"),
        ] {
            let error = load(file, &[], &Flags::default()).unwrap_err();
            assert_eq!(error.ending, crate::exit::Ending::Usage);
            assert!(
                error.what.contains(words) && error.what.contains("stem.toml"),
                "{}",
                error.what
            );
        }
        for (variable, value) in [
            ("STEM_BROKER_URL", "stem.db"),
            ("STEM_CONTROL_TIMEOUT", "5"),
            ("STEM_CONTROL_TIMEOUT", ""),
            ("STEM_CONTROL_NAMESPACE", "a b"),
            ("STEM_DEFAULT_QUEUE", "a/b"),
            ("STEM_WORKER_QUEUES", "a,,b"),
            ("STEM_HEARTBEAT_INTERVAL", "0s"),
            ("STEM_DEFAULT_MAX_RETRIES", "many"),
            ("STEM_PREFETCH_MULTIPLIER", "0"),
            ("STEM_LOG", "loud"),
            ("STEM_METRICS", ":9464"),
            ("STEM_OTLP_ENDPOINT", "collector:4318"),
            ("STEM_LOG_FORMAT", "xml"),
            ("STEM_HARDENING", "yes"),
        ] {
            let error = load("", &[(variable, value)], &Flags::default()).unwrap_err();
            assert!(error.what.contains(variable), "{}", error.what);
        }
    }

    #[test]
    fn every_key_is_shown() {
        let settings = load("", &[], &Flags::default()).unwrap();
        assert_eq!(settings.rows().iter().map(|(key, ..)| *key).collect::<Vec<_>>(), KEYS);
    }
}
