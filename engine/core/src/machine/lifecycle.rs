//! A worker's life: starting → running → draining → stopped, with escalation and never the reverse.

use std::time::Duration;

use crate::control::{Drain, WorkerState};
use crate::time::Timestamp;

/// A signal that the process received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
}

/// A fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that must be there before the first delivery is there.
    BecameReady,
    /// A signal came.
    Signalled(Signal),
    /// A command to shut down came.
    ShutdownAsked {
        /// How.
        mode: Drain,
        /// For soft, in place of the configured grace.
        grace: Option<Duration>,
    },
    /// The last delivery in hand was settled or given up.
    BecameIdle,
    /// Time passed.
    Ticked,
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for deliveries from now on.
    StartIntake,
    /// Ask for no more deliveries.
    StopIntake,
    /// Tell every attempt in hand that the worker drains in this way.
    DrainAttempts {
        /// How.
        mode: Drain,
        /// For soft: when force follows.
        grace: Option<Duration>,
    },
    /// Say goodbye and end.
    Stop,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    state: WorkerState,
    drain: Option<Drain>,
    soft_grace: Duration,
    hard_at: Option<Timestamp>,
}

impl Lifecycle {
    /// A worker that starts. `soft_grace` is how long a soft drain waits before it becomes hard.
    pub fn new(soft_grace: Duration) -> Self {
        Self { state: WorkerState::Starting, drain: None, soft_grace, hard_at: None }
    }

    /// What the worker is doing.
    pub fn state(&self) -> WorkerState {
        self.state
    }

    /// How it drains, if it does.
    pub fn drain(&self) -> Option<Drain> {
        self.drain
    }

    /// When to tick next.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.hard_at
    }

    /// Takes a fact in and gives orders.
    pub fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::BecameReady => {
                if self.state == WorkerState::Starting {
                    self.state = WorkerState::Running;
                    effects.push(Effect::StartIntake);
                }
            }
            Event::Signalled(signal) => {
                let mode = match (signal, self.drain) {
                    (Signal::Terminate, _) => Drain::Warm,
                    // A second Ctrl-C means it.
                    (Signal::Interrupt, Some(Drain::Soft)) | (Signal::Quit, _) => Drain::Hard,
                    (Signal::Interrupt, _) => Drain::Soft,
                };
                self.escalate(now, mode, None, effects);
            }
            Event::ShutdownAsked { mode, grace } => self.escalate(now, mode, grace, effects),
            Event::BecameIdle => {
                if self.state == WorkerState::Draining {
                    self.state = WorkerState::Stopped;
                    self.hard_at = None;
                    effects.push(Effect::Stop);
                }
            }
            Event::Ticked => {
                if self.hard_at.is_some_and(|at| now >= at) {
                    self.escalate(now, Drain::Hard, None, effects);
                }
            }
        }
    }

    /// Moves to a harder mode; a softer or equal one changes nothing.
    fn escalate(
        &mut self,
        now: Timestamp,
        mode: Drain,
        grace: Option<Duration>,
        effects: &mut Vec<Effect>,
    ) {
        if self.state == WorkerState::Stopped || self.drain.is_some_and(|current| mode <= current) {
            return;
        }
        if self.drain.is_none() {
            effects.push(Effect::StopIntake);
        }
        self.state = WorkerState::Draining;
        self.drain = Some(mode);
        let grace = (mode == Drain::Soft).then(|| grace.unwrap_or(self.soft_grace));
        self.hard_at = grace.map(|grace| now.after(grace));
        effects.push(Effect::DrainAttempts { mode, grace });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    fn after(events: &[Event]) -> (Lifecycle, Vec<Effect>) {
        let mut lifecycle = Lifecycle::new(Duration::from_millis(100));
        let mut effects = Vec::new();
        for event in events {
            lifecycle.handle(at(0), *event, &mut effects);
        }
        (lifecycle, effects)
    }

    #[test]
    fn signals_drain_warm_soft_and_hard() {
        for (signal, mode) in [
            (Signal::Terminate, Drain::Warm),
            (Signal::Interrupt, Drain::Soft),
            (Signal::Quit, Drain::Hard),
        ] {
            assert_eq!(
                after(&[Event::BecameReady, Event::Signalled(signal)]).0.drain(),
                Some(mode)
            );
        }
    }

    #[test]
    fn a_second_interrupt_is_hard_and_a_terminate_never_softens() {
        let interrupt = Event::Signalled(Signal::Interrupt);
        assert_eq!(after(&[Event::BecameReady, interrupt, interrupt]).0.drain(), Some(Drain::Hard));
        let softened =
            after(&[Event::BecameReady, interrupt, Event::Signalled(Signal::Terminate)]).0;
        assert_eq!(softened.drain(), Some(Drain::Soft));
    }

    #[test]
    fn a_soft_drain_becomes_hard_when_its_grace_is_over() {
        let (mut lifecycle, mut effects) =
            after(&[Event::BecameReady, Event::Signalled(Signal::Interrupt)]);
        assert_eq!(lifecycle.next_wakeup(), Some(at(100)));
        effects.clear();
        lifecycle.handle(at(99), Event::Ticked, &mut effects);
        assert_eq!(effects, []);
        lifecycle.handle(at(100), Event::Ticked, &mut effects);
        assert_eq!(effects, [Effect::DrainAttempts { mode: Drain::Hard, grace: None }]);
    }

    #[test]
    fn an_idle_worker_stops_only_when_it_drains() {
        let (lifecycle, effects) = after(&[Event::BecameReady, Event::BecameIdle]);
        assert_eq!((lifecycle.state(), effects), (WorkerState::Running, vec![Effect::StartIntake]));
        let (lifecycle, effects) =
            after(&[Event::BecameReady, Event::Signalled(Signal::Terminate), Event::BecameIdle]);
        assert_eq!(
            (lifecycle.state(), effects.last()),
            (WorkerState::Stopped, Some(&Effect::Stop))
        );
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::BecameReady),
            Just(Event::Signalled(Signal::Terminate)),
            Just(Event::Signalled(Signal::Interrupt)),
            Just(Event::Signalled(Signal::Quit)),
            Just(Event::ShutdownAsked { mode: Drain::Soft, grace: Some(Duration::from_millis(5)) }),
            Just(Event::ShutdownAsked { mode: Drain::Warm, grace: None }),
            Just(Event::BecameIdle),
            Just(Event::Ticked),
        ]
    }

    proptest! {
        #[test]
        fn drains_only_harden_and_a_stopped_worker_stays_stopped(events in proptest::collection::vec((event(), 0i64..50), 0..40)) {
            let mut lifecycle = Lifecycle::new(Duration::from_millis(100));
            let (mut now, mut stops) = (0, 0);
            for (event, step) in events {
                now += step;
                let (before, drain) = (lifecycle.state(), lifecycle.drain());
                let mut effects = Vec::new();
                lifecycle.handle(at(now), event, &mut effects);
                prop_assert!(lifecycle.drain() >= drain);
                stops += effects.iter().filter(|effect| **effect == Effect::Stop).count();
                prop_assert!(stops <= 1);
                if before == WorkerState::Stopped {
                    prop_assert_eq!(lifecycle.state(), WorkerState::Stopped);
                    prop_assert!(effects.is_empty());
                }
                if drain.is_some() {
                    prop_assert!(!effects.contains(&Effect::StartIntake));
                }
            }
        }
    }
}
