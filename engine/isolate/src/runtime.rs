//! The sandbox of one process: engine, linkers, the guests' threads, the ticker.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use stem_core::id::Digest;
use stem_core::observe::{Observer, Seen};
use tokio::sync::Semaphore;
use wasmtime::component::{Component, HasSelf};
use wasmtime::{Engine, Linker};

use crate::admission::{self, Encoded};
use crate::cache::{CodeCache, EntryName};
use crate::config::{self, Allocator, Compiler, RuntimeConfig};
use crate::host::abi::stem::task;
use crate::host::files;
use crate::host::http::{self, Network};
use crate::host::{ComponentState, CoreState, proc_exit, raw};
use crate::module::{self, Linked, LoadError, Module, ModuleKind, Outline};
use crate::ticker::{Reaper, Ticker};
use crate::{compile, native};

/// Why the sandbox cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The kernel's limit on mappings does not allow it.
    #[error("{0}")]
    Mappings(String),
    /// The cache's directory cannot be used.
    #[error("the cache for compiled modules cannot be used: {0}")]
    Cache(#[source] std::io::Error),
    /// Threads or the engine cannot be started.
    #[error("the sandbox cannot be started: {0}")]
    Start(String),
}

/// The sandbox of one process. Dropping the last handle stops its threads; guests that still run are dropped with them.
pub struct IsolateRuntime {
    pub(crate) engine: Engine,
    pub(crate) ticker: Arc<Ticker>,
    components: wasmtime::component::Linker<ComponentState>,
    cores: Linker<CoreState>,
    cache: Option<CodeCache>,
    compiler: Compiler,
    /// One compile at a time: it uses every core.
    compiling: tokio::sync::Mutex<()>,
    loaded: Mutex<HashMap<Digest, Weak<Module>>>,
    allocator: Allocator,
    observer: OnceLock<Arc<dyn Observer>>,
    pub(crate) memory_cap_bytes: u64,
    /// Slots of the pool.
    slots: u32,
    /// A permit for each of them.
    pub(crate) room: Arc<Semaphore>,
    /// For requests of guests.
    pub(crate) network: Arc<Network>,
    guests: Option<tokio::runtime::Runtime>,
    timers: tokio::runtime::Handle,
    pub(crate) files: Arc<files::Place>,
}

impl fmt::Debug for IsolateRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IsolateRuntime").field("allocator", &self.allocator).finish_non_exhaustive()
    }
}

impl IsolateRuntime {
    /// Sets the sandbox up. Tries a pool first, with the page-map scan where that is safe, and falls back to mapping on
    /// demand where the address space does not hold a pool; [`allocator`](Self::allocator) tells which.
    pub fn new(config: &RuntimeConfig) -> Result<Arc<Self>, RuntimeError> {
        config::check_mappings(config.isolates).map_err(RuntimeError::Mappings)?;
        let (engine, allocator) =
            engine(config).map_err(|error| RuntimeError::Start(format!("{error:#}")))?;
        Self::around(config, engine, allocator)
    }

    /// The sandbox with this engine.
    pub(crate) fn around(
        config: &RuntimeConfig,
        engine: Engine,
        allocator: Allocator,
    ) -> Result<Arc<Self>, RuntimeError> {
        let start = |error: &dyn fmt::Display| RuntimeError::Start(error.to_string());
        let cache = config
            .cache_dir
            .as_deref()
            .map(CodeCache::open)
            .transpose()
            .map_err(RuntimeError::Cache)?;
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("stem-guest")
            // Behind the threads that renew leases and obey operators, when both want a core.
            .on_thread_start(|| {
                // A worker that may not lower itself still works; it only gives way later.
                let _ = rustix::process::nice(10);
            })
            .build()
            .map_err(|error| start(&error))?;
        // Apart from the guests: their threads look at timers only between two polls, and a poll may take a whole slice.
        // Its first thread is the one with the timers; the others do what guests ask of files, and give way as guests do.
        let is_first = AtomicBool::new(true);
        let timers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("stem-timer")
            .on_thread_start(move || {
                if !is_first.swap(false, Ordering::Relaxed) {
                    let _ = rustix::process::nice(10);
                }
            })
            .enable_time()
            .build()
            .map_err(|error| start(&error))?;
        let timer_handle = timers.handle().clone();
        let reaper = Reaper::start(timer_handle.clone()).map_err(|error| start(&error))?;
        let ticker =
            Ticker::start(&engine, config.slice, reaper, timers).map_err(|error| start(&error))?;
        let (components, cores) = linkers(&engine).map_err(|error| start(&format!("{error:#}")))?;
        let slots = config::pool_slots(config.isolates);
        let files = Arc::new(files::Place::new(config.scratch_dir.as_deref(), slots));
        let left = Arc::clone(&files);
        std::thread::Builder::new()
            .name("stem-sweep".to_owned())
            .spawn(move || left.scratches.sweep())
            .map_err(|error| start(&error))?;
        Ok(Arc::new(Self {
            engine,
            ticker,
            components,
            cores,
            cache,
            compiler: config.compiler.clone(),
            compiling: tokio::sync::Mutex::new(()),
            loaded: Mutex::default(),
            allocator,
            observer: OnceLock::new(),
            memory_cap_bytes: config.memory_cap_bytes,
            slots,
            room: Arc::new(Semaphore::new(slots as usize)),
            network: Arc::default(),
            guests: Some(guests),
            timers: timer_handle,
            files,
        }))
    }

