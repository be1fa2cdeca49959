//! Whole processes and their servers, killed and frozen under load; and what must hold all the same.
//!
//! Workers and producers are processes of this crate's program. Each writes down what it tries, what the stores answer and
//! when: its [`history`]. When a run is over, the [`checker`] holds all histories, and the records that the stores then have,
//! against the rules. It is a plain function, and its own tests plant what each rule must find.
//!
//! | module | what it holds |
//! |---|---|
//! | [`history`] | events, their files, the clock |
//! | [`checker`] | the rules |
//! | [`record`] | what stands between a worker and its backends, and writes down the answers |
//! | [`role`] | workers, and producers that are operators too |
//! | [`place`] | URLs to backends |
//! | [`process`], [`lab`] | processes of one run, and the run |
//! | [`fault`], [`server`] | what can be done to servers, to the network and to processes |
//! | [`mod@storm`] | tasks under faults |
//! | [`soak`] | storm after storm: `cargo xtask chaos` |
//! | [`dice`] | random numbers that a seed repeats |
//!
//! # The full counts
//!
//! `cargo nextest run -p stem-chaos` takes about three minutes on two cores. For more:
//!
//! | variable | says | default | in full |
//! |---|---|---|---|
//! | `STEM_TEST_CHAOS` | tasks of each storm on Redis; on Postgres half, on SQLite three eighths, on both an eighth of it | 18000 | 60000 |
//! | `STEM_TEST_FAMILIES` | tasks with children while workers are killed | 150 | 3000 |
//! | `STEM_TEST_ROUNDS` | rounds of freezing a worker | 5 | 50 |
//! | `STEM_TEST_BROADCASTS` | commands to eight workers | 200 | 1000 |
//! | `STEM_TEST_SEED` | repeats the faults of a run that has printed it | another each time | |
//! | `STEM_TEST_COUNTS` | a file to which each test adds how many tasks it had; `cargo xtask test` sums them | none | |
//!
//! A storm ends after five minutes; a machine that is too slow for all tasks by then has had as many as it could.
//! In full each test takes minutes, so run one after the other:
//! `STEM_TEST_CHAOS=60000 cargo nextest run -p stem-chaos -j1 --no-capture storm`.
//! A test that fails keeps its directory with the histories and the logs of all processes, and says where it is.
//!
//! A million tasks, in rounds of 60,000 under every fault there is, with the release build: `cargo xtask chaos`.

pub mod checker;
pub mod dice;
pub mod fault;
pub mod history;
pub mod lab;
pub mod place;
pub mod process;
pub mod record;
pub mod role;
pub mod server;
pub mod soak;
pub mod storm;

use std::io::Read as _;

/// While a file of this name lies in a run's directory, its producers enqueue nothing more, and end in good order.
pub const STOP: &str = "stop";

/// The name of a task that saves checkpoints and enqueues a child with a key.
pub const CAREFUL: &str = "careful";
/// The name of a child that is enqueued at once.
pub const CHILD_NOW: &str = "child-now";
/// The name of a child that `family` enqueues with its success.
pub const CHILD_LATER: &str = "child-later";

/// Ends this process when its standard input ends, as it does with the process that started it, however that ends.
pub fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 64];
        while input.read(&mut bytes).is_ok_and(|read| read > 0) {}
        std::process::exit(3);
    });
}
