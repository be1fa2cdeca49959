//! The sandbox from outside: what guests may do, what hostile ones cannot, how they are stopped.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint's exception for tests sees only the test functions themselves"
)]

mod admission;
mod bench;
mod cache;
mod children;
mod commands;
mod components;
mod config;
mod files;
mod guests;
mod hostile;
mod http;
mod kv;
mod leaks;
mod planted;
mod published;
mod raw;
mod secrets;
mod smith;
mod stopping;
