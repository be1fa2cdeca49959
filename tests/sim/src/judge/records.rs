//! Rules about records: which write by which token they may take, and that a task ends once.

use stem_core::backend::result::Recorded;

use super::bench::{Bench, Rule};
use super::ledger::{Ended, Ledger};
use crate::fact::{Call, Fact, Held, Move};

/// A fact of the result backend, at this call.
pub(super) fn hear(bench: &mut Bench, ledger: &mut Ledger, call: Call, fact: &Fact) {
    match fact {
        Fact::Begun { held, answer, .. } => begun(bench, ledger, call, held, *answer),
        Fact::Recorded { held, by, answer } => recorded(bench, ledger, call, held, (by, *answer)),
        Fact::Progressed { held, answer } => {
            written(bench, ledger, call, (held, "progress"), *answer);
        }
        Fact::Saved { held, answer } => {
            written(bench, ledger, call, (held, "a checkpoint"), *answer);
        }
        _ => {}
    }
}

fn begun(bench: &mut Bench, ledger: &mut Ledger, call: Call, held: &Held, answer: Recorded) {
    if answer == Recorded::Stale {
        return bench.note("stale refused");
    }
    let task = &held.task;
    if let Some(life) = ledger.life(task) {
        bench.must(Rule::I2, life.ended.is_none(), task, || {
            format!(
                "{task} was said to run under token {} after it had ended: {:?}",
                held.token, life.ended
            )
        });
        let newest = life.begun.is_none_or(|(token, by)| {
            token < held.token.0 || (token, by) == (held.token.0, call.caller)
        });
        bench.must(Rule::I3, newest, task, || {
            format!("{task} was said to run under token {} after {:?}", held.token, life.begun)
        });
    }
    ledger.begin(held, call.caller);
}

fn recorded(
    bench: &mut Bench,
    ledger: &mut Ledger,
    call: Call,
    held: &Held,
    (by, answer): (&Move, Recorded),
) {
    if answer == Recorded::Stale {
        return bench.note("stale refused");
    }
    let task = &held.task;
    let Some(life) = ledger.life(task) else { return };
    let newest = life.begun.is_none_or(|(token, by)| {
        token < held.token.0 || (token, by) == (held.token.0, call.caller)
    });
    bench.must(Rule::I3, newest, task, || {
        format!("{task}: {by:?} was recorded under token {} after {:?}", held.token, life.begun)
    });
    if *by == Move::Discard {
        return;
    }
    let end = Ended { token: held.token.0, by: call.caller, how: by.clone() };
    let alone = life.ended.as_ref().is_none_or(|ended| *ended == end);
    bench.must(Rule::I2, alone, task, || {
        format!("{task} has ended by {:?}, and then {by:?} was recorded", life.ended)
    });
    if by.is_final() {
        ledger.record(task, end);
    } else {
        ledger.rest(held, call.caller);
    }
}

/// Progress or a checkpoint.
fn written(
    bench: &mut Bench,
    ledger: &Ledger,
    call: Call,
    (held, what): (&Held, &str),
    answer: Recorded,
) {
    let task = &held.task;
    let Some(life) = ledger.life(task) else { return };
    let holds = if ledger.is_apart() {
        life.ended.is_none() && !life.rests && life.begun == Some((held.token.0, call.caller))
    } else {
        life.is_held_by(call.caller, held)
    };
    bench.must(Rule::I3, (answer == Recorded::Stored) == holds, task, || {
        let is = (life.phase, life.token, life.begun);
        format!("{task}: {what} under token {} was answered {answer:?}; it is {is:?}", held.token)
    });
    if answer == Recorded::Stale {
        bench.note("stale refused");
    }
}
