//! The state machines. One pattern: `handle(now, event, &mut effects)` and `next_wakeup()`.
//!
//! A machine holds data only: no handle, no channel, no clock. Events are facts in the past tense, effects are orders
//! in the imperative; a driver feeds the one and performs the other. `now` may repeat but, within one machine, drivers
//! never let it go back. Handling the same fact twice is harmless.

pub mod attempt;
pub mod autoscale;
pub mod gate;
pub mod intake;
pub mod lifecycle;
pub mod quota;
pub mod share;
