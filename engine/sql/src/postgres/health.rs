//! What a server says of itself, and what is unsafe about it.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::Health;

use super::error::Trouble;
use super::transact::Operation;

/// The oldest major version that Stem is made for, as the server counts.
const OLDEST: i64 = 13;

pub(super) struct CheckHealth {
    pub(super) service: String,
    /// Whether the way to the server leaves this machine.
    pub(super) remote: bool,
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
    fn warnings(&self, remote: bool) -> Vec<String> {
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
            self.recovering,
            "the server is in recovery, so nothing can be written; connect to the primary"
                .to_owned(),
        );
        warn(
            self.read_only == "on" && !self.recovering,
            "default_transaction_read_only is on, so nothing can be written; set it to off"
                .to_owned(),
        );
        warn(
            self.major < OLDEST,
            format!(
                "the server is older than Postgres {OLDEST}, the oldest that Stem is made for; upgrade it"
            ),
        );
        warn(
            remote && !self.tls,
            "the connection is not encrypted and leaves this machine; add ?sslmode=verify-full to the URL"
                .to_owned(),
        );
        warnings
    }
}

#[async_trait]
impl Operation for CheckHealth {
    type Output = Health;
    const ACTION: &'static str = "check the database";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Health, Trouble> {
        let settings: Settings = sqlx::query_as(SETTINGS).fetch_one(conn).await?;
        let detail = format!(
            "Postgres {}, synchronous_commit={}, {}",
            settings.version,
            settings.synchronous_commit,
            if settings.tls { "encrypted" } else { "not encrypted" },
        );
        let warnings = settings.warnings(self.remote);
        Ok(Health { service: self.service.clone(), detail, warnings })
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

    #[test]
    fn each_unsafe_setting_is_one_warning_with_a_remedy() {
        let off = || "off".to_owned();
        assert_eq!(good().warnings(true), [""; 0]);
        assert_eq!(Settings { tls: false, ..good() }.warnings(false), [""; 0]);
        for (settings, word) in [
            (Settings { synchronous_commit: off(), ..good() }, "synchronous_commit"),
            (Settings { fsync: off(), ..good() }, "fsync"),
            (Settings { full_page_writes: off(), ..good() }, "full_page_writes"),
            (Settings { recovering: true, read_only: "on".to_owned(), ..good() }, "primary"),
            (Settings { read_only: "on".to_owned(), ..good() }, "default_transaction_read_only"),
            (Settings { major: 12, ..good() }, "upgrade"),
            (Settings { tls: false, ..good() }, "sslmode"),
        ] {
            let warnings = settings.warnings(true);
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
        }
    }
}
