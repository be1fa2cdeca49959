//! A fleet as the tests of the view see it: made of the same JSON as workers send.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_core::backend::broker::{Pause, QueueStatus};
use stem_core::control::{Answer, ControlError, Heartbeat};
use stem_core::id::{Namespace, QueueName, RequestId, TaskName, WorkerId};
use stem_core::time::Timestamp;

use super::model::{Model, Place};
use super::picture::{Asked, News};
use super::rows::Narrow;
use crate::control::{Answers, Arrived};

/// The store's time when the picture was taken.
const NOW: i64 = 1_700_000_100_000;

pub(super) fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

/// These were asked, and those answered nothing in particular.
pub(super) fn answers(expected: &[&str], replied: &[&str]) -> Answers {
    replies(expected, replied.iter().map(|name| (*name, json!({}))).collect())
}

fn replies(expected: &[&str], replies: Vec<(&str, Value)>) -> Answers {
    Answers {
        request_id: RequestId::new("r").unwrap(),
        namespace: Namespace::new("stem").unwrap(),
        expected: expected.iter().map(|name| worker(name)).collect(),
        replies: replies
            .into_iter()
            .map(|(name, payload)| Arrived {
                worker: worker(name),
                answer: Answer::Ok { payload },
                latency: Duration::from_millis(2),
            })
            .collect(),
        refused: std::collections::BTreeMap::new(),
        elapsed: Duration::from_millis(3),
    }
}

/// A heartbeat of so many milliseconds ago.
pub(super) fn heartbeat(name: &str, state: &str, ago: i64) -> Heartbeat {
    let at = |millis| Timestamp::from_unix_millis(millis);
    serde_json::from_value(json!({
        "worker": name, "bootId": uuid::Uuid::nil(), "namespace": "stem", "state": state,
        "host": "host-1\u{1b}[31m", "pid": 4711, "startedAt": at(NOW - 90_061_000), "seenAt": at(NOW - ago),
        "intervalMs": 5_000, "concurrency": 4, "queues": {"default": 1, "images": 1},
        "tasks": ["spin", "render-image"], "inflight": 2,
    }))
    .unwrap()
}

fn queue(name: &str, ready: u64, paused: Option<&str>) -> QueueStatus {
    QueueStatus {
        name: QueueName::new(name).unwrap(),
        ready,
        delayed: 3,
        inflight: 2,
        paused: paused.map(|reason| Pause {
            reason: Some(reason.to_owned()),
            since: Timestamp::from_unix_millis(NOW - 720_000),
        }),
        names: vec![(TaskName::new("spin").unwrap(), ready)],
    }
}

/// What a worker says of one task.
pub(super) fn running(id: &str, task: &str, more: &Value) -> Value {
    let mut running = json!({
        "id": id, "task": task, "queue": "default", "attempt": 1, "leaseExpiresInMs": 14_000.0, "kind": "isolate",
        "runtimeMs": 12_345.6, "lastCheckpointMsAgo": 250.0, "memoryBytes": 12_582_912, "cpuMs": 11_200.4,
    });
    running.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    running
}

/// What one look brings.
pub(super) struct Look {
    pub(super) heartbeats: News,
    pub(super) queues: News,
    pub(super) answers: News,
}

const FIRST: &str = "host-1-4711-aaaaaa";

/// Two workers say what they run, and a third is not heard.
pub(super) fn look() -> Look {
    let first = running(
        "0198c0de-0000-7000-8000-00000000aaaa",
        "spin",
        &json!({"neverCheckpointed": true}),
    );
    let second = running(
        "0198c0de-0000-7000-8000-00000000bbbb",
        "render-image-in-many-tiles",
        &json!({
            "runtimeMs": 90_500.0, "cpuMs": 45_000.0, "attempt": 2, "memoryBytes": 4_194_304,
            "progress": {"fraction": 0.456, "message": "tile 456\u{1b}[2J of 1000"},
        }),
    );
    look_with(&[first, second])
}

/// The first worker says that it runs these.
pub(super) fn look_with(active: &[Value]) -> Look {
    let stats = json!({
        "rssBytes": 163_577_856,
        "counters": {"started": 1, "succeeded": 12_345, "failed": 7, "retried": 3, "revoked": 2},
    });
    let mail = json!({"terminating": true, "kind": "inline", "runtimeMs": 400.0, "cpuMs": null, "memoryBytes": null});
    let third = running("mail:1", "mail", &mail);
    let inspected = vec![
        (FIRST, json!({"active": active})),
        ("mailer", json!({"active": [third, {"id": "of another version"}]})),
    ];
    let expected = [FIRST, "mailer", "slow"];
    let answers = News::Answers(Ok(Box::new(Asked {
        inspected: replies(&expected, inspected),
        counted: replies(&expected, vec![(FIRST, stats.clone()), ("mailer", stats)]),
    })));
    let heartbeats = vec![
        heartbeat("ended", "stopped", 9_000),
        heartbeat(FIRST, "running", 1_000),
        heartbeat("left", "running", 400_000),
        heartbeat("mailer", "draining", 2_000),
        heartbeat("slow", "running", 3_000),
        heartbeat("stale", "running", 25_000),
    ];
    let queues = vec![
        queue("default", 12, None),
        queue("images", 0, Some("the disk\u{7} is full")),
        queue("nobodys", 4, None),
    ];
    Look {
        heartbeats: News::Heartbeats(Ok((heartbeats, Timestamp::from_unix_millis(NOW)))),
        queues: News::Queues(Ok(queues)),
        answers,
    }
}

/// The same, except that this worker says nothing, or refuses.
pub(super) fn look_where(name: &str, refuses: Option<&str>) -> Look {
    let mut look = look();
    if let News::Answers(Ok(asked)) = &mut look.answers {
        for answers in [&mut asked.inspected, &mut asked.counted] {
            answers.replies.retain(|reply| refuses.is_some() || reply.worker.as_str() != name);
            for reply in answers.replies.iter_mut().filter(|reply| reply.worker.as_str() == name) {
                let message = refuses.unwrap_or_default().to_owned();
                reply.answer =
                    Answer::Error { error: ControlError { code: "unavailable".into(), message } };
            }
        }
    }
    look
}

/// Everything there is to see, at the moment when it was seen.
pub(super) fn model() -> Model {
    let start = Instant::now();
    let place = Place {
        namespace: "stem".into(),
        service: "redis://queue.example.com/0".into(),
        interval: Duration::from_secs(1),
    };
    let mut model = Model::new(place, Narrow::default(), start);
    let Look { heartbeats, queues, answers } = look();
    for news in [heartbeats, queues, answers] {
        model.hear(news, start);
    }
    model
}
