//! [`Happening`]: everything that a fact can be, so that it can be counted how often each was, and said what never was.

use stem_core::backend::broker::{Published, Renewed, Settled};
use stem_core::backend::dead_letter::Replayed;
use stem_core::backend::result::Recorded;
use stem_core::control::{Drain, WorkerState};
use stem_core::observe::Ending;
use stem_core::revoke::RevokeRequest;
use stem_core::settlement::DeadReason;

use crate::fact::{Caller, End, Fact, Fault, Move, Phase, State, Why, Word};

macro_rules! happenings {
    ($($happening:ident $name:literal,)+) => {
        /// A kind of fact, as fine as a plan promises it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is what its name in `NAMES` says")]
        pub enum Happening {
            $($happening,)+
        }

        impl Happening {
            /// The names of all, in their order.
            pub const NAMES: &[&str] = &[$($name),+];
        }
    };
}

happenings! {
    Published "published",
    PublishedDelayed "published with a delay",
    PublishedExpiring "published with an end",
    PublishedAgain "published, and was there",
    Leased "leased first",
    LeasedAgain "leased again",
    LeasedAfterLoss "leased after a loss",
    Renewed "renewed",
    RenewedStale "renewed, stale",
    Succeeded "settled: succeeded",
    SucceededWithChildren "settled: succeeded with children",
    FailedFatal "settled: failed, fatal",
    FailedExhausted "settled: failed, retries exhausted",
    FailedPoison "settled: failed, poison",
    Retried "settled: retry",
    RevokedOne "settled: revoked",
    Expired "settled: expired",
    Released "settled: released",
    Discarded "settled: discarded",
    SettledStale "settled: stale",
    Begun "record begun",
    BegunStale "record begun, stale",
    Recorded "record settled",
    RecordedStale "record settled, stale",
    Progressed "progress",
    ProgressedStale "progress, stale",
    Saved "checkpoint",
    SavedStale "checkpoint, stale",
    RevokeStored "revocation stored",
    TerminateStored "revocation stored: terminate",
    GraceStored "revocation stored: terminate with grace",
    CooperativeStored "revocation stored: terminate cooperatively",
    RevokeExpires "revocation stored, with an end",
    UndoStored "revocation taken back",
    SinceRead "revocations read",
    SinceReadNothing "revocations read, none new",
    PingStored "command stored: ping",
    InspectStored "command stored: inspect",
    RevokeSent "command stored: revoke",
    WarmStored "command stored: shutdown warm",
    SoftStored "command stored: shutdown soft",
    HardStored "command stored: shutdown hard",
    CommandsGiven "commands given",
    Replied "command replied to",
    Registered "registered",
    RegisteredTaken "registered, name taken",
    Beat "heartbeat",
    BeatDraining "heartbeat, draining",
    Replayed "dead letter replayed",
    ReplayedAbsent "dead letter replayed, and was not there",
    QueuePaused "queue paused",
    QueueResumed "queue resumed",
    WorkerBooted "worker booted",
    WorkerBootedAhead "worker booted, reads ahead",
    ClientBooted "client booted",
    Ready "worker ready",
    Crashed "process crashed",
    Drained "process drained",
    StartRefused "process ended: refused at its start",
    Stopped "process stopped",
    Continued "process continued",
    LinkGood "link good",
    LinkReset "link resets",
    LinkSilent "link silent",
    LinkSlow "link slow",
    LinkHeld "link held",
    ServiceGood "service good",
    ServiceReset "service resets",
    ServiceSilent "service silent",
    ServiceSlow "service slow",
    ServiceHeld "service held",
    ServiceReadOnly "service read-only",
    HostAhead "host clock stepped forward",
    HostBack "host clock stepped back",
    ServerAhead "server clock stepped forward",
    ServerBack "server clock stepped back",
    SlowThere "call slow there",
    SlowBack "call slow back",
    RequestReset "call lost, told",
    RequestLost "call lost, not told",
    ReplyReset "answer lost, told",
    ReplyLost "answer lost, not told",
    Twice "call made twice",
    Refused "call refused",
    Healed "phase healed",
    Replaying "phase replayed",
    Draining "phase draining",
    Over "phase over",
    Gauged "gauged",
    Asked "asked for deliveries",
    Held "deliveries came",
    Learned "revocations learned",
    LearnedNothing "revocations looked for",
    Heard "commands heard",
    Prolonged "lease prolonged",
    Started "handler started",
    Effect "child enqueued at once",
    EndSucceeded "handler succeeded",
    EndFailed "handler failed",
    EndFatal "handler failed, fatal",
    EndInterrupted "handler interrupted",
    EndPanicked "handler panicked",
    EndDropped "handler dropped",
    RetiredSucceeded "retired: succeeded",
    RetiredFailed "retired: failed",
    RetiredRetried "retired: retried",
    RetiredRevoked "retired: revoked",
    RetiredExpired "retired: expired",
    RetiredReleased "retired: released",
    RetiredDiscarded "retired: discarded",
    RetiredLost "retired: lease lost",
    RetiredAbandoned "retired: abandoned",
    Commanded "command carried out",
    Shows "revocations shown",
    Answered "reply read",
    Tried "enqueue tried",
    Acknowledged "enqueue acknowledged",
    RevokeAcknowledged "revocation acknowledged",
    WarmAsked "drain asked within: warm",
    SoftAsked "drain asked within: soft",
    HardAsked "drain asked within: hard",
    WarmSent "drain asked by command: warm",
    SoftSent "drain asked by command: soft",
    HardSent "drain asked by command: hard",
}

