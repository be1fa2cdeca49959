//! One command to workers, and their answers.
//!
//! Expected are the workers that were named, or else those whose heartbeat is fresh. It ends as soon as all of them
//! have answered, or when the time is up.

mod sealed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use stem_core::backend::control::Position;
use stem_core::control::{Answer, Command, Order, Reply};
use stem_core::id::{Namespace, RequestId, WorkerId};
use stem_core::machine::gate::LONGEST;
use stem_core::time::Clock;
use stem_engine::signing::Keys;
use stem_engine::{Backends, SystemClock, units};

pub use self::sealed::may_order;

use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say, table};

/// A command is executed by whoever reads it within its timeout, and within this where the timeout is shorter.
const SHORTEST_LIFE: Duration = Duration::from_secs(30);

/// Of more workers than these answers are kept only where they were expected: anybody who can write to the store can make
/// up names.
const ANSWERS: usize = 10_000;

/// What to ask, and whom.
#[derive(Clone, Debug)]
pub struct Request {
    /// What.
    pub order: Order,
    /// Whom; empty means everyone.
    pub workers: Vec<WorkerId>,
    /// In this scope.
    pub namespace: Namespace,
    /// How long to wait for answers.
    pub timeout: Duration,
    /// Who asks.
    pub requester: String,
    /// What the command is signed with, and whose replies are believed.
    pub keys: Arc<Keys>,
    /// Whether it is sent where nobody is expected to answer: harmless for what a worker learns from a store anyway,
    /// and never right for a shutdown, which a worker that starts a moment later would obey.
    pub send_to_nobody: bool,
}

/// One worker's answer.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Who.
    pub worker: WorkerId,
    /// What.
    pub answer: Answer,
    /// From the sending until it was read here.
    pub latency: Duration,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Its id.
    pub request_id: RequestId,
    /// Its scope.
    pub namespace: Namespace,
    /// Who should have answered, sorted.
    pub expected: Vec<WorkerId>,
    /// Who did, sorted by worker.
    pub replies: Vec<Arrived>,
    /// How many replies were not taken for one, by the reason in a word.
    pub refused: BTreeMap<&'static str, u64>,
    /// Start to end.
    pub elapsed: Duration,
}

/// What has come in to a request.
#[derive(Debug, Default)]
struct Received {
    replies: Vec<Arrived>,
    /// Whose those are.
    answered: BTreeSet<WorkerId>,
    refused: BTreeMap<&'static str, u64>,
}

impl Received {
    /// Takes a reply in; says whose it is.
    fn take(
        &mut self,
        keys: &Keys,
        command: &Command,
        expected: &BTreeSet<WorkerId>,
        text: &str,
        latency: Duration,
    ) -> Option<WorkerId> {
        let reason = match sealed::read(keys, command, text) {
            Ok(Reply { worker, answer, .. }) => {
                if self.answered.contains(&worker) {
                    return Some(worker);
                }
                if expected.contains(&worker) || self.replies.len() < ANSWERS {
                    self.answered.insert(worker.clone());
                    self.replies.push(Arrived { worker: worker.clone(), answer, latency });
                    return Some(worker);
                }
                "too-many"
            }
            Err(reason) => reason.as_str(),
        };
        *self.refused.entry(reason).or_default() += 1;
        None
    }
}

fn new_request_id() -> RequestId {
    RequestId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID follows the rules for names")
}

/// Sends a command and collects the answers.
pub async fn ask(backends: &Backends, request: Request) -> Result<Answers, CliError> {
    let started = Instant::now();
    let request_id = new_request_id();
    let named: BTreeSet<WorkerId> = request.workers.into_iter().collect();
    let expected: BTreeSet<WorkerId> = if named.is_empty() {
        let (heartbeats, now) = backends.presence.workers(&request.namespace).await?;
        heartbeats
            .into_iter()
            .filter(|heartbeat| heartbeat.is_fresh(now))
            .map(|heartbeat| heartbeat.worker)
            .collect()
    } else {
        named.clone()
    };
    let mut received = Received::default();
    if !expected.is_empty() || request.send_to_nobody {
        let issued_at = SystemClock.now();
        let life = request.timeout.max(SHORTEST_LIFE);
        let (role, scope) = (request.order.role(), request.namespace.as_str());
        // No worker obeys a signed one that holds for longer.
        let is_signed = request.keys.signer(role, scope, issued_at).is_some();
        let life = if is_signed { life.min(LONGEST) } else { life };
        let command = Command {
            request_id: request_id.clone(),
            namespace: request.namespace.clone(),
            targets: (!named.is_empty()).then(|| named.into_iter().collect()),
            order: request.order,
            issued_at,
            expires_at: issued_at.after(life),
            requester: request.requester,
        };
        let sent = Instant::now();
        backends.control.send(&sealed::frame(&request.keys, &command)?).await?;
        if !expected.is_empty() {
            let waiting = Waiting { sent, timeout: request.timeout };
            received = collect(backends, &request.keys, &command, &expected, waiting).await?;
        }
        if let Err(error) = backends.control.prune().await {
            // Housekeeping; workers do it too.
            tracing::debug!(%error, "expired commands stay for now");
        }
    }
    received.replies.sort_by(|one, other| one.worker.cmp(&other.worker));
    Ok(Answers {
        request_id,
        namespace: request.namespace,
        expected: expected.into_iter().collect(),
        replies: received.replies,
        refused: received.refused,
        elapsed: started.elapsed(),
    })
}

