//! Traps and errors → outcomes. The only place that classifies them.

use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopHow, StopReason};
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::interrupt::Shared;
use crate::limiter::Refused;

/// Why a host function, or an epoch check, ended the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostTrap {
    /// A stop was ordered.
    #[error("stopped by the host")]
    Stopped {
        /// Why.
        reason: StopReason,
        /// Where.
        how: StopHow,
    },
    /// CPU time is used up.
    #[error("the CPU time limit was reached")]
    CpuLimit,
    /// Host calls came faster than allowed.
    #[error("the host-call rate limit was reached")]
    HostCallFlood,
    /// Standard output of a command is over the result's limit.
    #[error("standard output is over the result's size limit")]
    ResultTooLarge,
}

/// What is known beside the error.
#[derive(Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) refused: Option<Refused>,
    pub(crate) memory_limit: u64,
    pub(crate) table_limit: u64,
    pub(crate) result_limit: u64,
}

/// The failure of a result over its limit.
pub(crate) fn result_too_large(limit: u64) -> Outcome {
    let message = format!(
        "the result is over {limit} bytes; keep large results outside and return where they are"
    );
    Outcome::fatal(FailureKind::PayloadTooLarge, stem_host_abi::RESULT_TOO_LARGE, &message)
}

/// The failure of an isolate that was refused memory or table entries.
pub(crate) fn over_memory(refused: Refused, memory_limit: u64, table_limit: u64) -> Outcome {
    let (code, message) = match refused {
        Refused::Memory => {
            ("memory-limit", format!("it needed more than {memory_limit} bytes of memory"))
        }
        Refused::Table => {
            ("table-limit", format!("it needed more than {table_limit} table entries"))
        }
        Refused::Growths => {
            ("growth-limit", "it grew its memory or tables too many times".to_owned())
        }
    };
    Outcome::failed(FailureKind::MemoryLimit, code, &message)
}

/// Classifies an error that came out of instantiating or calling a guest. Exits of commands are not errors and are
/// looked at before.
pub(crate) fn classify(error: &wasmtime::Error, seen: &Circumstances<'_>) -> Outcome {
    if let Some(trap) = error.downcast_ref::<HostTrap>() {
        return match *trap {
            HostTrap::Stopped { reason, how } => {
                Outcome::Stopped { reason, how, elapsed: seen.shared.stopping_for() }
            }
            HostTrap::CpuLimit => Outcome::fatal(
                FailureKind::CpuLimit,
                "cpu-limit",
                "it used up its CPU time; see the handler's limits.cpu",
            ),
            HostTrap::HostCallFlood => Outcome::fatal(
                FailureKind::CpuLimit,
                "host-call-limit",
                "it called the host more often than it may; see the handler's limits.host-calls",
            ),
            HostTrap::ResultTooLarge => result_too_large(seen.result_limit),
        };
    }
    // An error that a stop order brought about in a roundabout way (a host call that gave up) is still that stop.
    if let Some(reason) = seen.shared.forced() {
        return Outcome::Stopped {
            reason,
            how: StopHow::Preempted,
            elapsed: seen.shared.stopping_for(),
        };
    }
    if let Some(refused) = seen.refused {
        return over_memory(refused, seen.memory_limit, seen.table_limit);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Outcome::failed(
            FailureKind::Trap,
            code(*trap),
            &format!("{trap}{}", frames(error)),
        );
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        let message =
            format!("it called exit({code}); a task that is no command ends by returning");
        return Outcome::failed(FailureKind::Trap, "exit", &message);
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Outcome::Failed {
            failure: stem_core::outcome::Failure::new(
                FailureKind::BadModule,
                "pool-exhausted",
                "the worker had no room for another isolate",
            ),
            retry: RetryAdvice::Policy,
        };
    }
    let text = format!("{error:#}");
    // The engine's error for it is private; the text is pinned with the engine's version and covered by a test.
    if text.contains("too much data is being copied") {
        // No guest function was on the stack: the data is the result that the host reads after the call.
        if error.downcast_ref::<WasmBacktrace>().is_none() {
            return result_too_large(seen.result_limit);
        }
        let message = "it passed more data to the host in one call than it may";
        return Outcome::fatal(FailureKind::PayloadTooLarge, "call-too-large", message);
    }
    Outcome::failed(FailureKind::Trap, "trap", &format!("{text}{}", frames(error)))
}

fn code(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack-overflow",
        Trap::MemoryOutOfBounds => "memory-out-of-bounds",
        Trap::TableOutOfBounds => "table-out-of-bounds",
        Trap::IndirectCallToNull => "indirect-call-to-null",
        Trap::BadSignature => "bad-signature",
        Trap::IntegerOverflow => "integer-overflow",
        Trap::IntegerDivisionByZero => "division-by-zero",
        Trap::BadConversionToInteger => "bad-conversion",
        Trap::UnreachableCodeReached => "unreachable",
        _ => "trap",
    }
}

/// The innermost functions by name, for a failure's message.
fn frames(error: &wasmtime::Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let names: Vec<_> =
        trace.frames().iter().filter_map(|frame| frame.func_name()).take(5).collect();
    if names.is_empty() { String::new() } else { format!(" (in {})", names.join(" < ")) }
}
