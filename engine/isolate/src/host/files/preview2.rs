//! `wasi:filesystem/types` with the quota in front of what writes and makes. Stands in the linker in place of wasmtime's,
//! and calls that.

use std::io;
use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::FileRules;
use super::handles::weigh;
use super::meter::{Meter, cost};
use super::stream::{Price, Reads, Writes};
use crate::host::ComponentState;

type Fd = Resource<Descriptor>;

/// What the functions act on.
pub(crate) struct View<'a> {
    wasi: WasiFilesystemCtxView<'a>,
    rules: FileRules,
}

struct Quoted;

impl HasData for Quoted {
    type Data<'a> = View<'a>;
}

/// Puts the functions with the quota in the place of those without. The linker allows it.
pub(crate) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, Quoted>(linker, |state| {
        let rules = state.files.clone();
        View { wasi: state.filesystem(), rules }
    })
}

fn full() -> FsError {
    ErrorCode::InsufficientSpace.into()
}

/// Of what it holds: there is no code for too many of them.
fn too_many() -> FsError {
    ErrorCode::InsufficientMemory.into()
}

/// The same handle once more, for a call that takes one.
fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

impl View<'_> {
    /// The file and its meter, if writing to it costs something.
    fn metered(&self, fd: &Fd) -> FsResult<Option<(Arc<std::fs::File>, Arc<Meter>)>> {
        let Some(meter) = &self.rules.meter else { return Ok(None) };
        Ok(match self.wasi.table.get(fd)? {
            Descriptor::File(file) => Some((Arc::clone(&file.file), Arc::clone(meter))),
            Descriptor::Dir(_) => None,
        })
    }

    /// Takes one more file, directory or link, which is about to be made.
    fn make(&self) -> FsResult<()> {
        match &self.rules.meter {
            Some(meter) if !meter.take_file() => Err(full()),
            _ => Ok(()),
        }
    }

    /// Gives it back if it was not made.
    fn made<T>(&self, answer: FsResult<T>) -> FsResult<T> {
        if let Some(meter) = self.rules.meter.as_ref().filter(|_| answer.is_err()) {
            meter.give_back_file();
        }
        answer
    }

    /// Opens it, if it may be open too.
    async fn open(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let Some(handles) = self.rules.handles.clone() else {
            return self.wasi.open_at(fd, path_flags, path, open_flags, flags).await;
        };
        if !handles.has_room() {
            return Err(too_many());
        }
        let opened = self.wasi.open_at(fd, path_flags, path, open_flags, flags).await?;
        handles.opened(self.wasi.table.get(&opened)?);
        Ok(opened)
    }

    fn writes(
        &mut self,
        price: Option<Price>,
        opened: impl FnOnce(&mut WasiFilesystemCtxView<'_>) -> FsResult<Resource<DynOutputStream>>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let Some(handles) = &self.rules.handles else { return opened(&mut self.wasi) };
        let held = handles.stream().ok_or_else(too_many)?;
        let stream = opened(&mut self.wasi)?;
        let inner = self.wasi.table.delete(stream)?;
        let stream: DynOutputStream = Box::new(Writes { inner, _held: held, price });
        Ok(self.wasi.table.push(stream)?)
    }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.wasi.filesystem_error_code(error)
    }
}

