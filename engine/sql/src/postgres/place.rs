//! What a URL says, and the settings of a connection.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use stem_core::backend::{ErrorClass, ServiceId};
use url::Url;

use super::PostgresOptions;
use crate::fault::Fault;

/// Where the tables lie unless the URL says otherwise.
const SCHEMA: &str = "stem";

/// Longest name of a schema. The server cuts names at 63 bytes, and the channel for news is a little longer.
const SCHEMA_BYTES: usize = 48;

/// What may follow the `?` of a URL, and other spellings of it. Whatever else is written there is a mistake, which sqlx
/// would only log, value included.
const PARAMETERS: [&str; 13] = [
    "schema",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
const SPELLINGS: [(&str, &str); 6] = [
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
    ("application-name", "application_name"),
];

/// How the planner is set. Tables of queues are empty one moment and full the next, and a plan made for the one is
/// ruinous for the other. Every statement here is meant to find its rows by an index, so nothing else is offered, and
/// each is planned once for a connection.
///
/// A join is made by hashing, which reads each side once, so its cost grows as the batch does. A statement that joins a
/// long table to a batch also says `= ANY` of the batch's keys: that is how the table is entered by its index. Where the
/// one side must ask for the other row by row, it does so in a subquery or with `LATERAL`.
const PLANNER: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_mergejoin", "off"),
    ("enable_nestloop", "off"),
    ("enable_material", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// How a connection comes to its server, and whether it is known to be the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// It does not leave this machine.
    Local,
    /// The server has to show a certificate of somebody who is trusted.
    Verified,
    /// Whoever answers is believed.
    Unverified,
}

/// A database that options name, before it was ever reached.
pub(super) struct Place {
    pub(super) service: ServiceId,
    pub(super) schema: String,
    pub(super) settings: PgConnectOptions,
    pub(super) route: Route,
}

fn refused(problem: impl Into<String>) -> Fault {
    Fault::new(ErrorClass::Refused, problem)
}

/// What can be said of a database whose URL cannot be used.
pub(super) fn unnamed() -> ServiceId {
    ServiceId("postgres".to_owned())
}

/// Checks a URL without connecting. Its refusal repeats no secret.
pub fn check_url(url: &str) -> Result<(), String> {
    place(&PostgresOptions::new(url)).map(|_| ()).map_err(|fault| fault.problem)
}

/// Reads the options. No message repeats the URL, which may hold a password.
pub(super) fn place(options: &PostgresOptions) -> Result<Place, Fault> {
    let mut url = Url::parse(&options.url).map_err(|error| {
        refused(format!(
            "its URL cannot be read: {error}; write postgres://user@host:port/database"
        ))
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(refused("its URL does not begin with postgres:// or postgresql://"));
    }
    let (schema, parameters) = parameters(&url)?;
    let named =
        |name: &str| parameters.iter().any(|(known, value)| known == name && !value.is_empty());
    if url.host_str().is_none_or(str::is_empty) && !named("host") && !named("hostaddr") {
        return Err(refused("its URL names no host; write postgres://user@host/database"));
    }
    if url.path().trim_matches('/').is_empty() && !named("dbname") {
        return Err(refused("its URL names no database; write postgres://user@host/database"));
    }
    url.set_query(None);
    if !parameters.is_empty() {
        url.query_pairs_mut().extend_pairs(&parameters);
    }
    let settings = PgConnectOptions::from_url(&url).map_err(|error| match error {
        sqlx::Error::Configuration(problem) => {
            refused(format!("its URL cannot be used: {problem}"))
        }
        _ => refused("its URL cannot be used"),
    })?;
    let host = match settings.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => settings.get_host().to_ascii_lowercase(),
    };
    let database = settings.get_database().unwrap_or(settings.get_username());
    let service = ServiceId(format!("postgres:{host}:{}/{database}/{schema}", settings.get_port()));
    let route = if settings.get_socket().is_some() || is_loopback(&host) {
        Route::Local
    } else if matches!(settings.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
        Route::Verified
    } else {
        Route::Unverified
    };
    let settings = adjust(settings, &schema, options.deadline);
    Ok(Place { service, schema, settings, route })
}

/// The schema, and what else follows the `?`, each by its usual name.
fn parameters(url: &Url) -> Result<(String, Vec<(String, String)>), Fault> {
    let mut schema = SCHEMA.to_owned();
    let mut parameters = Vec::new();
    for (name, value) in url.query_pairs() {
        let usual = SPELLINGS.iter().find(|(other, _)| *other == name);
        let name = usual.map_or(&*name, |(_, usual)| usual);
        match name {
            "schema" => {
                check_schema(&value)?;
                schema = value.into_owned();
            }
            "sslrootcert" | "sslcert" | "sslkey" => {
                check_file(name, &value)?;
                parameters.push((name.to_owned(), value.into_owned()));
            }
            name if PARAMETERS.contains(&name) || name.starts_with("options[") => {
                parameters.push((name.to_owned(), value.into_owned()));
            }
            unknown => return Err(refused(unknown_parameter(unknown))),
        }
    }
    Ok((schema, parameters))
}

fn unknown_parameter(unknown: &str) -> String {
    let near = PARAMETERS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    let near = near.map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"));
    let shown = stem_core::text::printable(unknown, 40);
    format!(
        "its URL has the parameter {shown:?}, which means nothing here{near} (known are {})",
        PARAMETERS.join(", ")
    )
}

/// What sqlx would find out at each connection, and not say of which file. PEM may also stand in the URL itself. Where URLs
/// are shown the key's value is masked, so it is not shown here either.
fn check_file(name: &str, path: &str) -> Result<(), Fault> {
    const PEM: &str = "-----BEGIN ";
    if path.contains(PEM) {
        return Ok(());
    }
    let shown = if name == "sslkey" { "***" } else { path };
    let content = std::fs::read(path)
        .map_err(|error| refused(format!("{name}={shown} cannot be read: {error}")))?;
    if !content.windows(PEM.len()).any(|part| part == PEM.as_bytes()) {
        return Err(refused(format!("{name}={shown} holds nothing in the form of PEM")));
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || host.starts_with('/') || address.is_ok_and(|it| it.is_loopback())
}

/// The name goes into statements as it is, so it must be one that needs no quotes.
fn check_schema(schema: &str) -> Result<(), Fault> {
    let first = schema.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let good =
        first && schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !good || schema.len() > SCHEMA_BYTES || schema.starts_with("pg_") {
        return Err(refused(format!(
            "schema {schema:?} is not valid: use 1 to {SCHEMA_BYTES} of the characters a-z 0-9 _, begin with a \
             letter or _, and not with pg_"
        )));
    }
    Ok(())
}

/// How long a client may keep a transaction open and say nothing, which for a living one is the time between two awaits. A
/// process that is stopped in the middle, or cut off, holds rows for so long: the tasks in its hands wait no longer than
/// this beyond their leases, and nobody waits longer for the next version or position.
const IDLE: Duration = Duration::from_secs(2);

/// The server gives up a little before the caller does, so that the caller hears why; and it notices by itself when this
/// process or the way to it is gone, so that its locks do not outlive it for long.
fn adjust(settings: PgConnectOptions, schema: &str, deadline: Duration) -> PgConnectOptions {
    let millis = |part: Duration| part.as_millis().max(1).to_string();
    let named = settings.get_application_name().is_some();
    let settings = if named { settings } else { settings.application_name("stem") };
    settings
        .options([
            ("search_path", schema.to_owned()),
            // For statements that are a transaction each; see `BEGIN` in `transact`.
            ("default_transaction_isolation", "read committed".to_owned()),
            ("statement_timeout", millis(deadline.mul_f32(0.8))),
            ("lock_timeout", millis(deadline.mul_f32(0.5))),
            ("idle_in_transaction_session_timeout", millis(IDLE)),
            // sqlx writes what a server warns of into the log, whoever caused it.
            ("client_min_messages", "error".to_owned()),
            ("tcp_keepalives_idle", "30".to_owned()),
            ("tcp_keepalives_interval", "10".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "30000".to_owned()),
        ])
        .options(PLANNER)
        // All of ours fit, so each is prepared once for a connection.
        .statement_cache_capacity(256)
        .disable_statement_logging()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Place, Fault> {
        place(&PostgresOptions::new(url))
    }

    fn refusal(url: &str) -> String {
        let fault = of(url).err().unwrap();
        assert_eq!(fault.class, ErrorClass::Refused, "{url}");
        fault.problem
    }

    #[test]
    fn a_service_is_named_without_user_password_and_parameters() {
        for (url, name) in [
            ("postgres://me:hush@Example.COM/tasks", "postgres:example.com:5432/tasks/stem"),
            (
                "postgresql://you@example.com:5432/tasks?sslmode=require",
                "postgres:example.com:5432/tasks/stem",
            ),
            ("postgres://me@[::1]:1/tasks", "postgres:[::1]:1/tasks/stem"),
            ("postgres:///tasks?host=/run/pg&user=me", "postgres:/run/pg:5432/tasks/stem"),
            ("postgres://me@h/tasks?ssl-mode=require&schema=blue", "postgres:h:5432/tasks/blue"),
        ] {
            assert_eq!(of(url).unwrap().service.0, name, "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_repeating_it() {
        for (url, words) in [
            ("hush", "cannot be read"),
            ("http://me:hush@example.com/tasks", "does not begin with"),
            ("postgres://me:hush@example.com:port/tasks", "cannot be read"),
            ("postgres://me:hush@example.com", "names no database"),
            ("postgres:///tasks?password=hush", "names no host"),
            ("postgres://me:hush@example.com/tasks?pasword=hush", "did you mean password?"),
            ("postgres://me:hush@example.com/tasks?sslmod=require", "did you mean sslmode?"),
            ("postgres://me:hush@example.com/tasks?nonsense=hush", "known are schema, sslmode"),
            ("postgres://me:hush@example.com/tasks?sslmode=sometimes", "sometimes"),
            ("postgres://me:hush@example.com/tasks?schema=a%20b", "not valid"),
            (
                "postgres://me:hush@example.com/tasks?sslrootcert=/nowhere/ca.pem",
                "/nowhere/ca.pem cannot be read",
            ),
        ] {
            let problem = refusal(url);
            assert!(problem.contains(words), "{url}: {problem}");
            assert!(!problem.contains("hush"), "{problem}");
        }
    }

    #[test]
    fn a_schema_that_would_need_quotes_is_refused() {
        for good in ["stem", "_x", "stem_2"] {
            assert!(check_schema(good).is_ok(), "{good}");
        }
        for bad in ["", "Stem", "2stem", "a b", "a\"b", "a;b", "pg_stem", &"x".repeat(49)] {
            assert_eq!(check_schema(bad).unwrap_err().class, ErrorClass::Refused, "{bad}");
        }
    }

    #[test]
    fn only_what_stays_on_this_machine_or_shows_a_certificate_is_trusted() {
        for (url, route) in [
            ("postgres://me@localhost/t", Route::Local),
            ("postgres://me@127.0.0.2/t", Route::Local),
            ("postgres://me@[::1]/t", Route::Local),
            ("postgres:///t?host=/run/pg&user=me", Route::Local),
            ("postgres://me@10.0.0.1/t", Route::Unverified),
            ("postgres://me@db.example.com/t?sslmode=require", Route::Unverified),
            ("postgres://me@db.example.com/t?sslmode=verify-full", Route::Verified),
        ] {
            assert_eq!(of(url).unwrap().route, route, "{url}");
        }
    }
}
