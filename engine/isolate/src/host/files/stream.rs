//! Streams from and into files: counted, and what is written into the scratch directory is paid for.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

use super::handles::Held;
use super::meter::{Meter, cost};

/// Out of a file.
pub(crate) struct Reads {
    pub(crate) inner: DynInputStream,
    pub(crate) _held: Held,
}

#[async_trait::async_trait]
impl InputStream for Reads {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait::async_trait]
impl Pollable for Reads {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

/// Into a file.
pub(crate) struct Writes {
    pub(crate) inner: DynOutputStream,
    pub(crate) _held: Held,
    pub(crate) price: Option<Price>,
}

/// What writing costs.
pub(crate) struct Price {
    pub(crate) meter: Arc<Meter>,
    /// Where the first write goes; `None` after it, and for appending: neither leaves a hole.
    pub(crate) first: Option<(u64, Arc<File>)>,
}

impl Price {
    fn pay(&mut self, bytes: &Bytes) -> StreamResult<()> {
        let len = bytes.len() as u64;
        let cost = match &self.first {
            Some((at, file)) if *at > 0 => {
                let about = file.metadata();
                let end = about.map_err(|error| StreamError::LastOperationFailed(error.into()))?;
                cost(*at, len, end.len())
            }
            _ => len,
        };
        if !self.meter.take_bytes(cost) {
            let full = io::Error::from(rustix::io::Errno::NOSPC);
            return Err(StreamError::LastOperationFailed(full.into()));
        }
        if len > 0 {
            self.first = None;
        }
        Ok(())
    }
}

impl Writes {
    fn pay(&mut self, bytes: &Bytes) -> StreamResult<()> {
        self.price.as_mut().map_or(Ok(()), |price| price.pay(bytes))
    }
}

#[async_trait::async_trait]
impl OutputStream for Writes {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.pay(&bytes)?;
        self.inner.write(bytes)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.pay(&bytes)?;
        self.inner.blocking_write_and_flush(bytes).await
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait::async_trait]
impl Pollable for Writes {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}
