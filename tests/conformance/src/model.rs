//! Random sequences against a tiny reference model: three workers, leases that run out between any two steps, and every
//! receipt a worker ever had tried again later. A stale operation must be refused and change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRunner};
use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, ReceiveRequest, Renewal, Renewed, Settled};
use stem_core::backend::dead_letter::Replayed;
use stem_core::backend::result::Recorded;
use stem_core::envelope::Envelope;
use stem_core::id::{Incarnation, LeaseToken, TaskId};
use stem_core::machine::share::{Share, Shares};
use stem_core::settlement::Settlement;
use stem_core::task::{Progress, TaskState};
use stem_core::tenant::{HEADER, Tenant};
use stem_core::time::Timestamp;
use uuid::Uuid;

use crate::fixture::{LEASE, asking, envelope, fail, put, queue, result, retry_at, settle};
use crate::settle::revoked;
use crate::{Backends, Harness};

/// One step. `usize` picks a receipt out of all that were ever given out.
#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    Receive(u8, Turn),
    Renew(usize),
    Settle(usize, End),
    Progress(usize),
    Checkpoint(usize),
    Replay,
}

/// What a claim says of the task's tenant.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Turn {
    /// Nothing: it goes by no shares.
    Unsaid,
    HasRoom,
    HasNone,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Succeed,
    Fail,
    Retry,
    Revoke,
    Expire,
    Release,
    Discard,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        1 => Just(End::Succeed),
        2 => Just(End::Fail),
        4 => Just(End::Retry),
        1 => Just(End::Revoke),
        1 => Just(End::Expire),
        4 => Just(End::Release),
        1 => Just(End::Discard),
    ];
    let turn = prop_oneof![
        4 => Just(Turn::Unsaid),
        2 => Just(Turn::HasRoom),
        1 => Just(Turn::HasNone),
    ];
    prop_oneof![
        3 => (0u64..15_000).prop_map(Step::Advance),
        6 => (0u8..3, turn).prop_map(|(worker, turn)| Step::Receive(worker, turn)),
        3 => any::<usize>().prop_map(Step::Renew),
        4 => (any::<usize>(), end).prop_map(|(pick, end)| Step::Settle(pick, end)),
        2 => any::<usize>().prop_map(Step::Progress),
        1 => any::<usize>().prop_map(Step::Checkpoint),
        1 => Just(Step::Replay),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Ready,
    Delayed(Timestamp),
    Leased { until: Timestamp, owner: Incarnation },
    Dead,
    Gone,
}

/// What the store must be like.
struct Model {
    phase: Phase,
    state: TaskState,
    /// Whoever has the newest token, or had it when the lease ended.
    owner: Option<Incarnation>,
    token: u64,
    retries: u32,
    deliveries: u32,
    losses: u32,
}

impl Model {
    fn promote(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Delayed(due) if due <= now => self.phase = Phase::Ready,
            Phase::Leased { until, .. } if until <= now => {
                self.phase = Phase::Ready;
                self.losses += 1;
                if self.state == TaskState::Running {
                    self.state = TaskState::Queued;
                }
            }
            _ => {}
        }
    }

    fn is_held_by(&self, delivery: &Delivery) -> bool {
        let owner = delivery.receipt.owner;
        self.token == delivery.receipt.token.0
            && matches!(self.phase, Phase::Leased { owner: holder, .. } if holder == owner)
    }

    fn settle(&mut self, end: End, now: Timestamp, not_before: Timestamp) {
        let (phase, state) = match end {
            End::Succeed => (Phase::Gone, TaskState::Succeeded),
            End::Fail => (Phase::Dead, TaskState::Failed),
            End::Retry => (Phase::Delayed(not_before), TaskState::Retrying),
            End::Revoke => (Phase::Gone, TaskState::Revoked),
            End::Expire => (Phase::Gone, TaskState::Expired),
            End::Release => (Phase::Ready, TaskState::Queued),
            End::Discard => (Phase::Gone, self.state),
        };
        (self.phase, self.state) = (phase, state);
        self.retries += u32::from(matches!(end, End::Retry));
        self.deliveries -= u32::from(matches!(end, End::Release));
        self.promote(now);
    }
}

/// One task's life through random steps.
struct Life<'a> {
    harness: &'a dyn Harness,
    backends: &'a Backends,
    id: TaskId,
    tenant: Tenant,
    model: Model,
    given: Vec<Delivery>,
    refused: usize,
}

