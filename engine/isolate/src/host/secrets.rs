//! `stem:task/secrets`: what stands in for a secret, and, by a grant of its own, the secret itself.

mod placeholders;

pub(crate) use self::placeholders::{Placeholders, Withheld};
use super::abi::stem::task::secrets;
use super::abi::types::HostError;
use super::config::check_name;
use super::{AttemptState, ComponentState, LogLevel};

impl AttemptState {
    /// A text that outgoing requests get the secret for.
    pub(super) fn placeholder(&mut self, name: &str) -> Result<String, HostError> {
        self.secret(name, Use::Send)?;
        self.placeholders.stand_in(name).map_err(|error| {
            HostError::Unavailable(format!("the worker has no randomness: {error}"))
        })
    }

    /// The secret itself. The log has a line of it, one for each secret and attempt.
    pub(super) fn reveal(&mut self, name: &str) -> Result<Vec<u8>, HostError> {
        let secret = self.secret(name, Use::Read)?;
        if self.revealed.insert(name.to_owned()) {
            let line = format!("the secret {name} was revealed to the guest");
            let fields = [
                ("task".to_owned(), self.spec.info.task_id.clone()),
                ("secret".to_owned(), name.to_owned()),
            ];
            self.host.log(LogLevel::Warn, &line, &fields);
        }
        Ok(secret)
    }

    /// The secret, if it is granted for this use and there is one.
    fn secret(&mut self, name: &str, r#use: Use) -> Result<Vec<u8>, HostError> {
        check_name(name)?;
        let grants = self.granted.grants.secrets.iter();
        let granted = grants.filter(|grant| grant.name == name).any(|grant| match r#use {
            Use::Send => !grant.hosts.is_empty(),
            Use::Read => grant.reveal,
        });
        if !granted {
            return Err(self.denied(&r#use.grant(name)));
        }
        let secret = self.granted.secrets.get(name).ok_or(HostError::NotFound)?;
        Ok(secret.expose().to_vec())
    }
}

/// What a guest means to do with a secret.
#[derive(Clone, Copy, Debug)]
enum Use {
    Send,
    Read,
}

impl Use {
    /// As a manifest grants it.
    fn grant(self, name: &str) -> String {
        match self {
            Self::Send => format!("secrets = [{:?}]", format!("{name}@HOST")),
            Self::Read => format!("secrets = [{{ name = {name:?}, reveal = true }}]"),
        }
    }
}

impl secrets::Host for ComponentState {
    fn placeholder(&mut self, name: String) -> wasmtime::Result<Result<String, HostError>> {
        self.attempt.enter()?;
        Ok(self.attempt.placeholder(&name))
    }

    fn reveal(&mut self, name: String) -> wasmtime::Result<Result<Vec<u8>, HostError>> {
        self.attempt.enter()?;
        Ok(self.attempt.reveal(&name))
    }
}
