//! `proc_exit` of preview 1 with every code. Wasmtime's own takes those below 126 and traps at the others, and programs use
//! them: `return -1` is 255.

use wasmtime::{Caller, Linker};
use wasmtime_wasi::I32Exit;

use super::CoreState;

/// A code as a system tells it: its low byte. What is no success never becomes one.
pub(crate) fn code(told: i32) -> i32 {
    match told {
        0 => 0,
        told => (told & 0xff).max(1),
    }
}

/// Stands in the linker in place of wasmtime's.
pub(crate) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |_: Caller<'_, CoreState>, told: i32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(I32Exit(code(told))))
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn only_nothing_is_a_success() {
        let told = [0, 1, 75, 126, 255, -1, 256, 320, i32::MIN];
        assert_eq!(told.map(code), [0, 1, 75, 126, 255, 255, 1, 64, 1]);
    }
}
