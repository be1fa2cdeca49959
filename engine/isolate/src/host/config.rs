//! `stem:task/config`: settings that are not confidential.

use stem_host_abi::limits::SETTING_NAME_BYTES;

use super::abi::stem::task::config;
use super::abi::types::HostError;
use super::{AttemptState, ComponentState};

/// Checks the name of a setting or a secret.
pub(super) fn check_name(name: &str) -> Result<(), HostError> {
    match name.len() {
        0 => Err(HostError::Invalid("the name is empty".to_owned())),
        size if size > SETTING_NAME_BYTES => Err(HostError::TooLarge(SETTING_NAME_BYTES as u64)),
        _ => Ok(()),
    }
}

impl AttemptState {
    /// A granted setting; `None` if the worker has none of that name.
    pub(super) fn setting(&mut self, key: &str) -> Result<Option<&str>, HostError> {
        check_name(key)?;
        if !self.granted.grants.config.iter().any(|granted| granted == key) {
            return Err(self.denied(&format!("config = [{key:?}]")));
        }
        Ok(self.granted.settings.get(key).map(String::as_str))
    }
}

impl config::Host for ComponentState {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, HostError>> {
        self.attempt.enter()?;
        Ok(self.attempt.setting(&key).map(|setting| setting.map(str::to_owned)))
    }
}
