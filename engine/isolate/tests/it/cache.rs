//! Compiled code that is kept between starts.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use stem_isolate::compile::CompileError;
use stem_isolate::{Compiler, IsolateRuntime, LoadError, RuntimeConfig};

use crate::bench::{config, exit, spec, text, wat};
use crate::guests;

/// A sandbox on this cache that cannot compile.
fn cannot_compile(cache: &Path) -> RuntimeConfig {
    let compiler =
        Compiler::Child { program: "/nonexistent/compiler".into(), args: vec![], env: vec![] };
    RuntimeConfig { isolates: 2, compiler, cache_dir: Some(cache.to_owned()), ..config() }
}

fn compiles(cache: &Path) -> RuntimeConfig {
    let program = env!("CARGO_BIN_EXE_stem-compile").into();
    let compiler = Compiler::Child { program, args: vec![], env: vec![] };
    RuntimeConfig { compiler, ..cannot_compile(cache) }
}

async fn load_and_run(config: &RuntimeConfig, module: &[u8]) -> Result<String, LoadError> {
    let runtime = IsolateRuntime::new(config).unwrap();
    let module = runtime.load(module).await?;
    let worker: Arc<crate::bench::Worker> = Arc::default();
    let ended = exit(runtime.start(&module, spec(b"abc", crate::bench::limits()), worker)).await;
    Ok(text(&ended))
}

fn entries(cache: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .collect()
}

#[tokio::test]
async fn a_second_start_takes_the_code_from_the_cache_and_a_changed_entry_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let good = wat(&guests::good());
    let refused = |loaded: Result<String, LoadError>| {
        assert!(
            matches!(loaded, Err(LoadError::Compile(CompileError::Unavailable(_)))),
            "{loaded:?}"
        );
    };
    refused(load_and_run(&cannot_compile(&cache), &good).await);
    assert_eq!(load_and_run(&compiles(&cache), &good).await.unwrap(), "ABC");
    assert_eq!(load_and_run(&cannot_compile(&cache), &good).await.unwrap(), "ABC");
    let core = wat(&guests::raw("", "", "(i32.const 0)"));
    assert_eq!(load_and_run(&compiles(&cache), &core).await.unwrap(), "");
    assert_eq!(load_and_run(&cannot_compile(&cache), &core).await.unwrap(), "");
    assert_eq!(entries(&cache).len(), 2);

    // One byte of native code changed.
    for entry in entries(&cache) {
        let mut bytes = fs::read(&entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&entry, bytes).unwrap();
    }
    refused(load_and_run(&cannot_compile(&cache), &good).await);
    assert_eq!(load_and_run(&compiles(&cache), &good).await.unwrap(), "ABC");
    assert_eq!(load_and_run(&cannot_compile(&cache), &good).await.unwrap(), "ABC");

    // Another installation's key: its entries are worth nothing here.
    fs::write(cache.join("key"), [7; 32]).unwrap();
    refused(load_and_run(&cannot_compile(&cache), &good).await);
    assert_eq!(load_and_run(&compiles(&cache), &good).await.unwrap(), "ABC");

    // One module's entry under another's name.
    let both = entries(&cache);
    let (one, other) = (fs::read(&both[0]).unwrap(), fs::read(&both[1]).unwrap());
    fs::write(&both[0], other).unwrap();
    fs::write(&both[1], one).unwrap();
    refused(load_and_run(&cannot_compile(&cache), &good).await);
}
