//! Every backend on SQL databases. SQLite is the embedded default: one file, several processes at once.
//!
//! | module | what it holds |
//! |---|---|
//! | [`sqlite`] | all six traits on one SQLite file |
//! | `fault` | what went wrong, as a class and words for people |
//! | `codec` | rows to the core's types and back; batches as one JSON argument |
//! | `record` | what a settlement means for a record, decided apart from any statement |
//!
//! Batches travel as one JSON array (and one packed blob for bytes) into one statement, so a batch costs a handful of
//! round trips whatever its length.

mod codec;
mod fault;
mod record;
pub mod sqlite;

pub use sqlite::{Sqlite, SqliteOptions};
