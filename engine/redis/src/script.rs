//! The scripts by which every change is made, each one atomic step inside the server.

use std::fmt::Write as _;
use std::sync::LazyLock;

use redis::Cmd;
use stem_core::task::{HISTORY, TaskState};

/// Whether a script may write while the server's memory is full. What frees memory, or what an operator needs exactly
/// then, may: settling, leasing, renewing, revoking, control.
#[derive(Clone, Copy)]
enum Full {
    Refuse,
    Allow,
    /// It writes nothing at all.
    ReadOnly,
}

/// One script, and the digest by which the server knows it.
pub(crate) struct Script {
    pub(crate) source: String,
    pub(crate) digest: String,
}

const TIME: &str = include_str!("scripts/lib_time.lua");
const BELL: &str = include_str!("scripts/lib_bell.lua");
const RECORD: &str = include_str!("scripts/lib_record.lua");
const QUEUE: &str = include_str!("scripts/lib_queue.lua");
const PUBLISHING: &str = include_str!("scripts/lib_publish.lua");
const RECEIVING: &str = include_str!("scripts/lib_receive.lua");
const SETTLING: &str = include_str!("scripts/lib_settle.lua");
const REVOKING: &str = include_str!("scripts/lib_revoke.lua");
const LOG: &str = include_str!("scripts/lib_log.lua");

/// The legal moves and the length of a history, as Lua tables, drawn from the core.
fn constants() -> String {
    let mut text = format!("local HISTORY = {HISTORY}\nlocal MAY = {{\n");
    for from in TaskState::ALL {
        let _ = write!(text, "  {from} = {{ final = {}", from.is_final());
        for to in TaskState::ALL.into_iter().filter(|to| from.may_become(*to)) {
            let _ = write!(text, ", {to} = true");
        }
        text.push_str(" },\n");
    }
    text.push_str("}\n");
    text
}

impl Script {
    fn new(full: Full, libraries: &[&str], body: &str) -> Self {
        let flags = match full {
            Full::Refuse => "",
            Full::Allow => " flags=allow-oom",
            Full::ReadOnly => " flags=no-writes",
        };
        let mut source = format!("#!lua{flags}\n{TIME}");
        if libraries.contains(&RECORD) {
            source.push_str(&constants());
        }
        for library in libraries {
            source.push_str(library);
        }
        source.push_str(body);
        let digest = redis::Script::new(&source).get_hash().to_owned();
        Self { source, digest }
    }

    /// A call of this script: further arguments follow.
    pub(crate) fn call(&self, prefix: &str, now: Option<i64>) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.digest).arg(1).arg(prefix).arg(now.unwrap_or(-1));
        call
    }
}

macro_rules! scripts {
    ($($name:ident: $full:ident [$($library:ident),*] $file:literal;)+) => {
        $(
            pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
                Script::new(Full::$full, &[$($library),*], include_str!(concat!("scripts/", $file)))
            });
        )+

        /// Every script with its name, for the tests.
        #[cfg(test)]
        pub(crate) fn all() -> Vec<(&'static str, &'static Script)> {
            vec![$(($file, &*$name)),+]
        }
    };
}

