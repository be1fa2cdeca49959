//! [`Faulty`]: stands in front of backends and disturbs the calls that go through it.
//!
//! Two uses. A backend runs the whole conformance suite through [`FaultyHarness`], which delays calls, keeps some from
//! arriving and makes others twice: the contract must hold all the same. And a test of a worker puts one in front of a
//! backend and says which calls fail ([`Faulty::fail_next`]) or with which odds.
//!
//! | fault | the backend | the caller |
//! |---|---|---|
//! | delay | gets the call up to 3 ms later | waits |
//! | fail | does not get the call | gets a transient error; a patient one makes the call again |
//! | duplicate | gets the call twice, one after the other | gets one answer |
//! | lose | gets the call | gets a transient error |
//!
//! A duplicate is what a client causes that sends again because a reply was lost on the way. **Which calls are made
//! twice, and which answer counts:**
//!
//! | calls | made twice | because |
//! |---|---|---|
//! | writes that know what was done already: `publish`, `settle`, `renew`, `send`, `reply`, `register`, … | yes, the first answer counts | a task or command that is there is not stored again, a settled delivery is stale, a later renewal, beat or record says the same |
//! | `revoke`, a `write` of a value without a condition | yes, the second answer counts | each call gives versions of its own, and the later ones are in the store; who sends again gets those |
//! | `receive`, `purge` of a broker | no | they take out what comes next, and say only in the answer what that was |
//! | reads and waits | no | to read twice shows nothing, and a second wait only takes time |
//!
//! `service` is answered without a fault: it makes no call.

mod stores;
mod through;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::{
    BackendError, Broker, Buckets, ControlPlane, DeadLetters, ErrorClass, ModuleStore, Presence,
    ResultBackend, RevokeStore,
};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::Timestamp;

use self::through::{METHODS, Through};
use crate::{Backends, Harness};

/// How many of 1000 calls meet each fault. The default is none.
///
/// What a call meets follows from the seed, its method and how often that method was called before, not from what else
/// happens at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Another seed hits other calls.
    pub seed: u64,
    /// Are delayed.
    pub delay: u64,
    /// Fail before they arrive.
    pub fail: u64,
    /// Are made twice, if their method allows that.
    pub duplicate: u64,
    /// Are made, and their reply is lost.
    pub lose: u64,
}

impl Faults {
    /// Many of each kind that a patient caller does not notice, which are all but lost replies.
    pub fn unnoticed(seed: u64) -> Self {
        Self { seed, delay: 200, fail: 200, duplicate: 400, lose: 0 }
    }

    /// Every write that may be made twice is. A seed that spares the first call of a method spares it in every case.
    pub fn twice() -> Self {
        Self { duplicate: 1_000, ..Self::default() }
    }
}

/// How many faults there were so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is its fault")]
pub struct Injected {
    pub delayed: u64,
    pub failed: u64,
    pub duplicated: u64,
    pub lost: u64,
}

/// Disturbs the calls that go through what it makes. The odds, the script and the counts are common to all of it.
#[derive(Debug)]
pub struct Faulty {
    faults: Faults,
    /// Whether a call that the odds kept from arriving is made again here, as a patient caller would.
    patient: bool,
    script: Mutex<HashMap<&'static str, Vec<Scripted>>>,
    calls: [AtomicU64; METHODS.len()],
    delayed: AtomicU64,
    failed: AtomicU64,
    duplicated: AtomicU64,
    lost: AtomicU64,
}

/// What a script says of the next calls of a method.
#[derive(Debug)]
struct Scripted {
    left: u64,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Before it arrives.
    Fail(ErrorClass),
    Lose,
}

/// Whether a call may be made twice, and whose answer counts then.
#[derive(Clone, Copy, Debug)]
enum Twice {
    Never,
    FirstCounts,
    SecondCounts,
}

