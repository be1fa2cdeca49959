//! Whole fleets in one thread and in simulated time: real workers, real clients, services in memory, and everything between
//! them under the dice of a seed. The same seed is the same run, so what goes wrong once can be looked at as often as needed.
//!
//! ```text
//!  plan ──► world ──► hosts: a runtime each, whose time the world moves; on it a Worker or a Client
//!             │          │ line: every call is a packet
//!             │         net: late, lost, twice, refused, held up
//!             │          │
//!             └──────► server: witness ──► tap ──► Memory
//!                          │
//!                        judge: hears every fact, knows the rules, stops at the first that is broken
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`fact`] | [`Fact`](fact::Fact): what happens; at once the trace and what is judged |
//! | [`plan`], [`dice`] | what a seed draws: the fleet, the tasks, the trouble |
//! | [`world`] | the loop: windows of time, phases from storm to farewell |
//! | [`host`], [`desk`], [`clock`] | a simulated machine and its process: runtime, clocks, pauses, death |
//! | [`mod@line`], [`net`], [`server`] | the way of a call from a worker to a service in memory and back |
//! | [`script`], [`operator`] | what tasks, producers and operators do |
//! | [`judge`], [`witness`] | the rules, and who tells what the services did |
//! | [`tap`], [`plants`] | faults put in on purpose, each to be found by its rule |
//! | [`trace`], [`tally`] | facts as text, and how often each was |
//! | [`shrink`], [`soak`] | what a violation needs, many seeds at once |

pub mod clock;
pub mod desk;
pub mod dice;
pub mod fact;
pub mod host;
pub mod judge;
pub mod line;
pub mod net;
pub mod operator;
pub mod plan;
pub mod plants;
mod ready;
pub mod script;
pub mod server;
pub mod shrink;
pub mod soak;
pub mod tally;
pub mod tap;
pub mod trace;
pub mod witness;
pub mod world;

pub use world::{Options, Report, run};
