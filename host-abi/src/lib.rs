//! The contract between Stem's workers and their guests, as constants both sides compile against.
//!
//! The contract itself is the WIT package in `wit/` (for components) and the prose in `README.md` (for WASI
//! commands, for core modules, and for the rules that types cannot say). This crate adds the numbers and names
//! that neither a WIT file nor a guest's type checker enforces. It has no code to run and no dependencies, so
//! a guest SDK can use it at no cost.

pub mod command;
pub mod limits;
pub mod raw;
pub mod stop;

pub use stop::STOP_CODES;

/// Version of the contract, the same as that of the WIT package. The rules by which it grows are in the README.
pub const ABI_VERSION: &str = "0.1.0";

/// The WIT package as imports spell it, without an interface: `stem:task@0.1.0`.
pub const WIT_PACKAGE: &str = "stem:task@0.1.0";

/// Media type of payloads and results when nobody says otherwise.
pub const JSON: &str = "application/json";

/// Media type of bytes of which nothing more is known.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// Failure code with which an SDK reports arguments it could not decode; always fatal.
pub const INVALID_ARGUMENTS: &str = "invalid-arguments";

/// Failure code of a result over [`limits::RESULT_BYTES`]; always fatal.
pub const RESULT_TOO_LARGE: &str = "result-too-large";
