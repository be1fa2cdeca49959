//! What two threads could reach at most on this machine: two sandboxes that share nothing but their process, and two
//! processes that share nothing at all.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;

use super::{ATTEMPTS, Side, chain};

/// Attempts a second of both together.
pub(super) async fn two_sandboxes(wasm: &[u8]) -> anyhow::Result<f64> {
    let sides = [Side::new(1, wasm).await?, Side::new(1, wasm).await?];
    let at = Instant::now();
    let running = sides.map(|side| {
        tokio::spawn(async move {
            chain::attempts(&side.isolates, &side.module, side.at_once(), ATTEMPTS).await
        })
    });
    for side in running {
        side.await??;
    }
    Ok(2.0 * f64::from(ATTEMPTS) / at.elapsed().as_secs_f64())
}

/// The same of two processes, which begin together.
pub(super) fn two_processes() -> anyhow::Result<f64> {
    let start = || {
        Command::new(std::env::current_exe()?)
            .args(["child", "attempts"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut children = [start()?, start()?];
    let mut said = Vec::new();
    for child in &mut children {
        let mut out = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        line(&mut out)?;
        said.push(out);
    }
    let at = Instant::now();
    for child in &mut children {
        child.stdin.take().context("its input is a pipe")?.write_all(b"\n")?;
    }
    for out in &mut said {
        line(out)?;
    }
    let span = at.elapsed();
    for mut child in children {
        ended(&mut child)?;
    }
    Ok(2.0 * f64::from(ATTEMPTS) / span.as_secs_f64())
}

fn line(out: &mut impl std::io::BufRead) -> anyhow::Result<()> {
    anyhow::ensure!(out.read_line(&mut String::new())? > 0, "a process ended too early");
    Ok(())
}

fn ended(child: &mut Child) -> anyhow::Result<()> {
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "a process ended with {status}");
    Ok(())
}

/// One of the two processes: says when it can begin, begins when it is told, and says when it is done.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) async fn child() -> anyhow::Result<()> {
    let side = Side::new(1, &crate::example("crunch")?).await?;
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    chain::attempts(&side.isolates, &side.module, side.at_once(), ATTEMPTS).await?;
    println!("done");
    Ok(())
}
