//! Whether the file can be used, and whether others can.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use stem_core::backend::{Health, ServiceId};

use crate::fault::Fault;
use crate::journal::Journal;
use crate::place;

impl Journal {
    pub(crate) fn health(
        &mut self,
        service: &ServiceId,
        deadline: Instant,
    ) -> Result<Health, Fault> {
        self.read_on(deadline)?;
        let metadata =
            self.file().metadata().map_err(|error| Fault::io("it cannot be looked at", error))?;
        place::check_writable("it", &metadata)?;
        if self.opened.as_ref().is_some_and(|opened| !opened.writable) {
            return Err(Fault::refused("this user may not write to it; check its permissions"));
        }
        let path = place::resolve(&self.path)?;
        let path = path.display();
        let mode = metadata.mode() & 0o777;
        let others = match (mode & 0o022 != 0, mode & 0o044 != 0) {
            (true, _) => Some("changed"),
            (false, true) => Some("read"),
            (false, false) => None,
        };
        let warnings = others.map(|done| {
            format!("{path} can be {done} by other users (mode {mode:03o}): chmod 600 {path}")
        });
        Ok(Health {
            service: service.0.clone(),
            detail: format!("file {path}, {} tasks, {} bytes", self.index.tasks(), metadata.len()),
            warnings: warnings.into_iter().collect(),
        })
    }
}
