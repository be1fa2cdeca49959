//! What the server says of itself, and what is unsafe about how it is set, each with its remedy.

use std::collections::HashMap;

use stem_core::backend::{BackendError, ErrorClass, Health};

use crate::fault::Fault;
use crate::{Inner, read, script};

/// The oldest version whose scripts may write while the memory is full, and have flags at all.
const OLDEST: u32 = 7;

/// What `INFO` says.
pub(crate) struct Info(HashMap<String, String>);

impl Info {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Self(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn version(&self) -> &str {
        self.get("redis_version")
    }

    /// Refuses what cannot run our scripts.
    pub(crate) fn check_version(&self) -> Result<(), Fault> {
        let major = self.version().split('.').next().and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(major) if major >= OLDEST => Ok(()),
            _ => Err(Fault::new(
                ErrorClass::Unsupported,
                format!("it is Redis {}; Stem needs {OLDEST}.0 or newer", self.version()),
            )),
        }
    }

    /// What is unsafe, given what is known of the way there.
    pub(crate) fn warnings(
        &self,
        fsync: Option<&str>,
        encrypted: bool,
        loopback: bool,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |warning: &str| warnings.push(warning.to_owned());
        if self.get("aof_enabled") != "1" {
            warn(
                "its append-only file is off, so a crash loses every task since the last snapshot: set appendonly yes",
            );
        } else if fsync == Some("no") {
            warn(
                "appendfsync is no, so a power cut loses tasks of half a minute: set appendfsync everysec or always",
            );
        }
        let policy = self.get("maxmemory_policy");
        if self.get("maxmemory") != "0" && !policy.is_empty() && policy != "noeviction" {
            warnings.push(format!(
                "maxmemory-policy is {policy}, so a full memory throws tasks and revocations away: set maxmemory-policy noeviction"
            ));
        }
        let mut warn = |warning: &str| warnings.push(warning.to_owned());
        if self.get("role") == "slave" {
            warn("it is a replica, which accepts no changes: give the address of the primary");
        }
        if self.get("aof_last_write_status") == "err" || self.get("rdb_last_bgsave_status") == "err"
        {
            warn("it could not write to its disk lately: free some space or repair the disk");
        }
        if !encrypted && !loopback {
            warn("the connection to another machine is not encrypted: use rediss://");
        }
        warnings
    }

    fn detail(&self, fsync: Option<&str>) -> String {
        let journal = match (self.get("aof_enabled"), fsync) {
            ("1", Some(fsync)) => format!("append-only file, fsync {fsync}"),
            ("1", None) => "append-only file".to_owned(),
            _ => "no append-only file".to_owned(),
        };
        let memory = match self.get("maxmemory_human") {
            "" | "0B" => String::new(),
            most => format!(" of {most}"),
        };
        format!(
            "Redis {}, {}, {journal}, memory {}{memory}",
            self.version(),
            self.get("redis_mode"),
            self.get("used_memory_human"),
        )
    }
}

impl Inner {
    pub(crate) async fn info(&self) -> Result<Info, Fault> {
        let info = match self.link.ask(&redis::cmd("INFO")).await? {
            redis::Value::VerbatimString { text, .. } => text,
            other => read::text(other)?,
        };
        Ok(Info::parse(&info))
    }

    pub(crate) async fn health(&self) -> Result<Health, BackendError> {
        const ACTION: &str = "check that it can be written";
        let checked = async {
            let call = self.call(&script::CHECK);
            self.run(&script::CHECK, &call).await?;
            let info = self.info().await?;
            let fsync = self.fsync().await;
            let fsync = fsync.as_deref();
            Ok(Health {
                service: self.service.0.clone(),
                detail: info.detail(fsync),
                warnings: info.warnings(fsync, self.encrypted, self.loopback),
            })
        };
        checked.await.map_err(|fault| self.during(fault, ACTION))
    }

