//! Of which trust classes a worker is.

use stem_core::id::TrustClass;
use stem_engine::WorkerConfig;

use crate::args::WorkerStart;
use crate::env::{self, Environment};
use crate::error::CliError;
use crate::output::say;
use crate::settings::{Setting, Settings, Source};

/// Whose tasks it runs, which only a policy can say.
pub(super) fn read(
    args: &WorkerStart,
    settings: &Settings,
    environment: &Environment,
) -> Result<Setting<Vec<TrustClass>>, CliError> {
    let variable = env::WORKER_CLASSES;
    let classes = if args.class.is_empty() {
        let Some(text) = environment.read(variable)? else { return Ok(Setting::default(vec![])) };
        let classes = text.split(',').map(|class| TrustClass::new(class.trim()));
        let value = classes.collect::<Result<_, _>>().map_err(|error| {
            CliError::usage(format!("{} cannot be used: {error}", variable.name), variable.meaning)
        })?;
        Setting { value, source: Source::Environment(variable.name) }
    } else {
        Setting { value: args.class.clone(), source: Source::Flag("--class") }
    };
    if settings.policy.value.is_none() {
        return Err(CliError::usage(
            "names get their trust classes from a policy, and none is named",
            "name one with --policy, or leave the classes out",
        ));
    }
    Ok(classes)
}

/// A policy may change; but a class of which it knows nothing is most likely another one, misspelt.
pub(super) fn warn(config: &WorkerConfig) {
    let policy = config.policy.current();
    let known = policy.classes();
    for class in config.classes.iter().filter(|class| !known.contains(class)) {
        let known: Vec<_> = known.iter().map(|class| class.as_str()).collect();
        say(format!(
            "warning: the policy gives the trust class {class} to no name, so nothing of it is served; its classes are {}",
            known.join(", ")
        ));
    }
}
