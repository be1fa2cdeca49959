//! One module of one seed.

use std::sync::OnceLock;

use arbitrary::Unstructured;
use wasm_smith::{Config, Module};

/// A module and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) seed: u64,
    pub(super) bytes: Vec<u8>,
    /// It uses nothing that the sandbox has switched off.
    pub(super) is_of_the_profile: bool,
    /// It ends by itself, if it waits for nothing.
    pub(super) ends: bool,
    /// It ends by itself, and in the same way each time.
    pub(super) repeats: bool,
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// A sequence that its seed decides.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_of(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

/// Functions that answer in the same way each time.
const STEADY: [&str; 15] = [
    r#""stem0" "input_len" (func (result i64))"#,
    r#""stem0" "input_read" (func (param i32 i64 i32) (result i32))"#,
    r#""stem0" "output_write" (func (param i32 i32) (result i32))"#,
    r#""stem0" "fail" (func (param i32 i64 i32 i32) (result i32))"#,
    r#""stem0" "heartbeat" (func (result i32))"#,
    r#""stem0" "progress" (func (param i32 i32 i32) (result i32))"#,
    r#""stem0" "log" (func (param i32 i32 i32))"#,
    r#""stem0" "info" (func (param i32 i32) (result i32))"#,
    r#""stem0" "checkpoint_load" (func (param i32 i32) (result i32))"#,
    r#""stem0" "checkpoint_save" (func (param i32 i32) (result i32))"#,
    r#""stem0" "children_enqueue" (func (param i32 i32 i32 i32 i32) (result i32))"#,
    r#""stem0" "kv_get" (func (param i32 i32 i32 i32 i32 i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "fd_read" (func (param i32 i32 i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "proc_exit" (func (param i32))"#,
];
/// Functions that wait, or tell of the time, of chance, or of what is around the guest.
const OTHERS: [&str; 17] = [
    r#""stem0" "stop_notice" (func (param i32 i32) (result i32))"#,
    r#""stem0" "extend_lease" (func (param i64) (result i64))"#,
    r#""stem0" "sleep" (func (param i64) (result i32))"#,
    r#""stem0" "time_left" (func (param i32) (result i64))"#,
    r#""stem0" "kv_put" (func (param i32 i32 i32 i32 i32 i32 i32 i64 i64) (result i64))"#,
    r#""stem0" "kv_remove" (func (param i32 i32 i32 i32 i32 i64) (result i32))"#,
    r#""stem0" "config_get" (func (param i32 i32 i32 i32) (result i32))"#,
    r#""stem0" "secret_reveal" (func (param i32 i32 i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "args_get" (func (param i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "fd_seek" (func (param i32 i64 i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "fd_renumber" (func (param i32 i32) (result i32))"#,
    r#""wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32))"#,
];

/// Modules that import what others may, a few functions each; those that a module of the same behaviour may import
/// come apart.
fn imports() -> &'static [Vec<Vec<u8>>; 2] {
    static IMPORTS: OnceLock<[Vec<Vec<u8>>; 2]> = OnceLock::new();
    IMPORTS.get_or_init(|| {
        let mut dice = Dice(0);
        let all: Vec<&str> = STEADY.into_iter().chain(OTHERS).collect();
        [&STEADY[..], &all[..]].map(|from| {
            let mut some = || {
                let lines = (0..10).map(|_| format!("(import {})", from[dice.below(from.len())]));
                wat(&format!("(module {})", lines.collect::<String>()))
            };
            (0..64).map(|_| some()).collect()
        })
    })
}

/// What a task of either kind exports. The memory has a bound, which is within the sandbox's.
fn exports() -> &'static [Vec<u8>; 2] {
    static EXPORTS: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    EXPORTS.get_or_init(|| {
        [r#""stem_run") (result i32)"#, r#""_start")"#].map(|entry| {
            let memory = r#"(memory (export "memory") 1 8)"#;
            wat(&format!("(module {memory} (func (export {entry} unreachable))"))
        })
    })
}

/// The module of a seed.
pub(super) fn module(seed: u64) -> Made {
    let mut dice = Dice(seed);
    let uses_everything = dice.one_of(10);
    let has_references = dice.one_of(8);
    let repeats = !uses_everything && dice.one_of(100);
    let ends = repeats || !dice.one_of(5);
    let is_large = dice.one_of(200);
    loop {
        let imports = &imports()[usize::from(!repeats)];
        let mut config = Config {
            available_imports: Some(imports[dice.below(imports.len())].clone()),
            // Some are left as they come, which mostly is no task.
            exports: (!dice.one_of(20)).then(|| exports()[usize::from(dice.one_of(5))].clone()),
            // Most code without this ends at its first division or load.
            disallow_traps: dice.one_of(2),
            gc_enabled: false,
            exceptions_enabled: false,
            memory64_enabled: false,
            threads_enabled: false,
            reference_types_enabled: has_references,
            max_memories: 2,
            max_memory32_bytes: 4 << 20,
            max_tables: 3,
            max_table_elements: 10_000,
            ..Config::default()
        };
        if !is_large {
            config.max_types = 12;
            config.max_funcs = 8;
            config.max_globals = 8;
            config.max_exports = 8;
            config.max_instructions = 40;
            config.max_data_segments = 4;
            config.max_element_segments = 4;
        }
        if uses_everything {
            config.reference_types_enabled = true;
            config.gc_enabled = true;
            config.exceptions_enabled = true;
            config.memory64_enabled = true;
            config.threads_enabled = true;
            config.custom_page_sizes_enabled = true;
            config.wide_arithmetic_enabled = true;
            config.shared_everything_threads_enabled = true;
            config.custom_descriptors_enabled = true;
        }
        let len = if is_large { 16 << 10 } else { 256 + dice.below(1_792) };
        let bytes = dice.bytes(len);
        // Some bytes are too few for what was begun with them.
        let Ok(mut module) = Module::new(config, &mut Unstructured::new(&bytes)) else { continue };
        if ends {
            module.ensure_termination(5_000).unwrap();
        }
        return Made {
            seed,
            bytes: module.to_bytes(),
            is_of_the_profile: !uses_everything && !has_references,
            ends,
            repeats,
        };
    }
}
