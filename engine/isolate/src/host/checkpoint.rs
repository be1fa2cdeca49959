//! `stem:task/checkpoint`: state that survives to the next attempt.

use std::sync::Arc;

use stem_host_abi::limits::CHECKPOINT_BYTES;

use super::abi::stem::task::{checkpoint, types};
use super::{AttemptState, ComponentState, Refusal};

impl checkpoint::Host for ComponentState {
    async fn load(&mut self) -> wasmtime::Result<Result<Option<Vec<u8>>, types::HostError>> {
        self.attempt.enter()?;
        let host = Arc::clone(&self.attempt.host);
        match self.attempt.unless_stopped(host.load_checkpoint()).await? {
            Err(Refusal::LeaseLost) => Err(AttemptState::trap_lease_lost()),
            answer => Ok(answer.map_err(Into::into)),
        }
    }

    async fn save(&mut self, state: Vec<u8>) -> wasmtime::Result<Result<(), types::HostError>> {
        self.attempt.enter()?;
        if state.len() > CHECKPOINT_BYTES {
            return Ok(Err(types::HostError::TooLarge(CHECKPOINT_BYTES as u64)));
        }
        let host = Arc::clone(&self.attempt.host);
        match self.attempt.unless_stopped(host.save_checkpoint(state)).await? {
            Err(Refusal::LeaseLost) => Err(AttemptState::trap_lease_lost()),
            answer => Ok(answer.map_err(Into::into)),
        }
    }
}
