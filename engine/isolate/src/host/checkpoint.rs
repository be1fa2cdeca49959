//! `stem:task/checkpoint`: state that survives to the next attempt.

use std::sync::Arc;

use stem_host_abi::limits::CHECKPOINT_BYTES;

use super::abi::stem::task::checkpoint;
use super::abi::types::HostError;
use super::{AttemptState, ComponentState};

impl AttemptState {
    pub(super) async fn load_checkpoint(
        &mut self,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, HostError>> {
        let host = Arc::clone(&self.host);
        self.ask(host.load_checkpoint()).await
    }

    pub(super) async fn save_checkpoint(
        &mut self,
        state: Vec<u8>,
    ) -> wasmtime::Result<Result<(), HostError>> {
        if state.len() > CHECKPOINT_BYTES {
            return Ok(Err(HostError::TooLarge(CHECKPOINT_BYTES as u64)));
        }
        let host = Arc::clone(&self.host);
        self.ask(host.save_checkpoint(state)).await
    }
}

impl checkpoint::Host for ComponentState {
    async fn load(&mut self) -> wasmtime::Result<Result<Option<Vec<u8>>, HostError>> {
        self.attempt.enter()?;
        self.attempt.load_checkpoint().await
    }

    async fn save(&mut self, state: Vec<u8>) -> wasmtime::Result<Result<(), HostError>> {
        self.attempt.enter()?;
        self.attempt.save_checkpoint(state).await
    }
}
