//! `cargo xtask demo`: two workers, five tasks on real inputs, and an operator who stops one of them by force while the
//! others run on. Everything happens through the programs a user has; this one starts them and looks.
//!
//! Every result is compared with what is known by other means, so that a demo that ends well has shown something.

mod board;
mod programs;
mod tasks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::board::Board;
use self::programs::{Stem, Worker};
use self::tasks::Task;

/// Width of the picture in pixels.
const WIDTH: u32 = 256;
/// How long `spin` is seen spinning before it is stopped.
const SPIN: Duration = Duration::from_secs(1);
/// Until the last task has ended; they take about four seconds.
const PATIENCE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let dir = match tempfile::Builder::new().prefix("stem-demo-").tempdir() {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("error: no temporary directory: {error}");
            return ExitCode::FAILURE;
        }
    };
    match show(dir.path()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            eprintln!("hint: database and logs are kept in {}", dir.keep().display());
            ExitCode::FAILURE
        }
    }
}

fn show(dir: &Path) -> Result<()> {
    let began = Instant::now();
    let root = stem_tests::root();
    let stem = Stem::new(dir)?;
    let target = stem.target()?;
    let out = target.join("demo");
    std::fs::create_dir_all(&out)?;

    println!("\n1. Two workers on one SQLite file, {}", stem.database.display());
    let modules = target.join("stem-modules");
    let mut isolates = stem.command(["worker", "start", "--queue", "default", "--modules"]);
    isolates.arg(&modules);
    let mut workers = vec![Worker::start("stem-worker", isolates, dir)?];
    workers.push(Worker::start("report-worker", stem.report_worker()?, dir)?);
    for worker in &workers {
        println!("   {:<14} after {}: {}", worker.name, seconds(worker.took), worker.ready);
    }

    println!("\n2. Five tasks");
    let tasks = tasks::enqueue(&stem, &root, dir, WIDTH)?;
    for task in &tasks {
        println!("   {:<13} {}  {}", task.name, task.id, task.about);
    }

    println!("\n3. What happens");
    let mut board = Board::new(&tasks);
    let mut spinning = None;
    let mut revoked = false;
    while !board.all_final() {
        ensure!(began.elapsed() < PATIENCE, "the tasks did not end within {}", seconds(PATIENCE));
        board.look(&stem)?;
        if board.state("spin") == "running" && spinning.is_none() {
            spinning = Some(Instant::now());
        }
        if spinning.is_some_and(|since| since.elapsed() > SPIN) && !revoked {
            revoked = true;
            ensure!(board.state("crunch") == "running", "crunch is not running beside spin");
            let id = board.id("spin");
            board.say(&format!("stem worker revoke --task {id} --terminate --reason demo"));
            stem.run(["worker", "revoke", "--task", id, "--terminate", "--reason", "demo"])?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }

    println!("\n4. What came of it");
    for record in board.records() {
        println!("   {}", tasks::took(record)?);
    }
    let natively = target.join("guests/debug/examples/natively");
    let picture = picture(&stem, &tasks::photo(&root), &natively, &out, &board)?;
    for line in tasks::check(&board, &root)?.into_iter().chain(picture) {
        println!("   {line}");
    }

    println!("\n5. SIGTERM to both workers: they finish what runs and leave");
    for worker in workers {
        let name = worker.name;
        println!("   {name:<14} left after {}", seconds(worker.stop()?));
    }
    println!("\nThe demo took {}.", seconds(began.elapsed()));
    Ok(())
}

/// Fetches the picture, and compares it with the one that native code makes.
fn picture(
    stem: &Stem,
    photo: &Path,
    natively: &Path,
    out: &Path,
    board: &Board<'_>,
) -> Result<Vec<String>> {
    let path = out.join("photo.png");
    let native = out.join("natively.png");
    let id = board.id("render-image");
    stem.run(["task", "result", id, "--output", &path.display().to_string()])?;
    let started = Instant::now();
    let status = std::process::Command::new(natively)
        .arg(photo)
        .arg(WIDTH.to_string())
        .arg(&native)
        .status()
        .context("the program that renders natively cannot be started")?;
    ensure!(status.success(), "rendering natively: {status}");
    let took = started.elapsed();
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let png = read(&path)?;
    ensure!(png == read(&native)?, "{} and {} differ", path.display(), native.display());
    ensure!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{} is not a PNG", path.display());
    Ok(vec![
        format!("render-image  {}, {} bytes", path.display(), png.len()),
        format!(
            "              the same bytes as native code makes (debug build, {})",
            seconds(took)
        ),
    ])
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

/// The task of this name.
pub(crate) fn by_name<'a>(tasks: &'a [Task], name: &str) -> &'a Task {
    tasks.iter().find(|task| task.name == name).expect("the demo enqueues each of its tasks")
}
