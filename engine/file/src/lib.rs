//! Revocations in one file of JSON lines, shared by several processes: for those who run nothing but workers and a
//! shared directory, and want to read, and in need to write, what is revoked with an editor.
//!
//! Every change is one line, appended under an advisory lock and durable before anybody is answered or sees it. Nothing
//! is ever rewritten but by a compaction, which puts a whole new file in the place of the old. A line that cannot be
//! read stops every reader: a revocation that was lost on the disk must not come to life as a task that runs.
//!
//! What this is not: a place for file systems without `flock`, or whose caches differ between machines; and all of a
//! batch is stored or nothing when a write *fails*, but a crash of the machine in the middle of one may leave its first
//! lines.
//!
//! | module | what it holds |
//! |---|---|
//! | `wire` | a line: its form, its checksum |
//! | `window`, `index` | reading lines by their place; what is remembered of them |
//! | `place`, `lock` | the file by its name; the lock beside it |
//! | `journal` | opening, reading on, mending, appending |
//! | `revoke`, `compact`, `repair`, `health` | what is done with it |
//! | `follow` | waiting for a change |
//! | `store` | the trait |
//! | `modules` | modules in a directory, beside all this: the trait of module stores |

mod compact;
mod fault;
mod follow;
mod health;
mod index;
mod journal;
mod lock;
mod modules;
mod place;
mod repair;
mod revoke;
mod store;
mod window;
mod wire;

pub use modules::{ModuleDirectory, ModuleDirectoryOptions};
pub use repair::Repaired;
pub use store::{FileStore, FileStoreOptions};
