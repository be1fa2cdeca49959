//! The keys that a worker would sign with and believe, and the audit log that it would write.

use stem_core::seal::{Level, Purpose, Role};
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_engine::audit::AuditFile;
use stem_engine::signing::keys::State;
use stem_engine::signing::{KeyRow, Keys};

use super::Findings;
use crate::audit::HINT;
use crate::settings::Settings;

/// Looks at both, where a setting names them.
pub(super) fn look(settings: &Settings, findings: &mut Findings) {
    keys(settings, findings);
    let Some(path) = &settings.audit_log.value else { return };
    match AuditFile::look(path) {
        None => findings.fine("audit-log", format!("{} can be written", path.display())),
        Some(problem) => {
            let what = format!("{} cannot be written: {problem}", path.display());
            findings.fail("audit-log", what, HINT);
        }
    }
}

fn keys(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "signing";
    let files = settings.signing.files();
    if !files.is_any() {
        return;
    }
    let keys = match Keys::open(files) {
        Ok(keys) => keys,
        Err(problem) => {
            return findings.fail(
                CHECK,
                problem,
                "mend the file; `stem help keys new` says what it holds",
            );
        }
    };
    let now = SystemClock.now();
    let rows = keys.rows(now);
    let [tasks, commands, replies] = Purpose::ALL.map(|purpose| keys.level(purpose).as_str());
    let count = rows.len();
    findings.fine(
        CHECK,
        format!("{count} keys; commands: {commands}; replies: {replies}; tasks: {tasks}"),
    );
    for purpose in
        Purpose::ALL.into_iter().filter(|purpose| keys.level(*purpose) != Level::Unchecked)
    {
        if !rows.iter().any(|row| is_believed(row, purpose)) {
            let what = format!(
                "no key is good now that may sign a {}, so none acts that is signed",
                purpose.as_str()
            );
            findings.warn(
                CHECK,
                what,
                "`stem keys list` shows until when each was good; `stem keys new` makes one",
            );
        }
    }
    for row in rows.iter().filter(|row| row.state == State::EndsSoon) {
        let end = row.not_after.map_or_else(String::new, |end| format!(" at {end}"));
        let hint = format!("`stem keys rotate {}` puts another in its place", row.id);
        findings.warn(CHECK, format!("the key {} ends{end}", row.id), &hint);
    }
    let namespace = settings.namespace.value.as_str();
    if keys.level(Purpose::Reply) != Level::Unchecked
        && keys.signer(Role::Worker, namespace, now).is_none()
    {
        findings.warn(
            CHECK,
            "a worker would have no key to sign replies with, so who checks them would not hear it",
            "`stem keys new ID --role worker` makes one; signing-private-keys names its file",
        );
    }
}

fn is_believed(row: &KeyRow, purpose: Purpose) -> bool {
    let serves = |word: &&str| {
        Role::ALL.iter().any(|role| role.as_str() == *word && role.purpose() == purpose)
    };
    row.verifies && row.state <= State::EndsSoon && row.roles.iter().any(serves)
}