    /// Tells somebody what is compiled and what the cache had. Once; later calls change nothing.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = self.observer.set(observer);
    }

    fn saw(&self, seen: Seen<'_>) {
        if let Some(observer) = self.observer.get() {
            observer.saw(seen);
        }
    }

    /// Where the memory of isolates comes from.
    pub fn allocator(&self) -> Allocator {
        self.allocator
    }

    pub(crate) fn guests(&self) -> &tokio::runtime::Runtime {
        self.guests.as_ref().expect("taken only when this is dropped")
    }

    pub(crate) fn timers(&self) -> &tokio::runtime::Handle {
        &self.timers
    }

    /// Admits, compiles (or takes from the cache), links. The same bytes give the same module as long as it is in use.
    /// Cancel-safe. Compiles one module at a time.
    pub async fn load(&self, wasm: &[u8]) -> Result<Arc<Module>, LoadError> {
        let digest = admission::digest(wasm);
        if let Some(module) = self.loaded(&digest) {
            return Ok(module);
        }
        let encoded = admission::check(wasm)?;
        let _turn = self.compiling.lock().await;
        if let Some(module) = self.loaded(&digest) {
            return Ok(module);
        }
        let name = EntryName::new(&digest, &self.engine);
        let cached = self.cache.as_ref().and_then(|cache| cache.get(&name));
        if self.cache.is_some() {
            self.saw(Seen::CacheAsked { hit: cached.is_some() });
        }
        let (code, fresh) = if let Some(code) = cached {
            (code, false)
        } else {
            let began = Instant::now();
            let compiled = compile::compile(&self.compiler, wasm, encoded).await;
            self.saw(Seen::Compiled { ok: compiled.is_ok(), took: began.elapsed() });
            (compiled?, true)
        };
        let module = self.link(digest, encoded, &code)?;
        if let Some(cache) = self.cache.as_ref().filter(|_| fresh)
            && let Err(error) = cache.put(&name, &code)
        {
            tracing::warn!(%error, "compiled code could not be kept; the module is compiled again at the next start");
        }
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, module| module.strong_count() > 0);
        loaded.insert(digest, Arc::downgrade(&module));
        Ok(module)
    }

    /// The same module with nothing of what the old one has gathered: compiled code of its own, and an image that no
    /// place of the pool has mapped yet. The old one's go when its last handle does, with its last attempt. Nothing is
    /// compiled, but the code is copied: milliseconds for each few MiB, on the caller's thread, which must not be one
    /// that others wait for.
    pub fn prepare_anew(&self, module: &Module) -> Result<Arc<Module>, LoadError> {
        let code = module.linked.serialize().map_err(|error| refuse(&error))?;
        let code = crate::cache::Trusted::from_engine(code);
        let encoded = match &module.linked {
            Linked::Task(_) | Linked::Command(_) => Encoded::Component,
            Linked::CoreCommand(_) | Linked::Raw(_) => Encoded::Core,
        };
        let digest = module.digest;
        let module = self.link(digest, encoded, &code)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(digest, Arc::downgrade(&module));
        Ok(module)
    }

    fn loaded(&self, digest: &Digest) -> Option<Arc<Module>> {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .and_then(Weak::upgrade)
    }

    /// What a module needs and gives, without linking it; for showing why it is refused.
    pub async fn outline(&self, wasm: &[u8]) -> Result<Outline, LoadError> {
        let encoded = admission::check(wasm)?;
        let _turn = self.compiling.lock().await;
        let code = compile::compile(&self.compiler, wasm, encoded).await?;
        match encoded {
            Encoded::Component => {
                let component =
                    native::component(&self.engine, &code).map_err(|error| refuse(&error))?;
                Ok(module::outline_of_component(&self.engine, &component))
            }
            Encoded::Core => {
                let core =
                    native::core_module(&self.engine, &code).map_err(|error| refuse(&error))?;
                Ok(Self::outline_of_core(&core))
            }
        }
    }

    pub(crate) fn link(
        &self,
        digest: Digest,
        encoded: Encoded,
        code: &crate::cache::Trusted,
    ) -> Result<Arc<Module>, LoadError> {
        let (kind, outline, linked, slots) = match encoded {
            Encoded::Component => self.link_component(code)?,
            Encoded::Core => self.link_core(code)?,
        };
        Ok(Arc::new(Module { digest, kind, outline, linked, slots }))
    }

    fn link_component(
        &self,
        code: &crate::cache::Trusted,
    ) -> Result<(ModuleKind, Outline, Linked, u32), LoadError> {
        let component: Component =
            native::component(&self.engine, code).map_err(|error| refuse(&error))?;
        let outline = module::outline_of_component(&self.engine, &component);
        if !outline.unknown.is_empty() {
            return Err(LoadError::UnknownImports(outline.unknown));
        }
        let kind = module::kind_of_component(&outline).ok_or_else(|| outline.not_a_task())?;
        let pre = self.components.instantiate_pre(&component).map_err(|error| refuse(&error))?;
        component.initialize_copy_on_write_image().map_err(|error| refuse(&error))?;
        // Never more than there are: without a pool nothing else bounds what a module asks for.
        let slots = config::slots_of(component.resources_required().as_ref()).min(self.slots);
        Ok((kind, outline, module::link_component(kind, pre)?, slots))
    }

    fn outline_of_core(core: &wasmtime::Module) -> Outline {
        module::outline_of_core(core, |module, name| match module {
            stem_host_abi::raw::MODULE => stem_host_abi::raw::FUNCTIONS.contains(&name),
            "wasi_snapshot_preview1" => PREVIEW1.contains(&name),
            _ => false,
        })
    }

    fn link_core(
        &self,
        code: &crate::cache::Trusted,
    ) -> Result<(ModuleKind, Outline, Linked, u32), LoadError> {
        let core = native::core_module(&self.engine, code).map_err(|error| refuse(&error))?;
        let outline = Self::outline_of_core(&core);
        if !outline.unknown.is_empty() {
            return Err(LoadError::UnknownImports(outline.unknown));
        }
        let kind = module::kind_of_core(&core).ok_or_else(|| outline.not_a_task())?;
        let pre = self.cores.instantiate_pre(&core).map_err(|error| refuse(&error))?;
        core.initialize_copy_on_write_image().map_err(|error| refuse(&error))?;
        let linked =
            if kind == ModuleKind::Raw { Linked::Raw(pre) } else { Linked::CoreCommand(pre) };
        Ok((
            kind,
            outline,
            linked,
            config::slots_of(Some(&core.resources_required())).min(self.slots),
        ))
    }
}

