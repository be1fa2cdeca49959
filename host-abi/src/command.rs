//! WASI commands: what the environment holds, what exit codes mean, how a failure is told on standard error.

/// The task's id.
pub const ENV_TASK_ID: &str = "STEM_TASK_ID";
/// The name under which the task was enqueued; also the only argument (`argv[0]`).
pub const ENV_TASK_NAME: &str = "STEM_TASK_NAME";
/// The queue the task came from.
pub const ENV_QUEUE: &str = "STEM_QUEUE";
/// Number of this attempt in decimal, 1 for the first.
pub const ENV_ATTEMPT: &str = "STEM_ATTEMPT";
/// Number of attempts allowed in decimal; not set when there is no bound.
pub const ENV_MAX_ATTEMPTS: &str = "STEM_MAX_ATTEMPTS";
/// When the hard time limit ends the attempt, in decimal Unix milliseconds.
pub const ENV_DEADLINE_MS: &str = "STEM_DEADLINE_MS";
/// The same in every attempt of this task and in no other task.
pub const ENV_IDEMPOTENCY_KEY: &str = "STEM_IDEMPOTENCY_KEY";
/// Media type of the bytes on standard input.
pub const ENV_MEDIA_TYPE: &str = "STEM_MEDIA_TYPE";
/// W3C trace context; not set when none came with the task.
pub const ENV_TRACEPARENT: &str = "TRACEPARENT";

/// Every variable a command may find, in the order of the README's table.
pub const ENVIRONMENT: [&str; 9] = [
    ENV_TASK_ID,
    ENV_TASK_NAME,
    ENV_QUEUE,
    ENV_ATTEMPT,
    ENV_MAX_ATTEMPTS,
    ENV_DEADLINE_MS,
    ENV_IDEMPOTENCY_KEY,
    ENV_MEDIA_TYPE,
    ENV_TRACEPARENT,
];

/// The result is what stands on standard output.
pub const EXIT_OK: i32 = 0;
/// Wrong usage (`EX_USAGE` of sysexits): fatal.
pub const EXIT_USAGE: i32 = 64;
/// Wrong input data (`EX_DATAERR`): fatal.
pub const EXIT_DATA: i32 = 65;
/// A temporary failure (`EX_TEMPFAIL`): retryable.
pub const EXIT_RETRYABLE: i32 = 75;
/// Wrong configuration (`EX_CONFIG`): fatal.
pub const EXIT_CONFIG: i32 = 78;
/// The program stopped because it was asked to: cancelled. Not a sysexits number; the first one above them.
pub const EXIT_CANCELLED: i32 = 79;

/// The codes that mean [`KIND_FATAL`].
pub const FATAL_EXITS: [i32; 3] = [EXIT_USAGE, EXIT_DATA, EXIT_CONFIG];

/// Begins the line of standard error that tells how the attempt failed. One JSON object follows up to the line's
/// end. The line starts at its first column; the last such line that can be read counts.
pub const STEM_ERROR_PREFIX: &str = "stem-error: ";

/// The longest line, prefix included, that is looked at as a failure report. A longer one is only a log line.
pub const STEM_ERROR_LINE_BYTES: usize = crate::limits::LOG_LINE_BYTES;

/// `kind` of a failure that may be tried again.
pub const KIND_RETRYABLE: &str = "retryable";
/// `kind` of a failure that ends the task.
pub const KIND_FATAL: &str = "fatal";
/// `kind` of an attempt that gave up on a stop notice.
pub const KIND_CANCELLED: &str = "cancelled";
