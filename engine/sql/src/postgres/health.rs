//! Whether a server can be written to, what it says of itself, and what is unsafe about it.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::{ErrorClass, Health};

use super::error::Trouble;
use super::place::Route;
use super::transact::Operation;
use crate::fault::Fault;

/// The oldest major version that Stem is made for, as the server counts.
const OLDEST: i64 = 13;

/// What health is called to whoever reads that it failed.
const ACTION: &str = "check that the database can be written";

pub(super) struct CheckSettings {
    pub(super) service: String,
    pub(super) route: Route,
}

const SETTINGS: &str = "
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::bigint / 10000 AS major,
        current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
        current_setting('full_page_writes') AS full_page_writes,
        current_setting('transaction_read_only') AS read_only, pg_is_in_recovery() AS recovering,
        coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls";

#[derive(sqlx::FromRow)]
struct Settings {
    version: String,
    major: i64,
    synchronous_commit: String,
    fsync: String,
    full_page_writes: String,
    read_only: String,
    recovering: bool,
    tls: bool,
}

impl Settings {
    /// Why nothing can be written, where that is a matter of settings, with the remedy.
    fn read_only(&self) -> Result<(), Fault> {
        let problem = if self.recovering {
            "it is a standby, or is being restored, and nothing can be written: connect to the primary"
        } else if self.read_only == "on" {
            "default_transaction_read_only is on, so nothing can be written: set it to off for this user, database \
             or server"
        } else {
            return Ok(());
        };
        Err(Fault::new(ErrorClass::Refused, problem))
    }

    fn warnings(&self, route: Route) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |unsafe_now: bool, warning: String| {
            if unsafe_now {
                warnings.push(warning);
            }
        };
        warn(
            self.synchronous_commit == "off",
            "synchronous_commit is off: a crash of the server can lose tasks that were acknowledged; \
             set it to on for this user or database"
                .to_owned(),
        );
        warn(
            self.fsync == "off",
            "fsync is off: a power cut can destroy the database; set it to on".to_owned(),
        );
        warn(
            self.full_page_writes == "off",
            "full_page_writes is off: a power cut can destroy the database; set it to on"
                .to_owned(),
        );
        warn(
            self.major < OLDEST,
            format!(
                "the server is older than Postgres {OLDEST}, the oldest that Stem is made for; upgrade it"
            ),
        );
        warn(
            route != Route::Local && !self.tls,
            "the connection is not encrypted and leaves this machine; add ?sslmode=verify-full to the URL"
                .to_owned(),
        );
        warn(
            route == Route::Unverified && self.tls,
            "the connection is encrypted, but nobody checks who answers; add ?sslmode=verify-full to the URL"
                .to_owned(),
        );
        warnings
    }
}

#[async_trait]
impl Operation for CheckSettings {
    type Output = Health;
    const ACTION: &'static str = ACTION;
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Health, Trouble> {
        let settings: Settings = sqlx::query_as(SETTINGS).fetch_one(conn).await?;
        settings.read_only()?;
        let detail = format!(
            "Postgres {}, synchronous_commit={}, {}",
            settings.version,
            settings.synchronous_commit,
            if settings.tls { "encrypted" } else { "not encrypted" },
        );
        let warnings = settings.warnings(self.route);
        Ok(Health { service: self.service.clone(), detail, warnings })
    }
}

/// Writes and commits, as every move does: settings do not tell of a full disk, or of a right that is missing.
pub(super) struct CheckWrite;

#[async_trait]
impl Operation for CheckWrite {
    type Output = ();
    const ACTION: &'static str = ACTION;
    const ALONE: bool = true;
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        sqlx::query(
            "INSERT INTO checks (id, at) SELECT 0, stem_now($1)
             ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        )
        .bind(now)
        .execute(conn)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Settings {
        Settings {
            version: "15.14".to_owned(),
            major: 15,
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            read_only: "off".to_owned(),
            recovering: false,
            tls: true,
        }
    }

    /// What is unsafe, with the way there, and a word of the one warning that it gets.
    fn unsafe_ones() -> [(Settings, Route, &'static str); 6] {
        let off = || "off".to_owned();
        [
            (
                Settings { synchronous_commit: off(), ..good() },
                Route::Verified,
                "synchronous_commit",
            ),
            (Settings { fsync: off(), ..good() }, Route::Verified, "fsync"),
            (Settings { full_page_writes: off(), ..good() }, Route::Verified, "full_page_writes"),
            (Settings { major: 12, ..good() }, Route::Verified, "upgrade"),
            (Settings { tls: false, ..good() }, Route::Verified, "not encrypted"),
            (good(), Route::Unverified, "nobody checks who answers"),
        ]
    }

    /// Whether each is one warning, and what is safe is none.
    fn says_what_is_unsafe(warn: impl Fn(&Settings, Route) -> Vec<String>) -> Result<(), String> {
        for (safe, route) in [
            (good(), Route::Verified),
            (good(), Route::Local),
            (Settings { tls: false, ..good() }, Route::Local),
        ] {
            let warnings = warn(&safe, route);
            if !warnings.is_empty() {
                return Err(format!("without a cause: {warnings:?}"));
            }
        }
        for (settings, route, word) in unsafe_ones() {
            let warnings = warn(&settings, route);
            if warnings.len() != 1 || !warnings[0].contains(word) {
                return Err(format!("not once {word:?}: {warnings:?}"));
            }
        }
        Ok(())
    }

    #[test]
    fn each_unsafe_setting_is_one_warning_with_a_remedy() {
        assert_eq!(says_what_is_unsafe(Settings::warnings), Ok(()));
        for (settings, route, _) in &unsafe_ones()[4..] {
            assert!(settings.warnings(*route)[0].contains("sslmode"));
        }
    }

    #[test]
    fn a_planted_health_that_leaves_one_warning_out_is_found() {
        for (.., left_out) in unsafe_ones() {
            let planted = |settings: &Settings, route| {
                let mut warnings = settings.warnings(route);
                warnings.retain(|warning| !warning.contains(left_out));
                warnings
            };
            let found = says_what_is_unsafe(planted).unwrap_err();
            assert!(found.contains(left_out), "{found}");
        }
        stem_services::count("plants", 1);
    }

    #[test]
    fn what_can_only_be_read_is_refused_with_a_remedy() {
        assert!(good().read_only().is_ok());
        let on = || "on".to_owned();
        for (settings, word) in [
            (Settings { recovering: true, read_only: on(), ..good() }, "primary"),
            (Settings { read_only: on(), ..good() }, "default_transaction_read_only"),
        ] {
            let fault = settings.read_only().unwrap_err();
            assert_eq!(fault.class, ErrorClass::Refused);
            assert!(fault.problem.contains(word), "{}", fault.problem);
        }
    }
}
