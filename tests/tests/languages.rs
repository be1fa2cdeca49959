//! The conformance task in every language, built by the program's own commands and run in the real sandbox: the same bytes and the
//! same ends for the same inputs. The contract is `guest-sdk/CONFORMANCE.md`.
//!
//! Tools of the languages are what `cargo xtask setup` installs; what they download is kept between runs.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

#[path = "languages/edges.rs"]
mod edges;
#[path = "languages/inputs.rs"]
mod inputs;
#[path = "languages/through_a_worker.rs"]
mod through_a_worker;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stem_core::envelope::{JSON, Payload};
use stem_core::limits::Limits;
use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopHow, StopNotice, StopReason};
use stem_core::task::Progress;
use stem_isolate::{
    AttemptHost, AttemptSpec, Compiler, Exit, InterruptHandle, IsolateRuntime, LogLevel, Module,
    OnFailure, Refusal, RuntimeConfig, TaskInfo,
};
use stem_services::Workshop;
use stem_services::tools::{clean, environment, native};
use stem_tests::root;
use tokio::sync::Notify;

/// Longer than anything here takes, compiling aside, on a slow machine where four other languages are built beside it.
const PATIENCE: Duration = Duration::from_mins(5);
const BYTES: &str = "application/octet-stream";
/// Stands in the environment when a module is built: some languages keep in it what their build has seen.
const OF_THE_BUILD: &str = "a token that is no business of the module";

struct Language {
    /// As `--lang` takes it.
    lang: &'static str,
    /// Its folder in `guest-sdk`.
    folder: &'static str,
}

const RUST: Language = Language { lang: "rust", folder: "rust" };
const JAVASCRIPT: Language = Language { lang: "js", folder: "javascript" };
const PYTHON: Language = Language { lang: "python", folder: "python" };
const C: Language = Language { lang: "c", folder: "c" };
const GO: Language = Language { lang: "go", folder: "go" };

#[test]
fn javascript_conforms() {
    conforms(&JAVASCRIPT);
}

#[test]
fn python_conforms() {
    conforms(&PYTHON);
}

#[test]
fn rust_conforms() {
    conforms(&RUST);
}

#[test]
fn c_conforms() {
    conforms(&C);
}

#[test]
fn go_conforms() {
    conforms(&GO);
}

/// The library as a program finds it that is not yet a component.
#[test]
fn the_library_for_javascript_keeps_its_own_tests() {
    ran(Command::new("node").arg("--test").arg(root().join("guest-sdk/javascript/tests")));
}

#[test]
fn the_library_for_python_keeps_its_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("guest-sdk/python/library"), &folder.path().join("stem_guest"));
    let tests = root().join("guest-sdk/python/tests");
    let mut python = Command::new("python3");
    python.args(["-B", "-m", "unittest", "discover", "--start-directory"]).arg(tests);
    ran(python.env("PYTHONPATH", folder.path()));
}

#[test]
fn the_library_for_c_keeps_its_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("guest-sdk/c/library"), &folder.path().join("stem"));
    let program = folder.path().join("library_test");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-I."])
        .arg("-o")
        .arg(&program);
    compiler.arg(root().join("guest-sdk/c/tests/library_test.c"));
    for file in ["stem.c", "stem_json.c", "stem_grants.c", "stem_test.c", "stem_test_grants.c"] {
        compiler.arg(Path::new("stem").join(file));
    }
    ran(compiler.arg("-lm").current_dir(folder.path()));
    ran(&mut Command::new(program));
}

/// A task in C++, over the library in C.
#[test]
fn the_library_for_c_is_one_for_cpp_too() {
    const TASK: &str = r#"
        #include "stem/stem0.h"
        #include "stem/stem_grants.h"
        #include "stem/stem_test.h"
        stem_end stem_task(stem_text arguments) { return stem_return(arguments.at, arguments.size); }
        int main() {
            STEM_CHECK_TEXT(stem_test_run(stem_world(), "[1]").result.at, "[1]");
            return stem_test_report();
        }"#;
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("guest-sdk/c/library"), &folder.path().join("stem"));
    fs::write(folder.path().join("task.cpp"), TASK).unwrap();
    let sources = fs::read_dir(folder.path().join("stem")).unwrap();
    let sources = sources.map(|file| file.unwrap().path());
    let sources = sources.filter(|file| file.extension().is_some_and(|name| name == "c"));
    let clang = |standard: &str| {
        let mut clang = Command::new("clang");
        clang.args([standard, "-I.", "-Wall", "-Wextra", "-Wconversion", "-Werror"]);
        clang.current_dir(folder.path());
        clang
    };
    ran(clang("-std=c++11").args(["-x", "c++", "-c", "task.cpp"]));
    // Nothing of the library of C++ is used, so the compiler for C links it.
    ran(clang("-std=c99").args(["-o", "task", "task.o"]).args(sources).arg("-lm"));
    ran(&mut Command::new(folder.path().join("task")));
}

