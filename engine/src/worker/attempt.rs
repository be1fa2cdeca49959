//! One delivery in hand: feeds its machine with facts and performs its orders.

use std::convert::Infallible;
use std::hash::BuildHasher as _;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stem_core::backend::broker::Delivery;
use stem_core::backend::result::{Begun, Recorded};
use stem_core::backend::{BackendError, Records};
use stem_core::control::Drain;
use stem_core::limits::Usage;
use stem_core::machine::attempt::{Attempt, Effect, Event, Retirement, Rules};
use stem_core::observe::{AttemptEnd, AttemptFacts, Ending, Seen, Service, Trace};
use stem_core::outcome::{FailureKind, Outcome, StopReason};
use stem_core::revoke::Revocation;
use stem_core::seal::{Level, Purpose, Refused};
use stem_core::settlement::{Settle, Settlement};
use stem_core::task::ModuleRef;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;
use stem_core::trace::TraceParent;
use stem_isolate::{Exit, TaskInfo};
use tokio::sync::mpsc;

use super::children::Parent;
use super::handler::Handler;
use super::host::{FIRST, Host};
use super::keeper::{RenewFor, RenewOrder, SettleOrder};
use super::shared::{Counters, InHand, RevokedEnd, Running, Shared, whole_millis};
use super::shipping::{self, Choice};
use super::{quota, recycle, slots};

/// A delivery as the intake hands it over.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) delivery: Box<Delivery>,
    /// Before the broker was asked.
    pub(super) asked_at: Timestamp,
    pub(super) start: Start,
    /// Free again when this attempt is over.
    pub(super) place: slots::Taken,
    /// Where there are quotas.
    pub(super) hold: Option<quota::Hold>,
}

/// Whether it starts, and beside whom.
#[derive(Debug)]
pub(super) enum Start {
    Beside,
    /// Nobody joins it, and it waits until what came with it has gone back.
    Alone {
        _alone: slots::Alone,
        others: mpsc::Receiver<Infallible>,
        /// Something else is in hand, and was waited for in vain.
        beside: bool,
    },
    /// It is given back. Kept until then: what is to be alone waits for all of these to be dropped.
    Back {
        _going: mpsc::Sender<Infallible>,
    },
}

