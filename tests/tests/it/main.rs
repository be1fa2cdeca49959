//! Whole processes on real files: workers that are killed, drained and told to stop, guests that were really compiled.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

mod children;
mod classes;
mod control;
mod delivery;
mod draining;
mod fail_closed;
mod flood;
mod guards;
mod hardening;
mod http;
mod lab;
mod leases;
mod lifecycle;
mod modules;
mod poison;
mod revoking;
mod scope;
mod scratch;
mod shutdown;
mod signing;
mod stopping;
mod store;
mod tenants;
