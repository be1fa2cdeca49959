//! Core modules: the names and numbers of the `stem0` functions. Signatures and meaning are in the README.

/// The only module a core module may import from, beside `wasi_snapshot_preview1`.
/// The digit is the version: a break would be called `stem1`.
pub const MODULE: &str = "stem0";

/// Exported function `() -> i32`, called once: 0 is success.
pub const EXPORT_RUN: &str = "stem_run";
/// Exported memory that every pointer points into.
pub const EXPORT_MEMORY: &str = "memory";

/// `() -> i64`: size of the payload.
pub const INPUT_LEN: &str = "input_len";
/// `(dst i32, off i64, len i32) -> i32`: copies a part of the payload, returns how much.
pub const INPUT_READ: &str = "input_read";
/// `(src i32, len i32) -> i32`: appends to the result, returns 0. A command that imports it has its result from here.
pub const OUTPUT_WRITE: &str = "output_write";
/// `(kind i32, delay_ms i64, src i32, len i32) -> i32`: says how the attempt failed, returns 0.
pub const FAIL: &str = "fail";
/// `() -> i32`: [`GO_ON`] or [`STOP_ASKED`].
pub const HEARTBEAT: &str = "heartbeat";
/// `(dst i32, cap i32) -> i32`: the pending stop notice as JSON, returns its full size.
pub const STOP_NOTICE: &str = "stop_notice";
/// `(ms i64) -> i64`: milliseconds left on the lease.
pub const EXTEND_LEASE: &str = "extend_lease";
/// `(permille i32, src i32, len i32) -> i32`: answers as a heartbeat.
pub const PROGRESS: &str = "progress";
/// `(level i32, src i32, len i32)`: level 0 trace to 4 error.
pub const LOG: &str = "log";
/// `(ms i64) -> i32`: 0 after the wait.
pub const SLEEP: &str = "sleep";
/// `(which i32) -> i64`: milliseconds left.
pub const TIME_LEFT: &str = "time_left";
/// `(dst i32, cap i32) -> i32`: task info as JSON, returns its full size.
pub const INFO: &str = "info";
/// `(dst i32, cap i32) -> i32`: the checkpoint, returns its full size.
pub const CHECKPOINT_LOAD: &str = "checkpoint_load";
/// `(src i32, len i32) -> i32`: replaces the checkpoint, returns 0.
pub const CHECKPOINT_SAVE: &str = "checkpoint_save";
/// `(src i32, len i32, release i32, dst i32, cap i32) -> i32`: enqueues tasks, returns the full size of their ids as JSON.
pub const CHILDREN_ENQUEUE: &str = "children_enqueue";
/// `(bucket i32, bucket_len i32, key i32, key_len i32, dst i32, cap i32, version i32) -> i32`: a value, returns its full
/// size.
pub const KV_GET: &str = "kv_get";
/// `(bucket i32, bucket_len i32, key i32, key_len i32, src i32, len i32, when i32, version i64, ttl_ms i64) -> i64`:
/// replaces a value, returns its version.
pub const KV_PUT: &str = "kv_put";
/// `(bucket i32, bucket_len i32, key i32, key_len i32, when i32, version i64) -> i32`: removes a value, returns 0.
pub const KV_REMOVE: &str = "kv_remove";
/// `(key i32, key_len i32, dst i32, cap i32) -> i32`: a setting, returns its full size.
pub const CONFIG_GET: &str = "config_get";
/// `(name i32, name_len i32, dst i32, cap i32) -> i32`: what stands for a secret, returns its full size.
pub const SECRET_PLACEHOLDER: &str = "secret_placeholder";
/// `(name i32, name_len i32, dst i32, cap i32) -> i32`: a secret, returns its full size.
pub const SECRET_REVEAL: &str = "secret_reveal";

/// Every function of [`MODULE`], in the README's order.
pub const FUNCTIONS: [&str; 21] = [
    INPUT_LEN,
    INPUT_READ,
    OUTPUT_WRITE,
    FAIL,
    HEARTBEAT,
    STOP_NOTICE,
    EXTEND_LEASE,
    PROGRESS,
    LOG,
    SLEEP,
    TIME_LEFT,
    INFO,
    CHECKPOINT_LOAD,
    CHECKPOINT_SAVE,
    CHILDREN_ENQUEUE,
    KV_GET,
    KV_PUT,
    KV_REMOVE,
    CONFIG_GET,
    SECRET_PLACEHOLDER,
    SECRET_REVEAL,
];

/// No grant covers the call.
pub const ERR_DENIED: i32 = -1;
/// An argument is out of its range.
pub const ERR_INVALID: i32 = -2;
/// An argument is over its size bound.
pub const ERR_TOO_LARGE: i32 = -3;
/// The named thing does not exist.
pub const ERR_NOT_FOUND: i32 = -4;
/// A condition of the call did not hold.
pub const ERR_CONFLICT: i32 = -5;
/// A rate or a count is used up.
pub const ERR_QUOTA: i32 = -6;
/// The service behind the call did not do its work; a later call may succeed.
pub const ERR_UNAVAILABLE: i32 = -7;
/// A stop notice is pending and cut the call short.
pub const ERR_STOPPING: i32 = -8;

/// `fail`: may be tried again.
pub const FAIL_RETRYABLE: i32 = 1;
/// `fail`: ends the task.
pub const FAIL_FATAL: i32 = 2;
/// `fail`: gave up on a stop notice.
pub const FAIL_CANCELLED: i32 = 3;

/// The JSON text of one `fail` call. Over it the call returns [`ERR_TOO_LARGE`] and changes nothing.
pub const FAIL_BYTES: usize = 32 * 1024;

/// `heartbeat`, `progress`: no stop notice is pending.
pub const GO_ON: i32 = 0;
/// `heartbeat`, `progress`: a stop notice is pending.
pub const STOP_ASKED: i32 = 1;

/// `progress`: the share of work done cannot be told.
pub const PERMILLE_UNKNOWN: i32 = -1;

/// `time_left`: until the soft limit.
pub const TIME_LEFT_SOFT: i32 = 0;
/// `time_left`: until the hard limit.
pub const TIME_LEFT_HARD: i32 = 1;
/// `time_left` answers this where no limit is set; here it is not [`ERR_DENIED`].
pub const NO_LIMIT: i64 = -1;

/// The JSON text of one `children_enqueue` call. Over it the call returns [`ERR_TOO_LARGE`] and enqueues nothing.
pub const CHILDREN_BYTES: usize = 2 * 1024 * 1024;

/// `children_enqueue`: at once.
pub const RELEASE_NOW: i32 = 0;
/// `children_enqueue`: with this attempt's success.
pub const RELEASE_ON_SUCCESS: i32 = 1;

/// `kv_put`, `kv_remove`: in any case.
pub const KV_ALWAYS: i32 = 0;
/// `kv_put`: if there is no value.
pub const KV_IF_ABSENT: i32 = 1;
/// `kv_put`, `kv_remove`: if the value has the given version.
pub const KV_IF_VERSION: i32 = 2;