/// Sees a delivery through to its end. Runs as a task of its own; the driver waits for all of them.
pub(super) async fn see_through(shared: Arc<Shared>, taken: Taken) {
    let Taken { mut delivery, asked_at, mut start, place, mut hold } = taken;
    let broker_ahead = broker_ahead(&delivery, shared.config.lease, asked_at, shared.now());
    let (events, mut facts) = mpsc::unbounded_channel();
    let hand = Arc::new(InHand::new(
        delivery.receipt.clone(),
        (delivery.envelope.name.clone(), delivery.tenant.clone()),
        delivery.attempt,
        events,
    ));
    hand.held_until.store(asked_at.after(shared.config.lease).unix_millis(), Ordering::Relaxed);
    // In hand before anything is looked up: a revocation or a drain that comes from now on is told to it.
    shared.take_in_hand(&hand);
    let mut grip = Grip { shared: &shared, hand: &hand, over: false };
    if let Some(mode) = shared.draining() {
        hand.tell(Event::Draining { mode, grace: None });
    }
    let early = match &mut start {
        Start::Alone { others, beside, .. } => {
            until_alone(&shared, &delivery, (others, *beside), &mut facts).await
        }
        Start::Beside | Start::Back { .. } => None,
    };
    let goes_back = matches!(start, Start::Back { .. });
    // Whoever runs it looks at its signature.
    let refused = if goes_back { None } else { judge(&shared, &delivery).await };
    // The machine reckons in steady time, the producer in the wall clock's.
    delivery.envelope.expires_at = delivery.envelope.expires_at.map(|at| shared.steady(at));
    let Choice { handler, instead } = match refused {
        // No build is chosen for it, or fetched.
        Some(refused) => Choice { handler: None, instead: Some(refused) },
        None if goes_back => Choice { handler: None, instead: None },
        None => shipping::choose(&shared, &delivery.envelope).await,
    };
    let handler = match handler {
        Some(handler) => Some(recycle::before(&shared, handler).await),
        None => None,
    };
    if let Some(build) = handler.as_ref().map_or(delivery.envelope.module, Handler::build) {
        shipping::note_build(&shared, &hand, build);
    }
    let limits = handler.as_ref().map(|handler| handler.limits(&shared.config.limits_cap));
    let rules = Rules {
        lease: shared.config.lease,
        max_losses: shared.config.max_losses,
        soft: limits.as_ref().and_then(|limits| limits.soft),
        hard: limits.as_ref().map_or(Duration::from_secs(1), |limits| limits.hard),
    };
    let mut machine = Attempt::new(&delivery, rules, asked_at, seed());
    let mut memory = None;
    let mut fits = true;
    if let Some((hold, handler)) = hold.as_mut().zip(handler.as_ref()) {
        let granted = hold.reserve(handler.memory(&shared.config.limits_cap));
        fits = granted.is_some();
        memory = granted.filter(|bytes| *bytes > 0);
    }
    let first = if goes_back {
        tracing::debug!(task = %delivery.envelope.id, "it goes back: nothing is to be started beside one that may have taken workers down");
        give_back(shared.revocations().get(&delivery.envelope.id, shared.store_time()))
    } else {
        admission(&shared, &delivery, fits).await
    };
    let module = handler.as_ref().and_then(Handler::module);
    if delivery.losses > 0 && !goes_back {
        let (queue, name) = (&delivery.envelope.queue, &delivery.envelope.name);
        shared.observer.saw(Seen::LeaseReclaimed(queue, name));
    }
    let mut driver = Driver {
        shared: &shared,
        hand: &hand,
        parent: delivery.envelope.trace_parent.as_deref().and_then(TraceParent::parse),
        delivery,
        hold,
        memory,
        handler,
        instead,
        broker_ahead,
        module,
        exit: None,
        usage: None,
        ended: None,
        ordered: false,
        began: None,
        ran: None,
        trace: None,
    };
    driver.drive(&mut machine, &mut facts, early, first).await;
    grip.over = true;
    drop(grip);
    if let Some(handler) = driver.handler.take() {
        let peak = driver.usage.map_or(0, |usage| usage.peak_memory_bytes);
        recycle::after(&shared, &handler, hand.running.get().is_some(), peak).await;
    }
    // Before the place: whoever waits for that looks at the quotas.
    drop(driver.hold.take());
    drop(start);
    drop(place);
}

/// The longest that one on its last chance waits for what came with it to be given back: as long as the broker answers that
/// is a moment.
const OTHERS: Duration = Duration::from_secs(30);

/// Waits for those who came with it to be given back, while nobody joins them; not for ever, since the broker may be away.
/// Ends with what it is told meanwhile, which may be that it is not to start at all.
async fn until_alone(
    shared: &Shared,
    delivery: &Delivery,
    (others, beside): (&mut mpsc::Receiver<Infallible>, bool),
    facts: &mut mpsc::UnboundedReceiver<Box<Event>>,
) -> Option<Box<Event>> {
    let (task, losses) = (&delivery.envelope.id, delivery.losses);
    tracing::warn!(%task, losses, "it was in hand whenever so many workers were lost, and runs alone now: one more makes it poison");
    if beside {
        tracing::warn!(%task, "others do not end, so it begins beside them");
    }
    tokio::select! {
        // What it is told counts first.
        biased;
        told = facts.recv() => told,
        _ = others.recv() => None,
        () = tokio::time::sleep((shared.config.lease / 4).min(OTHERS)) => {
            tracing::warn!(%task, "what came with it cannot be given back, so it begins beside that");
            None
        }
    }
}

/// Lets go of a delivery, also when its driver is dropped or breaks: then its handler must not run on, with nobody to
/// renew its lease.
struct Grip<'a> {
    shared: &'a Shared,
    hand: &'a InHand,
    /// The attempt was seen through, and no code of it runs any more.
    over: bool,
}

