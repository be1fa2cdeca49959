//! `stem0`: the same functions for core modules, by number and offset. The host calls no allocator of the guest and
//! writes only into a buffer that the guest names in the same call. An offset outside the memory is the guest's bug:
//! it traps.

mod checkpoint;
mod children;
mod kv;
mod settings;
mod stop_notice;

use std::time::Duration;

use stem_core::task::Progress;
use stem_host_abi::{limits, raw};
use wasmtime::{Caller, Extern, Linker};

use super::abi::{millis, types::HostError};
use super::{CoreState, LogLevel};
use crate::report::Report;

/// What a core module reads and writes beside the attempt.
#[derive(Debug)]
pub(crate) struct RawState {
    pub(crate) input: Vec<u8>,
    /// What it has given of its result; `None` before the first time.
    pub(crate) output: Option<Vec<u8>>,
    /// It would have given more than a result may have.
    pub(crate) output_refused: bool,
    pub(crate) report: Option<Report>,
    info: Vec<u8>,
}

impl RawState {
    pub(crate) fn new(input: Vec<u8>, info: Vec<u8>) -> Self {
        Self { input, output: None, output_refused: false, report: None, info }
    }
}

type Here<'a> = Caller<'a, CoreState>;

fn code(error: &HostError) -> i32 {
    match error {
        HostError::Denied(_) => raw::ERR_DENIED,
        HostError::Invalid(_) => raw::ERR_INVALID,
        HostError::TooLarge(_) => raw::ERR_TOO_LARGE,
        HostError::NotFound => raw::ERR_NOT_FOUND,
        HostError::Conflict => raw::ERR_CONFLICT,
        HostError::Quota(_) => raw::ERR_QUOTA,
        HostError::Unavailable(_) | HostError::Other(_) => raw::ERR_UNAVAILABLE,
        HostError::Stopping => raw::ERR_STOPPING,
    }
}

fn out_of_bounds() -> wasmtime::Error {
    wasmtime::Error::new(wasmtime::Trap::MemoryOutOfBounds)
}

/// The guest's memory and the state, borrowed apart.
fn split<'a>(here: &'a mut Here<'_>) -> wasmtime::Result<(&'a mut [u8], &'a mut CoreState)> {
    let memory = here
        .get_export(raw::EXPORT_MEMORY)
        .and_then(Extern::into_memory)
        .ok_or_else(out_of_bounds)?;
    Ok(memory.data_and_store_mut(here))
}

/// Offset and length as a range; `None` for a negative length. Offsets are unsigned, as the guest's pointers are.
fn range(start: i32, len: i32) -> Option<std::ops::Range<usize>> {
    let start = start.cast_unsigned() as usize;
    usize::try_from(len).ok().map(|len| start..start + len)
}

/// A text of the guest, at most `limit` bytes of it. `Err` is an answer for the guest.
fn text(memory: &[u8], start: i32, len: i32, limit: usize) -> wasmtime::Result<Result<&str, i32>> {
    let Some(range) = range(start, len) else { return Ok(Err(raw::ERR_INVALID)) };
    let bytes = memory.get(range).ok_or_else(out_of_bounds)?;
    if bytes.len() > limit {
        return Ok(Err(raw::ERR_TOO_LARGE));
    }
    Ok(std::str::from_utf8(bytes).map_err(|_| raw::ERR_INVALID))
}

/// Copies as much of `from` as the buffer holds, and says how much.
fn copy_out(memory: &mut [u8], from: &[u8], start: i32, len: i32) -> wasmtime::Result<i32> {
    let Some(range) = range(start, len) else { return Ok(raw::ERR_INVALID) };
    let buffer = memory.get_mut(range).ok_or_else(out_of_bounds)?;
    let count = from.len().min(buffer.len());
    buffer[..count].copy_from_slice(&from[..count]);
    Ok(i32::try_from(count).unwrap_or(i32::MAX))
}

/// How a function ends early: with a code for the guest, or for good.
enum End {
    Code(i32),
    Trap(wasmtime::Error),
}

impl From<wasmtime::Error> for End {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl From<HostError> for End {
    fn from(error: HostError) -> Self {
        Self::Code(code(&error))
    }
}

fn ended(answer: Result<i32, End>) -> wasmtime::Result<i32> {
    match answer {
        Ok(answer) | Err(End::Code(answer)) => Ok(answer),
        Err(End::Trap(error)) => Err(error),
    }
}

fn ended_long(answer: Result<i64, End>) -> wasmtime::Result<i64> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(End::Code(code)) => Ok(i64::from(code)),
        Err(End::Trap(error)) => Err(error),
    }
}