impl Drop for IsolateRuntime {
    fn drop(&mut self) {
        if let Some(guests) = self.guests.take() {
            // Without waiting: this may be the last handle, held by a task.
            guests.shutdown_background();
        }
        self.ticker.end();
        // The process may end with this.
        self.files.scratches.end();
    }
}

/// The functions of WASI preview 1. A frozen list: the interface ended with this version.
const PREVIEW1: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "environ_get",
    "environ_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_get",
    "fd_prestat_dir_name",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

fn refuse(error: &wasmtime::Error) -> LoadError {
    LoadError::Link(stem_core::text::printable(&format!("{error:#}"), 2_000))
}

pub(crate) fn engine(config: &RuntimeConfig) -> wasmtime::Result<(Engine, Allocator)> {
    let scan = Allocator::Pool { pagemap_scan: true };
    let plain = Allocator::Pool { pagemap_scan: false };
    let tries: &[Allocator] = if config::swap_possible() {
        &[plain, Allocator::OnDemand]
    } else {
        &[scan, plain, Allocator::OnDemand]
    };
    let mut last = None;
    for allocator in tries {
        match Engine::new(&config::running(config, *allocator)) {
            Ok(engine) => return Ok((engine, *allocator)),
            Err(error) => {
                tracing::info!(?allocator, error = %format!("{error:#}"), "this allocator cannot be had here; the next is tried");
                last = Some(error);
            }
        }
    }
    Err(last.expect("at least one allocator was tried"))
}

fn linkers(
    engine: &Engine,
) -> wasmtime::Result<(wasmtime::component::Linker<ComponentState>, Linker<CoreState>)> {
    let mut components = wasmtime::component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
    task::types::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::context::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::lifecycle::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::stop_events::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::log::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::checkpoint::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::children::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::kv::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::config::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    task::secrets::add_to_linker::<_, HasSelf<_>>(&mut components, |state| state)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
    components.allow_shadowing(true);
    files::add_preview2_to_linker(&mut components)?;
    http::add_to_linker(&mut components)?;
    components.allow_shadowing(false);
    let mut cores = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut cores, |state: &mut CoreState| &mut state.wasi)?;
    cores.allow_shadowing(true);
    files::add_preview1_to_linker(&mut cores)?;
    proc_exit::add_to_linker(&mut cores)?;
    cores.allow_shadowing(false);
    raw::add_to_linker(&mut cores)?;
    Ok((components, cores))
}
