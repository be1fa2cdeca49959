//! The functions of WASI preview 1 that write and make, with the quota in front. They stand in the linker in place of
//! wasmtime's, and call those.

use stem_host_abi::raw::EXPORT_MEMORY;
use wasmtime::{AsContextMut as _, Caller, Extern, Linker};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::{Errno, Fd, Filetype, Lookupflags, Oflags};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wiggle::{GuestMemory, GuestPtr};

use super::meter::{Meter, cost};
use super::{CoreFiles, FileRules};
use crate::host::CoreState;

const MODULE: &str = "wasi_snapshot_preview1";
const SUCCESS: i32 = Errno::Success as i32;
const NO_SPACE: i32 = Errno::Nospc as i32;

type Here<'a> = Caller<'a, CoreState>;

/// The guest's memory, and the state behind its files.
struct Call<'a> {
    memory: GuestMemory<'a>,
    wasi: &'a mut WasiP1Ctx,
    files: &'a mut CoreFiles,
    /// How much a call may copy.
    fuel: usize,
}

impl<'a> Call<'a> {
    fn new(here: &'a mut Here<'_>) -> wasmtime::Result<Self> {
        let memory = here
            .get_export(EXPORT_MEMORY)
            .and_then(Extern::into_memory)
            .ok_or_else(|| wasmtime::Error::msg("missing required memory export"))?;
        let fuel = here.as_context_mut().hostcall_fuel();
        let (memory, state) = memory.data_and_store_mut(here);
        state.wasi.set_hostcall_fuel(fuel);
        let memory = GuestMemory::Unshared(memory);
        Ok(Self { memory, wasi: &mut state.wasi, files: &mut state.files, fuel })
    }

    fn rules(&self) -> &FileRules {
        &self.files.rules
    }

    fn is_file(&mut self, fd: i32) -> bool {
        self.position(fd).is_some()
    }

    /// Where the next write goes; `None` for what is no file.
    fn position(&mut self, fd: i32) -> Option<u64> {
        self.wasi.fd_tell(&mut self.memory, Fd::from(fd)).ok()
    }

    async fn size(&mut self, fd: i32) -> u64 {
        let about = self.wasi.fd_filestat_get(&mut self.memory, Fd::from(fd)).await;
        about.map_or(0, |about| about.size)
    }

    /// Bytes in the first of these buffers that is not empty, which is the one that will be written.
    fn first_buffer(&self, buffers: i32, count: i32) -> Option<u64> {
        let (buffers, count) = (buffers.cast_unsigned(), count.cast_unsigned());
        if count as usize > self.fuel / 8 {
            return None;
        }
        (0..count).find_map(|number| {
            let len = buffers.checked_add(number.checked_mul(8)?)?.checked_add(4)?;
            let len = self.memory.read(GuestPtr::<u32>::new(len)).ok()?;
            (len > 0).then_some(u64::from(len))
        })
    }

    /// Pays for a write, makes it, and takes back what was paid too much.
    async fn write(
        &mut self,
        fd: i32,
        buffers: i32,
        count: i32,
        at: Option<u64>,
        written: i32,
    ) -> wasmtime::Result<i32> {
        let Some(meter) = self.rules().meter.clone() else {
            return self.write_unpaid(fd, buffers, count, at, written).await;
        };
        // What cannot be looked at is for wasmtime to refuse, as is writing to what is no file.
        let (Some(position), Some(len)) = (self.position(fd), self.first_buffer(buffers, count))
        else {
            return self.write_unpaid(fd, buffers, count, at, written).await;
        };
        let begin = at.unwrap_or(position);
        let number = fd.cast_unsigned();
        let mut paid = self.files.open.get(&number).copied().unwrap_or(0);
        if begin > paid {
            paid = self.size(fd).await;
        }
        let price = cost(begin, len, paid);
        if !meter.take_bytes(price) {
            return Ok(NO_SPACE);
        }
        let answer = self.write_unpaid(fd, buffers, count, at, written).await?;
        if answer != SUCCESS {
            meter.give_back_bytes(price);
            return Ok(answer);
        }
        let done = self.memory.read(GuestPtr::<u32>::new(written.cast_unsigned()))?;
        meter.give_back_bytes(len.saturating_sub(u64::from(done)));
        self.files.open.insert(number, paid.max(begin.saturating_add(u64::from(done))));
        Ok(answer)
    }

