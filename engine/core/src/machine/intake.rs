//! How many deliveries a worker may ask for.

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
}

impl Intake {
    /// How many to ask for now. A place stands behind each of them, so nothing is ever fetched that cannot start.
    pub fn ask(self) -> usize {
        match self.state {
            WorkerState::Running if self.blind => 0,
            WorkerState::Running => self.concurrency.saturating_sub(self.busy).min(self.prefetch),
            WorkerState::Starting | WorkerState::Draining | WorkerState::Stopped => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_never_asks_for_more_than_it_can_start() {
        let running = Intake {
            state: WorkerState::Running,
            concurrency: 8,
            busy: 5,
            prefetch: 100,
            blind: false,
        };
        assert_eq!(running.ask(), 3);
        assert_eq!(Intake { prefetch: 2, ..running }.ask(), 2);
        assert_eq!(Intake { busy: 9, ..running }.ask(), 0);
        assert_eq!(Intake { blind: true, ..running }.ask(), 0);
        for state in [WorkerState::Starting, WorkerState::Draining, WorkerState::Stopped] {
            assert_eq!(Intake { state, ..running }.ask(), 0);
        }
    }
}
