//! Compiling, in a child process with bounds on CPU time, memory and wall time.
//!
//! A slow compile is not a bug to the compiler's makers, and slow ones are easy to write; so it happens where it can be
//! ended. The child reads the module from its standard input and writes the code to its standard output. It gets no
//! environment but what it is given by name, and when it has the module it gives up every file and socket, whatever the
//! compiler may be led to do.

use std::io::{Read, Write};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wasmtime::{Config, Engine};

use crate::admission::{self, Encoded};
use crate::cache::Trusted;
use crate::config::{self, Compiler};

/// CPU seconds for any module, and more for each MiB: about ten times what the compiler needs on a slow core.
const CPU_SECONDS: u64 = 10;
const CPU_SECONDS_PER_MIB: u64 = 10;
/// Address space for any module, and more for each MiB: four times what the compiler was seen to take. It counts
/// reserved space too (256 MiB of it are the allocator's arenas), so the memory really used is far below.
const MEMORY_BYTES: u64 = 1 << 30;
const MEMORY_BYTES_PER_MIB: u64 = 160 << 20;
/// Largest code that is taken from the child.
const CODE_BYTES: u64 = 512 << 20;

/// Why a module could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The module is not valid, or uses what the sandbox has switched off.
    #[error("the module cannot be compiled: {0}")]
    Invalid(String),
    /// Over the time limit.
    #[error("compiling took more than {0} s and was stopped")]
    TooSlow(u64),
    /// Over the memory limit, or the compiler died.
    #[error(
        "the compiler ended unexpectedly ({0}); the module needs too much memory to compile, or found a bug in it"
    )]
    Died(String),
    /// The child could not be started or spoken to.
    #[error("the compiler could not be run: {0}")]
    Unavailable(String),
}

fn bounds(size: usize) -> (u64, u64) {
    let mib = size.div_ceil(1 << 20) as u64;
    (CPU_SECONDS + CPU_SECONDS_PER_MIB * (mib - 1), MEMORY_BYTES + MEMORY_BYTES_PER_MIB * (mib - 1))
}

/// Compiles a module that passed [`admission::check`]. Cancel-safe: a dropped call ends the child.
pub(crate) async fn compile(
    compiler: &Compiler,
    wasm: &[u8],
    encoded: Encoded,
) -> Result<Trusted, CompileError> {
    let code = match compiler {
        Compiler::InProcess => {
            let wasm = wasm.to_vec();
            tokio::task::spawn_blocking(move || compile_here(&config::compiling(), &wasm, encoded))
                .await
                .map_err(|error| CompileError::Died(error.to_string()))?
                .map_err(CompileError::Invalid)?
        }
        Compiler::Child { program, args, env } => {
            let command = command(program, args, env);
            compile_in_child(program, command, wasm).await?
        }
    };
    Ok(Trusted::from_compiler(code))
}

pub(crate) fn compile_here(
    config: &Config,
    wasm: &[u8],
    encoded: Encoded,
) -> Result<Vec<u8>, String> {
    let engine = Engine::new(config).map_err(|error| format!("{error:#}"))?;
    match encoded {
        Encoded::Component => engine.precompile_component(wasm),
        Encoded::Core => engine.precompile_module(wasm),
    }
    .map_err(|error| stem_core::text::printable(&format!("{error:#}"), 2_000))
}

fn command(
    program: &std::path::Path,
    args: &[String],
    env: &[(String, String)],
) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.args(args).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn compile_in_child(
    program: &std::path::Path,
    mut command: tokio::process::Command,
    wasm: &[u8],
) -> Result<Vec<u8>, CompileError> {
    let unavailable = |error: std::io::Error| {
        CompileError::Unavailable(format!("{}: {error}", program.display()))
    };
    let mut child = command.kill_on_drop(true).spawn().map_err(unavailable)?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let stdout = child.stdout.take().expect("it was asked for");
    let stderr = child.stderr.take().expect("it was asked for");
    let (cpu, _) = bounds(wasm.len());
    // The child may wait for a core; its CPU limit is the tighter one on a quiet machine.
    let wall = Duration::from_secs(cpu * 6);
    let (mut code, mut words) = (Vec::new(), Vec::new());
    let talk = async {
        let feed = async {
            // A child that refuses early closes its end; what it says is told by its exit.
            let _ = stdin.write_all(wasm).await;
            drop(stdin);
        };
        let (mut stdout, mut stderr) = (stdout.take(CODE_BYTES), stderr.take(64 << 10));
        let ((), read, _) =
            tokio::join!(feed, stdout.read_to_end(&mut code), stderr.read_to_end(&mut words));
        read?;
        child.wait().await
    };
    let status = match tokio::time::timeout(wall, talk).await {
        Err(_) => return Err(CompileError::TooSlow(wall.as_secs())),
        Ok(status) => status.map_err(unavailable)?,
    };
    let words = stem_core::text::printable(String::from_utf8_lossy(&words).trim(), 2_000);
    match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(0), _) => Ok(code),
        (Some(REFUSED), _) => Err(CompileError::Invalid(words)),
        (_, Some(signal))
            if signal == rustix::process::Signal::XCPU.as_raw()
                || signal == rustix::process::Signal::KILL.as_raw() =>
        {
            Err(CompileError::TooSlow(cpu))
        }
        _ => Err(CompileError::Died(format!(
            "{status}{}{words}",
            if words.is_empty() { "" } else { ": " }
        ))),
    }
}

/// The child's exit code for a module that is not valid.
const REFUSED: i32 = 3;

/// What the compiling child does, from its first line to its last. A program that hands itself to
/// [`Compiler::Child`] calls this, and nothing else, when it is started with the arguments given there.
pub fn child_main() -> ExitCode {
    match child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "{problem}");
            ExitCode::from(u8::try_from(REFUSED).unwrap_or(1))
        }
    }
}

fn child() -> Result<(), String> {
    // The tightest bounds first; the true ones as soon as the size is known.
    let limit = |resource, amount: u64| {
        setrlimit(
            resource,
            Rlimit { current: Some(amount), maximum: Some(amount.saturating_add(1)) },
        )
        .map_err(|error| format!("cannot set a limit: {error}"))
    };
    let _ =
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let mut wasm = Vec::new();
    std::io::stdin()
        .take(admission::MODULE_BYTES as u64 + 1)
        .read_to_end(&mut wasm)
        .map_err(|error| format!("cannot read the module: {error}"))?;
    // Before anything looks at the module, and before there is a second thread.
    stem_harden::confine_compiler();
    let (cpu, memory) = bounds(wasm.len().max(1));
    limit(Resource::Cpu, cpu)?;
    limit(Resource::As, memory)?;
    let encoded = admission::check(&wasm).map_err(|error| error.to_string())?;
    let code = compile_here(&config::compiling(), &wasm, encoded)?;
    std::io::stdout().write_all(&code).map_err(|error| format!("cannot write the code: {error}"))
}
