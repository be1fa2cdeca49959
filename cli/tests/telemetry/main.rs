//! Metrics, traces and logs as those see them who read them: a real Prometheus, a receiver of OTLP, and a person.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod audit;
mod canary;
mod logs;
mod metrics;
mod modules;
mod receiver;
mod signing;
#[path = "../support/mod.rs"]
mod support;
mod traces;
mod worker;
