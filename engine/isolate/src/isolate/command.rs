//! WASI commands, and core modules of both kinds: what is in common is that they end with a code.

use std::time::Duration;

use stem_core::envelope::Payload;
use stem_core::outcome::{Failure, FailureKind, Outcome};
use stem_host_abi::command;
use wasmtime::Store;
use wasmtime_wasi::I32Exit;

use super::{Run, setup};
use crate::exit;
use crate::host::proc_exit;
use crate::host::raw::{self, RawState};
use crate::host::stdio::Output;
use crate::host::{ComponentState, CoreState, LogLevel};
use crate::limiter::{Limiter, Refused};
use crate::module;
use crate::report::{Kind, Report};

/// Where a core module is entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// As a command: its program.
    Start,
    /// `stem_run`.
    Run,
}

impl Run {
    pub(super) async fn command(
        &self,
        pre: &wasmtime_wasi::p2::bindings::CommandPre<ComponentState>,
        input: Vec<u8>,
    ) -> Outcome {
        let stdout = self.printed();
        let stderr = Output::errors(self.logs.clone());
        let mut wasi = setup::wasi(&self.spec, stdout.clone(), stderr.clone(), Some(input));
        setup::environment(&mut wasi, &self.spec);
        let mut store = match self.component_store(wasi).await {
            Ok(store) => store,
            Err(outcome) => return outcome,
        };
        let called = async {
            let command = pre.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        }
        .await;
        let report = stderr.finish();
        let refused = store.data().attempt.limiter.refused();
        match called {
            Ok(Ok(())) => self.command_ended(Some(0), &stdout, report, refused).await,
            Ok(Err(())) => self.command_ended(None, &stdout, report, refused).await,
            Err(error) => match error.downcast_ref::<I32Exit>() {
                // The exit call of WASI 0.2 knows success and failure only; a failure arrives as 1.
                Some(I32Exit(1)) => self.command_ended(None, &stdout, report, refused).await,
                Some(I32Exit(code)) => {
                    self.command_ended(Some(*code), &stdout, report, refused).await
                }
                None => self.broke(&error, &store.data().attempt.limiter, &stdout),
            },
        }
    }