impl HostDescriptor for View<'_> {
    // What writes or makes, or may wait.

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, at: Filesize) -> FsResult<Filesize> {
        let Some((file, meter)) = self.metered(&fd)? else {
            return self.wasi.write(fd, bytes, at).await;
        };
        let len = bytes.len() as u64;
        let end = if at == 0 { 0 } else { file.metadata()?.len() };
        let price = cost(at, len, end);
        if !meter.take_bytes(price) {
            return Err(full());
        }
        let written = self.wasi.write(fd, bytes, at).await;
        match &written {
            Ok(written) => meter.give_back_bytes(len.saturating_sub(*written)),
            Err(_) => meter.give_back_bytes(price),
        }
        written
    }

    fn write_via_stream(&mut self, fd: Fd, at: Filesize) -> FsResult<Resource<DynOutputStream>> {
        let metered = self.metered(&fd)?;
        let price = metered.map(|(file, meter)| Price { meter, first: Some((at, file)) });
        self.writes(price, |wasi| wasi.write_via_stream(fd, at))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        let price = self.metered(&fd)?.map(|(_, meter)| Price { meter, first: None });
        self.writes(price, |wasi| wasi.append_via_stream(fd))
    }

    fn read_via_stream(&mut self, fd: Fd, at: Filesize) -> FsResult<Resource<DynInputStream>> {
        let Some(handles) = &self.rules.handles else { return self.wasi.read_via_stream(fd, at) };
        let held = handles.stream().ok_or_else(too_many)?;
        let stream = self.wasi.read_via_stream(fd, at)?;
        let inner = self.wasi.table.delete(stream)?;
        let stream: DynInputStream = Box::new(Reads { inner, _held: held });
        Ok(self.wasi.table.push(stream)?)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        let Some(handles) = self.rules.handles.clone() else {
            return self.wasi.read_directory(fd).await;
        };
        let Descriptor::Dir(directory) = self.wasi.table.get(&fd)? else {
            return self.wasi.read_directory(fd).await;
        };
        let room = handles.room_for_listing().ok_or_else(too_many)?;
        let directory = Arc::clone(&directory.dir);
        // Before wasmtime reads it, which takes all of it at once.
        let bytes = tokio::task::spawn_blocking(move || weigh(&directory, room)).await;
        let bytes = bytes.map_err(io::Error::other)??.ok_or_else(too_many)?;
        let listing = self.wasi.read_directory(fd).await?;
        handles.listed(listing.rep(), bytes);
        Ok(listing)
    }

    // Nothing here outlives the attempt, and a disk that is made to write is slow for everybody.

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.wasi.table.get(&fd)?;
        Ok(())
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.wasi.table.get(&fd)?;
        Ok(())
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let Some((file, meter)) = self.metered(&fd)? else {
            return self.wasi.set_size(fd, size).await;
        };
        let growth = size.saturating_sub(file.metadata()?.len());
        if !meter.take_bytes(growth) {
            return Err(full());
        }
        let answer = self.wasi.set_size(fd, size).await;
        if answer.is_err() {
            meter.give_back_bytes(growth);
        }
        answer
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        if self.rules.inputs {
            let about = self.wasi.stat_at(again(&fd), path_flags, path.clone()).await;
            let special = about.is_ok_and(|about| {
                !matches!(
                    about.type_,
                    DescriptorType::RegularFile
                        | DescriptorType::Directory
                        | DescriptorType::SymbolicLink
                )
            });
            if special {
                return Err(ErrorCode::NotPermitted.into());
            }
        }
        let creates = open_flags.contains(OpenFlags::CREATE)
            && !open_flags.contains(OpenFlags::DIRECTORY)
            && self.rules.meter.is_some();
        if !creates {
            return self.open(fd, path_flags, path, open_flags, flags).await;
        }
        if !open_flags.contains(OpenFlags::EXCLUSIVE) {
            // Costs nothing if it is there.
            let without = open_flags & !OpenFlags::CREATE;
            let opened = self.open(again(&fd), path_flags, path.clone(), without, flags).await;
            match opened {
                Err(error) if matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)) => {}
                opened => return opened,
            }
        }
        self.make()?;
        let opened = self.open(fd, path_flags, path, open_flags, flags).await;
        self.made(opened)
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.make()?;
        let made = self.wasi.create_directory_at(fd, path).await;
        self.made(made)
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        old: String,
        directory: Fd,
        new: String,
    ) -> FsResult<()> {
        self.make()?;
        let made = self.wasi.link_at(fd, flags, old, directory, new).await;
        self.made(made)
    }

    async fn symlink_at(&mut self, fd: Fd, text: String, path: String) -> FsResult<()> {
        self.make()?;
        let made = self.wasi.symlink_at(fd, text, path).await;
        self.made(made)
    }

    // The rest is wasmtime's.

    async fn advise(&mut self, fd: Fd, at: u64, len: u64, advice: Advice) -> FsResult<()> {
        self.wasi.advise(fd, at, len, advice).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.wasi.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.wasi.get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        access: NewTimestamp,
        modification: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times(fd, access, modification).await
    }

    async fn read(&mut self, fd: Fd, len: Filesize, at: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.wasi.read(fd, len, at).await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.wasi.stat(fd).await
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.wasi.stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        access: NewTimestamp,
        modification: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times_at(fd, flags, path, access, modification).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.wasi, fd)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.wasi.readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.wasi.remove_directory_at(fd, path).await
    }

    async fn rename_at(&mut self, fd: Fd, old: String, directory: Fd, new: String) -> FsResult<()> {
        self.wasi.rename_at(fd, old, directory, new).await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.wasi.unlink_file_at(fd, path).await
    }

    async fn is_same_object(&mut self, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        self.wasi.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash_at(fd, flags, path).await
    }
}

impl HostDirectoryEntryStream for View<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.wasi.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        let handle = stream.rep();
        HostDirectoryEntryStream::drop(&mut self.wasi, stream)?;
        if let Some(handles) = &self.rules.handles {
            handles.unlisted(handle);
        }
        Ok(())
    }
}
