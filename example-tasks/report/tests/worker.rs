//! The worker as a program of its own, and a client beside it on the same file.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stem_core::envelope::Payload;
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use stem_sql::{Sqlite, SqliteOptions};

/// Ends the worker also when the test fails.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn run(client: &Client, args: &str) -> Result<TaskRecord, Box<dyn Error>> {
    let args = Payload::json(args);
    let task = client.enqueue("report".parse()?, args, EnqueueOptions::default()).await?.id;
    let record = client.wait(&task, Some(Duration::from_mins(1)), |_| {}).await?;
    Ok(record.ok_or("the task is gone")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reports_refuses_what_is_no_csv_and_leaves_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stem.db");
    let mut worker = Worker(
        Command::new(env!("CARGO_BIN_EXE_report-worker"))
            .env("STEM_BROKER_URL", format!("sqlite://{}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut ready = String::new();
    BufReader::new(worker.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.contains("is ready for report"), "{ready}");

    let options = SqliteOptions {
        path,
        clock: Arc::new(SystemClock),
        create: false,
        busy_timeout: Duration::from_secs(5),
    };
    let backends = Backends::all_in_one(Sqlite::open(options).await.unwrap());
    let client = Client::new(backends, Arc::new(SystemClock));

    let seattle = run(&client, "{}").await.unwrap();
    assert_eq!(seattle.state, TaskState::Succeeded);
    assert_eq!(seattle.progress.unwrap().fraction, Some(1.0));
    let report: Value = serde_json::from_slice(&seattle.result.unwrap().bytes).unwrap();
    assert_eq!(report["days"], 1461);

    let wrong = run(&client, r#"{"csv":"date,rain\n2020/01/01,0\n"}"#).await.unwrap();
    assert_eq!(wrong.state, TaskState::Failed);
    assert_eq!(wrong.failure.unwrap().code, "invalid-csv");

    kill_process(Pid::from_child(&worker.0), Signal::TERM).unwrap();
    assert!(worker.0.wait().unwrap().success());
}
