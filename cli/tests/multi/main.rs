//! `stem worker multi` with real processes: what an operator sees, and what nobody may be done to.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod command;
mod hostile;
mod lifecycle;
mod nodes;
mod restart;
#[path = "../support/mod.rs"]
mod support;