/// How often each was.
#[derive(Clone, Debug)]
pub struct Tally([u64; Happening::NAMES.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Happening::NAMES.len()])
    }
}

impl Tally {
    /// Counts a fact; one that is nothing a plan promises is not counted.
    pub fn count(&mut self, caller: Option<Caller>, fact: &Fact) {
        if let Some(happening) = happening(caller, fact) {
            self.0[happening as usize] += 1;
        }
    }

    /// By name, those that never were too.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Happening::NAMES.iter().copied().zip(self.0)
    }
}

fn happening(caller: Option<Caller>, fact: &Fact) -> Option<Happening> {
    use Happening as H;
    Some(match fact {
        Fact::Published { answer: Published::Duplicate { .. }, .. } => H::PublishedAgain,
        Fact::Published { not_before: Some(_), .. } => H::PublishedDelayed,
        Fact::Published { expires_at: Some(_), .. } => H::PublishedExpiring,
        Fact::Published { .. } => H::Published,
        Fact::Leased { losses: 1.., .. } => H::LeasedAfterLoss,
        Fact::Leased { deliveries: 1, .. } => H::Leased,
        Fact::Leased { .. } => H::LeasedAgain,
        Fact::Renewed { answer: Renewed::Until(_), .. } => H::Renewed,
        Fact::Renewed { answer: Renewed::Stale, .. } => H::RenewedStale,
        Fact::Settled { answer: Settled::Stale, .. } => H::SettledStale,
        Fact::Settled { by, children, .. } => return settled(by, !children.is_empty()),
        Fact::Begun { answer, .. } => of(*answer, H::Begun, H::BegunStale),
        Fact::Recorded { answer, .. } => of(*answer, H::Recorded, H::RecordedStale),
        Fact::Progressed { answer, .. } => of(*answer, H::Progressed, H::ProgressedStale),
        Fact::Saved { answer, .. } => of(*answer, H::Saved, H::SavedStale),
        Fact::RevokeStored { request, .. } => revoked(request),
        Fact::UndoStored { .. } => H::UndoStored,
        Fact::SinceRead { count: 0, .. } => H::SinceReadNothing,
        Fact::SinceRead { .. } => H::SinceRead,
        Fact::CommandStored { order, .. } => return ordered(order),
        Fact::CommandsGiven { .. } => H::CommandsGiven,
        Fact::Replied { .. } => H::Replied,
        Fact::Registered { taken: true } => H::RegisteredTaken,
        Fact::Registered { taken: false } => H::Registered,
        Fact::Beat { state: WorkerState::Draining } => H::BeatDraining,
        Fact::Beat { .. } => H::Beat,
        Fact::Replayed { answer: Replayed::Queued, .. } => H::Replayed,
        Fact::Replayed { answer: Replayed::Absent, .. } => H::ReplayedAbsent,
        // No bytes are damaged here.
        Fact::Replayed { answer: Replayed::Unreadable, .. } => return None,
        Fact::PauseSet { paused: true, .. } => H::QueuePaused,
        Fact::PauseSet { paused: false, .. } => H::QueueResumed,
        Fact::Booted { config: None } => H::ClientBooted,
        Fact::Booted { config: Some(config) } if config.ahead.is_some() => H::WorkerBootedAhead,
        Fact::Booted { .. } => H::WorkerBooted,
        Fact::Ready => H::Ready,
        Fact::Gone { why } => return gone(why),
        Fact::Stopped(_) => H::Stopped,
        Fact::Continued => H::Continued,
        Fact::Link { state, .. } => return link(*state),
        Fact::Service { state, .. } => service(*state),
        Fact::Stepped(by) => match (caller, *by > 0) {
            (Some(_), true) => H::HostAhead,
            (Some(_), false) => H::HostBack,
            (None, true) => H::ServerAhead,
            (None, false) => H::ServerBack,
        },
        Fact::Met { fault, .. } => met(*fault),
        Fact::Phase(phase) => return entered(*phase),
        Fact::Gauged(_) => H::Gauged,
        Fact::Asked { .. } => H::Asked,
        Fact::Held(_) => H::Held,
        Fact::Learned { after, upto, .. } if after == upto => H::LearnedNothing,
        Fact::Learned { .. } => H::Learned,
        Fact::Heard(_) => H::Heard,
        Fact::Prolonged(_) => H::Prolonged,
        Fact::Started { .. } => H::Started,
        Fact::Effect { .. } => H::Effect,
        Fact::HandlerEnded { end, .. } => match end {
            End::Succeeded(_) => H::EndSucceeded,
            End::Failed { fatal: false } => H::EndFailed,
            End::Failed { fatal: true } => H::EndFatal,
            End::Interrupted => H::EndInterrupted,
            End::Panicked => H::EndPanicked,
            End::Dropped => H::EndDropped,
        },
        Fact::Retired { ending, .. } => retired(*ending),
        Fact::Commanded { .. } => H::Commanded,
        Fact::Shows { .. } => H::Shows,
        Fact::Answered { .. } => H::Answered,
        Fact::Tried { .. } => H::Tried,
        Fact::Acknowledged { .. } => H::Acknowledged,
        Fact::RevokeAcknowledged { .. } => H::RevokeAcknowledged,
        Fact::DrainAsked { mode, .. } => match (mode, caller.is_some()) {
            (Drain::Warm, true) => H::WarmAsked,
            (Drain::Soft, true) => H::SoftAsked,
            (Drain::Hard, true) => H::HardAsked,
            (Drain::Warm, false) => H::WarmSent,
            (Drain::Soft, false) => H::SoftSent,
            (Drain::Hard, false) => H::HardSent,
        },
    })
}

