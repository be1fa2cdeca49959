//! A task in a worker: the host's functions through the generated bindings, and the way from the exported function to
//! the author's.

use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use crate::Context;
use crate::bindings::exports::stem::task::handler;
use crate::bindings::stem::task::{
    checkpoint, children, config, context, kv, lifecycle, log, secrets, types,
};
use crate::children::{Child, Release};
use crate::error::{FailureKind, HostError, StopNotice, TaskError, encode};
use crate::host::{Host, TaskInfo};
use crate::kv::{Entry, When};
use crate::log::Level;
use crate::payload::{Binary, Input, Output};
use crate::progress::Progress;

/// One attempt of `task`.
pub fn run<A: Input, O: Output>(
    task: fn(&Context, A) -> Result<O, TaskError>,
    input: handler::Payload,
) -> Result<handler::Payload, handler::TaskError> {
    std::panic::set_hook(Box::new(report_panic));
    let context = Context::new(Rc::new(Worker));
    let result = A::from_payload(input.into()).and_then(|args| task(&context, args));
    encode(result).map(Into::into).map_err(Into::into)
}

/// Sends the panic to the task's log: standard error is not there on every target, and the trap that follows has no text.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("a value that is not text");
    let fields = panic
        .location()
        .map(|place| vec![("location".to_owned(), place.to_string())])
        .unwrap_or_default();
    log::write(log::Level::Error, &format!("panicked: {text}"), &fields);
}

pub(crate) struct Worker;

impl Host for Worker {
    fn info(&self) -> TaskInfo {
        let info = context::info();
        TaskInfo {
            task_id: info.task_id,
            task_name: info.task_name,
            queue: info.queue,
            attempt: info.attempt,
            max_attempts: info.max_attempts,
            enqueued_at: UNIX_EPOCH + Duration::from_millis(info.enqueued_at),
            parent_id: info.parent_id,
            root_id: info.root_id,
            idempotency_key: info.idempotency_key,
            trace_parent: info.trace_parent,
            headers: info.headers,
        }
    }

    fn heartbeat(&self) -> Option<StopNotice> {
        lifecycle::heartbeat().map(Into::into)
    }

    fn extend_lease(&self, by: Duration) -> Result<Duration, HostError> {
        Ok(Duration::from_millis(lifecycle::extend_lease(millis(by))?))
    }

    fn progress(&self, update: &Progress) -> Result<Option<StopNotice>, HostError> {
        let update = lifecycle::ProgressUpdate {
            fraction: update.fraction,
            message: update.message.clone(),
            data: update.data.clone().map(Into::into),
        };
        Ok(lifecycle::progress(&update)?.map(Into::into))
    }

    fn stop_requested(&self) -> Option<StopNotice> {
        lifecycle::stop_requested().map(Into::into)
    }

    fn time_left(&self) -> (Option<Duration>, Option<Duration>) {
        let (soft, hard) = lifecycle::time_left();
        (soft.map(Duration::from_millis), hard.map(Duration::from_millis))
    }

    fn sleep(&self, duration: Duration) -> Result<(), HostError> {
        Ok(lifecycle::sleep(millis(duration))?)
    }

    fn log(&self, level: Level, message: &str, fields: &[(String, String)]) {
        log::write(level.into(), message, fields);
    }

    fn log_enabled(&self, level: Level) -> bool {
        log::is_enabled(level.into())
    }

    fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, HostError> {
        Ok(checkpoint::load()?)
    }

    fn save_checkpoint(&self, state: &[u8]) -> Result<(), HostError> {
        Ok(checkpoint::save(state)?)
    }

    fn enqueue(&self, children: Vec<Child>, release: Release) -> Result<Vec<String>, HostError> {
        let requests = children.into_iter().map(request).collect::<Result<Vec<_>, _>>()?;
        let release = match release {
            Release::Now => children::Release::Now,
            Release::OnSuccess => children::Release::OnSuccess,
        };
        Ok(children::enqueue(&requests, release)?)
    }

    fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, HostError> {
        let entry = kv::get(bucket, key)?;
        Ok(entry.map(|kv::Entry { value, version }| Entry { value, version }))
    }

    fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<u64, HostError> {
        Ok(kv::put(bucket, key, value, when.into(), ttl.map(millis))?)
    }

    fn remove(&self, bucket: &str, key: &str, when: When) -> Result<(), HostError> {
        Ok(kv::remove(bucket, key, when.into())?)
    }

    fn setting(&self, key: &str) -> Result<Option<String>, HostError> {
        Ok(config::get(key)?)
    }

    fn placeholder(&self, secret: &str) -> Result<String, HostError> {
        Ok(secrets::placeholder(secret)?)
    }

    fn reveal(&self, secret: &str) -> Result<Vec<u8>, HostError> {
        Ok(secrets::reveal(secret)?)
    }
}

fn request(child: Child) -> Result<children::Request, HostError> {
    Ok(children::Request {
        task_name: child.task_name,
        queue: child.queue,
        input: child.input.map_err(HostError::Invalid)?.into(),
        delay: child.delay.map(millis),
        dedup_key: child.dedup_key,
        headers: child.headers,
    })
}

impl From<When> for kv::Condition {
    fn from(when: When) -> Self {
        match when {
            When::Always => Self::Always,
            When::Absent => Self::IfAbsent,
            When::Version(version) => Self::IfVersion(version),
        }
    }
}

/// Rounded up, so that a wait of half a millisecond is a wait; the contract takes longer spans as the longest.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl From<types::Payload> for Binary {
    fn from(payload: types::Payload) -> Self {
        Self { media_type: payload.media_type, bytes: payload.bytes }
    }
}

impl From<Binary> for types::Payload {
    fn from(binary: Binary) -> Self {
        Self { media_type: binary.media_type, bytes: binary.bytes }
    }
}

impl From<types::StopNotice> for StopNotice {
    fn from(notice: types::StopNotice) -> Self {
        Self {
            code: notice.code,
            message: notice.message,
            grace: notice.grace.map(Duration::from_millis),
        }
    }
}

impl From<types::HostError> for HostError {
    fn from(error: types::HostError) -> Self {
        match error {
            types::HostError::Denied(text) => Self::Denied(text),
            types::HostError::Invalid(text) => Self::Invalid(text),
            types::HostError::TooLarge(bound) => Self::TooLarge(bound),
            types::HostError::NotFound => Self::NotFound,
            types::HostError::Conflict => Self::Conflict,
            types::HostError::Quota(text) => Self::Quota(text),
            types::HostError::Unavailable(text) => Self::Unavailable(text),
            types::HostError::Stopping => Self::Stopping,
            types::HostError::Other(text) => Self::Other(text),
        }
    }
}

impl From<TaskError> for types::TaskError {
    fn from(error: TaskError) -> Self {
        let cause = types::Failure {
            code: error.code,
            message: error.message,
            detail: error.detail.map(Into::into),
        };
        match error.kind {
            FailureKind::Retryable => Self::Retryable(types::RetryableFailure {
                cause,
                not_before: error.not_before.map(millis),
            }),
            FailureKind::Fatal => Self::Fatal(cause),
            FailureKind::Cancelled => Self::Cancelled(cause),
        }
    }
}

impl From<Level> for log::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}