impl Faulty {
    /// Disturbs calls with these odds, and as the script says that may follow.
    pub fn new(faults: Faults) -> Arc<Self> {
        Self::of(faults, false)
    }

    /// The same, but a call that the odds keep from arriving is made again until it does, as callers do with transient
    /// errors. What the script says is answered all the same.
    pub fn patient(faults: Faults) -> Arc<Self> {
        assert!(faults.fail < 1_000, "a call that never arrives would be made for ever");
        Self::of(faults, true)
    }

    fn of(faults: Faults, patient: bool) -> Arc<Self> {
        Arc::new(Self {
            faults,
            patient,
            script: Mutex::default(),
            calls: [const { AtomicU64::new(0) }; METHODS.len()],
            delayed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// The next `calls` of a method, such as `broker.settle`, fail with this class before they arrive.
    pub fn fail_next(&self, method: &str, calls: u64, class: ErrorClass) {
        self.script(method, Scripted { left: calls, fault: Fault::Fail(class) });
    }

    /// The next `calls` of a method are made, and answered with a transient error.
    pub fn lose_next(&self, method: &str, calls: u64) {
        self.script(method, Scripted { left: calls, fault: Fault::Lose });
    }

    /// Takes back what the script still says.
    pub fn heal(&self) {
        self.lock_script().clear();
    }

    /// How often a method was called, with the calls that did not arrive.
    pub fn calls(&self, method: &str) -> u64 {
        self.calls[index_of(method)].load(Ordering::SeqCst)
    }

    /// How many faults there were so far.
    pub fn injected(&self) -> Injected {
        Injected {
            delayed: self.delayed.load(Ordering::SeqCst),
            failed: self.failed.load(Ordering::SeqCst),
            duplicated: self.duplicated.load(Ordering::SeqCst),
            lost: self.lost.load(Ordering::SeqCst),
        }
    }

    /// Every trait of these.
    pub fn backends(self: &Arc<Self>, inner: Backends) -> Backends {
        Backends {
            broker: self.broker(inner.broker),
            results: self.results(inner.results),
            revokes: self.revokes(inner.revokes),
            control: self.control(inner.control),
            presence: self.presence(inner.presence),
            dead: self.dead(inner.dead),
            modules: self.modules(inner.modules),
            buckets: self.buckets(inner.buckets),
        }
    }

    /// This broker.
    pub fn broker(self: &Arc<Self>, inner: Arc<dyn Broker>) -> Arc<dyn Broker> {
        Arc::new(self.through(inner))
    }

    /// This result backend.
    pub fn results(self: &Arc<Self>, inner: Arc<dyn ResultBackend>) -> Arc<dyn ResultBackend> {
        Arc::new(self.through(inner))
    }

    /// This revoke store.
    pub fn revokes(self: &Arc<Self>, inner: Arc<dyn RevokeStore>) -> Arc<dyn RevokeStore> {
        Arc::new(self.through(inner))
    }

    /// This control plane.
    pub fn control(self: &Arc<Self>, inner: Arc<dyn ControlPlane>) -> Arc<dyn ControlPlane> {
        Arc::new(self.through(inner))
    }

    /// These heartbeats.
    pub fn presence(self: &Arc<Self>, inner: Arc<dyn Presence>) -> Arc<dyn Presence> {
        Arc::new(self.through(inner))
    }

    /// These dead letters.
    pub fn dead(self: &Arc<Self>, inner: Arc<dyn DeadLetters>) -> Arc<dyn DeadLetters> {
        Arc::new(self.through(inner))
    }

    /// These modules.
    pub fn modules(self: &Arc<Self>, inner: Arc<dyn ModuleStore>) -> Arc<dyn ModuleStore> {
        Arc::new(self.through(inner))
    }

    /// These values.
    pub fn buckets(self: &Arc<Self>, inner: Arc<dyn Buckets>) -> Arc<dyn Buckets> {
        Arc::new(self.through(inner))
    }

    fn through<T: ?Sized>(self: &Arc<Self>, inner: Arc<T>) -> Through<T> {
        Through { inner, faulty: Arc::clone(self) }
    }

    fn script(&self, method: &str, scripted: Scripted) {
        let method = METHODS[index_of(method)];
        self.lock_script().entry(method).or_default().push(scripted);
    }

    fn lock_script(&self) -> MutexGuard<'_, HashMap<&'static str, Vec<Scripted>>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the script says of this call.
    fn scripted(&self, method: &str) -> Option<Fault> {
        let mut script = self.lock_script();
        let entries = script.get_mut(method)?;
        entries.retain(|entry| entry.left > 0);
        let entry = entries.first_mut()?;
        entry.left -= 1;
        Some(entry.fault)
    }

    /// Makes a call, or does not. Nothing is awaited after the last time it is made, so a caller who drops this loses no
    /// more than with the backend itself.
    async fn call<R, F>(
        &self,
        method: &'static str,
        twice: Twice,
        make: impl Fn() -> F + Send + Sync,
    ) -> Result<R, BackendError>
    where
        R: Send,
        F: Future<Output = Result<R, BackendError>> + Send,
    {
        let index = index_of(method);
        loop {
            let nth = self.calls[index].fetch_add(1, Ordering::SeqCst);
            let mut odds = Odds::new(self.faults.seed, index, nth);
            let (is_delayed, delay) = (odds.hit(self.faults.delay), odds.next() % 3_001);
            let is_failed = odds.hit(self.faults.fail);
            let is_duplicated = odds.hit(self.faults.duplicate);
            let is_lost = odds.hit(self.faults.lose);
            let scripted = self.scripted(method);

            if is_delayed {
                count(&self.delayed);
                tokio::time::sleep(Duration::from_micros(delay)).await;
            }
            if let Some(Fault::Fail(class)) = scripted {
                count(&self.failed);
                return Err(error(class, method, "did not arrive"));
            }
            if is_failed && scripted.is_none() {
                count(&self.failed);
                if self.patient {
                    continue;
                }
                return Err(error(ErrorClass::Transient, method, "did not arrive"));
            }
            let mut answer = make().await?;
            if is_duplicated && !matches!(twice, Twice::Never) {
                count(&self.duplicated);
                // An error of the second says nothing about the first, which happened.
                if let Ok(second) = make().await
                    && matches!(twice, Twice::SecondCounts)
                {
                    answer = second;
                }
            }
            if is_lost || matches!(scripted, Some(Fault::Lose)) {
                count(&self.lost);
                return Err(error(ErrorClass::Transient, method, "was made, and its reply lost"));
            }
            return Ok(answer);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn index_of(method: &str) -> usize {
    let known = METHODS.iter().position(|known| *known == method);
    known.unwrap_or_else(|| panic!("there is no method {method}; there are {METHODS:?}"))
}

fn error(class: ErrorClass, method: &str, problem: &str) -> BackendError {
    BackendError::new(class, "faulty", "make a call", format!("{method} {problem}"))
}

/// The numbers that decide one call: the generator `SplitMix64` of G. L. Steele, D. Lea and C. H. Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA 2014. Small, and good with seeds that lie close together.
struct Odds(u64);

impl Odds {
    fn new(seed: u64, method: usize, nth: u64) -> Self {
        let mut state = Self(seed);
        state.0 = state.next().wrapping_add(method as u64);
        state.0 = state.next().wrapping_add(nth);
        state
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn hit(&mut self, of_1000: u64) -> bool {
        self.next() % 1_000 < of_1000
    }
}

/// A harness whose connections go through a patient [`Faulty`]. Clock and damage are those of the harness inside.
#[derive(Debug)]
pub struct FaultyHarness<H> {
    inner: H,
    faulty: Arc<Faulty>,
}

impl<H> FaultyHarness<H> {
    /// Of this harness. The suites assert what a call answers, so a reply must not be lost.
    pub fn new(inner: H, faults: Faults) -> Self {
        assert_eq!(faults.lose, 0, "no caller could hide from a case that a reply was lost");
        Self { inner, faulty: Faulty::patient(faults) }
    }

    /// What its connections go through.
    pub fn faulty(&self) -> &Arc<Faulty> {
        &self.faulty
    }
}

#[async_trait]
impl<H: Harness> Harness for FaultyHarness<H> {
    async fn connect(&self) -> Backends {
        self.faulty.backends(self.inner.connect().await)
    }

    fn advance(&self, by: Duration) {
        self.inner.advance(by);
    }

    fn set_back(&self, by: Duration) {
        self.inner.set_back(by);
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    async fn plant_raw_envelope(
        &self,
        queue: &QueueName,
        id: &TaskId,
        name: &TaskName,
        bytes: &[u8],
    ) {
        self.inner.plant_raw_envelope(queue, id, name, bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use stem_core::backend::ServiceId;
    use stem_core::backend::control::Position;
    use stem_core::control::wire::{CommandFrame, ReplyFrame};
    use stem_core::id::{Namespace, RequestId};

    use super::*;

    /// A control plane that counts what reaches it: each `position` and each `prune` is one more.
    #[derive(Debug)]
    struct Counting {
        service: ServiceId,
        reached: AtomicU64,
    }

    impl Counting {
        fn new() -> Arc<Self> {
            let service = ServiceId("counting".to_owned());
            Arc::new(Self { service, reached: AtomicU64::new(0) })
        }

        fn reached(&self) -> u64 {
            self.reached.load(Ordering::SeqCst)
        }

        fn next(&self) -> u64 {
            self.reached.fetch_add(1, Ordering::SeqCst) + 1
        }
    }

    #[async_trait]
    impl ControlPlane for Counting {
        fn service(&self) -> &ServiceId {
            &self.service
        }

        async fn position(&self, _: &Namespace) -> Result<Position, BackendError> {
            Ok(Position(self.next()))
        }

        async fn send(&self, _: &CommandFrame) -> Result<Position, BackendError> {
            unreachable!("no test sends")
        }

        async fn commands(
            &self,
            _: &Namespace,
            _: Position,
            _: Duration,
        ) -> Result<Vec<(Position, String)>, BackendError> {
            Ok(Vec::new())
        }

        async fn reply(&self, _: &Namespace, _: &ReplyFrame) -> Result<(), BackendError> {
            Ok(())
        }

        async fn replies(
            &self,
            _: &Namespace,
            _: &RequestId,
            _: Position,
            _: Duration,
        ) -> Result<Vec<(Position, String)>, BackendError> {
            Ok(Vec::new())
        }

        async fn prune(&self) -> Result<u64, BackendError> {
            Ok(self.next())
        }
    }

    fn space() -> Namespace {
        Namespace::new("n").unwrap()
    }

    /// What 1000 prunes met: for each what was answered, and how many had reached the backend by then.
    async fn fates(faulty: &Arc<Faulty>) -> (Vec<Option<u64>>, u64) {
        let inner = Counting::new();
        let control = faulty.control(inner.clone());
        let mut answers = Vec::new();
        for _ in 0..1_000 {
            answers.push(control.prune().await.ok());
        }
        (answers, inner.reached())
    }

    #[tokio::test]
    async fn without_faults_every_call_goes_through_once() {
        let faulty = Faulty::new(Faults::default());
        let (answers, reached) = fates(&faulty).await;
        assert!(answers.into_iter().map(Option::unwrap).eq(1..=1_000));
        assert_eq!((reached, faulty.injected()), (1_000, Injected::default()));
        assert_eq!((faulty.calls("control.prune"), faulty.calls("broker.settle")), (1_000, 0));
    }

    #[tokio::test]
    async fn the_counts_are_what_the_backend_and_the_caller_saw() {
        let faults = Faults { seed: 7, delay: 50, fail: 300, duplicate: 300, lose: 300 };
        let faulty = Faulty::new(faults);
        let (answers, reached) = fates(&faulty).await;
        let injected = faulty.injected();
        let errors = answers.iter().filter(|answer| answer.is_none()).count() as u64;
        assert_eq!(errors, injected.failed + injected.lost);
        assert_eq!(reached, 1_000 - injected.failed + injected.duplicated);
        // Three standard deviations of 1000 calls at 0.3 are 44, and of those that arrive, 700, at 0.3 are 37.
        assert!((256..=344).contains(&injected.failed), "{injected:?}");
        assert!((173..=247).contains(&injected.duplicated), "{injected:?}");
        assert!((173..=247).contains(&injected.lost), "{injected:?}");
        assert!((30..=71).contains(&injected.delayed), "{injected:?}");
    }

    #[tokio::test]
    async fn a_seed_decides_what_happens_whatever_else_is_called() {
        let faults = Faults { seed: 1, fail: 300, duplicate: 300, lose: 300, delay: 0 };
        let expected = fates(&Faulty::new(faults)).await;
        let faulty = Faulty::new(faults);
        let other = faulty.control(Counting::new());
        for _ in 0..50 {
            let _ = other.position(&space()).await;
        }
        assert_eq!(fates(&faulty).await, expected);
        assert_ne!(fates(&Faulty::new(Faults { seed: 2, ..faults })).await, expected);
    }

    #[tokio::test]
    async fn a_patient_one_answers_in_the_end() {
        let faulty = Faulty::patient(Faults { seed: 3, fail: 600, ..Faults::default() });
        let (answers, reached) = fates(&faulty).await;
        assert!(answers.iter().all(Option::is_some));
        assert_eq!(reached, 1_000);
        assert_eq!(faulty.calls("control.prune"), 1_000 + faulty.injected().failed);
        assert!(faulty.injected().failed > 1_000, "{:?}", faulty.injected());
    }

    #[tokio::test]
    async fn a_duplicate_answers_as_the_first_and_reads_are_made_once() {
        let faulty = Faulty::new(Faults::twice());
        let inner = Counting::new();
        let control = faulty.control(inner.clone());
        assert_eq!((control.prune().await.unwrap(), inner.reached()), (1, 2));
        assert_eq!((control.position(&space()).await.unwrap(), inner.reached()), (Position(3), 3));
        assert_eq!(faulty.injected().duplicated, 1);
    }

    #[tokio::test]
    async fn a_script_is_followed_in_order_and_then_over() {
        let faulty = Faulty::patient(Faults::default());
        let inner = Counting::new();
        let control = faulty.control(inner.clone());
        faulty.fail_next("control.prune", 2, ErrorClass::Refused);
        faulty.lose_next("control.prune", 1);
        for (class, reached) in
            [(ErrorClass::Refused, 0), (ErrorClass::Refused, 0), (ErrorClass::Transient, 1)]
        {
            let error = control.prune().await.unwrap_err();
            assert_eq!((error.class(), inner.reached()), (class, reached), "{error}");
            let other = control.commands(&space(), Position(0), Duration::ZERO).await;
            assert_eq!(other.unwrap(), [], "other methods are left alone");
        }
        assert_eq!(control.prune().await.unwrap(), 2);
        assert_eq!(faulty.injected(), Injected { failed: 2, lost: 1, ..Injected::default() });

        faulty.fail_next("control.prune", u64::MAX, ErrorClass::Transient);
        control.prune().await.unwrap_err();
        faulty.heal();
        assert_eq!(control.prune().await.unwrap(), 3);
    }

    #[test]
    #[should_panic(expected = "there is no method broker.setle")]
    fn a_script_for_a_method_that_does_not_exist_is_refused() {
        Faulty::new(Faults::default()).fail_next("broker.setle", 1, ErrorClass::Transient);
    }
}