#[test]
fn the_library_for_go_keeps_its_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("guest-sdk/go/library"), folder.path());
    copy(&root().join("guest-sdk/go/tests"), folder.path());
    fs::write(folder.path().join("go.mod"), "module example.com/stem\n\ngo 1.24\n").unwrap();
    let mut go = Command::new("go");
    ran(go.args(["test", "./..."]).current_dir(folder.path()).envs(native()));
}

fn conforms(language: &Language) {
    let sources = root().join("guest-sdk").join(language.folder).join("conformance");
    let project = language.project("conformance", &sources, |_| ());
    let wasm = fs::read(project.join("conformance.wasm")).unwrap();
    let leaked = wasm.windows(OF_THE_BUILD.len()).any(|bytes| bytes == OF_THE_BUILD.as_bytes());
    assert!(!leaked, "the module holds what stood in the environment of its build");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::of(&wasm).await;
        bench.results().await;
        bench.failures().await;
        bench.inputs(language).await;
        bench.progress().await;
        bench.checkpoints().await;
        bench.memory().await;
        bench.stops().await;
    });
    through_a_worker::serves(&project);
}

impl Language {
    /// Its module is built anew: a new project of this name with these files in the place of the template's, and changed by
    /// `also`.
    fn project(&self, name: &str, sources: &Path, also: impl FnOnce(&Path)) -> Project {
        let fresh = tempfile::tempdir().unwrap();
        stem(fresh.path(), &["task", "new", name, "--lang", self.lang]);
        let fresh = fresh.path().join(name);
        assert!(copy(sources, &fresh) > 0, "{} is empty", sources.display());
        also(&fresh);
        let workshop = format!("languages/{}-{name}", self.lang);
        let workshop = Workshop::open(env!("CARGO_TARGET_TMPDIR"), &workshop);
        let folder = workshop.lay_out(&fresh);
        stem(&folder, &["task", "build"]);
        Project { folder, _workshop: workshop }
    }
}

/// A project that is built, and that no other process builds meanwhile.
struct Project {
    folder: PathBuf,
    _workshop: Workshop,
}

impl Deref for Project {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.folder
    }
}

fn copy(from: &Path, to: &Path) -> usize {
    fs::create_dir_all(to).unwrap();
    let mut copied = 0;
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copied += copy(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
            copied += 1;
        }
    }
    copied
}

fn stem(folder: &Path, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stem-under-test"));
    clean(&mut command);
    command.env("A_TOKEN", OF_THE_BUILD);
    ran(command.args(args).current_dir(folder).envs(environment()));
}

fn ran(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}: run `cargo xtask setup`"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A worker that keeps what it is told.
#[derive(Debug, Default)]
struct Worker {
    progress: Mutex<Vec<Progress>>,
    checkpoint: Mutex<Option<Vec<u8>>>,
    told: Notify,
}

#[async_trait]
impl AttemptHost for Worker {
    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
        self.told.notify_one();
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        println!("{level:?}: {message} {fields:?}");
    }

    fn log_enabled(&self, _: LogLevel) -> bool {
        true
    }

    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal> {
        Ok(by)
    }

    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal> {
        Ok(self.checkpoint.lock().unwrap().clone())
    }

    async fn save_checkpoint(&self, state: Vec<u8>) -> Result<(), Refusal> {
        *self.checkpoint.lock().unwrap() = Some(state);
        Ok(())
    }
}

struct Bench {
    runtime: Arc<IsolateRuntime>,
    module: Arc<Module>,
    worker: Arc<Worker>,
}

impl Bench {
    async fn of(wasm: &[u8]) -> Self {
        let runtime = IsolateRuntime::new(&RuntimeConfig {
            isolates: 2,
            memory_cap_bytes: 256 << 20,
            threads: 2,
            slice: RuntimeConfig::SLICE,
            compiler: Compiler::InProcess,
            cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/stem/modules")),
            scratch_dir: None,
        })
        .unwrap();
        let module = runtime.load(wasm).await.unwrap();
        Self { runtime, module, worker: Arc::default() }
    }

    fn spec(media_type: &str, bytes: &[u8]) -> AttemptSpec {
        AttemptSpec {
            input: Payload { media_type: media_type.to_owned(), bytes: bytes.to_vec() },
            info: TaskInfo {
                task_id: "task-1".to_owned(),
                task_name: "conformance".to_owned(),
                queue: "default".to_owned(),
                attempt: 2,
                max_attempts: Some(5),
                enqueued_at_ms: 1_767_225_600_123,
                parent_id: None,
                root_id: "task-1".to_owned(),
                idempotency_key: "key-1".to_owned(),
                trace_parent: None,
                headers: Vec::new(),
            },
            limits: Limits { memory_bytes: 128 << 20, ..Limits::DEFAULT },
            on_failure: OnFailure::Retry,
            granted: Arc::default(),
        }
    }