impl Drop for Grip<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.hand.running.get().filter(|_| !self.over) {
            running.interrupt.stop(StopReason::Shutdown, true);
        }
        self.shared.progress.take_last(&self.hand.receipt);
        self.shared.let_go(self.hand);
    }
}

/// A larger payload is hashed on a thread of its own, so that leases are not kept waiting.
const HASHED_HERE: usize = 64 << 10;

/// What ends a task that is not signed as it must be here.
async fn judge(shared: &Shared, delivery: &Delivery) -> Option<Outcome> {
    let keys = &shared.keys;
    let level = keys.level(Purpose::Task);
    if level == Level::Unchecked {
        return None;
    }
    let judged = if delivery.envelope.payload.bytes.len() <= HASHED_HERE {
        keys.check_task(&delivery.envelope, &delivery.receipt.queue, shared.wall())
    } else {
        let (keys, now) = (Arc::clone(keys), shared.wall());
        let (envelope, queue) = (delivery.envelope.clone(), delivery.receipt.queue.clone());
        tokio::task::spawn_blocking(move || keys.check_task(&envelope, &queue, now))
            .await
            .unwrap_or(Err(Refused::Malformed))
    };
    let refused = match judged {
        Ok(by) => {
            if by.is_none() && level == Level::Permitted {
                shared.observer.saw(Seen::Unsigned(Purpose::Task));
            }
            return None;
        }
        Err(refused) => refused,
    };
    shared.observer.saw(Seen::Refused { kind: Purpose::Task, reason: refused });
    super::control::refused_task(shared, delivery, refused);
    let signed = delivery.envelope.seal.as_ref();
    let by = signed.map_or_else(String::new, |it| format!(" (key {})", it.seal().key));
    let words = format!("no code of it was run, since its signature is refused: {refused}{by}");
    Some(Outcome::fatal(FailureKind::Error, "signature-refused", &words))
}

/// By how many milliseconds the broker's clock is ahead of steady time, at least and at most: by that clock the lease began
/// so long before its end, and it did so between the asking for the delivery and its coming.
fn broker_ahead(
    delivery: &Delivery,
    lease: Duration,
    asked_at: Timestamp,
    came_at: Timestamp,
) -> RangeInclusive<i64> {
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let began = delivery.lease_until.unix_millis().saturating_sub(lease);
    began.saturating_sub(came_at.unix_millis())..=began.saturating_sub(asked_at.unix_millis())
}

/// Decides the jitter of a retry. Every attempt has one, and few need it: so it does not ask the system, but is the hash of
/// nothing by keys that differ each time, which each thread has had from the system once.
fn seed() -> u64 {
    std::hash::RandomState::new().hash_one(())
}

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    hand: &'a Arc<InHand>,
    delivery: Box<Delivery>,
    hold: Option<quota::Hold>,
    /// The most memory that its quotas leave it, where there are some.
    memory: Option<u64>,
    handler: Option<Handler>,
    /// What ends the attempt where there is no handler.
    instead: Option<Outcome>,
    /// By how many milliseconds the broker's clock is ahead of steady time, at least and at most.
    broker_ahead: RangeInclusive<i64>,
    module: Option<ModuleRef>,
    exit: Option<Pin<Box<dyn Future<Output = Exit> + Send>>>,
    usage: Option<Usage>,
    /// What was settled, for the line in the log.
    ended: Option<Settlement>,
    /// The producer's trace.
    parent: Option<TraceParent>,
    /// Somebody has ordered the handler to stop.
    ordered: bool,
    /// When the handler started, if somebody wants to know; finer than steady time.
    began: Option<Instant>,
    /// From then until no code of it ran.
    ran: Option<Duration>,
    /// The attempt's own trace, where it is recorded.
    trace: Option<Box<dyn Trace>>,
}

/// The end of the handler if one runs; never, otherwise. Cancel-safe: the future stays where it is.
async fn exited(exit: &mut Option<Pin<Box<dyn Future<Output = Exit> + Send>>>) -> Exit {
    match exit {
        Some(exit) => exit.await,
        None => std::future::pending().await,
    }
}

