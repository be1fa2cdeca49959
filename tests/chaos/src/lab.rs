//! One run: its directory, its services, its processes, and the check of what they wrote down.

#![expect(clippy::unwrap_used, reason = "a run says by panicking what it did not expect")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stem_core::backend::result::RecordFilter;
use stem_core::backend::{BackendError, ErrorClass};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{TaskId, TaskName};
use stem_core::task::TaskState;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use tokio::runtime::Runtime;

use crate::STOP;
use crate::checker::{Rules, Stored, Verdict, check};
use crate::history::{self, Event, Journal, Moment};
use crate::place::Place;
use crate::process::{PATIENCE, Process, Program};
use crate::role::guest;

/// One run.
#[derive(Debug)]
pub struct Lab {
    /// `None` once it is to be kept.
    directory: Option<tempfile::TempDir>,
    place: Place,
    journal: Arc<Journal>,
    backends: Backends,
    runtime: Runtime,
}

impl Lab {
    /// With these services, which run.
    pub fn new(place: Place) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(directory.path(), "harness").unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let backends = runtime.block_on(place.open()).unwrap();
        Self { directory: Some(directory), place, journal, backends, runtime }
    }

    fn path(&self) -> &Path {
        self.directory.as_ref().expect("kept only at the end").path()
    }

    /// Of this process, which nothing stands in front of.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Waits for something asynchronous.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Starts a process with these settings beside its services.
    pub fn start(&self, program: Program, name: &str, args: &[(&str, u64)]) -> Process {
        let mut all: Vec<String> = args
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), value.to_string()])
            .collect();
        let Place { broker, results, revokes } = &self.place;
        for (name, url) in [("broker", broker), ("results", results), ("revokes", revokes)] {
            all.extend([format!("--{name}"), url.clone()]);
        }
        Process::start(program, name, all, self.path(), &self.journal)
    }

    /// Tells producers to enqueue no more.
    pub fn stop_producers(&self) {
        std::fs::write(self.path().join(STOP), "").unwrap();
    }

    /// Says that a server begins to be disturbed, or that it is well again.
    pub fn fault(&self, kind: &str, on: bool) -> Moment {
        self.journal.write(Event::Fault { kind: kind.to_owned(), on })
    }

    /// How many calls services have refused by now.
    pub fn declined(&self) -> usize {
        let histories = history::read_all(self.path(), |_| true).unwrap();
        let lines = histories.iter().flat_map(|history| &history.lines);
        lines.filter(|line| line.2 == Event::Declined).count()
    }

    /// Enqueues naps with these ids, itself.
    pub fn enqueue(&self, naps: &[(TaskId, Duration)]) {
        let nap = |(id, length): &(TaskId, Duration)| {
            (id.clone(), format!(r#"{{"ms":{}}}"#, length.as_millis()))
        };
        self.enqueue_all("sleepy", &naps.iter().map(nap).collect::<Vec<_>>());
    }

    /// Lets workers have the guest that writes values. Those that are started later serve it, if they run guests.
    pub fn bring_writers(&self) {
        guest::write(self.path()).unwrap();
    }

    /// Enqueues tasks with these ids, each of which writes a value under its id.
    pub fn enqueue_writers(&self, ids: &[TaskId]) {
        let tasks: Vec<_> = ids.iter().map(|id| (id.clone(), format!("\"{id}\""))).collect();
        self.enqueue_all(guest::WRITER, &tasks);
    }

    fn enqueue_all(&self, name: &str, all: &[(TaskId, String)]) {
        let client = Client::new(self.backends.clone(), Arc::new(SystemClock));
        let envelope = |(id, json): &(TaskId, String)| {
            let options = EnqueueOptions { id: Some(id.clone()), ..EnqueueOptions::default() };
            let payload = Payload::json(json.clone());
            client.envelope(TaskName::new(name).unwrap(), payload, options).unwrap()
        };
        let envelopes: Vec<Envelope> = all.iter().map(envelope).collect();
        let tasks = || all.iter().map(|(id, _)| id.clone()).collect();
        self.journal.write(Event::EnqTry(tasks()));
        self.wait(client.enqueue_all(&envelopes)).unwrap();
        self.journal.write(Event::EnqOk(tasks()));
    }

    /// Tries for as long as the service is away.
    fn persist<T, Work>(&self, call: impl Fn() -> Work) -> T
    where
        Work: Future<Output = Result<T, BackendError>>,
    {
        let start = Instant::now();
        loop {
            match self.wait(call()) {
                Err(error)
                    if error.class() == ErrorClass::Transient && start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                answer => return answer.unwrap(),
            }
        }
    }

    fn deliveries(&self) -> u64 {
        let queues = self.persist(|| self.backends.broker.queues());
        queues.iter().map(|queue| queue.ready + queue.delayed + queue.inflight).sum()
    }

    /// What the store says of a task.
    pub fn state(&self, task: &TaskId) -> Option<TaskState> {
        self.persist(|| self.backends.results.fetch(task)).map(|record| record.state)
    }

    /// Waits until every delivery is settled.
    pub fn drain(&self, workers: &mut [Process]) -> Stored {
        let start = Instant::now();
        let mut stored = Stored::default();
        loop {
            stored.deliveries = self.deliveries();
            if stored.deliveries == 0 {
                stored.drained = Some(Moment::now());
                break;
            }
            if start.elapsed() > PATIENCE {
                break;
            }
            workers.iter_mut().for_each(Process::supervise);
            std::thread::sleep(Duration::from_millis(50));
        }
        let filter = RecordFilter { limit: 10_000_000, ..RecordFilter::default() };
        let records = self.persist(|| self.backends.results.list(&filter));
        stored.records = records.into_iter().map(|record| (record.id, record.state)).collect();
        stored
    }

    /// Keeps the directory with the histories and the logs of all processes, and says where it is.
    pub fn keep(mut self) -> PathBuf {
        self.directory.take().expect("kept only at the end").keep()
    }

    /// Ends the workers and holds everything against the rules.
    pub fn verdict(&self, workers: Vec<Process>, stored: &Stored, rules: Rules) -> Verdict {
        for mut worker in workers {
            worker.stop();
        }
        let histories = history::read_all(self.path(), |_| true).unwrap();
        check(&histories, stored, rules)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            println!("histories and logs are in {}", directory.keep().display());
        }
    }
}
