//! Standard output and error. What a command prints is its result; everything else becomes log lines.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use stem_host_abi::command::{STEM_ERROR_LINE_BYTES, STEM_ERROR_PREFIX};
use stem_host_abi::limits::LOG_LINE_BYTES;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::{LogLevel, Logs};
use crate::exit::HostTrap;
use crate::report::Report;

/// What a stream does with what is written to it.
#[derive(Debug)]
enum Sink {
    /// Keeps it, up to a bound.
    Result { bytes: Vec<u8>, limit: usize, over: bool },
    /// Makes log lines of it.
    Lines(Lines),
}

#[derive(Debug)]
struct Lines {
    logs: Logs,
    level: LogLevel,
    /// What has come of the line so far, and whether that is not all.
    line: Vec<u8>,
    cut: bool,
    /// Whether a line may be a failure report, and the last one that was.
    reports: bool,
    report: Option<Report>,
}

/// One output stream; clones write to the same place.
#[derive(Clone, Debug)]
pub(crate) struct Output(Arc<Mutex<Sink>>);

impl Output {
    /// A command's standard output: its result, at most so many bytes.
    pub(crate) fn result(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(Sink::Result { bytes: Vec::new(), limit, over: false })))
    }

    /// Log lines of this level.
    pub(crate) fn lines(logs: Logs, level: LogLevel) -> Self {
        Self::of_lines(logs, level, false)
    }

    /// A command's standard error: log lines, but for its failure reports.
    pub(crate) fn errors(logs: Logs) -> Self {
        Self::of_lines(logs, LogLevel::Info, true)
    }

    fn of_lines(logs: Logs, level: LogLevel, reports: bool) -> Self {
        let lines = Lines { logs, level, line: Vec::new(), cut: false, reports, report: None };
        Self(Arc::new(Mutex::new(Sink::Lines(lines))))
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result; `None` if it went over its limit.
    pub(crate) fn take_result(&self) -> Option<Vec<u8>> {
        match &mut *self.sink() {
            Sink::Result { bytes, over: false, .. } => Some(std::mem::take(bytes)),
            Sink::Result { over: true, .. } | Sink::Lines(_) => None,
        }
    }

    /// Whether more was written than a result may have.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&*self.sink(), Sink::Result { over: true, .. })
    }

    /// Ends the last line and returns the last failure report.
    pub(crate) fn finish(&self) -> Option<Report> {
        match &mut *self.sink() {
            Sink::Lines(lines) => {
                lines.end();
                lines.report.take()
            }
            Sink::Result { .. } => None,
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), HostTrap> {
        match &mut *self.sink() {
            Sink::Result { bytes: kept, limit, over } => {
                if *over || kept.len() + bytes.len() > *limit {
                    *over = true;
                    kept.clear();
                    return Err(HostTrap::ResultTooLarge);
                }
                kept.extend_from_slice(bytes);
            }
            Sink::Lines(lines) => lines.write(bytes),
        }
        Ok(())
    }
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) =
                piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = LOG_LINE_BYTES.saturating_sub(self.line.len());
            self.cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.line);
        let whole = self.reports && !self.cut && self.line.len() <= STEM_ERROR_LINE_BYTES;
        let told = text.strip_prefix(STEM_ERROR_PREFIX).filter(|_| whole);
        match told.and_then(Report::from_line) {
            Some(told) => self.report = Some(told),
            None => self.logs.write(self.level, text.trim_end_matches('\r'), &[]),
        }
        self.line.clear();
        self.cut = false;
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes).map(|()| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What one write may hold; the guest is told and splits.
const WRITE_BYTES: usize = 64 << 10;

impl OutputStream for Output {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        Output::write(self, &bytes).map_err(|trap| StreamError::Trap(wasmtime::Error::new(trap)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}
