//! Bounds on what a guest hands to its worker. Sizes are in bytes, of UTF-8 where the value is text.
//!
//! These are the defaults of the contract: a worker may be set to less, never to more without saying so. What
//! happens at a bound (cut, dropped, refused, failed) is part of the contract too and stated at each.

use std::time::Duration;

/// One KiB.
const KIB: usize = 1024;
/// One MiB.
const MIB: usize = 1024 * KIB;

/// One log line: message, field names and field values together. The rest is cut at a character boundary.
/// Also the length at which a line of standard error is cut.
pub const LOG_LINE_BYTES: usize = 4096;

/// Fields of one log line. The rest is left out.
pub const LOG_FIELDS: usize = 32;

/// Log lines a second once the burst is used up. Further lines are dropped and counted.
pub const LOG_LINES_PER_SECOND: u32 = 100;

/// Log lines that may come at once, before the rate applies.
pub const LOG_BURST: u32 = 500;

/// All log lines of one attempt, standard error included. Further lines are dropped and counted.
pub const LOG_BYTES_PER_ATTEMPT: usize = MIB;

/// Message of a progress update. Over it the call is refused as too large.
pub const PROGRESS_MESSAGE_BYTES: usize = KIB;

/// Data of a progress update. Over it the call is refused as too large.
pub const PROGRESS_DATA_BYTES: usize = 16 * KIB;

/// Progress updates a second that leave the worker. More are merged: the newest wins.
pub const PROGRESS_UPDATES_PER_SECOND: u32 = 5;

/// The longest that a heartbeat or a progress update stays in the worker before it is passed on.
pub const HEARTBEAT_FLUSH: Duration = Duration::from_secs(1);

/// Lease extensions a second that reach the broker. More are answered from what the worker knows.
pub const LEASE_EXTENSIONS_PER_SECOND: u32 = 1;

/// A saved checkpoint. Over it the call is refused as too large and the former value stays.
pub const CHECKPOINT_BYTES: usize = 256 * KIB;

/// Tasks of one `children.enqueue`. With more the call is refused as invalid.
pub const CHILDREN_PER_CALL: usize = 100;

/// Tasks that one attempt enqueues. A call that would pass it is refused for its quota.
pub const CHILDREN_PER_ATTEMPT: usize = 1000;

/// The longest delay of a child; longer ones are taken as this.
pub const CHILD_DELAY_CAP: Duration = Duration::from_hours(24 * 365);

/// The name of a bucket. Over it the call is refused as too large.
pub const KV_BUCKET_BYTES: usize = 128;

/// A key in a bucket. Over it the call is refused as too large.
pub const KV_KEY_BYTES: usize = 512;

/// A value in a bucket. Over it the call is refused as too large.
pub const KV_VALUE_BYTES: usize = 64 * KIB;

/// What one attempt writes into buckets: bucket names, keys and values together. A call that would pass it is refused for its
/// quota, so that no guest fills the store that everybody's tasks wait in.
pub const KV_BYTES_PER_ATTEMPT: usize = 64 * MIB;

/// The least that a write counts, whatever its size: a store needs room for more than the value.
pub const KV_BYTES_PER_WRITE: usize = 512;

/// The longest that a value with a time to live is kept; longer ones are taken as this.
pub const KV_TTL_CAP: Duration = Duration::from_hours(24 * 3650);

/// The name of a setting or of a secret. Over it the call is refused as too large.
pub const SETTING_NAME_BYTES: usize = 128;

/// A task's payload. Over it the task is refused when enqueued.
pub const PAYLOAD_BYTES: usize = MIB;

/// An attempt's result. Over it the attempt fails as [`RESULT_TOO_LARGE`](crate::RESULT_TOO_LARGE), never cut.
pub const RESULT_BYTES: usize = MIB;

/// A media type. Over it the payload or result is treated as [`OCTET_STREAM`](crate::OCTET_STREAM).
pub const MEDIA_TYPE_BYTES: usize = 255;

/// A failure's code. The rest is cut.
pub const FAILURE_CODE_BYTES: usize = 64;

/// A failure's message. The rest is cut at a character boundary.
pub const FAILURE_MESSAGE_BYTES: usize = 4096;

/// A failure's detail. A longer one is left out and that is noted in the log.
pub const FAILURE_DETAIL_BYTES: usize = 16 * KIB;

/// The longest delay a failed attempt can ask for before the next; longer ones are taken as this.
pub const NOT_BEFORE_CAP: Duration = Duration::from_hours(24);
