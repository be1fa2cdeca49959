//! Reading an envelope that was stored, and what to say of one that cannot be read.

use stem_core::envelope::{Envelope, wire};
use stem_core::id::QueueName;
use stem_core::outcome::{Failure, FailureKind};
use stem_core::settlement::DeadReason;

/// Reads one envelope. One that says it is another task is damaged too.
pub(crate) fn read(
    bytes: Option<&[u8]>,
    task: &str,
    name: &str,
    queue: &QueueName,
) -> Result<Envelope, wire::WireError> {
    let missing = || wire::WireError::Malformed("there are no bytes".to_owned());
    let envelope = wire::decode(bytes.ok_or_else(missing)?)?;
    if envelope.id.as_str() != task || envelope.name.as_str() != name || envelope.queue != *queue {
        let problem = format!(
            "it says task {}, name {}, queue {}; it was stored as {task}, {name}, {queue}",
            envelope.id, envelope.name, envelope.queue
        );
        return Err(wire::WireError::Malformed(problem));
    }
    Ok(envelope)
}

/// Why an envelope that cannot be read is given up.
pub(crate) fn unreadable(error: &wire::WireError) -> (DeadReason, Failure) {
    let reason = match error {
        wire::WireError::Version(_) => DeadReason::EnvelopeVersion,
        wire::WireError::Malformed(_) => DeadReason::EnvelopeMalformed,
    };
    (reason, Failure::new(FailureKind::BadModule, error.reason(), &error.to_string()))
}

/// Why a task that no worker knows is given up.
pub(crate) fn unroutable(name: &str) -> Failure {
    let message = format!("no worker knew the task name {name} in time");
    Failure::new(FailureKind::BadModule, "unroutable", &message)
}
