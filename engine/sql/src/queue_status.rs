//! Rows of counts to the queues that an operator sees.

use std::collections::BTreeMap;

use stem_core::backend::broker::{Pause, QueueStatus};
use stem_core::id::{QueueName, TaskName};

use crate::codec::unsigned;
use crate::fault::Fault;

/// Queue, task name where it is ready, what kind of count, how many. Kinds may occur more than once.
pub(crate) type Count = (String, String, String, i64);

#[derive(Default)]
struct Counts {
    paused: Option<Pause>,
    names: BTreeMap<String, u64>,
    delayed: u64,
    inflight: u64,
}

/// Puts together every queue that is known or holds something, sorted by name.
pub(crate) fn statuses(
    queues: impl IntoIterator<Item = (String, Option<Pause>)>,
    counts: impl IntoIterator<Item = Count>,
) -> Result<Vec<QueueStatus>, Fault> {
    let mut statuses: BTreeMap<String, Counts> = queues
        .into_iter()
        .map(|(name, paused)| (name, Counts { paused, ..Counts::default() }))
        .collect();
    for (queue, name, kind, count) in counts {
        let status = statuses.entry(queue).or_default();
        match kind.as_str() {
            "delayed" => status.delayed += unsigned(count),
            "inflight" => status.inflight += unsigned(count),
            _ => *status.names.entry(name).or_default() += unsigned(count),
        }
    }
    statuses
        .into_iter()
        .map(|(queue, Counts { paused, names, delayed, inflight })| {
            let names: Result<Vec<_>, Fault> =
                names.into_iter().map(|(name, count)| Ok((TaskName::new(&name)?, count))).collect();
            let names = names?;
            let ready = names.iter().map(|(_, count)| count).sum();
            Ok(QueueStatus {
                name: QueueName::new(&queue)?,
                ready,
                delayed,
                inflight,
                paused,
                names,
            })
        })
        .collect()
}
