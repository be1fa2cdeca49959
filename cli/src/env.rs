//! Every environment variable that this program reads, in one table; `stem help environment` prints it.
//!
//! A variable that is set and empty is refused like any other bad value: nothing becomes a default by mistake.

#![expect(
    clippy::doc_markdown,
    reason = "the table is shown to people, who see backticks as they are"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::CliError;

/// One variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it decides.
    pub meaning: &'static str,
    /// What holds without it.
    pub default: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $name:literal, $meaning:literal, $default:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Variable = Variable { name: $name, meaning: $meaning, default: $default };
        )*
        /// Every variable, in the order of the documentation.
        pub const ALL: &[Variable] = &[$($constant),*];
    };
}

variables! {
    BROKER_URL = "STEM_BROKER_URL", "Where tasks wait: sqlite:///path, sqlite://relative/path, redis://host, rediss://host, postgres://host/database, or memory://.", "a SQLite file in the user's state directory, stem/stem.db";
    RESULT_BACKEND_URL = "STEM_RESULT_BACKEND_URL", "Where records, results and heartbeats are kept; the same schemes.", "the broker";
    REVOKE_STORE_URL = "STEM_REVOKE_STORE_URL", "Where revocations are kept; the same schemes, and a file of lines: file:///path or a bare path.", "the result backend, then the broker";
    MODULE_STORE_URL = "STEM_MODULE_STORE_URL", "Where pushed modules are kept; the same schemes as for the broker, and a directory: file:///path or a bare path.", "the broker";
    TLS_CA_CERT = "STEM_TLS_CA_CERT", "A PEM file: who signs the certificates of Redis (rediss://) and Postgres, where the URL does not say.", "the system's";
    TLS_CLIENT_CERT = "STEM_TLS_CLIENT_CERT", "A PEM file: the certificate to show to them, where the URL does not say.", "none";
    TLS_CLIENT_KEY = "STEM_TLS_CLIENT_KEY", "A PEM file: the key to that certificate.", "none";
    CONTROL_NAMESPACE = "STEM_CONTROL_NAMESPACE", "The scope of control commands, revocations and heartbeats.", "STEM_WORKER_NAMESPACE, then stem";
    WORKER_NAMESPACE = "STEM_WORKER_NAMESPACE", "The same, where STEM_CONTROL_NAMESPACE is not set.", "stem";
    CONTROL_TIMEOUT = "STEM_CONTROL_TIMEOUT", "How long control commands wait for answers, for instance 250ms or 5s.", "5s";
    DEFAULT_QUEUE = "STEM_DEFAULT_QUEUE", "The queue of tasks that name none, and of workers that name none.", "default";
    WORKER_QUEUES = "STEM_WORKER_QUEUES", "The queues a worker serves, with commas between them, the preferred first.", "STEM_DEFAULT_QUEUE";
    WORKER_CLASSES = "STEM_WORKER_CLASSES", "The trust classes of the policy that a worker serves, with commas between them, like --class.", "every name, whatever its class";
    HEARTBEAT_INTERVAL = "STEM_HEARTBEAT_INTERVAL", "How often a worker says that it lives.", "5s";
    DEFAULT_MAX_RETRIES = "STEM_DEFAULT_MAX_RETRIES", "Retries of a task that names no number.", "3";
    PREFETCH_MULTIPLIER = "STEM_PREFETCH_MULTIPLIER", "A worker asks the broker for at most so many times its concurrency at once.", "1";
    METRICS = "STEM_METRICS", "Where a worker's metrics are to be read by Prometheus, for instance 127.0.0.1:9464; port 0 takes one that is free.", "nowhere";
    POLICY = "STEM_POLICY", "A file that says what modules may reach and use at most, like --policy of worker start, worker diagnose, task run and module check.", "modules of --modules and of task run get what the manifest beside them asks for; pushed ones get no more than scratch space, children and buckets";
    QUOTAS = "STEM_QUOTAS", "A file that says how much of a worker each tenant and queue may have, like --quotas of worker start and worker diagnose; it is followed while the worker runs.", "nobody is bounded, and tenants count for nothing";
    OTLP_ENDPOINT = "STEM_OTLP_ENDPOINT", "Where metrics and traces are sent, as OTLP over HTTP: http://host:4318 or https://…", "nowhere";
    MODULE_TRUST = "STEM_MODULE_TRUST", "A file of publishers' public keys, like --trust of worker start: only pushed modules that one of them signed are fetched and run. `module push` warns by it.", "whoever can write to the module store is trusted";
    SIGNING_PUBLIC_KEYS = "STEM_SIGNING_PUBLIC_KEYS", "A file of public keys with their roles, like --signers of worker start: whose commands, replies and tasks are believed, and which must be signed. `stem keys new` writes it.", "nothing is checked";
    SIGNING_PRIVATE_KEYS = "STEM_SIGNING_PRIVATE_KEYS", "A file of Ed25519 keys that this process signs commands, replies and tasks with; only for its owner (mode 0600).", "nothing is signed";
    SIGNING_KEYS = "STEM_SIGNING_KEYS", "A file of HMAC-SHA256 keys, which both sign and verify; only for its owner (mode 0600).", "none";
    SIGNING_ACTIVE_KEY = "STEM_SIGNING_ACTIVE_KEY", "The id of the key to sign with wherever it may.", "of the keys that may, the one that became good last";
    SIGNING_ALGORITHM = "STEM_SIGNING_ALGORITHM", "ed25519 or hmac-sha256: which kind `stem keys new` makes, and which is signed with where keys of both kinds may.", "ed25519";
    AUDIT_LOG = "STEM_AUDIT_LOG", "A file of this user, in which a worker notes the orders that it obeys and what it refuses, and `stem` the orders that it gives, before it gives them; see `stem audit`.", "nothing is noted";
    HARDENING = "STEM_HARDENING", "What a worker's process gives up that it does not need, like --hardening of worker start: auto (what the kernel can), off, or require (all of it, or it does not start).", "auto";
    LOG = "STEM_LOG", "What is logged on standard error: off, error, warn, info, debug, trace, or target=level, with commas between them.", "info for worker start and task run, warn for the rest";
    LOG_FORMAT = "STEM_LOG_FORMAT", "How it is logged: pretty, or json (one object a line).", "pretty";
    WORKER_NODES = "STEM_WORKER_NODES", "The nodes of worker multi where none is named, with spaces between them.", "none";
    STEMD_NODES = "STEMD_NODES", "The same; it beats STEM_WORKER_NODES.", "none";
    WORKER_COMMAND = "STEM_WORKER_COMMAND", "What the nodes of worker multi run, where --command and --command-line say nothing. Split into words as a shell does.", "stem worker start";
    WORKER_NODE = "STEM_WORKER_NODE", "Which node a worker is; its id, unless --name gives another. Set by worker multi, like the next four.", "none";
    WORKER_INDEX = "STEM_WORKER_INDEX", "The node's place in its list, from 1; kept in the PID file.", "none";
    WORKER_PIDFILE = "STEM_WORKER_PIDFILE", "Where a worker writes its PID file, like --pidfile.", "it writes none";
    WORKER_LOGFILE = "STEM_WORKER_LOGFILE", "The file to which a worker's output was directed. If it goes there, the file is opened anew on SIGHUP.", "none";
    WORKER_HOST = "STEM_WORKER_HOST", "The machine's name for %h, PID files, and the ids of workers that are not named.", "the system's";
    NOTIFY_SOCKET = "NOTIFY_SOCKET", "Set by a service manager such as systemd (Type=notify): where a worker says that it is ready, reloads, stops.", "nobody is told";
    WATCHDOG_USEC = "WATCHDOG_USEC", "Set by a service manager beside it: a worker says twice in so many microseconds that it is alive.", "it does not";
    WATCHDOG_PID = "WATCHDOG_PID", "Set by a service manager beside that: which process is meant.", "whoever reads it";
    TRACEPARENT = "TRACEPARENT", "The W3C trace context that tasks enqueued by this process belong to.", "none";
    OTEL_SERVICE_NAME = "OTEL_SERVICE_NAME", "What OpenTelemetry calls this program, where STEM_OTLP_ENDPOINT or STEM_METRICS is set.", "stem-worker for workers, stem for the rest";
    OTEL_RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES", "More that OpenTelemetry is to say of this program, as name=value with commas between them.", "none";
    OTEL_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS", "Headers for STEM_OTLP_ENDPOINT, for instance a key, as name=value with commas between them.", "none";
    NO_COLOR = "NO_COLOR", "If set and not empty: no colour and no progress bar.", "colour and progress bars on terminals";
}