impl Life<'_> {
    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Advance(millis) => self.harness.advance(Duration::from_millis(millis)),
            Step::Receive(worker, turn) => self.receive(worker, turn).await,
            Step::Replay => self.replay().await,
            Step::Renew(pick) => {
                if let Some(delivery) = self.pick(pick) {
                    self.renew(&delivery).await;
                }
            }
            Step::Settle(pick, end) => {
                if let Some(delivery) = self.pick(pick) {
                    self.settle(&delivery, end).await;
                }
            }
            Step::Progress(pick) => {
                if let Some(delivery) = self.pick(pick) {
                    self.report(&delivery).await;
                }
            }
            Step::Checkpoint(pick) => {
                if let Some(delivery) = self.pick(pick) {
                    self.checkpoint(&delivery).await;
                }
            }
        }
        let state = self.backends.results.fetch(&self.id).await.unwrap().unwrap().state;
        assert_eq!(state, self.model.state, "after {step:?}");
    }

    fn pick(&self, pick: usize) -> Option<Delivery> {
        let count = self.given.len();
        (count > 0).then(|| self.given[pick % count].clone())
    }

    async fn receive(&mut self, worker: u8, turn: Turn) {
        let owner = Incarnation(Uuid::from_u128(u128::from(worker) + 1));
        let share = Share { room: usize::from(turn == Turn::HasRoom), held: 1 };
        let shares = Shares {
            queues: BTreeMap::new(),
            tenants: [(self.tenant.clone(), share)].into(),
            others: 1,
            from: Tenant::UNNAMED,
        };
        let shares = (turn != Turn::Unsaid).then(|| Arc::new(shares));
        let queues = vec![queue(self.id.as_str())];
        let request = ReceiveRequest { queues, owner, shares, ..asking(2) };
        let deliveries = self.backends.broker.receive(&request).await.unwrap();
        let now = self.harness.now();
        self.model.promote(now);
        if self.model.phase != Phase::Ready || turn == Turn::HasNone {
            assert_eq!(deliveries, []);
            return;
        }
        let model = &mut self.model;
        model.phase = Phase::Leased { until: now.after(LEASE), owner };
        model.state = TaskState::Running;
        model.owner = Some(owner);
        model.token += 1;
        model.deliveries += 1;
        let [delivery] = &deliveries[..] else { panic!("{deliveries:?}") };
        assert_eq!(delivery.receipt.token.0, model.token);
        assert_eq!(
            (delivery.attempt, delivery.deliveries, delivery.losses),
            (model.retries + 1, model.deliveries, model.losses)
        );
        self.given.extend(deliveries);
    }

    async fn renew(&mut self, delivery: &Delivery) {
        let renewal = Renewal { receipt: delivery.receipt.clone(), lease: LEASE };
        let answer = self.backends.broker.renew(&[renewal]).await.unwrap().remove(0);
        if !self.model.is_held_by(delivery) {
            self.refused += 1;
            assert_eq!(answer, Renewed::Stale);
            return;
        }
        let asked = self.harness.now().after(LEASE);
        if let Phase::Leased { until, .. } = &mut self.model.phase {
            *until = asked.max(*until);
            assert_eq!(answer, Renewed::Until(*until));
        }
    }

    async fn settle(&mut self, delivery: &Delivery, end: End) {
        let now = self.harness.now();
        let not_before = now.after(Duration::from_secs(3));
        let settlement = match end {
            End::Succeed => Settlement::Succeed(result()),
            End::Fail => fail(),
            End::Retry => retry_at(not_before),
            End::Revoke => revoked(),
            End::Expire => Settlement::Expire,
            End::Release => Settlement::Release,
            End::Discard => Settlement::Discard,
        };
        let before = self.backends.results.fetch(&self.id).await.unwrap();
        let batch = [settle(self.harness, delivery, settlement)];
        let answer = self.backends.broker.settle(&batch, Records::Here).await.unwrap();
        if self.model.is_held_by(delivery) {
            assert_eq!(answer, [Settled::Done]);
            self.model.settle(end, now, not_before);
        } else {
            self.refused += 1;
            assert_eq!(answer, [Settled::Stale]);
            assert_eq!(self.backends.results.fetch(&self.id).await.unwrap(), before);
        }
    }

    /// What the record allows. It is fenced by itself: a discard, for instance, ends the lease and not the record.
    fn may_write(&self, delivery: &Delivery) -> bool {
        self.model.state == TaskState::Running
            && self.model.token == delivery.receipt.token.0
            && self.model.owner == Some(delivery.receipt.owner)
    }

    fn expect(&mut self, delivery: &Delivery, answer: Recorded) {
        let stored = self.may_write(delivery);
        self.refused += usize::from(!stored);
        assert_eq!(answer, if stored { Recorded::Stored } else { Recorded::Stale });
    }

    async fn report(&mut self, delivery: &Delivery) {
        // A value no other step writes, so that an accepted stale one shows.
        let count = self.given.len() + self.refused;
        let progress = Progress { fraction: None, message: Some(count.to_string()), data: None };
        let before = self.backends.results.fetch(&self.id).await.unwrap();
        let update = [(delivery.receipt.clone(), progress)];
        let answer = self.backends.results.record_progress(&update).await.unwrap().remove(0);
        if answer == Recorded::Stale {
            assert_eq!(self.backends.results.fetch(&self.id).await.unwrap(), before);
        }
        self.expect(delivery, answer);
    }

    async fn checkpoint(&mut self, delivery: &Delivery) {
        let before = self.backends.results.load_checkpoint(&self.id).await.unwrap();
        let results = &self.backends.results;
        let answer = results.save_checkpoint(&delivery.receipt, b"state").await.unwrap();
        if answer == Recorded::Stale {
            assert_eq!(results.load_checkpoint(&self.id).await.unwrap(), before);
        }
        self.expect(delivery, answer);
    }

    async fn replay(&mut self) {
        // By another token nothing is there, whatever there is.
        let (id, dead) = (self.id.clone(), Arc::clone(&self.backends.dead));
        let replay = async |token| {
            let letters = [(id.clone(), LeaseToken(token))];
            dead.replay(&letters, Records::Here).await.unwrap()
        };
        let token = self.model.token;
        for stale in [token.saturating_sub(1), token + 1].into_iter().filter(|it| *it != token) {
            assert_eq!(replay(stale).await, [Replayed::Absent]);
        }
        let answer = replay(token).await;
        if self.model.phase != Phase::Dead {
            assert_eq!(answer, [Replayed::Absent]);
            return;
        }
        assert_eq!(answer, [Replayed::Queued]);
        self.model = Model {
            phase: Phase::Ready,
            state: TaskState::Queued,
            owner: None,
            token,
            retries: 0,
            deliveries: 0,
            losses: 0,
        };
    }
}

