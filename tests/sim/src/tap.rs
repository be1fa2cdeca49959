//! [`tap`]: lets a [`Mischief`] change what passes between a caller and its backends.

mod through;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use stem_core::backend::BackendError;
use stem_core::backend::broker::{
    Delivery, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::Replayed;
use stem_core::control::Command;
use stem_core::envelope::Envelope;
use stem_core::id::TaskId;
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::Progress;
use stem_core::time::Timestamp;
use stem_engine::Backends;

use through::{Log, Through};

/// What one call answers.
pub type Answer<T> = Result<T, BackendError>;

/// What a planted bug does. Each hook does nothing by default; one that can answer by itself keeps the call from the
/// backend. Hooks must not wait; a call that they answer is over at once.
pub trait Mischief: Send + Sync + Debug {
    /// Before tasks are stored: what is taken out here is not. What is answered takes the place of the backend's answer.
    fn publish(&self, _envelopes: &mut Vec<Envelope>) -> Option<Vec<Published>> {
        None
    }

    /// Before deliveries are asked for. `true` asks for none: the call waits as long as it was to, and has nothing.
    fn receive(&self, _request: &mut ReceiveRequest) -> bool {
        false
    }

    /// After they came.
    fn received(&self, _request: &ReceiveRequest, _answer: &mut Answer<Vec<Delivery>>) {}

    /// Before leases are prolonged.
    fn renew(&self, _renewals: &mut Vec<Renewal>) -> Option<Vec<Renewed>> {
        None
    }

    /// Before deliveries are settled. `false` never answers.
    fn settle(&self, _batch: &mut Vec<Settle>) -> bool {
        true
    }

    /// After they were.
    fn settled(&self, _batch: &[Settle], _answer: &mut Answer<Vec<Settled>>) {}

    /// Before progress is stored.
    fn progress(&self, _updates: &mut Vec<(Receipt, Progress)>) {}

    /// Before a checkpoint is stored.
    fn save(&self, _receipt: &mut Receipt) {}

    /// After the revoke store has told its time.
    fn time(&self, _answer: &mut Answer<Option<Timestamp>>) {}

    /// Before tasks are revoked. What is answered takes the place of the backend's answer.
    fn revoke(&self, _requests: &mut Vec<(TaskId, RevokeRequest)>) -> Option<Vec<Revocation>> {
        None
    }

    /// After the revocations were read.
    fn since(&self, _after: Version, _answer: &mut Answer<Vec<RevocationChange>>) {}

    /// After a wait for a change of the revocations.
    fn changed(&self, _answer: &mut Answer<()>) {}

    /// After the end of the log was asked for.
    fn position(&self, _position: &mut Position) {}

    /// Whether the end of the log is asked for only when commands are first read.
    fn is_late_at_the_log(&self) -> bool {
        false
    }

    /// After commands were read.
    fn commands(&self, _commands: &mut Vec<(Position, Command)>) {}

    /// After the queues were listed.
    fn queues(&self, _answer: &mut Answer<Vec<QueueStatus>>) {}

    /// After dead letters were replayed.
    fn replayed(&self, _answers: &mut [Replayed]) {}
}

/// Puts a mischief in front of all of them, if there is one.
pub fn tap(inner: Backends, mischief: Option<Arc<dyn Mischief>>) -> Backends {
    let Some(mischief) = mischief else { return inner };
    Backends {
        broker: Arc::new(Through { inner: inner.broker, mischief: Arc::clone(&mischief) }),
        results: Arc::new(Through { inner: inner.results, mischief: Arc::clone(&mischief) }),
        revokes: Arc::new(Through { inner: inner.revokes, mischief: Arc::clone(&mischief) }),
        control: Arc::new(Log {
            through: Through { inner: inner.control, mischief: Arc::clone(&mischief) },
            end: Mutex::default(),
        }),
        dead_letters: Arc::new(Through { inner: inner.dead_letters, mischief }),
        presence: inner.presence,
        modules: inner.modules,
        buckets: inner.buckets,
    }
}
