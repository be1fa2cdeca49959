//! The compiling child on its own: a module on standard input, its code on standard output.

fn main() -> std::process::ExitCode {
    stem_isolate::compile::child_main()
}
