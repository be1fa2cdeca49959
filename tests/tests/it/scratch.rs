//! Scratch directories of whole workers: what a killed one leaves goes at the next start, what a living one has stays; and
//! what guests have open is not what the worker needs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::Lab;

/// Makes a file in its scratch directory, opens it as often as it can, and computes for ever.
const HOARDS: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "mine")
  (func (export "_start")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1) (i64.const 64)
          (i64.const 0) (i32.const 0) (i32.const 8))
      (then (unreachable)))
    (loop $again (br_if $again (i32.eqz
      (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 0) (i64.const 2)
        (i64.const 0) (i32.const 0) (i32.const 8)))))
    (loop $again (br $again))))"#;

const MANIFEST: &str = "[handlers.hoard]\nsource = \"file:hoard.wasm\"\ngrants.scratch = true\n\
    [handlers.hoard.limits]\ncpu = \"10m\"\nhard = \"10m\"\n";

fn entries(path: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> =
        fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// What processes have below this directory: their own directories, and the locks beside them.
fn processes(tmp: &Path) -> Vec<PathBuf> {
    entries(tmp).iter().flat_map(|base| entries(base)).collect()
}

/// The files of attempts.
fn files(tmp: &Path) -> Vec<PathBuf> {
    let attempts = processes(tmp).iter().flat_map(|own| entries(own)).collect::<Vec<_>>();
    attempts.iter().flat_map(|attempt| entries(attempt)).collect()
}

/// The module and its manifest.
fn modules(lab: &Lab) -> String {
    let modules = lab.path("modules");
    fs::create_dir(&modules).unwrap();
    fs::write(modules.join("hoard.wasm"), wat::parse_str(HOARDS).unwrap()).unwrap();
    fs::write(modules.join("stem.toml"), MANIFEST).unwrap();
    modules.to_str().unwrap().to_owned()
}

#[test]
fn files_that_guests_have_open_leave_the_worker_its_own() {
    let lab = Lab::new();
    let modules = modules(&lab);
    let args = ["worker", "start", "--modules", &modules, "--concurrency", "8"];
    let worker = lab.start_with_few_files(256, &args, &[]);
    let without = worker.open_files();
    let tasks: Vec<_> = (0..8).map(|_| lab.enqueue("hoard", "{}", &[])).collect();
    for task in &tasks {
        lab.until_computing(task);
    }
    let with = worker.open_files();
    assert!(with >= without + 8 && with <= 200, "{without} and then {with}");
}

#[test]
fn what_a_killed_worker_left_goes_and_what_a_living_one_has_stays() {
    let lab = Lab::new();
    let (modules, tmp) = (modules(&lab), lab.path("tmp"));
    fs::create_dir(&tmp).unwrap();
    let env = [("TMPDIR", tmp.to_str().unwrap())];
    let worker = |name| {
        // Leases longer than the test: nobody takes over what the killed one had.
        let args = ["worker", "start", "--modules", &modules, "--name", name, "--lease", "10m"];
        lab.start(&[&args[..], &["--concurrency", "1"]].concat(), &env)
    };
    let seen = |count| lab.wait_for("the files", |_| files(&tmp), |files| files.len() == count);

    let killed = worker("killed");
    lab.enqueue("hoard", "{}", &[]);
    let theirs = seen(1);
    let mut living = worker("living");
    lab.enqueue("hoard", "{}", &[]);
    let mut ours = seen(2);
    ours.retain(|file| *file != theirs[0]);
    killed.kill();
    assert_eq!(files(&tmp).len(), 2, "nobody was there to remove it");
    let mut third = worker("third");
    lab.wait_for("the sweep", |_| files(&tmp), |files| *files == ours);
    lab.wait_for("the sweep's end", |_| processes(&tmp), |own| own.len() == 2);

    // Those that end by themselves leave nothing, also of what they had to stop.
    for worker in [&mut living, &mut third] {
        worker.signal("-QUIT");
        assert_eq!(worker.wait(), 0, "{}", worker.log());
    }
    assert_eq!(files(&tmp), Vec::<PathBuf>::new());
}
