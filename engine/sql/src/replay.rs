//! Which dead letters a replay puts back, whichever database they lie in.

use std::collections::HashMap;

use stem_core::backend::dead_letter::Replayed;
use stem_core::envelope::wire;
use stem_core::id::{LeaseToken, TaskId};

use crate::codec::unsigned;

/// A dead letter as it lies there: its task, its token, its bytes.
pub(crate) type Row = (String, i64, Option<Vec<u8>>);

/// What is answered for each of `letters`, of which these rows are there; and those that are to be queued, each once: the
/// token is the one that is meant, and the bytes are the envelope of that task, so that it can run again.
pub(crate) fn judge(
    rows: Vec<Row>,
    letters: &[(TaskId, LeaseToken)],
) -> (Vec<Replayed>, Vec<(&str, LeaseToken)>) {
    let mut dead: HashMap<String, (LeaseToken, bool)> = rows
        .into_iter()
        .map(|(task, token, bytes)| {
            let readable = is_readable(bytes.as_deref(), &task);
            (task, (LeaseToken(unsigned(token)), readable))
        })
        .collect();
    let (mut replayed, mut queued) = (Vec::with_capacity(letters.len()), Vec::new());
    for (task, token) in letters {
        let task = task.as_str();
        replayed.push(match dead.get(task) {
            Some((meant, true)) if meant == token => {
                dead.remove(task);
                queued.push((task, *token));
                Replayed::Queued
            }
            Some((meant, false)) if meant == token => Replayed::Unreadable,
            _ => Replayed::Absent,
        });
    }
    (replayed, queued)
}

fn is_readable(bytes: Option<&[u8]>, task: &str) -> bool {
    bytes
        .and_then(|bytes| wire::decode(bytes).ok())
        .is_some_and(|envelope| envelope.id.as_str() == task)
}