fn of(answer: Recorded, stored: Happening, stale: Happening) -> Happening {
    match answer {
        Recorded::Stored => stored,
        Recorded::Stale => stale,
    }
}

fn settled(by: &Move, has_children: bool) -> Option<Happening> {
    use Happening as H;
    Some(match by {
        Move::Succeed(_) if has_children => H::SucceededWithChildren,
        Move::Succeed(_) => H::Succeeded,
        Move::Fail(DeadReason::Fatal) => H::FailedFatal,
        Move::Fail(DeadReason::RetriesExhausted) => H::FailedExhausted,
        Move::Fail(DeadReason::Poison) => H::FailedPoison,
        // No bytes are damaged here, and every worker knows every name.
        Move::Fail(_) => return None,
        Move::Retry { .. } => H::Retried,
        Move::Revoke { .. } => H::RevokedOne,
        Move::Expire => H::Expired,
        Move::Release => H::Released,
        Move::Discard => H::Discarded,
    })
}

fn revoked(request: &RevokeRequest) -> Happening {
    match request {
        RevokeRequest { expires_at: Some(_), .. } => Happening::RevokeExpires,
        RevokeRequest { terminate: false, .. } => Happening::RevokeStored,
        RevokeRequest { cooperative: true, .. } => Happening::CooperativeStored,
        RevokeRequest { grace_ms: Some(_), .. } => Happening::GraceStored,
        RevokeRequest { .. } => Happening::TerminateStored,
    }
}