    async fn write_unpaid(
        &mut self,
        fd: i32,
        buffers: i32,
        count: i32,
        at: Option<u64>,
        written: i32,
    ) -> wasmtime::Result<i32> {
        let Self { memory, wasi, .. } = self;
        match at {
            Some(at) => {
                wasi::fd_pwrite(*wasi, memory, fd, buffers, count, at.cast_signed(), written).await
            }
            None => wasi::fd_write(*wasi, memory, fd, buffers, count, written).await,
        }
    }

    async fn set_size(&mut self, fd: i32, size: i64) -> wasmtime::Result<i32> {
        let mut paid = None;
        if let Some(meter) = self.rules().meter.clone()
            && self.is_file(fd)
        {
            let growth = size.cast_unsigned().saturating_sub(self.size(fd).await);
            if !meter.take_bytes(growth) {
                return Ok(NO_SPACE);
            }
            paid = Some((meter, growth));
        }
        let answer = wasi::fd_filestat_set_size(self.wasi, &mut self.memory, fd, size).await?;
        if let Some((meter, growth)) = paid.filter(|_| answer != SUCCESS) {
            meter.give_back_bytes(growth);
        }
        Ok(answer)
    }

    /// Whether what is at a path is something else than a file, a directory or a link.
    async fn is_special(&mut self, open: &Open) -> bool {
        let flags = Lookupflags::from_bits_truncate(open.lookup.cast_unsigned());
        let path = GuestPtr::<str>::new((open.path.cast_unsigned(), open.len.cast_unsigned()));
        let about =
            self.wasi.path_filestat_get(&mut self.memory, Fd::from(open.directory), flags, path);
        about.await.is_ok_and(|about| {
            !matches!(
                about.filetype,
                Filetype::RegularFile | Filetype::Directory | Filetype::SymbolicLink
            )
        })
    }

    async fn open(&mut self, open: Open) -> wasmtime::Result<i32> {
        let most = self.rules().handles.as_ref().map_or(usize::MAX, |handles| handles.most());
        if self.files.open.len() >= most {
            return Ok(Errno::Mfile as i32);
        }
        if self.rules().inputs {
            if self.is_special(&open).await {
                return Ok(Errno::Perm as i32);
            }
            self.wasi.set_hostcall_fuel(self.fuel);
        }
        let answer = match self.rules().meter.clone() {
            Some(meter) => self.open_paid(&open, &meter).await?,
            None => self.open_unpaid(&open, open.flags).await?,
        };
        if answer == SUCCESS {
            let opened = open.opened.cast_unsigned();
            let number = self.memory.read(GuestPtr::<u32>::new(opened))?;
            self.files.open.insert(number, 0);
        }
        Ok(answer)
    }

    async fn close(&mut self, fd: i32) -> wasmtime::Result<i32> {
        let answer = wasi::fd_close(self.wasi, &mut self.memory, fd).await?;
        if answer == SUCCESS {
            self.files.open.remove(&fd.cast_unsigned());
        }
        Ok(answer)
    }

    async fn renumber(&mut self, from: i32, to: i32) -> wasmtime::Result<i32> {
        let answer = wasi::fd_renumber(self.wasi, &mut self.memory, from, to).await?;
        if answer == SUCCESS && from != to {
            self.files.open.remove(&to.cast_unsigned());
            if let Some(paid) = self.files.open.remove(&from.cast_unsigned()) {
                self.files.open.insert(to.cast_unsigned(), paid);
            }
        }
        Ok(answer)
    }

    async fn open_paid(&mut self, open: &Open, meter: &Meter) -> wasmtime::Result<i32> {
        let has = |flag: Oflags| open.flags & i32::from(flag.bits()) != 0;
        if !has(Oflags::CREAT) || has(Oflags::DIRECTORY) {
            return self.open_unpaid(open, open.flags).await;
        }
        if !has(Oflags::EXCL) {
            // Costs nothing if it is there.
            let flags = open.flags & !i32::from(Oflags::CREAT.bits());
            let answer = self.open_unpaid(open, flags).await?;
            if answer != Errno::Noent as i32 {
                return Ok(answer);
            }
            self.wasi.set_hostcall_fuel(self.fuel);
        }
        if !meter.take_file() {
            return Ok(NO_SPACE);
        }
        let answer = self.open_unpaid(open, open.flags).await?;
        if answer != SUCCESS {
            meter.give_back_file();
        }
        Ok(answer)
    }

