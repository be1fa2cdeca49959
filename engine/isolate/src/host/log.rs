//! `stem:task/log`, and the lines that guests write to standard output and error: bounded, escaped, and at a bounded
//! rate. A guest never fails and never waits because of its log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use stem_core::text::printable;
use stem_host_abi::limits;

use super::abi::stem::task::log;
use super::{AttemptHost, ComponentState};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Finest.
    Trace,
    /// For the author.
    Debug,
    /// For the operator.
    Info,
    /// Something is off.
    Warn,
    /// Something failed.
    Error,
}

/// Writes a line at a [`LogLevel`] with `tracing`, which wants to know level and target when it is compiled:
/// `log_at!(level, target: "stem::task", field, "{message}")`.
#[macro_export]
macro_rules! log_at {
    ($level:expr, target: $target:literal, $($line:tt)+) => {
        match $level {
            $crate::LogLevel::Trace => ::tracing::trace!(target: $target, $($line)+),
            $crate::LogLevel::Debug => ::tracing::debug!(target: $target, $($line)+),
            $crate::LogLevel::Info => ::tracing::info!(target: $target, $($line)+),
            $crate::LogLevel::Warn => ::tracing::warn!(target: $target, $($line)+),
            $crate::LogLevel::Error => ::tracing::error!(target: $target, $($line)+),
        }
    };
}

/// Whether a line that [`log_at!`](crate::log_at) writes would be kept.
#[macro_export]
macro_rules! log_enabled_at {
    ($level:expr, target: $target:literal) => {
        match $level {
            $crate::LogLevel::Trace => ::tracing::enabled!(target: $target, ::tracing::Level::TRACE),
            $crate::LogLevel::Debug => ::tracing::enabled!(target: $target, ::tracing::Level::DEBUG),
            $crate::LogLevel::Info => ::tracing::enabled!(target: $target, ::tracing::Level::INFO),
            $crate::LogLevel::Warn => ::tracing::enabled!(target: $target, ::tracing::Level::WARN),
            $crate::LogLevel::Error => ::tracing::enabled!(target: $target, ::tracing::Level::ERROR),
        }
    };
}

impl From<log::Level> for LogLevel {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Trace => Self::Trace,
            log::Level::Debug => Self::Debug,
            log::Level::Info => Self::Info,
            log::Level::Warn => Self::Warn,
            log::Level::Error => Self::Error,
        }
    }
}

#[derive(Debug)]
struct Budget {
    bytes_left: u64,
    lines: f64,
    refilled_at: Instant,
    dropped: u64,
}

/// The log of one attempt, shared by the log interface and the output streams.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    host: Arc<dyn AttemptHost>,
    budget: Arc<Mutex<Budget>>,
}

impl Logs {
    pub(crate) fn new(host: Arc<dyn AttemptHost>, bytes: u64) -> Self {
        let budget = Budget {
            bytes_left: bytes,
            lines: f64::from(limits::LOG_BURST),
            refilled_at: Instant::now(),
            dropped: 0,
        };
        Self { host, budget: Arc::new(Mutex::new(budget)) }
    }

    /// Writes a line if the budget allows; otherwise counts it, and says so once.
    pub(crate) fn write(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        if !self.host.log_enabled(level) {
            return;
        }
        let mut room = limits::LOG_LINE_BYTES;
        let message = printable(message, room);
        room = room.saturating_sub(message.len());
        let fields: Vec<_> = fields
            .iter()
            .take(limits::LOG_FIELDS)
            .map_while(|(name, value)| {
                let (name, value) = (printable(name, room.min(128)), printable(value, room));
                room = room.checked_sub(name.len() + value.len())?;
                Some((name, value))
            })
            .collect();
        match self.pay(limits::LOG_LINE_BYTES - room) {
            Payment::Paid => self.host.log(level, &message, &fields),
            Payment::FirstRefused => {
                self.host.log(LogLevel::Warn, "log lines are dropped: too many, or too much", &[]);
            }
            Payment::Refused => {}
        }
    }

    fn pay(&self, bytes: usize) -> Payment {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(budget.refilled_at).as_secs_f64()
            * f64::from(limits::LOG_LINES_PER_SECOND);
        budget.lines = (budget.lines + earned).min(f64::from(limits::LOG_BURST));
        budget.refilled_at = now;
        if budget.lines >= 1.0 && budget.bytes_left >= bytes as u64 {
            budget.lines -= 1.0;
            budget.bytes_left -= bytes as u64;
            return Payment::Paid;
        }
        budget.dropped += 1;
        if budget.dropped == 1 { Payment::FirstRefused } else { Payment::Refused }
    }

    /// Lines that were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }
}

enum Payment {
    Paid,
    FirstRefused,
    Refused,
}

impl log::Host for ComponentState {
    fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.attempt.enter()?;
        self.attempt.logs.write(level.into(), &message, &fields);
        Ok(())
    }

    fn is_enabled(&mut self, level: log::Level) -> wasmtime::Result<bool> {
        self.attempt.enter()?;
        Ok(self.attempt.host.log_enabled(level.into()))
    }
}
