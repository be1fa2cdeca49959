//! How many attempts a worker runs at once, decided from the backlog.
//!
//! A pure function from samples to decisions: the same samples give the same decisions. More when tasks wait, fewer
//! when nothing has happened for a while, and never a change of direction within a cool-down, so it does not flap.

use std::time::Duration;

use crate::time::Timestamp;

/// The bounds and the pace. All of it is checked by [`Rules::check`]; nothing is silently corrected.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Never fewer; at least 1. A worker starts with so many.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// So many more at once.
    pub scale_up_step: usize,
    /// So many fewer at once.
    pub scale_down_step: usize,
    /// So many waiting deliveries for each that may run ask for more.
    pub backlog_per_isolate: f64,
    /// Nothing waited and nothing ran for so long: fewer will do.
    pub idle_period: Duration,
    /// How often it is decided.
    pub tick: Duration,
    /// From any change to a change up.
    pub scale_up_cooldown: Duration,
    /// From any change to a change down.
    pub scale_down_cooldown: Duration,
}

impl Rules {
    /// The usual pace between two bounds: single steps, one waiting delivery for each that may run, a look every 2 s,
    /// 5 s from a change to a change up, 10 s to a change down, and down after 30 s of idleness.
    pub fn between(min: usize, max: usize) -> Self {
        Self {
            min,
            max,
            scale_up_step: 1,
            scale_down_step: 1,
            backlog_per_isolate: 1.0,
            idle_period: Duration::from_secs(30),
            tick: Duration::from_secs(2),
            scale_up_cooldown: Duration::from_secs(5),
            scale_down_cooldown: Duration::from_secs(10),
        }
    }

    /// Says what cannot be followed.
    pub fn check(&self) -> Result<(), String> {
        let problem = if self.min == 0 {
            "the least concurrency must be at least 1".to_owned()
        } else if self.min > self.max {
            format!("the least concurrency {} is above the most, {}", self.min, self.max)
        } else if self.scale_up_step == 0 || self.scale_down_step == 0 {
            "a step must be at least 1".to_owned()
        } else if !(self.backlog_per_isolate.is_finite() && self.backlog_per_isolate > 0.0) {
            format!("the backlog for each isolate, {}, must be above 0", self.backlog_per_isolate)
        } else if self.tick.is_zero() {
            "the time between two looks must be above 0".to_owned()
        } else {
            return Ok(());
        };
        Err(problem)
    }
}

/// What is seen at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub now: Timestamp,
    /// Deliveries that wait in the worker's queues; `None` if that could not be read.
    pub depth: Option<u64>,
    /// Deliveries in hand.
    pub inflight: usize,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// More may run: so many.
    Up(usize),
    /// Fewer may run: so many. Only ever decided when nothing runs, so no busy place is taken away.
    Down(usize),
    /// As before.
    Hold(Hold),
}

/// Why nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The depth could not be read.
    Unreadable,
    /// More would be right, and there are as many as may be.
    AtMax,
    /// Fewer would be right, and there are as few as may be.
    AtMin,
    /// A change would be right, and the last one was too short a time ago.
    CoolingDown,
    /// Too little waits for more, and too much happens for fewer.
    Enough,
    /// Nothing waits and nothing runs, and not yet for long.
    IdleForNow,
}

impl Hold {
    /// The word used in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "depth-unreadable",
            Self::AtMax => "at-max",
            Self::AtMin => "at-min",
            Self::CoolingDown => "cooling-down",
            Self::Enough => "enough",
            Self::IdleForNow => "idle-for-now",
        }
    }
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Autoscale {
    rules: Rules,
    current: usize,
    idle_since: Option<Timestamp>,
    changed_at: Option<Timestamp>,
}

impl Autoscale {
    /// Starts with the least.
    pub fn new(rules: Rules) -> Self {
        Self { current: rules.min, rules, idle_since: None, changed_at: None }
    }