/// Looks up what must be known before a start.
async fn admission(shared: &Shared, delivery: &Delivery, fits: bool) -> Vec<Event> {
    let task = &delivery.envelope.id;
    let revocation = shared.revocations().get(task, shared.store_time());
    let mut instead = None;
    if !fits {
        tracing::debug!(%task, tenant = %delivery.tenant, "its memory does not fit beside what its tenant or queue has in hand; it goes back");
        return give_back(revocation);
    }
    if shared.records == Records::Elsewhere {
        match begin_elsewhere(shared, delivery).await {
            Ok(known) => instead = known,
            Err(error) => {
                shared.saw_failure(Service::Results, &error);
                tracing::warn!(%task, %error, "the record cannot be written; the task goes back to its queue");
                return give_back(revocation);
            }
        }
    }
    vec![Event::Admitted { instead, revocation }]
}

/// For this delivery it is as if the worker drained: not started, given back, nothing counted.
fn give_back(revocation: Option<Revocation>) -> Vec<Event> {
    vec![
        Event::Draining { mode: Drain::Warm, grace: None },
        Event::Admitted { instead: None, revocation },
    ]
}

/// Writes the record where the broker does not; says what must become of a delivery by which the task must not run.
async fn begin_elsewhere(
    shared: &Shared,
    delivery: &Delivery,
) -> Result<Option<Settlement>, BackendError> {
    let results = &shared.backends.results;
    let begun = Begun {
        receipt: delivery.receipt.clone(),
        attempt: delivery.attempt,
        deliveries: delivery.deliveries,
        at: shared.wall(),
        worker: shared.config.id.clone(),
    };
    let answer = results.record_begun(std::slice::from_ref(&begun)).await?;
    if answer.first() == Some(&Recorded::Stored) {
        return Ok(None);
    }
    if let Some(record) = results.fetch(&delivery.envelope.id).await? {
        return Ok(Some(Settlement::after_refusal(&record)));
    }
    // The producer died between its two writes, or the record's time ran out: the delivery is the truth.
    results.record_queued(std::slice::from_ref(&delivery.envelope)).await?;
    results.record_begun(&[begun]).await?;
    Ok(None)
}

