//! How many deliveries a worker may ask for, and how those that came begin.

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
    /// One has the worker for itself, or is waited for to have it.
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

/// What the deliveries of one request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// A loss ends what has lost so many.
    pub max_losses: u32,
    /// Something was in hand already.
    pub beside: bool,
    /// Something on its last chance came before, and the worker waited in vain for what it had in hand to end.
    pub waited: bool,
}

impl Arrival {
    /// How each of the deliveries of one request begins, from its losses.
    ///
    /// When a worker dies, everything that it had in hand counts a loss, and comes back together: whoever was beside the
    /// task that kills would become poison with it. So what one more loss would end (a last chance) runs alone, and then
    /// it is known who did it. Nothing is started beside it, not even while it waits for its turn: what came with it goes
    /// back. Where something runs already, it goes back itself, and the worker takes nothing until its hands are empty;
    /// only where it has waited for that in vain does the last chance begin beside others.
    pub fn begin(self, losses: &[u32]) -> Vec<Begin> {
        let one = losses.iter().position(|losses| self.is_last_chance(*losses));
        let Some(one) = one else { return vec![Begin::Beside; losses.len()] };
        let is_refused = self.beside && !self.waited;
        let begins = |(place, losses): (usize, &u32)| match () {
            // What is poison already only gets its end.
            () if *losses >= self.max_losses => Begin::Beside,
            () if place == one && !is_refused => Begin::Alone,
            () => Begin::Back,
        };
        losses.iter().enumerate().map(begins).collect()
    }

    /// Whoever takes every loss for poison wants nothing told apart.
    fn is_last_chance(self, losses: u32) -> bool {
        losses > 0 && losses.saturating_add(1) == self.max_losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Arrival = Arrival { max_losses: 5, beside: false, waited: false };

    #[test]
    fn what_one_more_loss_would_end_runs_alone_and_what_came_with_it_goes_back() {
        use Begin::{Alone, Back, Beside};
        for (losses, begins) in [
            (&[][..], &[][..]),
            (&[0, 3, 5, u32::MAX], &[Beside, Beside, Beside, Beside]),
            (&[4], &[Alone]),
            (&[0, 4, 3, 4], &[Back, Alone, Back, Back]),
            (&[5, 4, u32::MAX], &[Beside, Alone, Beside]),
        ] {
            assert_eq!(EMPTY.begin(losses), begins, "{losses:?}");
        }
        // Whoever takes every loss for poison wants nothing told apart.
        for max_losses in [0, 1] {
            assert_eq!(Arrival { max_losses, ..EMPTY }.begin(&[0, 0]), [Beside, Beside]);
        }
    }

    #[test]
    fn what_one_more_loss_would_end_goes_back_where_something_runs_until_that_was_waited_for() {
        use Begin::{Alone, Back, Beside};
        let beside = Arrival { beside: true, ..EMPTY };
        assert_eq!(beside.begin(&[0, 4, 5, 4]), [Back, Back, Beside, Back]);
        assert_eq!(beside.begin(&[0, 3, 5]), [Beside, Beside, Beside]);
        let waited = Arrival { waited: true, ..beside };
        assert_eq!(waited.begin(&[0, 4, 5, 4]), [Back, Alone, Beside, Back]);
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
