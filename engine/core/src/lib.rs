//! The pure core of Stem: vocabulary, decisions, and the traits that backends implement.
//!
//! Nothing here performs I/O, reads a clock, draws randomness, spawns or sleeps; time and seeds are arguments.
//! That is what lets every decision be tested from a table and replayed from a seed.
//!
//! The map:
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`], [`time`] | newtypes: ids, names, lease tokens, timestamps |
//! | [`envelope`] | what travels, and its wire form |
//! | [`tenant`] | on whose behalf a task is done |
//! | [`task`] | task states, the one table of legal moves, the record an operator reads |
//! | [`outcome`] | how an attempt ended, as data |
//! | [`limits`] | what an attempt may use, and what it used |
//! | [`grants`] | what an isolate may reach, and what a policy leaves of it |
//! | [`release`] | which build of a module serves a task name |
//! | [`retry`] | when to try again |
//! | [`revoke`] | revocations and the cache a worker keeps of them |
//! | [`control`] | commands to workers and their replies |
//! | [`settlement`] | the moves by which a delivery leaves a worker's hands |
//! | [`machine`] | the state machines: attempt, intake, lifecycle; quotas and the shares of a claim |
//! | [`seal`] | the line by which a message says who signed it |
//! | [`backend`] | the traits: broker, result backend, revoke store, control plane, presence, dead letters, modules, buckets |
//! | [`observe`] | what those who watch a worker are told |
//! | [`trace`] | the trace context that a task carries |

pub mod backend;
pub mod control;
pub mod envelope;
pub mod grants;
pub mod id;
pub mod limits;
pub mod machine;
pub mod observe;
pub mod outcome;
pub mod release;
pub mod retry;
pub mod revoke;
pub mod seal;
pub mod settlement;
pub mod task;
pub mod tenant;
pub mod text;
pub mod time;
pub mod trace;