    /// When the append-only file is made durable; unknown where the user may not ask.
    async fn fsync(&self) -> Option<String> {
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg("appendfsync");
        match self.link.ask(&get).await.ok()? {
            redis::Value::Map(pairs) => read::text(pairs.into_iter().next()?.1).ok(),
            other => read::text(read::list(other).ok()?.into_iter().nth(1)?).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: &str = "redis_version:7.0.15\r\naof_enabled:1\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n";

    /// How a server is set, and the way there.
    #[derive(Clone, Copy)]
    struct Setting {
        /// What is not as in [`SAFE`].
        changes: &'static [(&'static str, &'static str)],
        fsync: &'static str,
        encrypted: bool,
        loopback: bool,
    }

    const GOOD: Setting =
        Setting { changes: &[], fsync: "always", encrypted: true, loopback: false };

    /// What is unsafe, and words of the one warning that it gets.
    const UNSAFE: [(Setting, &str); 7] = [
        (Setting { changes: &[("aof_enabled", "0")], ..GOOD }, "set appendonly yes"),
        (Setting { fsync: "no", ..GOOD }, "set appendfsync everysec"),
        (
            Setting {
                changes: &[("maxmemory", "1000"), ("maxmemory_policy", "allkeys-lru")],
                ..GOOD
            },
            "set maxmemory-policy noeviction",
        ),
        (Setting { changes: &[("role", "slave")], ..GOOD }, "the address of the primary"),
        (Setting { changes: &[("aof_last_write_status", "err")], ..GOOD }, "repair the disk"),
        (Setting { changes: &[("rdb_last_bgsave_status", "err")], ..GOOD }, "repair the disk"),
        (Setting { encrypted: false, ..GOOD }, "use rediss://"),
    ];

    fn warnings(setting: Setting) -> Vec<String> {
        let mut info = Info::parse(SAFE);
        for (name, value) in setting.changes {
            info.0.insert((*name).to_owned(), (*value).to_owned());
        }
        info.warnings(Some(setting.fsync), setting.encrypted, setting.loopback)
    }

    /// Whether all that is unsafe is said once each, and nothing of what is safe.
    fn says_what_is_unsafe(warn: impl Fn(Setting) -> Vec<String>) -> Result<(), String> {
        let local = Setting { fsync: "everysec", encrypted: false, loopback: true, ..GOOD };
        for safe in [GOOD, local] {
            if !warn(safe).is_empty() {
                return Err(format!("without a cause: {:?}", warn(safe)));
            }
        }
        for (setting, words) in UNSAFE {
            let said = warn(setting).join("\n");
            if !said.contains(words) || said.contains('\n') {
                return Err(format!("not once {words:?}: {said:?}"));
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_unsafe_is_said_with_its_remedy() {
        assert_eq!(says_what_is_unsafe(warnings), Ok(()));
    }

    #[test]
    fn a_planted_health_that_leaves_one_warning_out_is_found() {
        for (_, left_out) in UNSAFE {
            let planted = |setting| {
                let mut said = warnings(setting);
                said.retain(|warning| !warning.contains(left_out));
                said
            };
            let found = says_what_is_unsafe(planted).unwrap_err();
            assert!(found.contains(left_out), "{found}");
        }
        stem_services::count("plants", 1);
    }

    #[test]
    fn a_planted_health_that_warns_without_a_cause_is_found() {
        let planted = |setting| [warnings(setting), vec!["it is Monday".to_owned()]].concat();
        let found = says_what_is_unsafe(planted).unwrap_err();
        assert!(found.contains("without a cause"), "{found}");
        stem_services::count("plants", 1);
    }

    #[test]
    fn an_old_server_is_refused() {
        let version =
            |version: &str| Info::parse(&format!("redis_version:{version}")).check_version();
        assert!(version("7.0.0").is_ok() && version("8.2.1").is_ok());
        for old in ["6.2.14", "", "nonsense"] {
            let fault = version(old).unwrap_err();
            assert_eq!(fault.class, ErrorClass::Unsupported);
            assert!(fault.problem.contains("needs 7.0"), "{}", fault.problem);
        }
    }
}
