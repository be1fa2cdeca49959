//! The sandbox from outside: what guests may do, what hostile ones cannot, how they are stopped.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint's exception for tests sees only the test functions themselves"
)]

mod admission;
mod bench;
mod cache;
mod commands;
mod components;
mod guests;
mod hostile;
mod leaks;
mod raw;
mod stopping;