    async fn run(&self, media_type: &str, input: &[u8]) -> Exit {
        let host = Arc::clone(&self.worker) as Arc<dyn AttemptHost>;
        within(self.runtime.start(&self.module, Self::spec(media_type, input), host).exit()).await
    }

    async fn answer(&self, media_type: &str, input: &[u8]) -> Payload {
        match self.run(media_type, input).await.outcome {
            Outcome::Succeeded(payload) => payload,
            other => panic!("{}: {other:?}", String::from_utf8_lossy(input)),
        }
    }

    async fn assert_answer(&self, input: &str, result: &str) {
        let answer = self.answer(JSON, input.as_bytes()).await;
        assert_eq!(String::from_utf8_lossy(&answer.bytes), result, "{input}");
        assert_eq!(answer.media_type, JSON, "{input}");
    }

    async fn results(&self) {
        for (input, result) in [
            (r#"{"op":"echo","text":""}"#, r#"{"text":"","bytes":0}"#),
            (r#"{"op":"echo","text":"plain", "more": [1]}"#, r#"{"text":"plain","bytes":5}"#),
            (
                r#" { "text" : "\u00e9 \u2028 \ud83d\ude00 </&> \u007f" , "op" : "echo" } "#,
                "{\"text\":\"é \u{2028} 😀 </&> \u{7f}\",\"bytes\":18}",
            ),
            (
                r#"{"op":"echo","text":"\" \\ \/ \b\f\n\r\t \u0000 \u001F"}"#,
                r#"{"text":"\" \\ / \b\f\n\r\t \u0000 \u001f","bytes":15}"#,
            ),
            (
                r#"{"op":"info"}"#,
                r#"{"taskName":"conformance","queue":"default","attempt":2,"idempotencyKey":"key-1"}"#,
            ),
            (r#"{"op":"sleep","ms":0}"#, r#"{"ms":0}"#),
            (r#"{"op":"spin","rounds":0}"#, r#"{"rounds":0,"x":1}"#),
            (r#"{"op":"spin","rounds":100000}"#, r#"{"rounds":100000,"x":694140833}"#),
            (r#"{"op":"allocate","mib":20}"#, r#"{"mib":20}"#),
        ] {
            self.assert_answer(input, result).await;
        }
        let long = "aé😀".repeat(40_000);
        let echoed = format!(r#"{{"text":"{long}","bytes":{}}}"#, long.len());
        self.assert_answer(&format!(r#"{{"op":"echo","text":"{long}"}}"#), &echoed).await;

        let before = Instant::now();
        self.assert_answer(r#"{"op":"sleep","ms":50}"#, r#"{"ms":50}"#).await;
        assert!(before.elapsed() >= Duration::from_millis(50), "it did not sleep");

        let every: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        let answer = self.answer(BYTES, &every).await;
        assert!(answer.bytes == every && answer.media_type == BYTES, "{}", answer.media_type);
    }

    async fn failures(&self) {
        use RetryAdvice::{After, Never, Policy};
        let second = After(Duration::from_millis(1500));
        for (input, retry, code, message) in [
            (r#"{"op":"fail","kind":"retryable","code":"c","message":"é m"}"#, Policy, "c", "é m"),
            (
                r#"{"op":"fail","kind":"retryable","code":"busy","message":"","afterMs":1500}"#,
                second,
                "busy",
                "",
            ),
            (r#"{"op":"fail","kind":"fatal","code":"c","message":"m"}"#, Never, "c", "m"),
            // Nobody asked it to stop, so it has failed.
            (r#"{"op":"fail","kind":"cancelled","code":"c","message":"m"}"#, Never, "c", "m"),
            (r#"{"op":"fly"}"#, Never, "unknown-op", "unknown op fly"),
            (r#"{"op":7}"#, Never, "invalid-arguments", "*"),
            (r#"{"op":"echo"}"#, Never, "invalid-arguments", "*"),
            (r#"{"op":"sleep","ms":"1"}"#, Never, "invalid-arguments", "*"),
            (r#"{"op":"sleep","ms":-1}"#, Never, "invalid-arguments", "*"),
            ("[]", Never, "invalid-arguments", "*"),
            ("{", Never, "invalid-arguments", "*"),
            ("", Never, "invalid-arguments", "*"),
        ] {
            let exit = self.run(JSON, input.as_bytes()).await;
            let Outcome::Failed { failure, retry: advice } = &exit.outcome else {
                panic!("{input}: {exit:?}");
            };
            let said = (failure.kind, failure.code.as_str(), *advice);
            assert_eq!(said, (FailureKind::Error, code, retry), "{input}: {}", failure.message);
            assert!(message == "*" || failure.message == message, "{input}: {}", failure.message);
            assert_eq!(failure.detail, None, "{input}");
        }
    }

    async fn progress(&self) {
        self.worker.progress.lock().unwrap().clear();
        self.assert_answer(r#"{"op":"progress","steps":4}"#, r#"{"steps":4}"#).await;
        let told = std::mem::take(&mut *self.worker.progress.lock().unwrap());
        let told: Vec<_> = told.into_iter().map(|told| (told.fraction, told.message)).collect();
        let expected: Vec<_> = (1..=4)
            .map(|step| (Some(f64::from(step) / 4.0), Some(format!("step {step} of 4"))))
            .collect();
        assert_eq!(told, expected);
    }

    async fn checkpoints(&self) {
        *self.worker.checkpoint.lock().unwrap() = None;
        let input = r#"{"op":"checkpoint","steps":5,"stopAt":3}"#;
        let exit = self.run(JSON, input.as_bytes()).await;
        let Outcome::Failed { failure, retry: RetryAdvice::Policy } = &exit.outcome else {
            panic!("{exit:?}");
        };
        assert_eq!(
            (failure.code.as_str(), failure.message.as_str()),
            ("interrupted", "stopped at step 3")
        );
        assert_eq!(self.saved(), r#"{"step":3}"#);
        self.assert_answer(input, r#"{"from":3,"steps":5}"#).await;
        assert_eq!(self.saved(), r#"{"step":5}"#);
    }

    fn saved(&self) -> String {
        String::from_utf8(self.worker.checkpoint.lock().unwrap().clone().unwrap()).unwrap()
    }

    async fn memory(&self) {
        let exit = self.run(JSON, br#"{"op":"allocate","mib":1000}"#).await;
        let Outcome::Failed { failure, .. } = &exit.outcome else { panic!("{exit:?}") };
        assert_eq!(failure.kind, FailureKind::MemoryLimit, "{}", failure.message);
        assert!(exit.usage.peak_memory_bytes <= 128 << 20, "{:?}", exit.usage);
    }

    async fn stops(&self) {
        use StopHow::{Checkpoint, Preempted};
        let beat = r#"{"op":"beat"}"#;
        // By force: wherever it is.
        let exit =
            self.interrupted(r#"{"op":"spin"}"#, |guest| guest.stop(StopReason::Revoked, true));
        assert_eq!(stopped(&exit.await), (StopReason::Revoked, Preempted));
        // Terminated: at its next heartbeat.
        let exit = self.interrupted(beat, |guest| guest.stop(StopReason::Revoked, false));
        assert_eq!(stopped(&exit.await), (StopReason::Revoked, Checkpoint));
        // Asked: it gives up by itself.
        for (code, reason) in [
            ("revoked", StopReason::Revoked),
            ("worker-drain", StopReason::Shutdown),
            ("worker-stop", StopReason::Shutdown),
            ("soft-time-limit", StopReason::TimeLimit),
        ] {
            let asks = |guest: &InterruptHandle| {
                guest.notify(StopNotice { code, message: String::new(), force_after: None });
            };
            let exit = self.interrupted(beat, asks).await;
            if code == "soft-time-limit" {
                // It means to go on in another attempt, which is no stop.
                let Outcome::Failed { failure, retry } = &exit.outcome else { panic!("{exit:?}") };
                let said = (failure.code.as_str(), failure.message.as_str(), *retry);
                assert_eq!(said, (code, "asked to stop", RetryAdvice::Policy));
            } else {
                assert_eq!(stopped(&exit), (reason, Checkpoint), "{code}: {exit:?}");
            }
        }
    }

    /// Starts the task, does this to it once it has told its progress, and waits for its end.
    async fn interrupted(&self, input: &str, act: impl Fn(&InterruptHandle)) -> Exit {
        let worker: Arc<Worker> = Arc::default();
        let host = Arc::clone(&worker) as Arc<dyn AttemptHost>;
        let spec = Self::spec(JSON, input.as_bytes());
        let (guest, end) = self.runtime.start(&self.module, spec, host).into_parts();
        within(worker.told.notified()).await;
        act(&guest);
        within(end).await
    }
}

#[track_caller]
fn stopped(exit: &Exit) -> (StopReason, StopHow) {
    match &exit.outcome {
        Outcome::Stopped { reason, how, .. } => (*reason, *how),
        other => panic!("not stopped: {other:?}"),
    }
}

/// Waits, and fails instead of hanging.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far less")
}
