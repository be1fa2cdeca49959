//! The program `stem` as the integration tests run it: building these tests builds it, so it is never an old one.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == stem_cli::COMPILE) {
        return stem_isolate::compile::child_main();
    }
    stem_cli::run()
}
