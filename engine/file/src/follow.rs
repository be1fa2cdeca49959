//! Waiting for a change of the file, whoever made it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::place::Stamp;

/// Between two looks at the file's metadata. A look takes microseconds; what a notification of the system would save
/// is not worth the file systems that have none.
const LOOK: Duration = Duration::from_millis(50);

/// What the callers of this process have seen of the file.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// What the file was when it was last listed, or when that was last tried.
    listed: Mutex<Option<Stamp>>,
    written: Notify,
}

impl Sight {
    /// From now on, another file than this one is news.
    pub(crate) fn listed(&self, stamp: Stamp) {
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
    }

    /// This process may have changed the file.
    pub(crate) fn wrote(&self) {
        self.written.notify_waiters();
    }

    /// Until the file is not what it was when it was last listed. So a change between a look and the wait is not lost.
    pub(crate) async fn changed(&self, path: &Path, wait: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + wait;
        let listed = *self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match listed {
            Some(stamp) => Some(stamp),
            None => look(path).await?,
        };
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            let now = look(path).await?;
            if before.is_some() && now.is_none() {
                return Err(Fault::gone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if before != now || left.is_zero() {
                return Ok(());
            }
            // Whichever comes first, the next look tells.
            let _ = tokio::time::timeout(LOOK.min(left), written).await;
        }
    }
}

async fn look(path: &Path) -> Result<Option<Stamp>, Fault> {
    let path = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || Stamp::at(&path)).await;
    let looked = looked.map_err(|_| Fault::transient("the runtime is shutting down"))?;
    looked.map_err(|error| Fault::io("it cannot be looked at", error))
}
