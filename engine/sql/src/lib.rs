//! Every backend on SQL databases. SQLite is the embedded default: one file, several processes at once. Postgres is for
//! many machines.
//!
//! | module | what it holds |
//! |---|---|
//! | [`sqlite`] | all eight traits on one SQLite file |
//! | [`postgres`] | all eight traits on one schema of a Postgres database |
//! | `bells` | waking whoever waits for a change |
//! | `fault` | what went wrong, as a class and words for people |
//! | `codec` | rows to the core's types and back; batches as one argument |
//! | `lanes` | where a claim with shares looks, and which deliveries it takes |
//! | `envelopes` | reading what was stored, and why it is given up if it cannot be read |
//! | `record` | what a settlement means for a record, decided apart from any statement |
//! | `shelf` | rows of releases to the core's types |
//! | `queue_status` | rows of counts to the queues that an operator sees |
//!
//! Batches travel as arrays (and one packed blob for bytes) into one statement, so a batch costs a handful of round
//! trips whatever its length.

mod bells;
mod codec;
mod envelopes;
mod fault;
mod lanes;
pub mod postgres;
mod queue_status;
mod record;
mod replay;
mod shelf;
pub mod sqlite;

pub use postgres::{Postgres, PostgresOptions, check_url};
pub use sqlite::{Sqlite, SqliteOptions};
