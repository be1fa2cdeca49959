//! How much of the worker's a guest may hold by its files: descriptors of the process, and memory in streams and listings.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wasmtime_wasi::filesystem::Descriptor;

/// Files and directories that an attempt may have open. All attempts share the process's, with its connections.
pub(crate) const OPEN: usize = 64;
/// Streams from and into files; each may hold 64 KiB.
const STREAMS: u32 = 64;
/// Listings of directories; each holds all names of one.
const LISTINGS: u32 = 16;

/// What one component holds.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    /// Streams keep a file open whose descriptor is closed already.
    open: Mutex<Vec<Weak<File>>>,
    streams: AtomicU32,
    listings: AtomicU32,
}

impl Handles {
    /// Whether one more may be opened.
    pub(crate) fn has_room(&self) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN {
            open.retain(|file| file.strong_count() > 0);
        }
        open.len() < OPEN
    }

    /// Counts it, until nobody has it any more.
    pub(crate) fn opened(&self, descriptor: &Descriptor) {
        let file = match descriptor {
            Descriptor::File(file) => &file.file,
            Descriptor::Dir(directory) => &directory.dir,
        };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(file));
    }

    /// One more stream, as long as what this returns lives.
    pub(crate) fn stream(self: &Arc<Self>) -> Option<Held> {
        take(&self.streams, STREAMS).then(|| Held(Arc::clone(self)))
    }

    /// Whether one more listing may be made; it is counted then.
    pub(crate) fn listing(&self) -> bool {
        take(&self.listings, LISTINGS)
    }

    /// A listing is gone.
    pub(crate) fn listed(&self) {
        self.listings.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream's place.
#[derive(Debug)]
pub(crate) struct Held(Arc<Handles>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(count: &AtomicU32, most: u32) -> bool {
    let more = |count: u32| (count < most).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}