/// The environment, read once.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<&'static str, OsString>);

impl Environment {
    /// What of the table is set for this process.
    pub fn of_process() -> Self {
        Self(
            ALL.iter()
                .filter_map(|known| Some((known.name, std::env::var_os(known.name)?)))
                .collect(),
        )
    }

    /// The same with these in place of what is set. Those that are not in the table are of no interest here.
    #[must_use]
    pub fn with<'a>(&self, variables: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = self.clone();
        for (name, value) in variables {
            if let Some(known) = ALL.iter().find(|known| known.name == name) {
                all.0.insert(known.name, value.into());
            }
        }
        all
    }

    /// For tests: these and no others.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&'static str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (*name, OsString::from(value))).collect())
    }

    /// A variable's text, if it is set.
    pub fn read(&self, variable: Variable) -> Result<Option<&str>, CliError> {
        let Some(value) = self.0.get(variable.name) else { return Ok(None) };
        let refuse = |problem| {
            CliError::usage(
                format!("{} is set and {problem}", variable.name),
                format!("unset it, or give it a value. {}", variable.meaning),
            )
        };
        let text = value.to_str().ok_or_else(|| refuse("not UTF-8"))?;
        if text.is_empty() { Err(refuse("empty")) } else { Ok(Some(text)) }
    }

    /// The text of a variable that is not ours to judge: what is empty or not UTF-8 counts as not set.
    pub fn foreign(&self, variable: Variable) -> Option<&str> {
        self.0.get(variable.name)?.to_str().filter(|text| !text.is_empty())
    }

    /// Whether colours and progress bars are unwanted; see <https://no-color.org>.
    pub fn no_color(&self) -> bool {
        self.0.get(NO_COLOR.name).is_some_and(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_program_reads_is_given_to_no_module() {
        for variable in ALL.iter().filter(|variable| variable.name != NO_COLOR.name) {
            assert!(stem_engine::manifest::is_workers_own(variable.name), "{}", variable.name);
        }
        assert!(!stem_engine::manifest::is_workers_own("LANG"));
    }
}