/// Runs so many random sequences of 60 steps, each on a task of its own, and answers how many stale operations were
/// refused. Panics at the first that was not, with the sequence.
pub async fn fencing_holds(harness: &dyn Harness, sequences: u32) -> usize {
    let backends = harness.connect().await;
    // Each choice of a tree has a generator of its own. With the default one, to make these takes longer than the steps.
    let cheap = Config { rng_algorithm: RngAlgorithm::XorShift, ..Config::default() };
    let mut runner = TestRunner::new(cheap);
    let mut refused = 0;
    for number in 0..sequences {
        let steps = proptest::collection::vec(step(), 60).new_tree(&mut runner).unwrap().current();
        let id = format!("model-{number}");
        let mut sent = Envelope { queue: queue(&id), ..envelope(harness, &id) };
        if number % 2 == 1 {
            sent.headers.insert(HEADER.to_owned(), "acme".to_owned());
        }
        put(&backends, std::slice::from_ref(&sent)).await;
        let mut life = Life {
            harness,
            backends: &backends,
            id: sent.id.clone(),
            tenant: Tenant::of(&sent.headers),
            model: Model {
                phase: Phase::Ready,
                state: TaskState::Queued,
                owner: None,
                token: 0,
                retries: 0,
                deliveries: 0,
                losses: 0,
            },
            given: Vec::new(),
            refused: 0,
        };
        for (at, step) in steps.iter().enumerate() {
            let taken = std::panic::AssertUnwindSafe(life.take(step));
            let done = unwind(taken).await;
            if let Err(panic) = done {
                eprintln!("sequence {number}, step {at} of {steps:#?}");
                std::panic::resume_unwind(panic);
            }
        }
        refused += life.refused;
    }
    refused
}

/// Catches a panic of a future, so that the sequence that led to it can be told.
async fn unwind(
    future: std::panic::AssertUnwindSafe<impl Future<Output = ()>>,
) -> std::thread::Result<()> {
    let mut future = std::pin::pin!(future.0);
    std::future::poll_fn(|context| {
        let poll = std::panic::AssertUnwindSafe(|| future.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(())) => std::task::Poll::Ready(Ok(())),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    })
    .await
}
