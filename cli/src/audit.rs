//! What is ordered here, in the audit log: that it was asked, before anything is done, and how it ended.

mod act;

use std::sync::Arc;

use serde_json::Value;
use stem_core::id::Namespace;
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_engine::audit::{AuditFile, Entry, Side, Verdict};

use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::identity;
use crate::output::say;
use crate::settings::Settings;

pub use self::act::of;

/// Where each message leads whose log cannot be used.
pub const HINT: &str = "`stem config show` says where audit-log comes from; make room, mend what is there, or name another file. Each user has one of his own";

/// Something that changes what workers, stores or keys do.
#[derive(Clone, Debug)]
pub struct Act {
    /// The words of the command.
    pub what: &'static str,
    /// Whether it is about one namespace.
    pub is_scoped: bool,
    /// Which, where a flag names it; else that of the settings.
    pub namespace: Option<Namespace>,
    /// To what, and how.
    pub about: Value,
}

/// The log, if one is set.
#[derive(Clone, Debug, Default)]
pub struct AuditLog(Option<Arc<AuditFile>>);

/// Somebody has asked, and the log says so.
#[derive(Debug)]
pub struct Asked(Option<(Arc<AuditFile>, Entry)>);

impl AuditLog {
    /// Opens it.
    pub fn open(settings: &Settings) -> Result<Self, CliError> {
        let Some(path) = &settings.audit_log.value else { return Ok(Self(None)) };
        AuditFile::open(path)
            .map(|file| Self(Some(Arc::new(file))))
            .map_err(|problem| refused(&problem))
    }

    /// Writes down that somebody asks. If that cannot be done, nothing is to be done.
    pub fn ask(
        &self,
        what: &str,
        namespace: Option<Namespace>,
        about: Value,
    ) -> Result<Asked, CliError> {
        let Some(file) = &self.0 else { return Ok(Asked(None)) };
        let by = format!("{}@{}", identity::user(), identity::system_host());
        let entry = Entry::new(SystemClock.now(), Side::Operator, &by, Verdict::Asked, what);
        let entry = Entry { namespace, about: Some(about), ..entry };
        let asked = file.append(std::slice::from_ref(&entry));
        let asked = asked.map_err(|problem| refused(&problem))?;
        let ended = Entry { asked: Some(asked), about: None, ..entry };
        Ok(Asked(Some((Arc::clone(file), ended))))
    }
}

impl Asked {
    /// Writes down how it ended. It is done by now: where that cannot be written, it can only be said.
    pub fn end(
        self,
        verdict: Verdict,
        exit: Option<u8>,
        reason: Option<&str>,
    ) -> Result<(), String> {
        let Some((file, entry)) = self.0 else { return Ok(()) };
        let (at, reason) = (SystemClock.now(), reason.map(str::to_owned));
        let ended = file.append(&[Entry { at, verdict, exit, reason, ..entry }]);
        ended.map(drop).map_err(|problem| format!("how it ended is not noted: {problem}"))
    }
}

fn refused(problem: &str) -> CliError {
    CliError::new(Ending::Unavailable, format!("{problem}; nothing was done"), HINT)
}

/// Does it between the two entries.
pub fn around(settings: &Settings, act: Act, work: impl FnOnce() -> Outcome) -> Outcome {
    let audit_log = AuditLog::open(settings)?;
    let namespace = act.is_scoped.then(|| settings.namespace.value.clone());
    let asked = audit_log.ask(act.what, namespace, act.about)?;
    let outcome = work();
    let (ending, reason) = match &outcome {
        Ok(ending) => (*ending, None),
        Err(error) => (error.ending, Some(error.what.as_str())),
    };
    let verdict = match ending {
        Ending::Done => Verdict::Done,
        Ending::Partial => Verdict::Partial,
        Ending::Failed | Ending::Usage | Ending::Nothing | Ending::Unavailable => Verdict::Failed,
    };
    if let Err(problem) = asked.end(verdict, Some(ending.code()), reason) {
        say(format!("warning: {problem}"));
    }
    outcome
}
