//! What an attempt's guest gets before it begins: a store with every limit set, and the WASI side of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stem_core::outcome::StopHow;
use stem_host_abi::{command, limits};
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;

use super::{AttemptSpec, Sandbox};
use crate::exit::HostTrap;
use crate::host::abi;
use crate::host::stdio::Output;
use crate::host::{AttemptState, ComponentState};
use crate::limiter::Limiter;

/// Handles (streams, pollables, descriptors) a guest may hold at once.
const HANDLES: usize = 4_096;
/// Random bytes a guest may ask for in one call.
const RANDOM_BYTES: u64 = 64 << 10;
/// Bytes a guest may pass to the host in one call, beside its result: above every argument's own bound, so that those
/// answer first, and small enough that copying cannot be felt.
pub(super) const CALL_BYTES: usize = 2 << 20;

const _: () = assert!(
    CALL_BYTES > limits::CHECKPOINT_BYTES + limits::LOG_LINE_BYTES,
    "arguments answer before the fuel does"
);

/// A store with every limit set.
pub(super) fn store<T: 'static>(
    sandbox: &Sandbox,
    state: T,
    attempt: impl Fn(&mut T) -> &mut AttemptState + Copy + Send + Sync + 'static,
) -> Store<T> {
    let mut store = Store::new(&sandbox.engine, state);
    store.limiter(move |state| -> &mut dyn wasmtime::ResourceLimiter {
        let limiter: &mut Limiter = &mut attempt(state).limiter;
        limiter
    });
    store.set_hostcall_fuel(CALL_BYTES);
    store.set_epoch_deadline(1);
    let slices = Arc::clone(&sandbox.slices);
    let mut slice = slices.load(Ordering::Relaxed);
    store.epoch_deadline_callback(move |mut context| {
        let shared = &attempt(context.data_mut()).shared;
        if let Some(reason) = shared.forced() {
            return Err(wasmtime::Error::new(HostTrap::Stopped {
                reason,
                how: StopHow::Preempted,
            }));
        }
        if shared.cpu_is_used_up() {
            return Err(wasmtime::Error::new(HostTrap::CpuLimit));
        }
        // The epoch also rises when somebody else is stopped; only the end of a slice makes a guest give way.
        let now = slices.load(Ordering::Relaxed);
        Ok(if std::mem::replace(&mut slice, now) == now {
            UpdateDeadline::Continue(1)
        } else {
            UpdateDeadline::Yield(1)
        })
    });
    store
}

/// [`store`] for a component: also what it holds by handles is bounded.
pub(super) fn component_store(sandbox: &Sandbox, state: ComponentState) -> Store<ComponentState> {
    let mut store = store(sandbox, state, |state| &mut state.attempt);
    store.set_max_component_handles(HANDLES);
    store
}

/// What a component holds of the host's, bounded.
pub(super) fn resources() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES);
    table
}

/// The WASI side of an attempt: nothing but output, clocks and randomness; files come to it later.
pub(super) fn wasi(
    spec: &AttemptSpec,
    stdout: Output,
    stderr: Output,
    stdin: Option<Vec<u8>>,
) -> WasiCtxBuilder {
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdout(stdout).stderr(stderr).max_random_size(RANDOM_BYTES).arg(&spec.info.task_name);
    if let Some(stdin) = stdin {
        wasi.stdin(MemoryInputPipe::new(stdin));
    }
    wasi
}

/// Granted variables and settings. None stands for what the contract says to commands.
pub(super) fn settings(wasi: &mut WasiCtxBuilder, spec: &AttemptSpec) {
    let is_ours = |name: &str| name.starts_with("STEM_") || name == command::ENV_TRACEPARENT;
    for (name, value) in spec.granted.settings.iter().filter(|(name, _)| !is_ours(name)) {
        wasi.env(name, value);
    }
}

/// What a command finds in its environment and after its name.
pub(super) fn environment(wasi: &mut WasiCtxBuilder, spec: &AttemptSpec) {
    wasi.args(&spec.granted.arguments);
    settings(wasi, spec);
    let info = &spec.info;
    let deadline = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_add(spec.limits.hard);
    wasi.env(command::ENV_TASK_ID, &info.task_id)
        .env(command::ENV_TASK_NAME, &info.task_name)
        .env(command::ENV_QUEUE, &info.queue)
        .env(command::ENV_ATTEMPT, info.attempt.to_string())
        .env(command::ENV_DEADLINE_MS, abi::millis(deadline).to_string())
        .env(command::ENV_IDEMPOTENCY_KEY, &info.idempotency_key)
        .env(command::ENV_MEDIA_TYPE, &spec.input.media_type);
    if let Some(attempts) = info.max_attempts {
        wasi.env(command::ENV_MAX_ATTEMPTS, attempts.to_string());
    }
    if let Some(trace) = &info.trace_parent {
        wasi.env(command::ENV_TRACEPARENT, trace);
    }
}
