//! Structured log lines, and the macros that write them.

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps its author.
    Debug,
    /// What happened.
    Info,
    /// What was not expected but dealt with.
    Warn,
    /// What failed.
    Error,
}

/// Writes a log line of the given level: a message as for `format!`, then fields after a semicolon. Nothing is evaluated
/// when the level is not kept. Never fails and never waits; over the bounds lines are cut or dropped.
///
/// ```
/// # use stem_guest::{Context, Level, TaskError};
/// # fn task(ctx: &Context, n: u32) -> Result<(), TaskError> {
/// stem_guest::log!(ctx, Level::Info, "rendered {n} tiles"; width = 640, file = "out.png");
/// stem_guest::warn!(ctx, "nothing to do");
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! log {
    ($ctx:expr, $level:expr, $format:literal $(, $argument:expr)* $(; $($name:ident = $value:expr),* $(,)?)?) => {{
        let (ctx, level): (&$crate::Context, $crate::Level) = ($ctx, $level);
        if ctx.log_enabled(level) {
            ctx.log(level, &::std::format!($format $(, $argument)*), &[$($((::std::stringify!($name), &$value)),*)?]);
        }
    }};
}

macro_rules! leveled {
    ($dollar:tt $($name:ident $level:ident),*) => {$(
        #[doc = concat!("[`log!`](crate::log!) at [`Level::", stringify!($level), "`].")]
        #[macro_export]
        macro_rules! $name {
            ($dollar ctx:expr, $dollar($dollar rest:tt)+) => {
                $crate::log!($dollar ctx, $crate::Level::$level, $dollar($dollar rest)+)
            };
        }
    )*};
}

leveled!($ trace Trace, debug Debug, info Info, warn Warn, error Error);