    /// So many may run now.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Decides, and takes its own decision for granted.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a depth beyond 2^52 is a backlog by any measure"
    )]
    pub fn decide(&mut self, sample: Sample) -> Decision {
        let Sample { now, depth, inflight } = sample;
        let Some(depth) = depth else {
            // What cannot be seen is not idle.
            self.idle_since = None;
            return Decision::Hold(Hold::Unreadable);
        };
        let cool = |needed: Duration| self.changed_at.is_none_or(|at| now.since(at) >= needed);
        if depth > 0 {
            self.idle_since = None;
            return if (depth as f64) < self.rules.backlog_per_isolate * self.current as f64 {
                Decision::Hold(Hold::Enough)
            } else if self.current >= self.rules.max {
                Decision::Hold(Hold::AtMax)
            } else if !cool(self.rules.scale_up_cooldown) {
                Decision::Hold(Hold::CoolingDown)
            } else {
                let to = self.current.saturating_add(self.rules.scale_up_step).min(self.rules.max);
                self.change(now, to);
                Decision::Up(to)
            };
        }
        if inflight > 0 {
            self.idle_since = None;
            return Decision::Hold(Hold::Enough);
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        if now.since(idle_since) < self.rules.idle_period {
            Decision::Hold(Hold::IdleForNow)
        } else if self.current <= self.rules.min {
            Decision::Hold(Hold::AtMin)
        } else if !cool(self.rules.scale_down_cooldown) {
            Decision::Hold(Hold::CoolingDown)
        } else {
            let to = self.current.saturating_sub(self.rules.scale_down_step).max(self.rules.min);
            self.change(now, to);
            Decision::Down(to)
        }
    }

    fn change(&mut self, now: Timestamp, to: usize) {
        self.current = to;
        self.changed_at = Some(now);
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the numbers of these tests are small"
)]
mod tests {
    use super::*;
    use crate::retry::scramble;
    use proptest::prelude::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_unix_millis((seconds * 1e3) as i64)
    }

    fn sample(seconds: f64, depth: u64, inflight: usize) -> Sample {
        Sample { now: at(seconds), depth: Some(depth), inflight }
    }

    #[test]
    fn it_starts_at_the_least_and_grows_by_a_step_while_tasks_wait() {
        let mut scale = Autoscale::new(Rules::between(1, 3));
        assert_eq!(scale.current(), 1);
        for (seconds, depth, decision) in [
            (0.0, 9, Decision::Up(2)),
            (2.0, 9, Decision::Hold(Hold::CoolingDown)),
            (4.9, 9, Decision::Hold(Hold::CoolingDown)),
            (5.0, 9, Decision::Up(3)),
            (99.0, 9, Decision::Hold(Hold::AtMax)),
        ] {
            assert_eq!(scale.decide(sample(seconds, depth, 1)), decision, "at {seconds} s");
        }
    }

    #[test]
    fn a_backlog_below_the_ratio_asks_for_nothing() {
        let rules = Rules { backlog_per_isolate: 4.0, ..Rules::between(2, 8) };
        let mut scale = Autoscale::new(rules);
        assert_eq!(scale.decide(sample(0.0, 7, 2)), Decision::Hold(Hold::Enough));
        assert_eq!(scale.decide(sample(1.0, 8, 2)), Decision::Up(3));
        assert_eq!(scale.decide(sample(9.0, 11, 3)), Decision::Hold(Hold::Enough));
    }

    #[test]
    fn it_shrinks_only_after_the_whole_idle_period() {
        let mut scale = Autoscale::new(Rules::between(1, 3));
        scale.decide(sample(0.0, 9, 0));
        scale.decide(sample(5.0, 9, 0));
        for (seconds, depth, inflight, decision) in [
            (10.0, 0, 1, Decision::Hold(Hold::Enough)),
            (20.0, 0, 0, Decision::Hold(Hold::IdleForNow)),
            (49.0, 0, 0, Decision::Hold(Hold::IdleForNow)),
            (49.5, 0, 1, Decision::Hold(Hold::Enough)),
            (50.0, 0, 0, Decision::Hold(Hold::IdleForNow)),
            (80.0, 0, 0, Decision::Down(2)),
            (82.0, 0, 0, Decision::Hold(Hold::CoolingDown)),
            (90.0, 0, 0, Decision::Down(1)),
            (200.0, 0, 0, Decision::Hold(Hold::AtMin)),
        ] {
            assert_eq!(scale.decide(sample(seconds, depth, inflight)), decision, "at {seconds} s");
        }
    }

    #[test]
    fn a_depth_that_cannot_be_read_changes_nothing_and_is_not_idleness() {
        let mut scale = Autoscale::new(Rules::between(1, 2));
        scale.decide(sample(0.0, 5, 0));
        scale.decide(sample(10.0, 0, 0));
        let blind = Sample { now: at(39.0), depth: None, inflight: 0 };
        assert_eq!(scale.decide(blind), Decision::Hold(Hold::Unreadable));
        assert_eq!(scale.decide(sample(41.0, 0, 0)), Decision::Hold(Hold::IdleForNow));
    }

    #[test]
    fn rules_that_cannot_be_followed_are_refused() {
        assert_eq!(Rules::between(1, 1).check(), Ok(()));
        for rules in [
            Rules::between(0, 1),
            Rules::between(3, 2),
            Rules { scale_up_step: 0, ..Rules::between(1, 2) },
            Rules { scale_down_step: 0, ..Rules::between(1, 2) },
            Rules { backlog_per_isolate: 0.0, ..Rules::between(1, 2) },
            Rules { backlog_per_isolate: f64::NAN, ..Rules::between(1, 2) },
            Rules { tick: Duration::ZERO, ..Rules::between(1, 2) },
        ] {
            assert!(rules.check().is_err(), "{rules:?}");
        }
    }

    fn rules() -> impl Strategy<Value = Rules> {
        (1usize..5, 0usize..12, 1usize..4, 1usize..4, 0.1f64..5.0, 0u64..40, 0u64..10, 0u64..15)
            .prop_map(|(min, more, up, down, backlog, idle, cool_up, cool_down)| Rules {
                min,
                max: min + more,
                scale_up_step: up,
                scale_down_step: down,
                backlog_per_isolate: backlog,
                idle_period: Duration::from_secs(idle),
                tick: Duration::from_secs(2),
                scale_up_cooldown: Duration::from_secs(cool_up),
                scale_down_cooldown: Duration::from_secs(cool_down),
            })
    }

    /// Ten simulated minutes of looks at a backlog: a square wave, bursts, or noise; now and then unreadable.
    fn samples() -> impl Strategy<Value = Vec<(Option<u64>, usize)>> {
        let wave = (1u64..60, 0u64..200).prop_map(|(half, high)| {
            (0..300u64).map(|n| if (n / half) % 2 == 0 { high } else { 0 }).collect::<Vec<_>>()
        });
        let noise = proptest::collection::vec(prop_oneof![3 => Just(0u64), 1 => 0u64..100], 300);
        let depths = prop_oneof![wave, noise];
        (depths, proptest::collection::vec((0usize..12, 0u8..20), 300)).prop_map(
            |(depths, busy)| {
                depths
                    .into_iter()
                    .zip(busy)
                    .map(|(depth, (busy, luck))| {
                        // With nothing waiting, work in hand runs out.
                        let inflight = if depth == 0 && luck > 2 { 0 } else { busy };
                        ((luck != 0).then_some(depth), inflight)
                    })
                    .collect()
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn it_stays_in_bounds_takes_no_busy_place_and_does_not_flap(rules in rules(), samples in samples()) {
            prop_assert_eq!(rules.check(), Ok(()));
            let mut scale = Autoscale::new(rules.clone());
            let mut again = Autoscale::new(rules.clone());
            let mut quiet_since: Option<Timestamp> = None;
            let mut last_change: Option<(Timestamp, bool)> = None;
            for (n, (depth, inflight)) in samples.into_iter().enumerate() {
                let now = at(2.0 * n as f64);
                let before = scale.current();
                let sample = Sample { now, depth, inflight: inflight.min(before) };
                let decision = scale.decide(sample);
                prop_assert_eq!(decision, again.decide(sample), "the same samples give the same decisions");
                prop_assert!((rules.min..=rules.max).contains(&scale.current()));
                if depth == Some(0) && sample.inflight == 0 {
                    quiet_since.get_or_insert(now);
                } else {
                    quiet_since = None;
                }
                let changed = match decision {
                    Decision::Up(to) => {
                        prop_assert!(to > before && to - before <= rules.scale_up_step);
                        prop_assert!(depth.is_some_and(|depth| depth > 0 && depth as f64 / before as f64 >= rules.backlog_per_isolate));
                        Some((true, rules.scale_up_cooldown))
                    }
                    Decision::Down(to) => {
                        prop_assert!(to < before && before - to <= rules.scale_down_step);
                        prop_assert_eq!(sample.inflight, 0, "a busy place was taken away");
                        prop_assert!(quiet_since.is_some_and(|since| now.since(since) >= rules.idle_period));
                        Some((false, rules.scale_down_cooldown))
                    }
                    Decision::Hold(why) => {
                        prop_assert_eq!(scale.current(), before);
                        prop_assert_eq!(depth.is_none(), why == Hold::Unreadable);
                        None
                    }
                };
                if let Some((up, cooldown)) = changed {
                    prop_assert!(last_change.is_none_or(|(at, _)| now.since(at) >= cooldown));
                    last_change = Some((now, up));
                }
            }
        }
    }

    /// The same for each seed.
    struct Chance(u64);

    impl Chance {
        /// From 0 to 1.
        fn next(&mut self) -> f64 {
            self.0 = scramble(self.0);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Until the next of events that come by themselves, so many a second: a Poisson process.
        fn wait(&mut self, rate: f64) -> f64 {
            -(1.0 - self.next()).ln() / rate
        }
    }

    /// Ten simulated minutes of a worker and its queue. Tasks come by themselves, many in one half of a wave and few in the other, and
    /// take a while each. The depth is what it was ten seconds ago, or cannot be read, for parts of the time.
    #[test]
    fn fed_by_chance_it_grows_stays_in_bounds_takes_no_busy_place_and_does_not_flap() {
        const END: f64 = 600.0;
        let (mut ups, mut downs, mut unreadable, mut stale) = (0, 0, 0, 0);
        for seed in 0..500 {
            let mut chance = Chance(seed);
            let rules = Rules {
                scale_up_step: 1 + (chance.next() * 3.0) as usize,
                scale_down_step: 1 + (chance.next() * 3.0) as usize,
                idle_period: Duration::from_secs((chance.next() * 40.0) as u64),
                ..Rules::between(
                    1 + (chance.next() * 3.0) as usize,
                    4 + (chance.next() * 12.0) as usize,
                )
            };
            let (half, takes) = (20.0 + chance.next() * 100.0, 0.2 + chance.next() * 3.0);
            let rate = |now: f64| {
                if ((now / half) as u64).is_multiple_of(2) {
                    rules.max as f64 / takes * 0.8
                } else {
                    0.02
                }
            };
            let (is_stale, is_blind) = (chance.next() < 0.5, chance.next() < 0.5);
            let mut scale = Autoscale::new(rules.clone());
            let mut running: Vec<f64> = Vec::new();
            let (mut waiting, mut came) = (0u64, 0.0);
            let mut depths: Vec<u64> = Vec::new();
            let (mut last, mut most) = (None, 0);
            for tick in 0..(END / 2.0) as usize {
                let now = tick as f64 * 2.0;
                while came <= now {
                    waiting += 1;
                    came += chance.wait(rate(came));
                }
                // Within a tick places are filled again and again.
                let mut moment = now - 2.0;
                while moment <= now {
                    running.retain(|end| *end > moment);
                    while running.len() < scale.current() && waiting > 0 {
                        running.push(moment + chance.wait(1.0 / takes));
                        waiting -= 1;
                    }
                    moment += 0.1;
                }
                depths.push(waiting);
                let seen = depths[if is_stale { tick.saturating_sub(5) } else { tick }];
                stale += usize::from(seen != waiting);
                let blind = is_blind && (tick / 10) % 4 == 3;
                let depth = (!blind).then_some(seen);
                let before = scale.current();
                let sample = Sample { now: at(now), depth, inflight: running.len() };
                let change = match scale.decide(sample) {
                    Decision::Up(to) => Some((true, to, rules.scale_up_cooldown)),
                    Decision::Down(to) => Some((false, to, rules.scale_down_cooldown)),
                    Decision::Hold(why) => {
                        unreadable += usize::from(why == Hold::Unreadable);
                        assert_eq!(scale.current(), before, "seed {seed}");
                        None
                    }
                };
                assert!((rules.min..=rules.max).contains(&scale.current()), "seed {seed}");
                assert!(running.len() <= scale.current().max(before), "seed {seed}");
                if let Some((up, to, cooldown)) = change {
                    assert!(!blind, "seed {seed}: a change by a depth that nobody has read");
                    assert!(
                        up || running.is_empty(),
                        "seed {seed}: {} places cut to {to}",
                        running.len()
                    );
                    assert!(
                        last.is_none_or(|at| now - at >= cooldown.as_secs_f64()),
                        "seed {seed}"
                    );
                    last = Some(now);
                    (ups, downs) = (ups + usize::from(up), downs + usize::from(!up));
                }
                most = most.max(scale.current());
            }
            assert!(most > rules.min || rules.min == rules.max, "seed {seed}: it never grew");
        }
        assert!(
            ups > 500 && downs > 500 && unreadable > 500 && stale > 500,
            "{ups} {downs} {unreadable} {stale}"
        );
    }
}
