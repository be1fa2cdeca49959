//! How much of the worker's a guest may hold by its files: descriptors of the process, and memory in streams and listings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wasmtime_wasi::filesystem::Descriptor;

/// Streams from and into files; each may hold 64 KiB.
const STREAMS: u32 = 64;
/// Listings of directories; each holds all names of one.
const LISTINGS: usize = 16;
/// What the names of all listings may take, with [`NAME_BYTES`] beside each: as many as a hundred thousand of usual length.
const LISTED_BYTES: u64 = 16 << 20;
const NAME_BYTES: u64 = 64;

/// What one component holds.
#[derive(Debug)]
pub(crate) struct Handles {
    /// Files and directories that it may have open.
    most: usize,
    /// Streams keep a file open whose descriptor is closed already.
    open: Mutex<Vec<Weak<File>>>,
    streams: AtomicU32,
    /// What each takes, by the number of its handle.
    listings: Mutex<BTreeMap<u32, u64>>,
}

impl Handles {
    /// Nothing yet, and at most so many open files.
    pub(crate) fn new(most: usize) -> Self {
        let (open, listings) = (Mutex::default(), Mutex::default());
        Self { most, open, streams: AtomicU32::new(0), listings }
    }

    /// Files and directories that it may have open.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Whether one more may be opened.
    pub(crate) fn has_room(&self) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            open.retain(|file| file.strong_count() > 0);
        }
        open.len() < self.most
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

    /// What one more listing may take; `None` where there are too many.
    pub(crate) fn room_for_listing(&self) -> Option<u64> {
        let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = listings.values().sum();
        (listings.len() < LISTINGS).then(|| LISTED_BYTES.saturating_sub(taken))
    }

    /// A listing was made, and takes so much until it is gone.
    pub(crate) fn listed(&self, handle: u32, bytes: u64) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, bytes);
    }

    /// A listing is gone.
    pub(crate) fn unlisted(&self, handle: u32) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle);
    }
}

/// What a directory's listing takes; `None` if that is more than there is room for. Blocks.
pub(crate) fn weigh(directory: &File, room: u64) -> io::Result<Option<u64>> {
    let mut bytes = 0;
    for entry in rustix::fs::Dir::read_from(directory)? {
        bytes += entry?.file_name().to_bytes().len() as u64 + NAME_BYTES;
        if bytes > room {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_bounded_in_number_and_together() {
        let handles = Handles::new(64);
        assert_eq!(handles.room_for_listing(), Some(LISTED_BYTES));
        for handle in 0..15 {
            handles.listed(handle, 1 << 20);
        }
        assert_eq!(handles.room_for_listing(), Some(1 << 20));
        handles.listed(15, 1 << 20);
        assert_eq!(handles.room_for_listing(), None);
        handles.unlisted(3);
        assert_eq!(handles.room_for_listing(), Some(1 << 20));

        let directory = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let directory = File::open(directory.path()).unwrap();
        // The two, and those of the directory itself and its parent.
        let bytes = 4 * NAME_BYTES + 11;
        assert_eq!(weigh(&directory, bytes).unwrap(), Some(bytes));
        assert_eq!(weigh(&directory, bytes - 1).unwrap(), None);
    }
}
