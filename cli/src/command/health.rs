//! `stem health`

use serde_json::{Value, json};
use stem_core::backend::{BackendError, Health};

use super::Context;
use crate::args::JsonArg;
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say, table};
use crate::settings::Settings;

/// One service and what it says.
pub(super) struct Check {
    /// In the words of `stem health`.
    pub(super) name: &'static str,
    /// What it says, or why it says nothing.
    pub(super) found: Result<Health, CliError>,
}

/// Asks all four at the same time. Each is opened by itself: one that is away must not hide what the others say.
pub(super) async fn look(settings: &Settings) -> [Check; 4] {
    // On the heap: to open a service takes many steps, and all are prepared at once.
    let answer = |health: Result<Health, BackendError>| health.map_err(CliError::from);
    let (broker, results, revokes, modules) = tokio::join!(
        Box::pin(async { answer(connect::broker(settings).await?.health().await) }),
        Box::pin(async { answer(connect::results(settings).await?.health().await) }),
        Box::pin(async { answer(connect::revokes(settings).await?.health().await) }),
        Box::pin(async { answer(connect::modules(settings).await?.health().await) }),
    );
    [("broker", broker), ("results", results), ("revokes", revokes), ("modules", modules)]
        .map(|(name, found)| Check { name, found })
}

pub(super) async fn run(context: &Context, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let checks = look(&settings).await;
    let ending = ending(&checks);
    let errors = || checks.iter().filter_map(|check| check.found.as_ref().err());
    if let Some(error) = errors().find(|error| error.ending == Ending::Usage) {
        return Err(error.clone());
    }
    let status = match ending {
        Ending::Done => "ok",
        Ending::Unavailable => "unavailable",
        _ => "unhealthy",
    };
    let document = json!({ "status": status, "checks": checks.iter().map(Check::document).collect::<Vec<_>>() });
    Printer::new(json.json).print(&document, || {
        table(&["CHECK", "OK", "SERVICE", "DETAIL"], checks.iter().map(Check::row))
    })?;
    for check in &checks {
        match &check.found {
            Ok(health) => health
                .warnings
                .iter()
                .for_each(|warning| say(format!("warning: {}: {warning}", check.name))),
            Err(error) => say(format!("error: {}: {}", check.name, error.what)),
        }
    }
    if let Some(error) = errors().next() {
        say(format!("hint: {}", error.hint));
    }
    Ok(ending)
}

/// The worst of all.
fn ending(checks: &[Check]) -> Ending {
    let mut endings = checks
        .iter()
        .map(|check| check.found.as_ref().map_or_else(|error| error.ending, |_| Ending::Done));
    let has = |wanted: Ending| endings.clone().any(|ending| ending == wanted);
    if has(Ending::Unavailable) {
        Ending::Unavailable
    } else if endings.all(|ending| ending == Ending::Done) {
        Ending::Done
    } else {
        Ending::Failed
    }
}

impl Check {
    fn document(&self) -> Value {
        match &self.found {
            Ok(health) => json!({
                "check": self.name, "ok": true, "service": health.service, "detail": health.detail, "warnings": health.warnings,
            }),
            Err(error) => {
                json!({ "check": self.name, "ok": false, "error": error.what, "hint": error.hint })
            }
        }
    }

    fn row(&self) -> Vec<String> {
        match &self.found {
            Ok(health) => vec![
                self.name.to_owned(),
                "yes".to_owned(),
                health.service.clone(),
                health.detail.clone(),
            ],
            Err(_) => {
                vec![self.name.to_owned(), "no".to_owned(), String::new(), "see below".to_owned()]
            }
        }
    }
}