impl Driver<'_> {
    async fn drive(
        &mut self,
        machine: &mut Attempt,
        facts: &mut mpsc::UnboundedReceiver<Box<Event>>,
        early: Option<Box<Event>>,
        first: Vec<Event>,
    ) {
        let mut effects = Vec::new();
        if let Some(event) = early {
            machine.handle(self.shared.now(), *event, &mut effects);
        }
        // What came while the record was looked up (a drain, a revocation) counts before the question whether to start.
        while let Ok(event) = facts.try_recv() {
            machine.handle(self.shared.now(), *event, &mut effects);
        }
        for event in first {
            machine.handle(self.shared.now(), event, &mut effects);
        }
        loop {
            for effect in std::mem::take(&mut effects) {
                if let Some(event) = self.perform(effect, machine) {
                    machine.handle(self.shared.now(), event, &mut effects);
                }
            }
            if !effects.is_empty() {
                continue;
            }
            if machine.is_over() {
                return;
            }
            let wait = machine.next_wakeup().map(|at| self.shared.now().until(at));
            let event = tokio::select! {
                // What operator or broker said counts before the end of the same moment, and that before a limit.
                biased;
                // All three are cancel-safe: a message stays in its channel, the exit in its slot, time passes anyway.
                Some(event) = facts.recv() => *event,
                exit = exited(&mut self.exit) => {
                    self.exit = None;
                    self.exited(&exit.outcome);
                    self.usage = Some(exit.usage).filter(|usage| *usage != Usage::default());
                    Event::Exited(exit.outcome)
                }
                () = sleep(wait) => Event::Ticked,
            };
            machine.handle(self.shared.now(), event, &mut effects);
        }
    }

    /// Performs an order; some are facts at once.
    fn perform(&mut self, effect: Effect, machine: &Attempt) -> Option<Event> {
        match effect {
            Effect::Start => return self.start(machine),
            Effect::Notify(notice) => {
                // A soft time limit is advice; the others end the attempt, by whoever is first.
                if matches!(notice.code, "revoked" | "worker-drain") {
                    self.hand.set_stopping();
                }
                if let Some(trace) = &mut self.trace {
                    trace.event(notice.code, &notice.message);
                }
                if let Some(running) = self.hand.running.get() {
                    running.interrupt.notify(notice);
                }
            }
            Effect::Stop { reason, force } => {
                self.hand.set_stopping();
                self.ordered = true;
                if let Some(trace) = &mut self.trace {
                    trace.event("stop", stop_words(reason, force));
                }
                if let Some(running) = self.hand.running.get() {
                    running.interrupt.stop(reason, force);
                }
            }
            Effect::Renew => {
                let order = RenewOrder {
                    receipt: self.hand.receipt.clone(),
                    lease: self.shared.config.lease,
                    whom: RenewFor::Attempt(Arc::clone(self.hand)),
                };
                if self.shared.renewals.send(order).is_err() {
                    return Some(Event::RenewalFailed);
                }
            }
            Effect::Settle(settlement) => return self.settle(settlement),
            Effect::Retire(how) => {
                self.retire(how);
                self.observe_end(how);
            }
        }
        None
    }

    fn start(&mut self, machine: &Attempt) -> Option<Event> {
        let Some(handler) = self.handler.clone() else {
            // The name was taken out of service between asking and starting: another worker may know it.
            return Some(Event::Exited(self.instead.take().unwrap_or_else(Outcome::not_begun)));
        };
        self.observe_start();
        let told = self.trace.as_ref().map(|trace| trace.parent());
        let trace_id = told.or(self.parent).map(|parent| parent.trace());
        let envelope = &self.delivery.envelope;
        let mut limits = handler.limits(&self.shared.config.limits_cap);
        if let Some(hard_at) = machine.hard_at() {
            limits.hard = self.shared.now().until(hard_at);
        }
        if let Some(hold) = &mut self.hold {
            hold.started(self.shared.now());
        }
        if let Some(most) = self.memory {
            limits.memory_bytes = limits.memory_bytes.min(most);
        }
        let info = TaskInfo {
            task_id: envelope.id.to_string(),
            task_name: envelope.name.to_string(),
            queue: envelope.queue.to_string(),
            attempt: self.delivery.attempt,
            max_attempts: Some(envelope.retry.max_retries.saturating_add(1)),
            enqueued_at_ms: u64::try_from(envelope.enqueued_at.unix_millis()).unwrap_or(0),
            parent_id: envelope.parent_id.as_ref().map(ToString::to_string),
            root_id: envelope.root_id.to_string(),
            idempotency_key: envelope.id.to_string(),
            trace_parent: told
                .map(|told| told.to_string())
                .or_else(|| envelope.trace_parent.clone()),
            headers: envelope
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        let tenant = self.shared.quotas.as_ref().map(|_| Tenant::of(&envelope.headers));
        let parent = Parent::new(envelope, told, tenant);
        let host = Arc::new(Host::new(self.shared, self.hand, &envelope.name, trace_id, parent));
        Counters::count(&self.shared.counters.started);
        let started =
            handler.start(&self.shared.threads, envelope.payload.clone(), info, limits, host);
        let running = Running {
            kind: handler.kind(),
            started_at: self.shared.wall(),
            since: self.shared.now(),
            interrupt: started.interrupt,
        };
        self.hand.running.set(running).expect("an attempt starts once");
        self.exit = Some(started.exit);
        None
    }

    /// Which attempt this is, for those who watch.
    fn facts(&self) -> AttemptFacts<'_> {
        let envelope = &self.delivery.envelope;
        AttemptFacts {
            queue: &envelope.queue,
            name: &envelope.name,
            task: &envelope.id,
            attempt: self.delivery.attempt,
            parent: self.parent,
            waited: None,
        }
    }

    /// Tells those who watch that the handler is about to start.
    fn observe_start(&mut self) {
        let (observer, envelope) = (&self.shared.observer, &self.delivery.envelope);
        // No clock is read for nobody.
        self.began = observer.is_watching().then(Instant::now);
        let waited = (self.began.is_some() && self.delivery.receipt.token == FIRST).then(|| {
            let enqueued_at = envelope.enqueued_at;
            let ready_at = envelope.not_before.map_or(enqueued_at, |at| at.max(enqueued_at));
            self.shared.wall().since(ready_at)
        });
        self.trace = observer.started(&AttemptFacts { waited, ..self.facts() });
    }

    /// The handler is gone.
    fn exited(&mut self, outcome: &Outcome) {
        self.ran = self.began.map(|began| began.elapsed());
        // One that gave up by itself after a notice was not stopped by anybody.
        if self.ordered
            && let Outcome::Stopped { reason, how, elapsed } = *outcome
        {
            self.shared.observer.saw(Seen::Stopped { reason, how, took: elapsed });
        }
        // Also one that gave up by itself: whoever recalled its build wants to know what became of it.
        if let Some(recall) = self.hand.build.get().and_then(|build| {
            let recall = self.shared.revocations().recall(build, self.shared.store_time());
            recall.filter(|recall| recall.request.terminate)
        }) && let Outcome::Stopped { how, elapsed, .. } = *outcome
        {
            Counters::count(&self.shared.counters.terminated);
            self.shared.remember_revoked(RevokedEnd {
                task: self.delivery.envelope.id.clone(),
                version: Some(recall.version),
                how,
                elapsed_ms: (elapsed.as_secs_f64() * 1e6).round() / 1e3,
            });
        }
    }

    /// Tells those who watch how it ended.
    fn observe_end(&mut self, how: Retirement) {
        let (ending, failure) = match (how, &self.ended) {
            (Retirement::Stale, _) => (Ending::LeaseLost, None),
            (Retirement::Abandoned, _) | (Retirement::Settled, None) => (Ending::Abandoned, None),
            (Retirement::Settled, Some(settlement)) => match settlement {
                Settlement::Succeed(_) => (Ending::Succeeded, None),
                Settlement::Fail { failure, .. } => (Ending::Failed, Some(failure)),
                Settlement::Retry { failure, .. } => (Ending::Retried, Some(failure)),
                Settlement::Revoke(_) => (Ending::Revoked, None),
                Settlement::Expire => (Ending::Expired, None),
                Settlement::Release => (Ending::Released, None),
                Settlement::Discard => (Ending::Discarded, None),
            },
        };
        let end = AttemptEnd { ending, failure, ran: self.ran, usage: self.usage };
        self.shared.observer.ended(&self.facts(), &end);
        if let Some(trace) = self.trace.take() {
            trace.end(&end);
        }
    }

    /// A steady time by the broker's clock: by our wall clock as far as that can be right. One that is minutes ahead would
    /// put a retry off for minutes.
    fn as_brokers(&self, at: Timestamp) -> Timestamp {
        let ours = self.shared.as_wall(at).unix_millis().saturating_sub(at.unix_millis());
        let ahead = ours.min(*self.broker_ahead.end()).max(*self.broker_ahead.start());
        Timestamp::from_unix_millis(at.unix_millis().saturating_add(ahead))
    }

    fn settle(&mut self, mut settlement: Settlement) -> Option<Event> {
        if let Settlement::Retry { not_before, .. } = &mut settlement {
            *not_before = self.as_brokers(*not_before);
        }
        self.ended = Some(settlement.clone());
        let children = if matches!(settlement, Settlement::Succeed(_)) {
            self.hand.children.of_success(self.shared.wall(), &self.shared.keys)
        } else {
            self.hand.children.drop_all();
            Vec::new()
        };
        let ran = self.hand.running.get().is_some();
        let order = SettleOrder {
            settle: Settle {
                receipt: self.hand.receipt.clone(),
                settlement,
                at: self.shared.wall(),
                worker: self.shared.config.id.clone(),
                attempt: self.delivery.attempt,
                usage: self.usage,
                module: self.module.clone().filter(|_| ran),
                children,
            },
            progress: self.shared.progress.take_last(&self.hand.receipt),
            hand: Arc::clone(self.hand),
        };
        self.shared.settlements.send(order).is_err().then_some(Event::SettleFailed)
    }

    fn retire(&self, how: Retirement) {
        let shared = self.shared;
        let counters = &shared.counters;
        let envelope = &self.delivery.envelope;
        let (task, name, queue, attempt) =
            (&envelope.id, &envelope.name, &envelope.queue, self.delivery.attempt);
        let ms = self
            .hand
            .running
            .get()
            .map_or(Duration::ZERO, |running| shared.now().since(running.since));
        let ms = whole_millis(ms);
        let trace = self.trace.as_ref().map(|trace| trace.parent()).or(self.parent);
        let trace_id = trace.map(|trace| trace.trace());
        let trace_id = trace_id.as_deref();
        match (how, &self.ended) {
            (Retirement::Settled, Some(settlement)) => {
                let state = settlement.state().map_or("discarded", |state| state.as_str());
                match settlement {
                    Settlement::Succeed(_) => Counters::count(&counters.succeeded),
                    Settlement::Fail { .. } => Counters::count(&counters.failed),
                    Settlement::Retry { .. } => Counters::count(&counters.retried),
                    Settlement::Revoke(end) => {
                        Counters::count(&counters.revoked);
                        if self.hand.running.get().is_some() {
                            Counters::count(&counters.terminated);
                        }
                        shared.remember_revoked(RevokedEnd {
                            task: task.clone(),
                            version: shared
                                .revocations()
                                .get(task, shared.store_time())
                                .map(|revocation| revocation.version),
                            how: end.how,
                            elapsed_ms: end.elapsed_ms,
                        });
                    }
                    Settlement::Expire | Settlement::Release | Settlement::Discard => {}
                }
                match settlement {
                    Settlement::Fail { failure, reason } => {
                        tracing::info!(%task, %name, %queue, attempt, state, ms, %failure, reason = reason.as_str(), trace_id, "attempt ended");
                    }
                    Settlement::Retry { failure, not_before } => {
                        tracing::info!(%task, %name, %queue, attempt, state, ms, %failure, %not_before, trace_id, "attempt ended");
                    }
                    Settlement::Revoke(end) => {
                        tracing::info!(%task, %name, %queue, attempt, state, ms, how = end.how.as_str(), elapsed_ms = end.elapsed_ms,
                            reason = end.reason.as_deref(), requested_by = end.requested_by.as_deref(), trace_id, "attempt ended");
                    }
                    _ => {
                        tracing::info!(%task, %name, %queue, attempt, state, ms, trace_id, "attempt ended");
                    }
                }
            }
            (Retirement::Stale, _) => {
                Counters::count(&counters.lease_lost);
                tracing::warn!(%task, %name, %queue, attempt, ms, trace_id, "lease lost, or the record tells of another end; this attempt settled nothing");
            }
            (Retirement::Abandoned | Retirement::Settled, _) => {
                tracing::warn!(%task, %name, %queue, attempt, ms, trace_id, "not settled before the worker had to end; the lease will run out");
            }
        }
    }
}

/// A stop that was ordered, in words.
fn stop_words(reason: StopReason, force: bool) -> &'static str {
    match (reason, force) {
        (StopReason::TimeLimit, _) => "by force: the hard time limit passed",
        (StopReason::LeaseLost, _) => "by force: the lease is lost",
        (StopReason::Revoked, true) => "by force: the task was revoked",
        (StopReason::Revoked, false) => "at a checkpoint: the task was revoked",
        (StopReason::Recalled, true) => "by force: its module was recalled",
        (StopReason::Recalled, false) => "at a checkpoint: its module was recalled",
        (StopReason::Shutdown, true) => "by force: the worker shuts down",
        (StopReason::Shutdown, false) => "at a checkpoint: the worker shuts down",
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
