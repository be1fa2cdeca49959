//! [`StoreClock`]: the revoke store's clock, as a worker knows it. Revocations end by that clock, so that neither a worker
//! nor an operator whose own is off ends one early or keeps one for ever.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stem_core::revoke::judged_at;
use stem_core::time::Timestamp;

/// An answer is good for so long: a store whose clock was set is followed that late. Asking at each look would be twice
/// the questions of an idle worker.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// What the store has told of its time, and when.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<Answer>>);

#[derive(Clone, Copy, Debug)]
struct Answer {
    /// None, if the store has no clock.
    told: Option<Timestamp>,
    /// When it had come, in steady time.
    at: Timestamp,
}

impl StoreClock {
    fn answer(&self) -> Option<Answer> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store is to be asked again; `now` is steady time.
    pub(super) fn must_be_asked(&self, now: Timestamp) -> bool {
        self.answer().is_none_or(|answer| now.since(answer.at) >= GOOD_FOR)
    }

    /// Notes what the store has told. `now` is steady time, read when the answer had come: on its way it has only grown
    /// older, so what is counted from it is late and never early, and no revocation ends before its time.
    pub(super) fn note(&self, told: Option<Timestamp>, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Answer { told, at: now });
    }

    /// The time by which to judge what is over. Until the store has told its time, nothing is.
    ///
    /// Without a clock of the store's, a revocation lasts as long as this process sees the time pass, also where the
    /// machine's clock is set forward meanwhile; where that is set back, it lasts longer. A machine that sleeps keeps it
    /// for so much longer: only the wall clock goes on then, and nobody can tell that from a step.
    pub(super) fn time(&self, now: Timestamp, wall: Timestamp) -> Timestamp {
        match self.answer() {
            None => Timestamp::default(),
            Some(Answer { told: Some(told), at }) => told.after(now.since(at)),
            Some(Answer { told: None, .. }) => judged_at(None, now.min(wall)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stem_conformance::ManualClock;
    use stem_core::backend::RevokeStore;
    use stem_core::id::{TaskId, WorkerId};
    use stem_core::revoke::{EXPIRY_GRACE, Revocations, RevokeRequest};
    use stem_core::time::Clock;
    use stem_memory::Memory;

    use super::super::builder::Clocks;
    use super::super::config::WorkerConfig;
    use super::super::revocations::catch_up;
    use super::super::shared::Shared;
    use super::*;
    use crate::Backends;
    use crate::revocations::time_to_count_from;

    const TEN_MINUTES: Duration = Duration::from_mins(10);
    const LIFE: Duration = Duration::from_mins(5);
    const MOMENT: Duration = Duration::from_millis(1);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    /// Ten minutes behind, right, ten minutes ahead.
    fn clock(off: u32) -> Arc<ManualClock> {
        let clock = ManualClock::new();
        clock.advance(TEN_MINUTES * off);
        clock
    }

    #[tokio::test]
    async fn a_revocation_ends_by_the_stores_clock_whoevers_is_off() {
        let clocks = (0..27).map(|n| [n % 3, n / 3 % 3, n / 9].map(clock));
        for [of_worker, of_operator, of_store] in clocks {
            let memory = Memory::new(of_store.clone());
            let shared = Shared::alone_by(
                Clocks { steady: of_worker.clone(), wall: of_worker.clone() },
                WorkerConfig::new(WorkerId::new("w").unwrap()),
                Backends::all_in_one(memory.clone()),
            );
            let what = format!("{of_worker:?} {of_operator:?} {of_store:?}");
            let pass = |time| {
                for clock in [&of_worker, &of_operator, &of_store] {
                    clock.advance(time);
                }
            };
            let task = TaskId::new("t").unwrap();
            let holds = || shared.revocations().get(&task, shared.store_time()).is_some();

            let now = time_to_count_from(&*memory, &*of_operator).await.unwrap();
            let request =
                RevokeRequest { expires_at: Some(now.after(LIFE)), ..RevokeRequest::default() };
            memory.revoke(&shared.config.namespace, &[(task.clone(), request)]).await.unwrap();
            catch_up(&shared).await.unwrap();
            assert!(holds(), "{what}");
            pass(LIFE.saturating_sub(MOMENT));
            assert!(holds(), "{what}");
            catch_up(&shared).await.unwrap();
            assert!(holds(), "{what}");
            pass(MOMENT);
            assert!(!holds(), "{what}");
            shared.revocations().prune(shared.store_time());
            assert_eq!(shared.revocations().count(), 0, "{what}");
        }
    }

    #[tokio::test]
    async fn a_store_whose_clock_was_set_is_followed_at_the_next_question() {
        let of_store = ManualClock::new();
        let of_worker = ManualClock::new();
        let memory = Memory::new(of_store.clone());
        let shared = Shared::alone_by(
            Clocks { steady: of_worker.clone(), wall: of_worker.clone() },
            WorkerConfig::new(WorkerId::new("w").unwrap()),
            Backends::all_in_one(memory),
        );
        catch_up(&shared).await.unwrap();
        of_store.advance(TEN_MINUTES);
        catch_up(&shared).await.unwrap();
        assert_eq!(shared.store_time(), of_worker.now(), "one answer is good for a while");
        of_worker.advance(GOOD_FOR);
        catch_up(&shared).await.unwrap();
        assert_eq!(shared.store_time(), of_store.now());
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_ends_nothing_early() {
        let clock = StoreClock::default();
        assert!(clock.must_be_asked(at(0)));
        // Told at 90,000 by the store's clock, and here a second later.
        clock.note(Some(at(90_000)), at(1_000));
        assert_eq!(clock.time(at(1_000), at(9)), at(90_000), "it is 91,000 there");
        assert_eq!(clock.time(at(1_500), at(999_999)), at(90_500));
        assert!(!clock.must_be_asked(at(5_999)) && clock.must_be_asked(at(6_000)));
        clock.note(Some(at(50_000)), at(6_000));
        assert_eq!(clock.time(at(6_001), at(0)), at(50_001), "it was set back");
    }

    #[test]
    fn before_the_store_has_told_its_time_nothing_is_over() {
        let mut known = Revocations::new("stem".parse().unwrap());
        let task = TaskId::new("t").unwrap();
        let request = RevokeRequest { expires_at: Some(at(1)), ..RevokeRequest::default() };
        known.apply(stem_core::revoke::RevocationChange::Revoked(stem_core::revoke::Revocation {
            namespace: "stem".parse().unwrap(),
            task_id: task.clone(),
            version: stem_core::revoke::Version(1),
            issued_at: at(0),
            request,
        }));
        let clock = StoreClock::default();
        assert!(known.get(&task, clock.time(at(9_999), at(9_999))).is_some());
        clock.note(Some(at(1)), at(9_999));
        assert!(known.get(&task, clock.time(at(9_999), at(9_999))).is_none());
    }

    #[test]
    fn where_the_store_has_no_clock_a_step_of_the_machines_ends_nothing_early() {
        let clock = StoreClock::default();
        let ten_minutes = 600_000;
        let begun = 1_000_000;
        clock.note(None, at(begun));
        let grace = i64::try_from(EXPIRY_GRACE.as_millis()).unwrap();
        let later = begun + 1_000;
        assert_eq!(clock.time(at(later), at(later)), at(later - grace));
        let ahead = clock.time(at(later), at(later + ten_minutes));
        assert_eq!(ahead, at(later - grace), "a step forward");
        let behind = clock.time(at(later), at(later - ten_minutes));
        assert_eq!(behind, at(later - grace - ten_minutes), "a step back");
    }
}
