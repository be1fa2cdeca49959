//! How many deliveries a worker may ask for, and which of those that came begin.

use crate::control::WorkerState;

/// What the decision is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// What the worker is doing.
    pub state: WorkerState,
    /// Attempts that may run at once now.
    pub concurrency: usize,
    /// Places taken.
    pub busy: usize,
    /// The most that one request may take.
    pub prefetch: usize,
    /// The revocations were last read too long ago, and the worker is to fail closed.
    pub blind: bool,
    /// One has the worker for itself.
    pub alone: bool,
}

impl Intake {
    /// How many to ask for now. A place stands behind each of them, so nothing is ever fetched that has none.
    pub fn ask(self) -> usize {
        match self.state {
            WorkerState::Running if self.blind || self.alone => 0,
            WorkerState::Running => self.concurrency.saturating_sub(self.busy).min(self.prefetch),
            WorkerState::Starting | WorkerState::Draining | WorkerState::Stopped => 0,
        }
    }
}

/// How a delivery that came begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Beside others.
    Beside,
    /// With nobody beside it.
    Alone,
    /// Not here and now: it is given back, and nothing is counted.
    Back,
}

impl Begin {
    /// Of a delivery with so many losses, where so many make poison of it. `alone` says that another of the same moment is
    /// to be alone.
    ///
    /// When a worker dies, everything that it had in hand counts a loss, and comes back together: whoever was beside the
    /// task that kills would become poison with it. So what one more loss would end runs alone, and then it is known who
    /// did it. Those that came with it on their last chance too are not kept waiting where it may take them down, but go back.
    pub fn of(losses: u32, max_losses: u32, alone: bool) -> Self {
        // What is poison already only gets its end.
        let is_last_chance = losses > 0 && losses.saturating_add(1) == max_losses;
        match (is_last_chance, alone) {
            (false, _) => Self::Beside,
            (true, false) => Self::Alone,
            (true, true) => Self::Back,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_more_loss_would_end_runs_alone_and_only_one_of_those() {
        for (losses, most, alone, begins) in [
            (0, 5, false, Begin::Beside),
            (3, 5, true, Begin::Beside),
            (4, 5, false, Begin::Alone),
            (4, 5, true, Begin::Back),
            (5, 5, false, Begin::Beside),
            (u32::MAX, 5, true, Begin::Beside),
            // Whoever takes every loss for poison wants nothing told apart.
            (0, 1, false, Begin::Beside),
            (0, 0, false, Begin::Beside),
        ] {
            assert_eq!(Begin::of(losses, most, alone), begins, "{losses} of {most}");
        }
    }

    #[test]
    fn a_worker_never_asks_for_more_than_it_can_start() {
        let running = Intake {
            state: WorkerState::Running,
            concurrency: 8,
            busy: 5,
            prefetch: 100,
            blind: false,
            alone: false,
        };
        assert_eq!(running.ask(), 3);
        assert_eq!(Intake { prefetch: 2, ..running }.ask(), 2);
        assert_eq!(Intake { busy: 9, ..running }.ask(), 0);
        assert_eq!(Intake { blind: true, ..running }.ask(), 0);
        assert_eq!(Intake { alone: true, ..running }.ask(), 0);
        for state in [WorkerState::Starting, WorkerState::Draining, WorkerState::Stopped] {
            assert_eq!(Intake { state, ..running }.ask(), 0);
        }
    }
}
