//! Every engine knob, with what it costs. One profile for untrusted code; everything not needed is off.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    ResourcesRequired, Strategy, WasmBacktraceDetails,
};

/// Where modules are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// In a child process with bounds on CPU time, memory and wall time: what untrusted modules need. The program must
    /// call [`crate::compile::child_main`] when it is started with these arguments.
    Child {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// All of its environment: what its allocator must be told, for instance.
        env: Vec<(String, String)>,
    },
    /// In this process, on a blocking thread, without bounds: for modules that are trusted, and for tests.
    InProcess,
}

/// How the sandbox of a process is set up.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Isolates that may exist at once. The pool is made a quarter larger, so that one that is being taken down never
    /// delays the next.
    pub isolates: u32,
    /// No isolate gets more linear memory, whatever its manifest asks for. It also bounds the longest stretch that
    /// cannot be interrupted, one `memory.fill` over all of it: about 0.7 ms for each MiB at worst (page faults
    /// included), 90 ms at 128 MiB.
    pub memory_cap_bytes: u64,
    /// Threads that run guests. More than there are cores makes stopping slower: the victim may be off its core.
    pub threads: usize,
    /// How long a guest computes before another gets its thread.
    pub slice: Duration,
    /// Where modules are compiled.
    pub compiler: Compiler,
    /// Where compiled code is kept between starts; `None` compiles at each start.
    pub cache_dir: Option<PathBuf>,
    /// Where scratch directories lie, in a directory of this user alone; `None` for the system's place for temporary
    /// files (`TMPDIR`). It should be on a disk with room for as many quotas as there are isolates.
    pub scratch_dir: Option<PathBuf>,
}

impl RuntimeConfig {
    /// The memory an isolate may have unless the operator says otherwise.
    pub const MEMORY_CAP_BYTES: u64 = 1 << 30;
    /// 10 ms: long enough that switching costs nothing, short enough that ten guests on one core all move.
    pub const SLICE: Duration = Duration::from_millis(10);
}

/// Bytes of stack a guest may use. The host functions it calls have the rest of [`ASYNC_STACK_BYTES`].
const WASM_STACK_BYTES: usize = 512 << 10;
/// The stack of one attempt: 512 KiB for the guest and room for host functions. Only touched pages cost memory.
const ASYNC_STACK_BYTES: usize = 1 << 20;
/// Address space for one memory. 4 GiB lets compiled code leave out bounds checks (a third faster on dense loops).
const MEMORY_RESERVATION: u64 = 4 << 30;
/// Behind each memory.
const MEMORY_GUARD: u64 = 32 << 20;
/// Kept mapped in a slot for the next tenant, zeroed by the kernel's page-map scan. Covers what small guests touch.
const KEEP_RESIDENT: usize = 256 << 10;
/// The same for tables.
const KEEP_RESIDENT_TABLE: usize = 64 << 10;
/// Core instances in one component: large enough for composed and adapted ones.
const CORE_INSTANCES_PER_COMPONENT: u32 = 32;
/// Memories in one component.
const MEMORIES_PER_COMPONENT: u32 = 4;
/// Tables in one component.
const TABLES_PER_COMPONENT: u32 = 16;
/// Bookkeeping of one instance; JavaScript and Python components exceed the default of 1 MiB.
const INSTANCE_BYTES: usize = 10 << 20;
/// Entries of one table; JavaScript engines exceed the default of 20,000.
pub const TABLE_ENTRIES: usize = 100_000;

/// Where the memory of isolates comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// A pool made at the start: five times cheaper for each attempt than mapping on demand, and it scales with cores.
    Pool {
        /// Whether the kernel's page-map scan resets slots. Only without swap: a page that was swapped out would
        /// otherwise be neither reset nor freed (wasmtime issue 14357).
        pagemap_scan: bool,
    },
    /// Mapped for each attempt: where the address space does not hold a pool.
    OnDemand,
}