    async fn open_unpaid(&mut self, open: &Open, flags: i32) -> wasmtime::Result<i32> {
        let Self { memory, wasi, .. } = self;
        let Open { directory, lookup, path, len, rights, inheriting, fd_flags, opened, .. } = *open;
        wasi::path_open(
            *wasi, memory, directory, lookup, path, len, flags, rights, inheriting, fd_flags,
            opened,
        )
        .await
    }
}

/// The arguments of `path_open`.
struct Open {
    directory: i32,
    lookup: i32,
    path: i32,
    len: i32,
    flags: i32,
    rights: i64,
    inheriting: i64,
    fd_flags: i32,
    opened: i32,
}

/// A function that makes something if it succeeds.
macro_rules! making {
    ($linker:ident, $name:ident, $($argument:ident),+) => {
        $linker.func_wrap_async(MODULE, stringify!($name), |mut here: Here<'_>, ($($argument),+): ($(making!(@ $argument)),+)| {
            Box::new(async move {
                let Call { mut memory, wasi, files, .. } = Call::new(&mut here)?;
                if files.rules.meter.as_ref().is_some_and(|meter| !meter.take_file()) {
                    return Ok(NO_SPACE);
                }
                let answer = wasi::$name(wasi, &mut memory, $($argument),+).await?;
                if let Some(meter) = files.rules.meter.as_ref().filter(|_| answer != SUCCESS) {
                    meter.give_back_file();
                }
                Ok(answer)
            })
        })?;
    };
    (@ $argument:ident) => { i32 };
}

/// Puts the functions with the quota in the place of those without. The linker allows it.
pub(crate) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut here: Here<'_>, (fd, buffers, count, written): (i32, i32, i32, i32)| {
            Box::new(
                async move { Call::new(&mut here)?.write(fd, buffers, count, None, written).await },
            )
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pwrite",
        |mut here: Here<'_>, (fd, buffers, count, at, written): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let at = Some(at.cast_unsigned());
                Call::new(&mut here)?.write(fd, buffers, count, at, written).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_set_size",
        |mut here: Here<'_>, (fd, size): (i32, i64)| {
            Box::new(async move { Call::new(&mut here)?.set_size(fd, size).await })
        },
    )?;
    linker.func_wrap_async(MODULE, "fd_close", |mut here: Here<'_>, (fd,): (i32,)| {
        Box::new(async move { Call::new(&mut here)?.close(fd).await })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut here: Here<'_>, (from, to): (i32, i32)| {
            Box::new(async move { Call::new(&mut here)?.renumber(from, to).await })
        },
    )?;
    // Nothing here outlives the attempt, and a disk that is made to write is slow for everybody.
    for name in ["fd_sync", "fd_datasync"] {
        linker.func_wrap(MODULE, name, |mut here: Here<'_>, fd: i32| {
            let synced = Call::new(&mut here)?.is_file(fd);
            wasmtime::Result::Ok(if synced { SUCCESS } else { Errno::Badf as i32 })
        })?;
    }
    linker.func_wrap_async(
        MODULE,
        "path_open",
        |mut here: Here<'_>,
         (directory, lookup, path, len, flags, rights, inheriting, fd_flags, opened): (
            i32,
            i32,
            i32,
            i32,
            i32,
            i64,
            i64,
            i32,
            i32,
        )| {
            Box::new(async move {
                let open = Open {
                    directory,
                    lookup,
                    path,
                    len,
                    flags,
                    rights,
                    inheriting,
                    fd_flags,
                    opened,
                };
                Call::new(&mut here)?.open(open).await
            })
        },
    )?;
    making!(linker, path_create_directory, directory, path, len);
    making!(linker, path_symlink, text, text_len, directory, path, len);
    making!(linker, path_link, from, lookup, old, old_len, directory, path, len);
    Ok(())
}
