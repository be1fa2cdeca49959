//! `stem:task/lifecycle`: the checkpoints.

use std::time::Duration;

use stem_core::task::Progress;
use stem_core::text::printable;
use stem_host_abi::limits;

use super::abi::stem::task::{lifecycle, types};
use super::abi::{self, millis};
use super::{AttemptState, ComponentState};

impl AttemptState {
    /// A checkpoint that returns whether a notice is pending.
    pub(super) fn heartbeat(&mut self) -> wasmtime::Result<Option<stem_core::outcome::StopNotice>> {
        self.checkpoint()?;
        Ok(self.notice())
    }

    /// Checks an update against its bounds and hands it to the worker.
    pub(super) fn report(&mut self, mut progress: Progress) -> Result<(), types::HostError> {
        if progress
            .message
            .as_ref()
            .is_some_and(|message| message.len() > limits::PROGRESS_MESSAGE_BYTES)
        {
            return Err(types::HostError::TooLarge(limits::PROGRESS_MESSAGE_BYTES as u64));
        }
        if progress.data.as_ref().is_some_and(|data| data.bytes.len() > limits::PROGRESS_DATA_BYTES)
        {
            return Err(types::HostError::TooLarge(limits::PROGRESS_DATA_BYTES as u64));
        }
        if progress.fraction.is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
            return Err(types::HostError::Invalid("the fraction is not within 0 and 1".to_owned()));
        }
        progress.message =
            progress.message.map(|message| printable(&message, limits::PROGRESS_MESSAGE_BYTES));
        self.host.progress(progress);
        Ok(())
    }

    /// Until the soft and until the hard limit.
    pub(super) fn time_left(&self) -> (Option<Duration>, Duration) {
        (self.limits.soft.map(|soft| soft.saturating_sub(self.shared.running_for())), self.left())
    }
}

impl lifecycle::Host for ComponentState {
    fn heartbeat(&mut self) -> wasmtime::Result<Option<types::StopNotice>> {
        Ok(self.attempt.heartbeat()?.map(Into::into))
    }

    async fn extend_lease(&mut self, by: u64) -> wasmtime::Result<Result<u64, types::HostError>> {
        Ok(self.attempt.extend(Duration::from_millis(by)).await?.map(millis).map_err(Into::into))
    }

    fn progress(
        &mut self,
        update: lifecycle::ProgressUpdate,
    ) -> wasmtime::Result<Result<Option<types::StopNotice>, types::HostError>> {
        self.attempt.checkpoint()?;
        let data = update.data.map(abi::payload);
        let reported = self.attempt.report(Progress {
            fraction: update.fraction,
            message: update.message,
            data,
        });
        // Only now: a guest whose update is refused is not told.
        Ok(reported.map(|()| self.attempt.notice().map(Into::into)))
    }

    fn stop_requested(&mut self) -> wasmtime::Result<Option<types::StopNotice>> {
        self.attempt.enter()?;
        Ok(self.attempt.notice().map(Into::into))
    }

    fn time_left(&mut self) -> wasmtime::Result<(Option<u64>, Option<u64>)> {
        self.attempt.enter()?;
        let (soft, hard) = self.attempt.time_left();
        Ok((soft.map(millis), Some(millis(hard))))
    }

    async fn sleep(&mut self, duration: u64) -> wasmtime::Result<Result<(), types::HostError>> {
        self.attempt.checkpoint()?;
        let slept = self.attempt.wait(Duration::from_millis(duration)).await?;
        Ok(if slept { Ok(()) } else { Err(types::HostError::Stopping) })
    }
}