/// What decides the code that the compiler makes; the same in a worker and in its compiling child.
fn profile() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .consume_fuel(false)
        .wasm_component_model(true)
        // Composed components make the engine generate adapters with several memories; switching this off would make
        // it panic on them. The limiter and the pool bound how many there are.
        .wasm_multi_memory(true)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .shared_memory(false)
        // No component-model async: host calls cost less than half, and a family of advisories does not apply.
        .concurrency_support(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(ASYNC_STACK_BYTES)
        .memory_reservation(MEMORY_RESERVATION)
        .memory_guard_size(MEMORY_GUARD)
        .guard_before_linear_memory(true)
        .signals_based_traps(true)
        .memory_init_cow(true)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// For the compiling child: the profile, and no pool.
pub(crate) fn compiling() -> Config {
    let mut config = profile();
    config.parallel_compilation(true);
    config
}

/// For a worker: the profile with this allocator.
pub(crate) fn running(config: &RuntimeConfig, allocator: Allocator) -> Config {
    let mut engine = profile();
    let Allocator::Pool { pagemap_scan } = allocator else { return engine };
    let slots = pool_slots(config.isolates);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(slots.saturating_mul(MEMORIES_PER_SLOT))
        .total_tables(slots.saturating_mul(TABLES_PER_SLOT))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memories_per_module(MEMORIES_PER_COMPONENT)
        .max_tables_per_module(TABLES_PER_COMPONENT)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_core_instance_size(INSTANCE_BYTES)
        .table_elements(TABLE_ENTRIES)
        .max_memory_size(usize::try_from(config.memory_cap_bytes).unwrap_or(usize::MAX));
    if pagemap_scan {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(KEEP_RESIDENT_TABLE);
    }
    engine.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    engine
}

/// Memories that the pool holds for each slot; they cost address space.
const MEMORIES_PER_SLOT: u32 = 2;
/// Tables that the pool holds for each slot.
const TABLES_PER_SLOT: u32 = 4;

/// How many slots an isolate with these needs takes: one, unless it is composed of several programs.
pub(crate) fn slots_of(needs: Option<&ResourcesRequired>) -> u32 {
    needs.map_or(1, |needs| {
        needs
            .num_memories
            .div_ceil(MEMORIES_PER_SLOT)
            .max(needs.num_tables.div_ceil(TABLES_PER_SLOT))
            .max(1)
    })
}

/// Slots of the pool for so many isolates. The spare ones let the next begin while slots are wiped; who finds none waits for one.
pub(crate) fn pool_slots(isolates: u32) -> u32 {
    isolates.saturating_add((isolates / 4).min(SPARE_SLOTS)).saturating_add(8)
}

/// More are wiped at once only where very many end together.
const SPARE_SLOTS: u32 = 64;

/// Kernel mappings that one slot may come to use; measured with a Rust guest (two for its stack, two for its memory, one for
/// each of two tables).
const MAPPINGS_PER_SLOT: u64 = 6;
/// Mappings that are left for everything else.
const MAPPINGS_RESERVED: u64 = 5_000;

/// Refuses a pool that the kernel's limit on mappings cannot hold, which would show later as "cannot allocate memory".
pub(crate) fn check_mappings(isolates: u32) -> Result<(), String> {
    let Some(limit) = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
    else {
        return Ok(());
    };
    let needed = u64::from(pool_slots(isolates)) * MAPPINGS_PER_SLOT + MAPPINGS_RESERVED;
    if needed <= limit {
        return Ok(());
    }
    let slots = limit.saturating_sub(MAPPINGS_RESERVED) / MAPPINGS_PER_SLOT;
    let most =
        slots.saturating_sub(u64::from(SPARE_SLOTS) + 8).max(slots.saturating_sub(8) * 4 / 5);
    Err(format!(
        "{isolates} isolates at once need vm.max_map_count of at least {needed}, and it is {limit}: \
         raise it (sysctl -w vm.max_map_count={needed}) or use at most {most}"
    ))
}

/// Whether swap could hold a guest's pages.
pub(crate) fn swap_possible() -> bool {
    // One header line, then one line for each swap area. Unreadable counts as possible.
    std::fs::read_to_string("/proc/swaps")
        .map_or(true, |text| text.lines().skip(1).any(|line| !line.trim().is_empty()))
}