fn ordered(order: &Word) -> Option<Happening> {
    Some(match order {
        Word::Ping => Happening::PingStored,
        Word::Inspect { .. } => Happening::InspectStored,
        Word::Revoke => Happening::RevokeSent,
        Word::Shutdown(Drain::Warm) => Happening::WarmStored,
        Word::Shutdown(Drain::Soft) => Happening::SoftStored,
        Word::Shutdown(Drain::Hard) => Happening::HardStored,
        // No operator of a simulated world gives these.
        Word::Stats | Word::Pause | Word::Resume => return None,
    })
}

fn gone(why: &Why) -> Option<Happening> {
    Some(match why {
        Why::Crash => Happening::Crashed,
        Why::Drained => Happening::Drained,
        Why::Refused => Happening::StartRefused,
        // Each host has names of its own, and waits for that of a process that was killed.
        Why::NameTaken | Why::Broke(_) => return None,
    })
}

fn link(state: State) -> Option<Happening> {
    Some(match state {
        State::Good => Happening::LinkGood,
        State::Down { quick: true } => Happening::LinkReset,
        State::Down { quick: false } => Happening::LinkSilent,
        State::Slow(_) => Happening::LinkSlow,
        State::Held => Happening::LinkHeld,
        State::ReadOnly => return None,
    })
}

fn service(state: State) -> Happening {
    match state {
        State::Good => Happening::ServiceGood,
        State::Down { quick: true } => Happening::ServiceReset,
        State::Down { quick: false } => Happening::ServiceSilent,
        State::Slow(_) => Happening::ServiceSlow,
        State::Held => Happening::ServiceHeld,
        State::ReadOnly => Happening::ServiceReadOnly,
    }
}

fn met(fault: Fault) -> Happening {
    match fault {
        Fault::SlowThere(_) => Happening::SlowThere,
        Fault::SlowBack(_) => Happening::SlowBack,
        Fault::LostRequest { quick: true } => Happening::RequestReset,
        Fault::LostRequest { quick: false } => Happening::RequestLost,
        Fault::LostReply { quick: true } => Happening::ReplyReset,
        Fault::LostReply { quick: false } => Happening::ReplyLost,
        Fault::Twice(_) => Happening::Twice,
        Fault::Refused => Happening::Refused,
    }
}

fn entered(phase: Phase) -> Option<Happening> {
    Some(match phase {
        // In which every world begins.
        Phase::Storm => return None,
        Phase::Healed { .. } => Happening::Healed,
        Phase::Replayed { .. } => Happening::Replaying,
        Phase::Draining => Happening::Draining,
        Phase::Over => Happening::Over,
    })
}

fn retired(ending: Ending) -> Happening {
    match ending {
        Ending::Succeeded => Happening::RetiredSucceeded,
        Ending::Failed => Happening::RetiredFailed,
        Ending::Retried => Happening::RetiredRetried,
        Ending::Revoked => Happening::RetiredRevoked,
        Ending::Expired => Happening::RetiredExpired,
        Ending::Released => Happening::RetiredReleased,
        Ending::Discarded => Happening::RetiredDiscarded,
        Ending::LeaseLost => Happening::RetiredLost,
        Ending::Abandoned => Happening::RetiredAbandoned,
    }
}
