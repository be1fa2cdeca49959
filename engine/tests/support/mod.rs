//! A whole worker on the memory backend, for the tests of this folder.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::sync::Arc;
use std::time::Duration;

use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Drain, Order};
use stem_core::envelope::Payload;
use stem_core::id::{Namespace, RequestId, TaskId, TaskName};
use stem_core::retry::RetryPolicy;
use stem_core::revoke::RevokeRequest;
use stem_core::task::{TaskRecord, TaskState};
use stem_core::time::Clock;
use stem_engine::{
    Backends, Client, EnqueueOptions, SystemClock, Worker, WorkerBuilder, WorkerConfig,
    WorkerHandle,
};
use stem_memory::Memory;

pub const PATIENCE: Duration = Duration::from_mins(1);

pub struct Bench {
    pub client: Client,
    pub handle: WorkerHandle,
    pub running: tokio::task::JoinHandle<Result<(), stem_engine::WorkerError>>,
}

pub fn memory() -> Arc<Memory> {
    Memory::new(Arc::new(SystemClock))
}

/// Broker and results in one service, and in two.
pub fn both_ways() -> [Backends; 2] {
    let apart = Backends { results: memory(), ..Backends::all_in_one(memory()) };
    [Backends::all_in_one(memory()), apart]
}

/// With a lease that no busy machine loses. Tests in which one must run out set a shorter one.
pub fn config() -> WorkerConfig {
    let mut config = WorkerConfig::new("w".parse().unwrap());
    config.lease = Duration::from_secs(10);
    config
}

pub async fn start(
    backends: Backends,
    config: WorkerConfig,
    handlers: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> Bench {
    let worker = handlers(Worker::builder(backends.clone(), config)).build().unwrap();
    let handle = worker.handle();
    let (ready, wait) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(worker.on_ready(|_| ready.send(()).expect("the test waits")).run());
    tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap();
    Bench { client: Client::new(backends, Arc::new(SystemClock)), handle, running }
}

impl Bench {
    pub async fn enqueue(&self, name: &str, options: EnqueueOptions) -> TaskId {
        self.client
            .enqueue(TaskName::new(name).unwrap(), Payload::json("{}"), options)
            .await
            .unwrap()
            .id
    }

    pub async fn ended(&self, task: &TaskId) -> TaskRecord {
        let record = self.client.wait(task, Some(PATIENCE), |_| {}).await.unwrap().unwrap();
        assert!(record.state.is_final(), "{record:?}");
        record
    }

    pub async fn until(&self, task: &TaskId, state: TaskState) -> TaskRecord {
        let poll = async {
            loop {
                let record = self.client.show(task).await.unwrap().unwrap();
                if record.state == state {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, poll).await.unwrap()
    }

    pub async fn revoke(&self, task: &TaskId, request: RevokeRequest) {
        self.client
            .revoke(&Namespace::new("stem").unwrap(), &[(task.clone(), request)])
            .await
            .unwrap();
    }

    pub async fn stop(self, mode: Drain) {
        self.handle.shutdown(mode, None);
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
    }
}

pub fn terminate() -> RevokeRequest {
    RevokeRequest {
        terminate: true,
        reason: Some("why".to_owned()),
        requested_by: Some("who".to_owned()),
        ..RevokeRequest::default()
    }
}

pub fn no_wait() -> RetryPolicy {
    RetryPolicy { max_retries: 2, base_ms: 1, factor: 1, cap_ms: 1 }
}

/// Sends a command to every worker and returns the first answer's payload.
pub async fn command(backends: &Backends, id: &str, order: Order) -> serde_json::Value {
    let namespace = Namespace::new("stem").unwrap();
    let now = SystemClock.now();
    let command = Command {
        request_id: RequestId::new(id).unwrap(),
        namespace: namespace.clone(),
        targets: None,
        order,
        issued_at: now,
        expires_at: now.after(PATIENCE),
        requester: "test".to_owned(),
    };
    backends.control.send(&CommandFrame::plain(&command)).await.unwrap();
    let replies = backends
        .control
        .replies(
            &namespace,
            &command.request_id,
            stem_core::backend::control::Position(0),
            PATIENCE,
        )
        .await
        .unwrap();
    match wire::reply(replies[0].1.as_bytes()).unwrap().answer {
        Answer::Ok { payload } => payload,
        Answer::Error { error } => panic!("{error:?}"),
    }
}

/// The reply to `stats`.
pub async fn stats(backends: &Backends) -> serde_json::Value {
    command(backends, &format!("stats-{}", uuid::Uuid::now_v7()), Order::Stats {}).await
}
