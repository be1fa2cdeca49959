//! The tasks of a plan, and what they do.

use stem_core::id::{QueueName, TaskId};

use super::{Kinds, Planned};
use crate::dice::Dice;
use crate::fact::Ms;
use crate::script::{Script, Step};

/// What all tasks of a plan have in common.
#[derive(Debug)]
pub(super) struct Mould {
    pub(super) seed: u64,
    pub(super) queues: Vec<QueueName>,
    /// The longest lease, in milliseconds.
    pub(super) lease: u64,
    pub(super) kinds: Kinds,
}

/// Draws a task: its number names it and everything it does.
pub(super) fn draw(mould: &Mould, number: usize, at: Ms) -> Planned {
    let id = format!("t{number:03}");
    let mut dice = Dice::of(mould.seed, &["task", &id]);
    let mut script = script(&mut dice, mould.lease);
    if script.kills() && !mould.kinds.has(Kinds::POISON) {
        script = Script(vec![Step::Work(20)]);
    }
    let timed = dice.below(100);
    Planned {
        at,
        id: TaskId::new(id).expect("a short name"),
        queue: dice.pick(&mould.queues).clone(),
        priority: u8::try_from(dice.below(10)).expect("below 10"),
        script,
        retries: u32::try_from(dice.below(4)).expect("below 4"),
        delay: (timed < 2).then(|| dice.between(50, 3_000)),
        expires: (timed == 3).then(|| dice.between(100, 5_000)),
        timeout: (timed == 4).then(|| dice.between(200, 3_000)),
    }
}

fn script(dice: &mut Dice, lease: u64) -> Script {
    let short = |dice: &mut Dice| Step::Work(dice.between(5, 300));
    let key = |dice: &mut Dice| u8::try_from(dice.below(2)).expect("below 2");
    Script(match dice.below(1_000) {
        0..620 => vec![short(dice)],
        620..670 => vec![Step::Work(dice.between(lease / 2, lease * 3))],
        670..700 => {
            vec![Step::Extend(lease * 2), Step::Stubborn(dice.between(lease / 2, lease * 3 / 2))]
        }
        700..760 => vec![Step::Stubborn(dice.between(5, 400))],
        760..800 => vec![short(dice), Step::ChildNow(key(dice)), short(dice)],
        800..840 => vec![short(dice), Step::ChildOnSuccess(key(dice)), Step::ChildOnSuccess(2)],
        840..880 => {
            let after = dice.chance(500).then(|| dice.between(50, 2_000));
            let attempt = u32::try_from(dice.between(2, 3)).expect("small");
            vec![short(dice), Step::FailUnless { attempt, after, fatal: false }]
        }
        880..910 => vec![short(dice), Step::FailUnless { attempt: 9, after: None, fatal: true }],
        910..930 => vec![Step::FailUnless { attempt: 9, after: None, fatal: false }],
        930..940 => vec![short(dice), Step::Panic],
        940..985 => vec![Step::Progress, short(dice), Step::Save, Step::Progress, short(dice)],
        985..995 => vec![Step::Work(dice.between(5, 100)), Step::KillWorker],
        _ => vec![],
    })
}
