//! One task in every language: how large its module is, what building and compiling it cost, and what a call does.
//!
//! The task is that of `guest-sdk/CONFORMANCE.md`, each in a project that `stem task new` writes and `stem task build` builds with
//! the tools that `cargo xtask setup` got. Projects stay in `target/bench/languages`, so that a second run finds their tools there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use stem_core::outcome::Outcome;
use stem_isolate::{
    AttemptHost, AttemptSpec, Compiler, Exit, IsolateRuntime, Module, RuntimeConfig,
};
use stem_services::tools::environment;

use crate::attempts::{Nobody, spec};
use crate::process::program;
use crate::services::target_dir;
use crate::{Cost, Row, row, spread};

/// Calls of which the middle is told.
const CALLS: usize = 200;
/// Rounds of integer arithmetic in one call.
const ROUNDS: u32 = 10_000_000;
/// Progress updates in one call.
const STEPS: u32 = 20_000;

struct Language {
    name: &'static str,
    lang: &'static str,
    folder: &'static str,
}

const LANGUAGES: [Language; 5] = [
    Language { name: "Rust", lang: "rust", folder: "rust" },
    Language { name: "C", lang: "c", folder: "c" },
    Language { name: "Go", lang: "go", folder: "go" },
    Language { name: "JavaScript", lang: "js", folder: "javascript" },
    Language { name: "Python", lang: "python", folder: "python" },
];

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for language in &LANGUAGES {
        let measured = language.measure().await;
        rows.extend(measured.with_context(|| format!("{} cannot be measured", language.name))?);
    }
    Ok(rows)
}

impl Language {
    async fn measure(&self) -> anyhow::Result<Vec<Row>> {
        let (project, build) = self.build()?;
        let wasm = fs::read(project.join("conformance.wasm"))?;
        let cache = tempfile::tempdir()?;
        let compiled = Cost::of(async {
            runtime(cache.path())?.load(&wasm).await?;
            Ok(())
        });
        let compiled = compiled.await?;
        let isolates = runtime(cache.path())?;
        let before = Instant::now();
        let module = isolates.load(&wasm).await?;
        let loaded = before.elapsed();
        let bench = Bench { isolates, module };
        bench.call(r#"{"op":"echo","text":"warm"}"#).await?;
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        let mut memory = 0;
        for _ in 0..CALLS {
            let (exit, wall) = bench.call(r#"{"op":"echo","text":"hello"}"#).await?;
            walls.push(millis(wall));
            cpus.push(exit.usage.cpu_ms);
            memory = memory.max(exit.usage.peak_memory_bytes);
        }
        let (wall, ..) = spread(&mut walls);
        let (cpu, ..) = spread(&mut cpus);
        let (spun, _) = bench.call(&format!(r#"{{"op":"spin","rounds":{ROUNDS}}}"#)).await?;
        let (told, _) = bench.call(&format!(r#"{{"op":"progress","steps":{STEPS}}}"#)).await?;
        let told = (told.usage.cpu_ms - cpu) * 1e3 / f64::from(STEPS);
        let name = self.name;
        #[expect(clippy::cast_precision_loss, reason = "sizes of files and memories")]
        Ok(vec![
            row(format!("{name}: module"), wasm.len() as f64 / 1e3, "kB"),
            row(format!("{name}: build, once its tools are there"), build.as_secs_f64(), "s"),
            row(format!("{name}: compile, CPU"), compiled.cpu.as_secs_f64(), "s"),
            row(format!("{name}: load what was compiled"), millis(loaded), "ms"),
            row(format!("{name}: one call, from nothing to the result"), wall, "ms"),
            row(format!("{name}: one call, CPU of the guest"), cpu, "ms"),
            row(
                format!("{name}: memory of an attempt that does nothing"),
                memory as f64 / 1024.0 / 1024.0,
                "MiB",
            ),
            row(format!("{name}: ten million rounds of arithmetic, CPU"), spun.usage.cpu_ms, "ms"),
            row(format!("{name}: one progress update, CPU"), told, "µs"),
        ])
    }

    /// The project's folder, and how long its second build took.
    fn build(&self) -> anyhow::Result<(PathBuf, Duration)> {
        let project = target_dir().join("bench/languages").join(self.lang).join("conformance");
        let fresh = tempfile::tempdir()?;
        stem(fresh.path(), &["task", "new", "conformance", "--lang", self.lang])?;
        copy(&fresh.path().join("conformance"), &project)?;
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk");
        copy(&guests.join(self.folder).join("conformance"), &project)?;
        stem(&project, &["task", "build"])?;
        touch(&project)?;
        let before = Instant::now();
        stem(&project, &["task", "build"])?;
        Ok((project, before.elapsed()))
    }
}

/// The task itself was changed, as far as any build can tell.
fn touch(project: &Path) -> anyhow::Result<()> {
    let sources = ["src/lib.rs", "src/task.js", "task.py", "task.c", "main.go"];
    let mut touched = 0;
    for source in sources.iter().map(|name| project.join(name)).filter(|path| path.is_file()) {
        let mut text = fs::read(&source)?;
        text.push(b'\n');
        fs::write(&source, text)?;
        touched += 1;
    }
    anyhow::ensure!(touched > 0, "{} holds no source of a task", project.display());
    Ok(())
}

fn runtime(cache: &Path) -> anyhow::Result<Arc<IsolateRuntime>> {
    Ok(IsolateRuntime::new(&RuntimeConfig {
        isolates: 2,
        memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
        threads: 1,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: Some(cache.to_owned()),
        scratch_dir: None,
    })?)
}

struct Bench {
    isolates: Arc<IsolateRuntime>,
    module: Arc<Module>,
}

impl Bench {
    async fn call(&self, input: &str) -> anyhow::Result<(Exit, Duration)> {
        let before = Instant::now();
        let host: Arc<dyn AttemptHost> = Arc::new(Nobody);
        let spec: AttemptSpec = spec(input);
        let exit = self.isolates.start(&self.module, spec, host).exit().await;
        let wall = before.elapsed();
        anyhow::ensure!(
            matches!(exit.outcome, Outcome::Succeeded(_)),
            "{input}: {:?}",
            exit.outcome
        );
        Ok((exit, wall))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

fn stem(folder: &Path, words: &[&str]) -> anyhow::Result<()> {
    ran(Command::new(program()?).args(words).current_dir(folder))
}

fn ran(command: &mut Command) -> anyhow::Result<()> {
    let output = command.envs(environment()).stdin(Stdio::null()).output()?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
