//! Modules that are meant to take long to compile, or much memory. Their bytes are put together here: as text they would
//! be larger than what they are made into.

use super::Answer::{EndsWell, Refused};
use super::{Attack, attack};

/// What a section of a core module is of.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Of {
    Custom = 0,
    Types = 1,
    Functions = 3,
    Memories = 5,
    Exports = 7,
    Code = 10,
    Data = 11,
}

/// A number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&leb(bytes.len()), bytes].concat()
}

fn section(of: Of, content: &[u8]) -> Vec<u8> {
    [&[of as u8][..], &sized(content)].concat()
}

/// A section of so many equal entries.
fn entries(of: Of, count: usize, entry: &[u8]) -> Vec<u8> {
    section(of, &[leb(count), entry.repeat(count)].concat())
}

const HEAD: &[u8] = b"\0asm\x01\0\0\0";
/// `(func)` and `(func (result i32))`.
const TYPES: [&[u8]; 2] = [b"\x60\0\0", b"\x60\0\x01\x7f"];
/// `i32.const 0`, and the end of a function.
const RETURNS: &[u8] = b"\x41\0\x0b";

/// A task whose entry only returns, with `functions` behind it, each of its locals and its code, and these sections at
/// the end.
fn task(functions: &[Vec<u8>], behind: &[u8]) -> Vec<u8> {
    let types = [&leb(2)[..], TYPES[0], TYPES[1]].concat();
    let of = [leb(1 + functions.len()), vec![1], vec![0; functions.len()]].concat();
    let entry = [&leb(1)[..], &sized(b"stem_run"), &[0, 0]].concat();
    let mut code = [leb(1 + functions.len()), sized(&[&b"\0"[..], RETURNS].concat())].concat();
    for body in functions {
        code.extend(sized(body));
    }
    [
        HEAD,
        &section(Of::Types, &types),
        &section(Of::Functions, &of),
        &section(Of::Exports, &entry),
        &section(Of::Code, &code),
        behind,
    ]
    .concat()
}

/// One local of 32 bits.
const LOCAL: &[u8] = b"\x01\x01\x7f";
/// `local.set 0 (i32.add (local.get 0) (i32.const 7))`.
const ADD: &[u8] = b"\x20\0\x41\x07\x6a\x21\0";

fn adds(count: usize) -> Vec<u8> {
    [LOCAL, &*ADD.repeat(count), b"\x0b"].concat()
}

fn nested(depth: usize) -> Vec<u8> {
    let component: &[u8] = b"\0asm\x0d\0\x01\0";
    // Each is a section of the one around it.
    (1..depth).fold(component.to_vec(), |inner, _| [component, b"\x04", &*sized(&inner)].concat())
}

fn custom(name: &str, content: &[u8]) -> Vec<u8> {
    section(Of::Custom, &[&*sized(name.as_bytes()), content].concat())
}

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        attack(
            "has a function of 3 MB",
            || task(&[adds(430_000)], &[]),
            Refused("function size in bytes"),
        ),
        attack(
            "has a function with fifty thousand locals",
            || task(&[[&b"\x01\xd0\x86\x03\x7e"[..], b"\x0b"].concat()], &[]),
            Refused("number of locals"),
        ),
        attack(
            "has a hundred thousand functions, and one",
            || task(&vec![b"\0\x0b".to_vec(); 100_000], &[]),
            Refused("number of functions"),
        ),
        attack(
            "has fifty thousand segments, and one",
            || {
                let memory = section(Of::Memories, b"\x01\0\x01");
                let data = entries(Of::Data, 50_001, b"\0\x41\0\x0b\x01x");
                [HEAD, &memory, &data].concat()
            },
            Refused("number of segments"),
        ),
        attack(
            "has a branch with a million targets",
            || {
                let targets = [leb(1_000_000), vec![0; 1_000_001]].concat();
                task(&[[&b"\0\x02\x40\x41\0\x0e"[..], &targets, b"\x0b\x0b"].concat()], &[])
            },
            Refused("exceeds the implementation limit"),
        ),
        attack(
            "has one expression of 1.9 MB",
            || {
                let selects =
                    [&b"\0\x41\0"[..], &b"\x41\x01\x41\0\x1b".repeat(380_000), b"\x1a\x0b"];
                task(&[selects.concat()], &[])
            },
            EndsWell,
        ),
        attack(
            "has a hundred thousand types",
            || {
                let types = entries(Of::Types, 100_000, TYPES[1]);
                let rest = task(&[], &[]);
                // Those of the task are replaced; its entry has the second.
                let old = section(Of::Types, &[&leb(2)[..], TYPES[0], TYPES[1]].concat());
                [HEAD, &types, &rest[HEAD.len() + old.len()..]].concat()
            },
            EndsWell,
        ),
        attack(
            "has sixty-four thousand exports",
            || {
                let types = [&leb(1)[..], TYPES[1]].concat();
                let names = (0..64_000).map(|n| format!("export-{n}"));
                let names = names.chain(["stem_run".to_owned()]);
                let exports: Vec<u8> =
                    names.flat_map(|name| [&*sized(name.as_bytes()), &[0, 0]].concat()).collect();
                [
                    HEAD,
                    &section(Of::Types, &types),
                    &section(Of::Functions, b"\x01\0"),
                    &section(Of::Exports, &[leb(64_001), exports].concat()),
                    &section(
                        Of::Code,
                        &[&leb(1)[..], &sized(&[&b"\0"[..], RETURNS].concat())].concat(),
                    ),
                ]
                .concat()
            },
            EndsWell,
        ),
        attack(
            "has a custom section of 31 MB",
            || task(&[], &custom("x", &vec![b'x'; 31 << 20])),
            EndsWell,
        ),
        attack(
            "has 15 million names",
            || {
                let names = [leb(15_000_000), b"\x01\0".repeat(15_000_000)].concat();
                task(&[], &custom("name", &[&b"\x01"[..], &sized(&names)].concat()))
            },
            EndsWell,
        ),
        attack(
            "has components in components, sixty-three deep",
            || nested(63),
            Refused("not a task"),
        ),
        attack(
            "has components in components, sixty-five deep",
            || nested(65),
            Refused("nesting of modules"),
        ),
        attack(
            "has ten thousand instances of a module in a component",
            || {
                let component: &[u8] = b"\0asm\x0d\0\x01\0";
                let module = [&b"\x01"[..], &sized(HEAD)].concat();
                let instances = [leb(10_000), b"\0\0\0".repeat(10_000)].concat();
                [component, &module, b"\x02", &sized(&instances)].concat()
            },
            Refused("cannot be compiled"),
        ),
    ]
}
