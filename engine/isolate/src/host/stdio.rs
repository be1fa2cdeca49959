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
    /// Makes log lines of it, and remembers the last failure report.
    Lines { logs: Logs, level: LogLevel, line: Vec<u8>, cut: bool, report: Option<Report> },
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
        let sink = Sink::Lines { logs, level, line: Vec::new(), cut: false, report: None };
        Self(Arc::new(Mutex::new(sink)))
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result; `None` if it went over its limit.
    pub(crate) fn take_result(&self) -> Option<Vec<u8>> {
        match &mut *self.sink() {
            Sink::Result { bytes, over: false, .. } => Some(std::mem::take(bytes)),
            Sink::Result { over: true, .. } | Sink::Lines { .. } => None,
        }
    }

    /// Whether more was written than a result may have.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&*self.sink(), Sink::Result { over: true, .. })
    }

    /// Ends the last line and returns the last failure report.
    pub(crate) fn finish(&self) -> Option<Report> {
        match &mut *self.sink() {
            Sink::Lines { logs, level, line, cut, report } => {
                end_line(logs, *level, line, cut, report);
                report.take()
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
            Sink::Lines { logs, level, line, cut, report } => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    let (text, ends) =
                        piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
                    let room = LOG_LINE_BYTES.saturating_sub(line.len());
                    *cut |= text.len() > room;
                    line.extend_from_slice(&text[..text.len().min(room)]);
                    if ends {
                        end_line(logs, *level, line, cut, report);
                    }
                }
            }
        }
        Ok(())
    }
}

fn end_line(
    logs: &Logs,
    level: LogLevel,
    line: &mut Vec<u8>,
    cut: &mut bool,
    report: &mut Option<Report>,
) {
    if line.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(line);
    let told = if *cut || line.len() > STEM_ERROR_LINE_BYTES {
        None
    } else {
        text.strip_prefix(STEM_ERROR_PREFIX).and_then(Report::from_line)
    };
    match told {
        Some(told) => *report = Some(told),
        None => logs.write(level, text.trim_end_matches('\r'), &[]),
    }
    line.clear();
    *cut = false;
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