/// Since when and for how long answers are waited for.
struct Waiting {
    sent: Instant,
    timeout: Duration,
}

async fn collect(
    backends: &Backends,
    keys: &Keys,
    command: &Command,
    expected: &BTreeSet<WorkerId>,
    Waiting { sent, timeout }: Waiting,
) -> Result<Received, CliError> {
    let mut silent = expected.clone();
    let mut received = Received::default();
    let mut after = Position::default();
    loop {
        let left = timeout.saturating_sub(sent.elapsed());
        let replies =
            backends.control.replies(&command.namespace, &command.request_id, after, left).await?;
        for (position, text) in replies {
            after = after.max(position);
            if let Some(worker) = received.take(keys, command, expected, &text, sent.elapsed()) {
                silent.remove(&worker);
            }
        }
        if silent.is_empty() || sent.elapsed() >= timeout {
            return Ok(received);
        }
    }
}

impl Answers {
    /// Of a request that could not be sent.
    pub fn nobody_asked(namespace: &Namespace) -> Self {
        Self {
            request_id: new_request_id(),
            namespace: namespace.clone(),
            expected: Vec::new(),
            replies: Vec::new(),
            refused: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// Who should have answered and did not.
    pub fn missing(&self) -> Vec<&WorkerId> {
        self.expected
            .iter()
            .filter(|worker| self.replies.iter().all(|reply| reply.worker != **worker))
            .collect()
    }

    /// Who answered that it is done.
    pub fn acknowledged_by(&self) -> Vec<&WorkerId> {
        self.replies
            .iter()
            .filter(|reply| matches!(reply.answer, Answer::Ok { .. }))
            .map(|reply| &reply.worker)
            .collect()
    }

    /// How the command ended. An error weighs more than silence.
    pub fn ending(&self) -> Ending {
        let errors = self.replies.iter().any(|reply| matches!(reply.answer, Answer::Error { .. }));
        match (errors, self.replies.is_empty(), self.missing().is_empty()) {
            (true, _, _) => Ending::Failed,
            (false, true, _) => Ending::Nothing,
            (false, false, false) => Ending::Partial,
            (false, false, true) => Ending::Done,
        }
    }

    /// The envelope that all control commands answer with.
    pub fn document(&self) -> Map<String, Value> {
        let replies: Vec<Value> = self
            .replies
            .iter()
            .map(|reply| {
                let (status, key, value) = match &reply.answer {
                    Answer::Ok { payload } => ("ok", "payload", payload.clone()),
                    Answer::Error { error } => ("error", "error", json!({"code": error.code, "message": error.message})),
                };
                json!({"worker": reply.worker, "status": status, "latencyMs": millis(reply.latency), key: value})
            })
            .collect();
        let envelope = json!({
            "requestId": self.request_id,
            "namespace": self.namespace,
            "expected": self.expected,
            "missing": self.missing(),
            "elapsedMs": millis(self.elapsed),
            "replies": replies,
        });
        let mut document = match envelope {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        if !self.refused.is_empty() {
            let refused = self.refused.iter();
            let rows: Vec<Value> =
                refused.map(|(reason, count)| json!({"reason": reason, "count": count})).collect();
            document.insert("refusedReplies".to_owned(), Value::Array(rows));
        }
        document
    }

    /// Writes the answers, names who is missing, and says how the command ended. `row` gives the cells behind the
    /// worker's id for a payload.
    pub fn report(
        &self,
        printer: Printer,
        header: &[&str],
        row: impl Fn(&Value) -> Vec<String>,
    ) -> Outcome {
        let human = || {
            let header: Vec<&str> =
                ["WORKER", "STATUS"].into_iter().chain(header.iter().copied()).collect();
            let rows = self.replies.iter().map(|reply| {
                let worker = reply.worker.to_string();
                match &reply.answer {
                    Answer::Ok { payload } => {
                        [worker, "ok".to_owned()].into_iter().chain(row(payload)).collect()
                    }
                    Answer::Error { error } => {
                        vec![
                            worker,
                            format!(
                                "error: {}: {}",
                                error.code,
                                stem_core::text::printable(&error.message, 300)
                            ),
                        ]
                    }
                }
            });
            if self.replies.is_empty() { String::new() } else { table(&header, rows) }
        };
        printer.print(&self.document(), human)?;
        self.explain()
    }

    /// Says on standard error what is not as it should be.
    pub fn explain(&self) -> Outcome {
        let ending = self.ending();
        let missing: Vec<&str> = self.missing().into_iter().map(WorkerId::as_str).collect();
        let waited = units::write_duration(rounded(self.elapsed));
        for (reason, count) in &self.refused {
            say(format!("warning: replies that were left out ({reason}): {count}"));
        }
        match ending {
            Ending::Nothing if self.expected.is_empty() => Err(CliError::nothing(
                format!("no worker is alive in namespace {}", self.namespace),
                "`stem worker status` shows who was there; start one with `stem worker start`",
            )),
            Ending::Nothing => Err(CliError::nothing(
                format!("no answer within {waited} from {}", missing.join(", ")),
                "`stem worker status` shows when they were last heard; a longer --timeout waits longer",
            )),
            Ending::Partial => {
                say(format!("error: no answer within {waited} from {}", missing.join(", ")));
                say(
                    "hint: `stem worker status` shows when they were last heard; a longer --timeout waits longer",
                );
                Ok(ending)
            }
            Ending::Failed => {
                for reply in &self.replies {
                    if let Answer::Error { error } = &reply.answer {
                        let message = stem_core::text::printable(&error.message, 300);
                        say(format!(
                            "error: worker {} refused: {} ({})",
                            reply.worker, message, error.code
                        ));
                    }
                }
                if !missing.is_empty() {
                    say(format!("error: no answer within {waited} from {}", missing.join(", ")));
                }
                say("hint: the worker's log says more");
                Ok(ending)
            }
            Ending::Done | Ending::Usage | Ending::Unavailable => Ok(ending),
        }
    }
}

/// For people: tenths of a second where it took seconds.
fn rounded(elapsed: Duration) -> Duration {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(if millis < 1_000 { millis } else { millis / 100 * 100 })
}

/// Milliseconds with microseconds behind the point.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use stem_core::control::ControlError;
    use stem_core::control::wire::{self, ReplyFrame};

    fn answers(expected: &[&str], replies: &[(&str, bool)]) -> Answers {
        Answers {
            request_id: RequestId::new("r").unwrap(),
            namespace: Namespace::new("stem").unwrap(),
            expected: expected.iter().map(|worker| WorkerId::new(worker).unwrap()).collect(),
            replies: replies
                .iter()
                .map(|(worker, ok)| Arrived {
                    worker: WorkerId::new(worker).unwrap(),
                    answer: if *ok {
                        Answer::Ok { payload: json!({}) }
                    } else {
                        Answer::Error {
                            error: ControlError { code: "c".into(), message: "m".into() },
                        }
                    },
                    latency: Duration::from_micros(1_900),
                })
                .collect(),
            refused: BTreeMap::new(),
            elapsed: Duration::from_micros(3_100),
        }
    }

    #[test]
    fn answers_decide_the_ending() {
        for (expected, replies, ending) in [
            (&["a", "b"][..], &[("a", true), ("b", true)][..], Ending::Done),
            (&["a", "b"], &[("a", true)], Ending::Partial),
            (&["a", "b"], &[("a", false)], Ending::Failed),
            (&["a", "b"], &[("a", false), ("b", true)], Ending::Failed),
            (&["a"], &[], Ending::Nothing),
            (&[], &[], Ending::Nothing),
            (&["a"], &[("a", true), ("late", true)], Ending::Done),
        ] {
            assert_eq!(answers(expected, replies).ending(), ending, "{expected:?} {replies:?}");
        }
    }

    #[test]
    fn the_envelope_has_the_keys_of_the_interface() {
        let document = answers(&["a", "b"], &[("a", true)]).document();
        assert_eq!(
            Value::Object(document),
            json!({
                "requestId": "r", "namespace": "stem", "expected": ["a", "b"], "missing": ["b"], "elapsedMs": 3.1,
                "replies": [{"worker": "a", "status": "ok", "latencyMs": 1.9, "payload": {}}]
            })
        );
        let document = answers(&["a"], &[("a", false)]).document();
        assert_eq!(document["replies"][0]["error"], json!({"code": "c", "message": "m"}));
        let refused = BTreeMap::from([("malformed", 2)]);
        let document = Answers { refused, ..answers(&["a"], &[("a", true)]) }.document();
        assert_eq!(document["refusedReplies"], json!([{"reason": "malformed", "count": 2}]));
    }

    /// The reply of a worker to the first command in the log.
    async fn reply_to_first(worker: &Backends, name: &str) -> Reply {
        let namespace = Namespace::new("stem").unwrap();
        let read =
            worker.control.commands(&namespace, Position::default(), Duration::from_secs(5)).await;
        Reply {
            request_id: wire::command(read.unwrap()[0].1.as_bytes()).unwrap().request_id,
            worker: WorkerId::new(name).unwrap(),
            answer: Answer::Ok { payload: json!({"state": "running"}) },
        }
    }

    /// Anybody who can write to the store can leave one there.
    #[tokio::test]
    async fn a_reply_that_is_none_is_counted_and_hides_no_other() {
        let backends = Backends::all_in_one(stem_memory::Memory::new(Arc::new(SystemClock)));
        let worker = backends.clone();
        let answering = tokio::spawn(async move {
            let namespace = Namespace::new("stem").unwrap();
            let good = reply_to_first(&worker, "b").await;
            let planted = |name: &str, text: String| {
                let worker = WorkerId::new(name).unwrap();
                ReplyFrame { worker, text, ..ReplyFrame::plain(&good) }
            };
            let other = Reply {
                request_id: RequestId::new("another").unwrap(),
                worker: WorkerId::new("a").unwrap(),
                answer: good.answer.clone(),
            };
            for frame in [
                planted("x", "nonsense".to_owned()),
                planted("y", String::new()),
                planted("a", ReplyFrame::plain(&other).text),
                ReplyFrame::plain(&good),
            ] {
                worker.control.reply(&namespace, &frame).await.unwrap();
            }
        });
        let request = Request {
            order: Order::Ping {},
            workers: ["a", "b"].map(|name| WorkerId::new(name).unwrap()).to_vec(),
            namespace: Namespace::new("stem").unwrap(),
            timeout: Duration::from_secs(1),
            requester: "test".into(),
            keys: Keys::none(),
            send_to_nobody: false,
        };
        let answers = ask(&backends, request).await.unwrap();
        answering.await.unwrap();
        assert_eq!((answers.ending(), answers.missing()[0].as_str()), (Ending::Partial, "a"));
        assert_eq!(answers.refused, BTreeMap::from([("malformed", 2), ("replayed", 1)]));
    }

    #[test]
    fn a_flood_of_made_up_answers_is_bounded_and_an_expected_one_is_kept() {
        let command = Command {
            request_id: RequestId::new("r").unwrap(),
            namespace: Namespace::new("stem").unwrap(),
            targets: None,
            order: Order::Ping {},
            issued_at: SystemClock.now(),
            expires_at: SystemClock.now(),
            requester: "test".to_owned(),
        };
        let names = (0..ANSWERS + 5).map(|n| format!("made-up-{n}"));
        let expected = BTreeSet::from([WorkerId::new("w").unwrap()]);
        let mut received = Received::default();
        for name in names.chain(["w".to_owned(), "w".to_owned(), "made-up-0".to_owned()]) {
            let reply = Reply {
                request_id: command.request_id.clone(),
                worker: WorkerId::new(name).unwrap(),
                answer: Answer::Ok { payload: json!({}) },
            };
            let text = ReplyFrame::plain(&reply).text;
            received.take(&Keys::none(), &command, &expected, &text, Duration::ZERO);
        }
        assert_eq!(received.replies.len(), ANSWERS + 1);
        assert_eq!(received.replies.last().unwrap().worker.as_str(), "w");
        assert_eq!(received.refused, BTreeMap::from([("too-many", 5)]));
    }

    #[tokio::test]
    async fn it_ends_when_all_have_answered_and_waits_for_no_one_else() {
        let backends = Backends::all_in_one(stem_memory::Memory::new(Arc::new(SystemClock)));
        let namespace = Namespace::new("stem").unwrap();
        let worker = backends.clone();
        let answering = tokio::spawn(async move {
            let namespace = Namespace::new("stem").unwrap();
            let reply = reply_to_first(&worker, "a").await;
            worker.control.reply(&namespace, &ReplyFrame::plain(&reply)).await.unwrap();
        });
        let request = Request {
            order: Order::Ping {},
            workers: vec![WorkerId::new("a").unwrap()],
            namespace,
            timeout: Duration::from_secs(30),
            requester: "test".into(),
            keys: Keys::none(),
            send_to_nobody: false,
        };
        let answers = ask(&backends, request.clone()).await.unwrap();
        answering.await.unwrap();
        assert_eq!(answers.ending(), Ending::Done);
        assert!(answers.elapsed < Duration::from_secs(10));

        let nobody =
            ask(&backends, Request { workers: Vec::new(), ..request.clone() }).await.unwrap();
        assert!(nobody.expected.is_empty() && nobody.elapsed < Duration::from_secs(5));
        let silent = ask(&backends, Request { timeout: Duration::from_millis(30), ..request })
            .await
            .unwrap();
        assert_eq!((silent.ending(), silent.missing().len()), (Ending::Nothing, 1));
    }
}
