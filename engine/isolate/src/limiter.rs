//! Memory and tables, summed over the whole isolate. The engine's own limits are for each memory; a component with
//! thirty memories would get thirty times as much.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wasmtime::ResourceLimiter;

use crate::interrupt::Shared;

/// Core instances, memories and tables of one isolate. Composed components need some dozen.
const INSTANCES: usize = 256;
/// Most times a guest may grow memory or tables. Growing a page at a time up to 1 GiB takes this many.
const GROWTHS: u32 = 16_384;

/// Which limit was hit first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Linear memory.
    Memory,
    /// Table entries.
    Table,
    /// Too many times.
    Growths,
}

/// Counts and refuses.
#[derive(Debug)]
pub struct Limiter {
    memory_bytes: u64,
    memory_limit: u64,
    table_entries: u64,
    table_limit: u64,
    growths: u32,
    refused: Option<Refused>,
    shared: Arc<Shared>,
}

impl Limiter {
    pub(crate) fn new(memory_limit: u64, table_limit: u64, shared: Arc<Shared>) -> Self {
        Self {
            memory_bytes: 0,
            memory_limit,
            table_entries: 0,
            table_limit,
            growths: 0,
            refused: None,
            shared,
        }
    }

    /// The first refusal, if there was one.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    fn refuse(&mut self, what: Refused) -> bool {
        self.refused.get_or_insert(what);
        false
    }

    fn counts(&mut self) -> bool {
        self.growths += 1;
        self.growths <= GROWTHS || self.refuse(Refused::Growths)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        if !self.counts() || total > self.memory_limit {
            return Ok(self.refuse(Refused::Memory));
        }
        // Over the module's own maximum the engine refuses by itself; nothing was taken then.
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.memory_bytes = total;
            self.shared.peak_memory.fetch_max(total, Ordering::Relaxed);
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.table_entries.saturating_add(desired.saturating_sub(current) as u64);
        if !self.counts() || total > self.table_limit {
            return Ok(self.refuse(Refused::Table));
        }
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.table_entries = total;
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limiter(memory: u64, table: u64) -> Limiter {
        let (exit, _) = tokio::sync::oneshot::channel();
        Limiter::new(memory, table, Arc::new(Shared::new(Duration::MAX, exit)))
    }

    #[test]
    fn memories_are_summed() {
        let mut limiter = limiter(100, 10);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert_eq!(limiter.refused(), Some(Refused::Memory));
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        assert_eq!(limiter.shared.peak_memory.load(Ordering::Relaxed), 100);
        assert!(!limiter.table_growing(0, 11, None).unwrap());
        assert_eq!(limiter.refused(), Some(Refused::Memory), "the first is remembered");
    }

    #[test]
    fn what_the_engine_refuses_itself_is_not_counted() {
        let mut limiter = limiter(100, 10);
        assert!(limiter.memory_growing(0, 90, Some(50)).unwrap());
        assert!(limiter.memory_growing(0, 100, None).unwrap());
    }
}
