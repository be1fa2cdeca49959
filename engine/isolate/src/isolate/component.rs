//! Components that export `stem:task/handler`.

use std::time::Duration;

use stem_core::outcome::{Outcome, RetryAdvice};

use super::{Run, setup};
use crate::host::abi::{self, types};
use crate::host::stdio::Output;
use crate::host::{ComponentState, LogLevel};

impl Run {
    pub(super) async fn task(
        &self,
        pre: &abi::IsolatePre<ComponentState>,
        input: Vec<u8>,
    ) -> Outcome {
        let stdout = Output::lines(self.logs.clone(), LogLevel::Info);
        let stderr = Output::lines(self.logs.clone(), LogLevel::Info);
        let mut wasi = setup::wasi(&self.spec, stdout.clone(), stderr.clone(), None);
        setup::settings(&mut wasi, &self.spec);
        let mut store = match self.component_store(wasi).await {
            Ok(store) => store,
            Err(outcome) => return outcome,
        };
        let input = types::Payload { media_type: self.spec.input.media_type.clone(), bytes: input };
        let called = async {
            let isolate = pre.instantiate_async(&mut store).await?;
            // The result's bytes are counted too: a result just over its own bound is told as that.
            store.set_hostcall_fuel(
                setup::CALL_BYTES
                    + usize::try_from(self.spec.limits.result_bytes).unwrap_or(usize::MAX / 4),
            );
            isolate.stem_task_handler().call_run(&mut store, &input).await
        }
        .await;
        stdout.finish();
        stderr.finish();
        match called {
            Ok(Ok(result)) => self.succeeded(abi::payload(result)),
            Ok(Err(types::TaskError::Retryable(retryable))) => {
                let failure = self.noted(abi::failure(retryable.cause));
                let retry = retryable.not_before.map_or(RetryAdvice::Policy, |ms| {
                    RetryAdvice::After(Duration::from_millis(ms))
                });
                self.retryable(failure, retry)
            }
            Ok(Err(types::TaskError::Fatal(failure))) => Outcome::Failed {
                failure: self.noted(abi::failure(failure)),
                retry: RetryAdvice::Never,
            },
            Ok(Err(types::TaskError::Cancelled(failure))) => {
                self.cancelled(self.noted(abi::failure(failure)))
            }
            Err(error) => self.classify(&error, &store.data().attempt.limiter),
        }
    }
}