    pub(super) async fn core(
        &self,
        pre: &wasmtime::InstancePre<CoreState>,
        input: Vec<u8>,
        entry: Entry,
    ) -> Outcome {
        let by_calls = entry == Entry::Run
            || (raw::gives_its_result(pre.module()) && self.spec.granted.result_file.is_none());
        let stdout = if by_calls {
            Output::lines(self.logs.clone(), LogLevel::Info)
        } else {
            self.printed()
        };
        let stderr = match entry {
            Entry::Start => Output::errors(self.logs.clone()),
            Entry::Run => Output::lines(self.logs.clone(), LogLevel::Info),
        };
        let stdin = (entry == Entry::Start).then(|| input.clone());
        let mut wasi = setup::wasi(&self.spec, stdout.clone(), stderr.clone(), stdin);
        setup::environment(&mut wasi, &self.spec);
        let info =
            serde_json::to_vec(&self.spec.info).expect("task info holds only text and numbers");
        let (mut wasi, files) = match self.mounted(wasi).await {
            Ok(mounted) => mounted,
            Err(outcome) => return outcome,
        };
        let raw = RawState::new(input, info);
        let attempt = self.attempt();
        let state = CoreState { wasi: wasi.build_p1(), files: files.into(), attempt, raw };
        let mut store = setup::store(&self.sandbox, state, |state| &mut state.attempt);
        let called = async {
            let instance = pre.instantiate_async(&mut store).await?;
            if let Some(initialize) = instance.get_func(&mut store, "_initialize") {
                initialize.typed::<(), ()>(&store)?.call_async(&mut store, ()).await?;
            }
            match entry {
                Entry::Start => started(&instance, &mut store).await,
                Entry::Run => {
                    let name = stem_host_abi::raw::EXPORT_RUN;
                    instance
                        .get_typed_func::<(), i32>(&mut store, name)?
                        .call_async(&mut store, ())
                        .await
                }
            }
        }
        .await;
        let line = stderr.finish();
        stdout.finish();
        let code = match called {
            Ok(code) => code,
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(code)) => *code,
                None => return self.broke(&error, &store.data().attempt.limiter, &stdout),
            },
        };
        let refused = store.data().attempt.limiter.refused();
        let RawState { output, output_refused, report: told, .. } = &mut store.data_mut().raw;
        let (output, told, over) = (output.take(), told.take(), *output_refused);
        match entry {
            _ if by_calls && code == command::EXIT_OK => match output {
                None if entry == Entry::Start => {
                    let words = "the command ended well and gave no result to output_write";
                    self.failed_silently("no-result", words, refused)
                }
                output => self.succeeded(printed_payload(output.unwrap_or_default())),
            },
            _ if over && line.is_none() && told.is_none() => {
                exit::result_too_large(self.spec.limits.result_bytes)
            }
            Entry::Start => self.command_ended(Some(code), &stdout, line.or(told), refused).await,
            Entry::Run => match told {
                Some(report) => self.reported(report),
                None => self.failed_silently(
                    &format!("exit-{code}"),
                    &format!("stem_run returned {code} and told nothing"),
                    refused,
                ),
            },
        }
    }

    /// Where a command prints: its result, unless that is in a file.
    fn printed(&self) -> Output {
        match &self.spec.granted.result_file {
            Some(_) => Output::lines(self.logs.clone(), LogLevel::Info),
            None => Output::result(self.spec.limits.result_bytes),
        }
    }

    fn broke(&self, error: &wasmtime::Error, limiter: &Limiter, stdout: &Output) -> Outcome {
        // The preview 1 layer wraps a stream's trap in an error of its own.
        if stdout.is_over() && self.shared.forced().is_none() {
            return exit::result_too_large(self.spec.limits.result_bytes);
        }
        self.classify(error, limiter)
    }

    /// What a command's end means; `None` is a failure without a code.
    async fn command_ended(
        &self,
        code: Option<i32>,
        stdout: &Output,
        report: Option<Report>,
        refused: Option<Refused>,
    ) -> Outcome {
        stdout.finish();
        if code == Some(command::EXIT_OK) {
            let result = match (&self.spec.granted.result_file, &self.files) {
                (Some(path), Some(files)) => {
                    match files.result(path, self.spec.limits.result_bytes).await {
                        Ok(result) => result,
                        Err(outcome) => return outcome,
                    }
                }
                _ => stdout.take_result(),
            };
            return match result {
                Some(bytes) => self.succeeded(printed_payload(bytes)),
                None => exit::result_too_large(self.spec.limits.result_bytes),
            };
        }
        let name = code.map_or_else(|| "exit".to_owned(), |code| format!("exit-{code}"));
        let words = "the command ended with a failure and told nothing on a stem-error: line";
        let kind = match code {
            Some(command::EXIT_RETRYABLE) => Some(Kind::Retryable),
            Some(command::EXIT_CANCELLED) => Some(Kind::Cancelled),
            Some(code) if command::FATAL_EXITS.contains(&code) => Some(Kind::Fatal),
            _ => None,
        };
        match (kind, report) {
            // A code that decides is stronger than the line's kind; the line still gives the words.
            (Some(kind), Some(report)) => self.reported(Report { kind, ..report }),
            (None, Some(report)) => self.reported(report),
            (Some(kind), None) => self.reported(Report {
                kind,
                failure: Failure::new(FailureKind::Error, &name, words),
                retry_after: Duration::ZERO,
                left_out: None,
            }),
            (None, None) => self.failed_silently(&name, words, refused),
        }
    }
}

/// Runs a command, and returns its exit code where it does not exit by itself.
async fn started(
    instance: &wasmtime::Instance,
    store: &mut Store<CoreState>,
) -> wasmtime::Result<i32> {
    if instance.get_func(&mut *store, module::START).is_some() {
        let start = instance.get_typed_func::<(), ()>(&mut *store, module::START)?;
        return start.call_async(&mut *store, ()).await.map(|()| 0);
    }
    let start = instance.get_typed_func::<(), i32>(&mut *store, module::DELAYED_START)?;
    let code = start.call_async(&mut *store, ()).await?;
    if let Ok(exit) = instance.get_typed_func::<i32, ()>(&mut *store, module::DELAYED_EXIT) {
        exit.call_async(&mut *store, code).await?;
    }
    Ok(proc_exit::code(code))
}

/// What a core module or a command gives: JSON if it is one JSON document, else bytes.
fn printed_payload(bytes: Vec<u8>) -> Payload {
    // As text first: a reader that skips strings does not see that their bytes are none.
    let is_json = std::str::from_utf8(&bytes)
        .is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    let media_type = if is_json { stem_host_abi::JSON } else { stem_host_abi::OCTET_STREAM };
    Payload { media_type: media_type.to_owned(), bytes }
}
