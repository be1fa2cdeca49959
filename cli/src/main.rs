//! The program `stem`; everything is in the library.

use std::process::ExitCode;

/// Memory of one task is taken on one thread and given back on another; see the root manifest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: the compiling child of a worker has bounds of its own and no environment.
    if std::env::args_os().nth(1).is_some_and(|first| first == stem_cli::COMPILE) {
        return stem_isolate::compile::child_main();
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == stem_cli::DETACH) {
        return stem_cli::nodes::detach::child_main();
    }
    stem_cli::run()
}