/// Bytes of the guest to keep, at most `limit`.
fn bytes(here: &mut Here<'_>, start: i32, len: i32, limit: usize) -> Result<Vec<u8>, End> {
    let (memory, _) = split(here)?;
    let range = range(start, len).ok_or(End::Code(raw::ERR_INVALID))?;
    let bytes = memory.get(range).ok_or_else(out_of_bounds)?;
    if bytes.len() > limit {
        return Err(End::Code(raw::ERR_TOO_LARGE));
    }
    Ok(bytes.to_vec())
}

/// A text of the guest to keep, at most `limit` bytes.
fn owned(here: &mut Here<'_>, start: i32, len: i32, limit: usize) -> Result<String, End> {
    String::from_utf8(bytes(here, start, len, limit)?).map_err(|_| End::Code(raw::ERR_INVALID))
}

/// Copies as much of an answer as the guest's buffer holds, and says how large the answer is.
fn answer(here: &mut Here<'_>, from: &[u8], to: i32, capacity: i32) -> Result<i32, End> {
    let (memory, _) = split(here)?;
    match copy_out(memory, from, to, capacity)? {
        copied if copied < 0 => Err(End::Code(copied)),
        _ => Ok(i32::try_from(from.len()).unwrap_or(i32::MAX)),
    }
}

fn stop_asked(pending: bool) -> i32 {
    if pending { raw::STOP_ASKED } else { raw::GO_ON }
}

