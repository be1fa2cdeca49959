//! Whole processes on servers of their own: killed, frozen, cut off, under load. The crate's documentation says how to
//! run the full counts.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

mod broadcast;
mod family;
mod frozen;
mod lab;
mod process;
mod server;
mod storm;
mod trouble;
