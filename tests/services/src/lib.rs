//! Private Redis, Postgres and Prometheus servers for tests, which may be killed, frozen and restarted.
//!
//! | server | started by | for |
//! |---|---|---|
//! | [`RedisServer`] | [`RedisServer::start`], [`RedisServer::with`] | one test |
//! | [`PostgresServer`] | [`PostgresServer::start`], [`PostgresServer::with`] | one test that disturbs its server |
//! | [`PrometheusServer`] | [`PrometheusServer::start`] | one test that reads metrics |
//! | [`Shared`] | [`PostgresServer::shared`] | every test that needs no more than a database of its own |
//!
//! Redis and Postgres may have a disk of their own that can be full, and so may files of a test: [`Disk`].
//!
//! Redis and Postgres may have a wall clock of their own that can be set: [`Ahead`].
//!
//! What a Redis has not synced can be lost as by a cut of its power: [`RedisServer::cut_power`]; so can what any process has not,
//! of files that only grow: [`Power`].
//!
//! A [`Proxy`] before a server is a network that can be bad.
//!
//! Each server listens on a port of 127.0.0.1 and keeps its data in a directory of its own, directly under `/tmp`. It
//! is gone with its directory when its value is dropped, and also when the test process dies in any other way: see
//! `server.rs`. The services that a system package starts are never used.
//!
//! What tests have done is summed up: [`count`].
//!
//! What programs write into the documentation stands between marks: [`marked`].
//!
//! Tests that build tasks find their compilers by [`tools`], and build in a [`Workshop`].
//!
//! All calls block, are bounded in time, and may be made from any thread; a test on tokio makes them as they are, since
//! it has nothing better to do meanwhile. What should not happen panics and shows the server's log. A program that is
//! missing is such a case: no test is skipped.
//!
//! Linux only: what belongs to a server is found in `/proc`.

mod account;
mod clock;
mod counts;
mod disk;
pub mod marked;
mod postgres;
mod power;
mod preload;
mod programs;
mod prometheus;
mod proxy;
mod redis;
mod server;
mod shared;
pub mod tools;
mod workshop;

pub use clock::Ahead;
pub use counts::count;
pub use disk::Disk;
pub use postgres::{PostgresServer, PostgresSettings};
pub use power::{Power, cut_power, synced};
pub use prometheus::PrometheusServer;
pub use proxy::{Network, Proxy};
pub use redis::{Fsync, RedisServer, RedisSettings};
pub use shared::{Database, Shared};
pub use workshop::Workshop;
