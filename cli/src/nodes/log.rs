//! A node's log file: opened safely, its newest lines, and opened anew when it was moved away.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use stem_core::text::printable;
use tokio::signal::unix::{SignalKind, signal};

use super::safe;
use crate::error::CliError;

/// For the owner and the group that reads logs.
const MODE: u32 = 0o640;
/// So many lines are shown.
const LINES: usize = 10;
/// So far back they are looked for.
const TAIL_BYTES: u64 = 8 << 10;
/// So much of a line is shown.
const LINE_BYTES: usize = 400;

/// Opens a log for appending, and makes it and its directory if they are not there. No symbolic link is followed, and
/// nothing is written to what is not a plain file of this user.
pub fn open(path: &Path) -> Result<File, CliError> {
    safe::directory_of(path)?;
    reopen(path).map_err(|problem| {
        CliError::failed(
            format!("the log file {} cannot be used: {problem}", path.display()),
            "look at what is there, or choose another --logfile",
        )
    })
}

fn reopen(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    // NONBLOCK: a FIFO that nobody reads must not hold us up. It changes nothing for plain files.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.append(true).create(true).mode(MODE).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => "it is a symbolic link".to_owned(),
        _ => error.to_string(),
    })?;
    let about = file.metadata().map_err(|error| error.to_string())?;
    match safe::problem_of_file(&about) {
        Some(problem) => Err(problem),
        None if about.nlink() > 1 => Err(format!("it has {} names", about.nlink())),
        None => Ok(file),
    }
}

/// The last lines that were written since the file had so many bytes, fit for a terminal.
pub fn tail(path: &Path, since: u64) -> Vec<String> {
    let text = newest(path, since).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LINES);
    lines[skipped..].iter().map(|line| printable(line, LINE_BYTES)).collect()
}

fn newest(path: &Path, since: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let from = since.max(file.metadata()?.len().saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// This process's output, where it goes to a log file.
#[derive(Clone, Copy, Debug, Default)]
struct Captured {
    stdout: bool,
    stderr: bool,
}

impl Captured {
    /// What goes to the file of this name, or went there before it was moved away: any file that is appended to, since
    /// whoever named the log directed the output to it.
    fn by(path: &Path) -> Self {
        let there = path.metadata().ok();
        let goes = |of: io::Result<File>| {
            let Ok(file) = of else { return false };
            let Ok(ours) = file.metadata() else { return false };
            let appends =
                || rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
            there.as_ref().is_some_and(|there| id(there) == id(&ours))
                || (ours.is_file() && appends())
        };
        Self { stdout: goes(duplicate(io::stdout())), stderr: goes(duplicate(io::stderr())) }
    }

    fn nothing(self) -> bool {
        !self.stdout && !self.stderr
    }

    fn redirect(self, file: &File) -> io::Result<()> {
        if self.stdout {
            rustix::stdio::dup2_stdout(file)?;
        }
        if self.stderr {
            rustix::stdio::dup2_stderr(file)?;
        }
        Ok(())
    }
}

fn duplicate(stream: impl std::os::fd::AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

fn id(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// Opens the log anew on each SIGHUP, if this process's output goes to it; where it does not, a SIGHUP is only noted,
/// since whoever turns the logs of nodes sends one to each. On a terminal nothing listens: a SIGHUP there says that the
/// terminal is gone. Call it on a runtime; what is returned runs until it is dropped.
pub fn keep(path: Option<PathBuf>) -> io::Result<Option<impl Future<Output = ()> + Send>> {
    let captured = path.as_deref().map(Captured::by).unwrap_or_default();
    if captured.nothing() && io::stderr().is_terminal() {
        return Ok(None);
    }
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(Some(async move {
        while hangups.recv().await.is_some() {
            let Some(path) = path.as_deref().filter(|_| !captured.nothing()) else {
                tracing::info!("SIGHUP: the output is not in the log file; the worker goes on");
                continue;
            };
            let opened = reopen(path)
                .and_then(|file| captured.redirect(&file).map_err(|error| error.to_string()));
            match opened {
                Ok(()) => tracing::info!("the log file was opened anew"),
                Err(problem) => {
                    tracing::error!(path = %path.display(), problem, "the log file cannot be opened anew; the old one is written on");
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_plain_file_of_ours_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/a.log");
        open(&path).unwrap().write_all(b"one\n").unwrap();
        open(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, MODE);

        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let link = dir.path().join("link");
        symlink(&victim, &link).unwrap();
        let hard = dir.path().join("hard");
        std::fs::hard_link(&victim, &hard).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        for (bad, words) in [
            (&link, "symbolic link"),
            (&hard, "2 names"),
            (&fifo, "log file"),
            (&dir.path().to_owned(), "log file"),
            (&"/dev/full".into(), "device"),
        ] {
            let error = open(bad).unwrap_err();
            assert!(error.what.contains(words), "{error}");
        }
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_tail_is_bounded_and_printable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        assert_eq!(tail(&path, 0), [""; 0]);
        let lines = "one line of many\n".repeat(5_000);
        std::fs::write(&path, format!("{lines}\u{1b}[31mred\n")).unwrap();
        let shown = tail(&path, 0);
        assert_eq!((shown.len(), shown.last().unwrap().as_str()), (LINES, "\\u{1b}[31mred"));
        assert_eq!(tail(&path, lines.len() as u64), ["\\u{1b}[31mred"]);
    }
}