/// Adds every `stem0` function.
pub(crate) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap(
        raw::MODULE,
        raw::INPUT_LEN,
        |mut here: Here<'_>| -> wasmtime::Result<i64> {
            here.data_mut().attempt.enter()?;
            Ok(i64::try_from(here.data().raw.input.len()).unwrap_or(i64::MAX))
        },
    )?;
    linker.func_wrap(
        raw::MODULE,
        raw::INPUT_READ,
        |mut here: Here<'_>, to: i32, offset: i64, len: i32| {
            here.data_mut().attempt.enter()?;
            let (memory, state) = split(&mut here)?;
            let Ok(offset) = usize::try_from(offset) else { return Ok(raw::ERR_INVALID) };
            copy_out(memory, state.raw.input.get(offset..).unwrap_or_default(), to, len)
        },
    )?;
    linker.func_wrap(
        raw::MODULE,
        raw::OUTPUT_WRITE,
        |mut here: Here<'_>, from: i32, len: i32| {
            here.data_mut().attempt.enter()?;
            let (memory, state) = split(&mut here)?;
            let Some(range) = range(from, len) else { return Ok(raw::ERR_INVALID) };
            let bytes = memory.get(range).ok_or_else(out_of_bounds)?;
            let output = state.raw.output.get_or_insert_default();
            if (output.len() + bytes.len()) as u64 > state.attempt.limits.result_bytes {
                state.raw.output_refused = true;
                return Ok(raw::ERR_TOO_LARGE);
            }
            output.extend_from_slice(bytes);
            wasmtime::Result::Ok(0)
        },
    )?;
    linker.func_wrap(
        raw::MODULE,
        raw::FAIL,
        |mut here: Here<'_>, kind: i32, delay: i64, from: i32, len: i32| {
            here.data_mut().attempt.enter()?;
            let (memory, state) = split(&mut here)?;
            let report = match text(memory, from, len, raw::FAIL_BYTES)? {
                Ok(text) => Report::from_call(kind, delay, text),
                Err(code) => return wasmtime::Result::Ok(code),
            };
            Ok(match report {
                Some(report) => {
                    state.raw.report = Some(report);
                    0
                }
                None => raw::ERR_INVALID,
            })
        },
    )?;
    linker.func_wrap(
        raw::MODULE,
        raw::HEARTBEAT,
        |mut here: Here<'_>| -> wasmtime::Result<i32> {
            Ok(stop_asked(here.data_mut().attempt.heartbeat()?.is_some()))
        },
    )?;
    linker.func_wrap_async(
        raw::MODULE,
        raw::EXTEND_LEASE,
        |mut here: Here<'_>, (by,): (i64,)| {
            Box::new(async move {
                let Ok(by) = u64::try_from(by) else {
                    here.data_mut().attempt.enter()?;
                    return Ok(i64::from(raw::ERR_INVALID));
                };
                wasmtime::Result::Ok(
                    match here.data_mut().attempt.extend(Duration::from_millis(by)).await? {
                        Ok(left) => i64::try_from(millis(left)).unwrap_or(i64::MAX),
                        Err(refusal) => i64::from(code(&refusal.into())),
                    },
                )
            })
        },
    )?;
    linker.func_wrap(
        raw::MODULE,
        raw::PROGRESS,
        |mut here: Here<'_>, permille: i32, from: i32, len: i32| {
            here.data_mut().attempt.checkpoint()?;
            let (memory, state) = split(&mut here)?;
            let message = match text(memory, from, len, limits::PROGRESS_MESSAGE_BYTES)? {
                Ok(message) => Some(message.to_owned()).filter(|message| !message.is_empty()),
                Err(code) => return wasmtime::Result::Ok(code),
            };
            let fraction = match permille {
                raw::PERMILLE_UNKNOWN => None,
                0..=1000 => Some(f64::from(permille) / 1000.0),
                _ => return Ok(raw::ERR_INVALID),
            };
            Ok(match state.attempt.report(Progress { fraction, message, data: None }) {
                // Only now: a guest whose update is refused is not told.
                Ok(()) => stop_asked(state.attempt.notice().is_some()),
                Err(error) => code(&error),
            })
        },
    )?;
    linker.func_wrap(
        raw::MODULE,
        raw::LOG,
        |mut here: Here<'_>, level: i32, from: i32, len: i32| -> wasmtime::Result<()> {
            here.data_mut().attempt.enter()?;
            let (memory, state) = split(&mut here)?;
            let level = match level {
                0 => LogLevel::Trace,
                1 => LogLevel::Debug,
                3 => LogLevel::Warn,
                4 => LogLevel::Error,
                _ => LogLevel::Info,
            };
            if let Some(range) = range(from, len) {
                let bytes = memory.get(range).ok_or_else(out_of_bounds)?;
                let kept = &bytes[..bytes.len().min(limits::LOG_LINE_BYTES + 1)];
                state.attempt.logs.write(level, &String::from_utf8_lossy(kept), &[]);
            }
            Ok(())
        },
    )?;
    linker.func_wrap_async(
        raw::MODULE,
        raw::SLEEP,
        |mut here: Here<'_>, (duration,): (i64,)| {
            Box::new(async move {
                let attempt = &mut here.data_mut().attempt;
                attempt.checkpoint()?;
                let Ok(duration) = u64::try_from(duration) else { return Ok(raw::ERR_INVALID) };
                wasmtime::Result::Ok(if attempt.wait(Duration::from_millis(duration)).await? {
                    0
                } else {
                    raw::ERR_STOPPING
                })
            })
        },
    )?;
    linker.func_wrap(raw::MODULE, raw::TIME_LEFT, |mut here: Here<'_>, which: i32| {
        let attempt = &mut here.data_mut().attempt;
        attempt.enter()?;
        let (soft, hard) = attempt.time_left();
        let left = |left: Duration| i64::try_from(millis(left)).unwrap_or(i64::MAX);
        wasmtime::Result::Ok(match which {
            raw::TIME_LEFT_SOFT => soft.map_or(raw::NO_LIMIT, left),
            raw::TIME_LEFT_HARD => left(hard),
            _ => i64::from(raw::ERR_INVALID),
        })
    })?;
    linker.func_wrap(raw::MODULE, raw::INFO, |mut here: Here<'_>, to: i32, capacity: i32| {
        here.data_mut().attempt.enter()?;
        let (memory, state) = split(&mut here)?;
        let copied = copy_out(memory, &state.raw.info, to, capacity)?;
        if copied < 0 {
            return Ok(copied);
        }
        wasmtime::Result::Ok(i32::try_from(state.raw.info.len()).unwrap_or(i32::MAX))
    })?;
    checkpoint::add_to_linker(linker)?;
    children::add_to_linker(linker)?;
    kv::add_to_linker(linker)?;
    settings::add_to_linker(linker)?;
    stop_notice::add_to_linker(linker)
}

/// Whether a module gives its result by `output_write`.
pub(crate) fn gives_its_result(module: &wasmtime::Module) -> bool {
    module
        .imports()
        .any(|import| (import.module(), import.name()) == (raw::MODULE, raw::OUTPUT_WRITE))
}
