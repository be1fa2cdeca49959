//! What tasks often do, as one WASI command for `cargo xtask bench epoch`: the first line of standard input names it, the rest
//! is what it is done to.

#[allow(unreachable_pub, dead_code, unused_imports, reason = "the library of an example, whole")]
// Of a library such a field is the interface.
#[expect(clippy::struct_field_names, reason = "`Year::year`, in a file of another crate")]
#[path = "../../../../example-tasks/report/src/lib.rs"]
mod report;

use std::error::Error;
use std::io::{Read as _, Write as _};

use serde_json::Value;
use sha2::Digest as _;

fn main() -> Result<(), Box<dyn Error>> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    std::io::stdout().write_all(&done(&input)?)?;
    Ok(())
}

fn done(input: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let end = input.iter().position(|byte| *byte == b'\n').ok_or("there is no first line")?;
    let (what, input) = (&input[..end], &input[end + 1..]);
    match what {
        b"report" => {
            let report = report::report(std::str::from_utf8(input)?, |_, _| Ok::<_, String>(()))?;
            Ok(serde_json::to_vec(&report)?)
        }
        b"json" => Ok(serde_json::to_vec(&serde_json::from_slice::<Value>(input)?)?),
        b"hash" => Ok(sha2::Sha256::digest(input).to_vec()),
        _ => Err("report, json or hash".into()),
    }
}