scripts! {
    PUBLISH: Refuse [BELL, RECORD, QUEUE, PUBLISHING] "publish.lua";
    RECEIVE: Allow [RECORD, QUEUE, RECEIVING] "receive.lua";
    RECEIVE_TURNS: Allow [RECORD, QUEUE, RECEIVING] "receive_turns.lua";
    GIVE_BACK: Allow [BELL, RECORD, QUEUE] "give_back.lua";
    RENEW: Allow [RECORD, QUEUE] "renew.lua";
    SETTLE: Allow [BELL, RECORD, QUEUE, SETTLING] "settle.lua";
    SETTLE_PUBLISH: Refuse [BELL, RECORD, QUEUE, PUBLISHING, SETTLING] "settle_publish.lua";
    QUEUES: Allow [RECORD, QUEUE] "queues.lua";
    PAUSE: Allow [] "pause.lua";
    PURGE: Allow [RECORD, QUEUE] "purge.lua";
    BURY_UNROUTABLE: Allow [RECORD, QUEUE] "bury_unroutable.lua";
    DEAD_LIST: ReadOnly [RECORD, QUEUE] "dead_list.lua";
    DEAD_FETCH: ReadOnly [RECORD, QUEUE] "dead_fetch.lua";
    DEAD_PURGE: Allow [RECORD, QUEUE] "dead_purge.lua";
    REPLAY: Allow [BELL, RECORD, QUEUE] "replay.lua";
    RECORD_QUEUED: Refuse [RECORD] "record_queued.lua";
    RECORD_BEGUN: Allow [RECORD] "record_begun.lua";
    RECORD_SETTLED: Allow [RECORD] "record_settled.lua";
    RECORD_REPLAYED: Allow [RECORD] "record_replayed.lua";
    RECORD_PROGRESS: Allow [RECORD] "record_progress.lua";
    WATCH: Allow [RECORD] "watch.lua";
    RECORD_LIST: ReadOnly [RECORD] "record_list.lua";
    RECORD_PRUNE: Allow [RECORD] "record_prune.lua";
    CHECKPOINT: Allow [RECORD] "checkpoint.lua";
    FORGET: Allow [RECORD] "forget.lua";
    REVOKE: Allow [REVOKING] "revoke.lua";
    UNDO: Allow [REVOKING] "undo.lua";
    REVOKE_PRUNE: Allow [] "revoke_prune.lua";
    COMMAND_SEND: Allow [LOG] "command_send.lua";
    COMMAND_READ: ReadOnly [LOG] "command_read.lua";
    COMMAND_END: ReadOnly [LOG] "command_end.lua";
    COMMAND_PRUNE: Allow [] "command_prune.lua";
    REPLY: Allow [] "reply.lua";
    REGISTER: Allow [] "register.lua";
    BEAT: Allow [] "beat.lua";
    LEAVE: Allow [] "leave.lua";
    WORKERS: ReadOnly [] "workers.lua";
    MODULE_PIECE: Refuse [] "module_piece.lua";
    MODULE_PLACE: Refuse [] "module_place.lua";
    MODULE_NAME: ReadOnly [] "module_name.lua";
    MODULE_PUSH: Refuse [] "module_change.lua";
    MODULE_CHANGE: Allow [] "module_change.lua";
    MODULE_CATALOGUE: ReadOnly [] "module_catalogue.lua";
    BUCKET_READ: ReadOnly [] "bucket_read.lua";
    BUCKET_WRITE: Refuse [] "bucket_write.lua";
    BUCKET_REMOVE: Allow [] "bucket_remove.lua";
    CHECK: Refuse [] "check.lua";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_file_is_a_script_and_says_what_it_takes() {
        let mut known: HashSet<String> = all().iter().map(|(file, _)| (*file).to_owned()).collect();
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts");
        for file in std::fs::read_dir(directory).expect("the scripts are there") {
            let name = file.expect("it can be listed").file_name().into_string().expect("ASCII");
            assert!(name.starts_with("lib_") || known.remove(&name), "{name} is called by nothing");
        }
        assert!(known.is_empty(), "{known:?}");
        for (file, script) in all() {
            let text = std::fs::read_to_string(format!("{directory}/{file}")).expect("it is there");
            assert!(text.starts_with("-- ") && text.contains("ARGV"), "{file} lacks its header");
            assert!(script.source.starts_with("#!lua"));
        }
    }

    #[test]
    fn the_table_of_moves_is_the_cores() {
        let text = constants();
        assert!(text.contains("  running = { final = false, queued = true"), "{text}");
        assert!(text.contains("  succeeded = { final = true },"), "{text}");
        assert!(text.contains("  failed = { final = true, queued = true },"), "{text}");
    }
}
