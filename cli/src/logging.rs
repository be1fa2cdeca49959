//! Logs, on standard error: `STEM_LOG` decides what, `STEM_LOG_FORMAT` how.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::env::Environment;
use crate::follow::above_the_bar;
use crate::settings::Settings;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// Reads levels and `target=level` pairs with commas between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        for directive in text.split(',') {
            // The library takes a bare word for a target and logs all of it, so a mistyped level would flood.
            let level = directive.trim().rsplit('=').next().unwrap_or_default();
            if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
                let near = stem_engine::units::nearest(level, LEVELS)
                    .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
                return Err(format!(
                    "{directive:?} is not one of {}, nor target=level{near}",
                    LEVELS.join(", ")
                ));
            }
        }
        EnvFilter::builder()
            .parse(text)
            .map_err(|error| format!("{text:?} is not a log filter: {error}"))?;
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Reads `json` or `pretty`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            other => Err(format!("{other:?} is not json or pretty")),
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// Whether standard error may be coloured and drawn upon.
pub fn lively_stderr(environment: &Environment) -> bool {
    lively(io::stderr().is_terminal(), environment)
}

fn lively(terminal: bool, environment: &Environment) -> bool {
    terminal && !environment.no_color()
}

/// Standard error, above a progress bar. A log line comes as one piece. One that cannot be written is lost: a full disk
/// must not end the work, and there is nowhere left to say so.
struct AboveTheBar;

impl Write for AboveTheBar {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = above_the_bar(|| io::stderr().lock().write_all(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Starts logging with the filter of the settings, or with this one. Once for a process; later calls change nothing.
pub fn start(settings: &Settings, environment: &Environment, unless_set: &str) {
    let filter = settings.log.value.as_ref().map_or(unless_set, LogFilter::as_str);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        // The library says it on standard error, and panics if that fails.
        .log_internal_errors(false)
        .with_writer(|| AboveTheBar)
        .with_ansi(lively_stderr(environment));
    // The only error is that logging was started already.
    let _ = match settings.log_format.value {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_calms_a_terminal() {
        assert!(lively(true, &Environment::of(&[])));
        assert!(lively(true, &Environment::of(&[("NO_COLOR", "")])));
        assert!(!lively(true, &Environment::of(&[("NO_COLOR", "1")])));
        assert!(!lively(false, &Environment::of(&[])));
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for good in ["info", "WARN", "stem_engine=debug", "warn,stem_sql=trace", "off"] {
            assert!(LogFilter::parse(good).is_ok(), "{good}");
        }
        for bad in ["inof", "stem_engine", "warn,,info", "a=b", ""] {
            assert!(LogFilter::parse(bad).is_err(), "{bad}");
        }
        assert!(LogFilter::parse("inof").unwrap_err().contains("did you mean \"info\""));
    }
}
