//! A server to play with, and a process that the crate's own tests can kill.
//!
//! ```text
//! cargo run -p stem-services -- redis
//! ```
//!
//! Starts `redis`, `postgres` or a database of the `shared` Postgres, says its URL, and keeps it until the end of its
//! input.

use std::io::{Read as _, Write as _};

use anyhow::{Result, bail};
use stem_services::{PostgresServer, RedisServer};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("redis") => {
            let server = RedisServer::start();
            keep(&server.url())
        }
        Some("postgres") => {
            let server = PostgresServer::start();
            keep(&server.url())
        }
        Some("shared") => {
            let database = PostgresServer::shared().database();
            keep(database.url())
        }
        _ => bail!("say redis, postgres or shared"),
    }
}

fn keep(url: &str) -> Result<()> {
    println!("{url}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
