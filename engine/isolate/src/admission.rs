//! What is refused before anything is compiled: one streaming pass over the bytes, cheap and without side effects.
//!
//! The bounds lie far above what compilers make of real programs (the largest seen: a Python component of 18 MiB with
//! 25,000 functions) and far below what makes the native compiler slow. The rest is the compiling child's business.

use sha2::{Digest as _, Sha256};
use stem_core::id::Digest;
use wasmparser::{Encoding, Parser, Payload};

/// Largest module.
pub const MODULE_BYTES: usize = 32 << 20;
/// Most functions, over all core modules of a component.
pub const FUNCTIONS: u64 = 100_000;
/// Largest function body.
pub const FUNCTION_BYTES: usize = 2 << 20;
/// Most locals of one function.
pub const LOCALS: u64 = 10_000;
/// Most data and element segments.
pub const SEGMENTS: u64 = 50_000;
/// Deepest nesting of components and modules.
const DEPTH: usize = 64;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// A component.
    Component,
    /// A core module.
    Core,
}

/// Why bytes are not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// Not WebAssembly at all.
    #[error("not a WebAssembly module: {0}")]
    NotWasm(String),
    /// Over one of the bounds.
    #[error("{what} is {size}; at most {bound} are allowed")]
    TooLarge {
        /// Which bound.
        what: &'static str,
        /// What was found.
        size: u64,
        /// The bound.
        bound: u64,
    },
}

/// The SHA-256 of a module's bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Checks the outline of a module: magic, sizes, counts. Nothing is validated; the compiler does that.
pub fn check(bytes: &[u8]) -> Result<Encoded, NotAdmitted> {
    let bound = |what, size: u64, bound: u64| {
        if size > bound { Err(NotAdmitted::TooLarge { what, size, bound }) } else { Ok(()) }
    };
    if bytes.is_empty() {
        return Err(NotAdmitted::NotWasm("the file is empty".to_owned()));
    }
    bound("module size in bytes", bytes.len() as u64, MODULE_BYTES as u64)?;
    if wasmtime::Engine::detect_precompiled(bytes).is_some() || bytes.starts_with(b"\x7fELF") {
        return Err(NotAdmitted::NotWasm(
            "it holds native code, which is never loaded from outside".to_owned(),
        ));
    }
    if !bytes.starts_with(b"\0asm") {
        let hint = if bytes.starts_with(b"(") {
            "it looks like the text format; convert it first"
        } else {
            "it does not begin with \\0asm"
        };
        return Err(NotAdmitted::NotWasm(hint.to_owned()));
    }
    let malformed = |error: wasmparser::BinaryReaderError| {
        NotAdmitted::NotWasm(stem_core::text::printable(&error.to_string(), 300))
    };
    let (mut encoded, mut depth, mut functions, mut segments) = (None, 0usize, 0u64, 0u64);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                bound("nesting of modules", depth as u64, DEPTH as u64)?;
                encoded.get_or_insert(match encoding {
                    Encoding::Component => Encoded::Component,
                    Encoding::Module => Encoded::Core,
                });
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::FunctionSection(section) => {
                functions += u64::from(section.count());
                bound("number of functions", functions, FUNCTIONS)?;
            }
            Payload::DataSection(section) => {
                segments += u64::from(section.count());
                bound("number of segments", segments, SEGMENTS)?;
            }
            Payload::ElementSection(section) => {
                segments += u64::from(section.count());
                bound("number of segments", segments, SEGMENTS)?;
            }
            Payload::CodeSectionEntry(body) => {
                bound(
                    "function size in bytes",
                    body.as_bytes().len() as u64,
                    FUNCTION_BYTES as u64,
                )?;
                let mut locals = 0u64;
                for group in body.get_locals_reader().map_err(malformed)? {
                    locals += u64::from(group.map_err(malformed)?.0);
                    bound("number of locals", locals, LOCALS)?;
                }
            }
            _ => {}
        }
    }
    encoded.ok_or_else(|| NotAdmitted::NotWasm("it ends before its header does".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binary_webassembly_within_bounds_is_admitted() {
        assert_eq!(check(&wat::parse_str("(component)").unwrap()), Ok(Encoded::Component));
        assert_eq!(check(&wat::parse_str("(module)").unwrap()), Ok(Encoded::Core));
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"(module)", "text format"),
            (b"\x7fELF\x02\x01\x01", "native code"),
            (b"hello", "does not begin"),
            (b"\0asm", "not a WebAssembly module"),
            (b"\0asm\x01\0\0\0\x01", "not a WebAssembly module"),
        ] {
            let error = check(bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(check(&vec![0; MODULE_BYTES + 1]).unwrap_err().to_string().contains("module size"));
        let locals = format!("(module (func {}))", "(local i32)".repeat(10_001));
        assert!(
            check(&wat::parse_str(locals).unwrap()).unwrap_err().to_string().contains("locals")
        );
    }

    #[test]
    fn a_digest_is_sha256() {
        assert!(digest(b"").to_string().ends_with("a495991b7852b855"));
    }
}
