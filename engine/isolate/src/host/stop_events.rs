//! `stem:task/stop-events`: lets an event loop wait for a stop notice along with its other work.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::ComponentState;
use super::abi::stem::task::stop_events;
use crate::interrupt::Shared;

struct StopEvents(Arc<Shared>);

#[async_trait::async_trait]
impl Pollable for StopEvents {
    async fn ready(&mut self) {
        loop {
            let woken = self.0.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if self.0.notice().is_some() || self.0.stop().is_some() {
                return;
            }
            woken.await;
        }
    }
}

impl stop_events::Host for ComponentState {
    fn subscribe(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        self.attempt.enter()?;
        let events = self.table.push(StopEvents(Arc::clone(&self.attempt.shared)))?;
        subscribe(&mut self.table, events)
    }
}
