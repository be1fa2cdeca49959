//! `stem task run FILE`: one attempt of a module, here, under the limits and with the host functions of a worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use stem_core::envelope::Payload;
use stem_core::id::TaskName;
use stem_core::outcome::{Outcome as Ended, StopNotice, StopReason};
use stem_core::task::Progress;
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_engine::client::{DEFAULT_QUEUE, new_task_id};
use stem_engine::modules::{self, Found, ModuleHandler};
use stem_engine::policy;
use stem_engine::units::write_duration;
use stem_isolate::{AttemptHost, AttemptSpec, Exit, InterruptHandle, TaskInfo};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use super::super::Context;
use super::arguments::{self, Origin};
use super::local::{Enqueued, LocalHost};
use crate::args::{JsonArg, PolicyArg, RunInput};
use crate::control::millis;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::follow::ProgressDisplay;
use crate::output::{Printer, payload_json, print_result, say};
use crate::sandbox;
use crate::view::{FailureView, memory};

/// Beyond the soft limit the guest is asked to stop; the hard limit ends it.
const SOFT_LIMIT: &str = "soft-time-limit";
/// Between two updates that are shown: a worker passes them on as often.
const PACE: Duration = Duration::from_millis(200);

pub(super) async fn run(
    context: &Context,
    found: Found,
    policy: PolicyArg,
    input: Payload,
    json: JsonArg,
) -> Outcome {
    let settings = context.settings_logging("info", |flags| flags.policy = policy.policy)?;
    let policy = sandbox::policy(&settings)?.current();
    let runtime = sandbox::start(1)?;
    let resolved = policy.resolve(&found.manifest, policy::Origin::Local, &sandbox::limits_cap());
    resolved.warn(&found.manifest.name);
    let handler = modules::load_with(&runtime, &found, resolved).await.map_err(sandbox::refused)?;
    let (progress, news) = watch::channel(None);
    let host = Arc::new(LocalHost::new(progress));
    let spec = AttemptSpec {
        input,
        info: info(&handler.name),
        limits: handler.limits.clone(),
        on_failure: handler.on_failure,
        granted: Arc::clone(&handler.granted),
    };
    // Listened for from before the guest runs, so that no Ctrl-C is missed.
    let ctrl_c = signal(SignalKind::interrupt()).map_err(|error| {
        CliError::failed(format!("cannot listen for Ctrl-C: {error}"), "try again")
    })?;
    let started = Instant::now();
    let (interrupt, exit) = runtime
        .start(&handler.module, spec, Arc::clone(&host) as Arc<dyn AttemptHost>)
        .into_parts();
    let ended =
        watch_over(exit, &interrupt, &handler, Watched { news, ctrl_c }, context.lively()).await;
    let elapsed = started.elapsed();
    let children = host.enqueued(matches!(ended.outcome, Ended::Succeeded(_)));
    conclude(Printer::new(json.json), &handler, &ended, Side { children, elapsed })
}

/// What the module is given.
pub(super) fn payload(RunInput { arguments, media_type }: &RunInput) -> Result<Payload, CliError> {
    let origin = match (&arguments.args, &arguments.args_file) {
        (Some(text), _) => Origin::Text(text),
        (None, Some(path)) => Origin::File(path),
        (None, None) => Origin::Nowhere,
    };
    arguments::read(origin, media_type.as_deref())
}

fn info(name: &TaskName) -> TaskInfo {
    let id = new_task_id().to_string();
    TaskInfo {
        root_id: id.clone(),
        idempotency_key: id.clone(),
        task_id: id,
        task_name: name.to_string(),
        queue: DEFAULT_QUEUE.to_owned(),
        attempt: 1,
        max_attempts: Some(1),
        enqueued_at_ms: u64::try_from(SystemClock.now().unix_millis()).unwrap_or(0),
        parent_id: None,
        trace_parent: None,
        headers: Vec::new(),
    }
}

/// What happens while a guest runs.
struct Watched {
    news: watch::Receiver<Option<Progress>>,
    ctrl_c: Signal,
}

/// Waits for the end; shows progress, keeps the time limits, and stops the guest on Ctrl-C.
async fn watch_over(
    exit: impl Future<Output = Exit>,
    interrupt: &InterruptHandle,
    handler: &ModuleHandler,
    Watched { mut news, mut ctrl_c }: Watched,
    lively: bool,
) -> Exit {
    let mut display = ProgressDisplay::new(lively);
    let limits = &handler.limits;
    tokio::pin!(exit);
    let mut soft = std::pin::pin!(sleep(limits.soft.unwrap_or(limits.hard)));
    let mut hard = std::pin::pin!(sleep(limits.hard));
    let mut pause = std::pin::pin!(sleep(PACE));
    let (mut noticed, mut overdue, mut pausing) = (false, false, false);
    let mut show = |news: &mut watch::Receiver<Option<Progress>>| {
        let progress = news.borrow_and_update().clone();
        display.show(handler.name.as_str(), progress.as_ref());
    };
    loop {
        tokio::select! {
            ended = &mut exit => {
                // What it said last may not have been shown.
                if news.has_changed().unwrap_or(false) {
                    show(&mut news);
                }
                return ended;
            }
            // Cancel-safe: a change that is missed here is seen by the next call.
            Ok(()) = news.changed(), if !pausing => {
                show(&mut news);
                pausing = true;
                pause.as_mut().reset(tokio::time::Instant::now() + PACE);
            }
            () = &mut pause, if pausing => pausing = false,
            () = &mut soft, if limits.soft.is_some() && !noticed => {
                noticed = true;
                interrupt.notify(StopNotice {
                    code: SOFT_LIMIT,
                    message: "the soft limit on time has passed".to_owned(),
                    force_after: Some(hard.deadline().saturating_duration_since(tokio::time::Instant::now())),
                });
            }
            () = &mut hard, if !overdue => {
                overdue = true;
                interrupt.stop(StopReason::TimeLimit, true);
            }
            // Cancel-safe, as any stream of signals.
            Some(()) = ctrl_c.recv() => interrupt.stop(StopReason::Revoked, true),
        }
    }
}

/// What is told beside the end.
struct Side {
    children: Vec<Enqueued>,
    elapsed: Duration,
}

fn conclude(
    printer: Printer,
    handler: &ModuleHandler,
    exit: &Exit,
    Side { children, elapsed }: Side,
) -> Outcome {
    let usage = &exit.usage;
    let mut document = Map::new();
    document.insert("name".to_owned(), json!(handler.name));
    let (state, failed) = match &exit.outcome {
        Ended::Succeeded(result) => {
            document.insert("result".to_owned(), payload_json(result));
            ("succeeded", None)
        }
        Ended::Failed { failure, .. } => {
            document.insert("failure".to_owned(), json!(FailureView::from(failure)));
            let what = format!(
                "{} failed: {}, code {}: {}",
                handler.name, failure.kind, failure.code, failure.message
            );
            ("failed", Some(what))
        }
        Ended::Stopped { reason: StopReason::TimeLimit, .. } => {
            let limits = &handler.limits;
            let message = match limits.soft {
                Some(soft) if elapsed < limits.hard => {
                    format!("it gave up at its soft limit of {}", write_duration(soft))
                }
                _ => format!("it ran longer than {}", write_duration(limits.hard)),
            };
            document.insert(
                "failure".to_owned(),
                json!({"kind": "time-limit", "code": "time-limit", "message": message}),
            );
            ("failed", Some(format!("{} failed: time-limit: {message}", handler.name)))
        }
        Ended::Stopped { how, .. } => {
            ("stopped", Some(format!("{} was stopped by Ctrl-C ({})", handler.name, how.as_str())))
        }
    };
    document.insert("state".to_owned(), json!(state));
    document.insert("module".to_owned(), json!(handler.reference()));
    document.insert("children".to_owned(), children.iter().map(Enqueued::view).collect());
    document.insert("usage".to_owned(), json!(usage));
    document.insert("elapsedMs".to_owned(), json!(millis(elapsed)));
    if printer.is_json() {
        printer.print(&Value::Object(document), String::new)?;
    } else if let Ended::Succeeded(result) = &exit.outcome {
        print_result(result, None)?;
    }
    for child in &children {
        say(child.line());
    }
    say(format!(
        "{} {state} in {:.1} ms: {:.1} ms of CPU, {} at its peak",
        handler.name,
        millis(elapsed),
        usage.cpu_ms,
        memory(usage.peak_memory_bytes)
    ));
    match failed {
        None => Ok(Ending::Done),
        Some(what) => {
            Err(CliError::failed(what, "STEM_LOG=debug shows more of what the module logs"))
        }
    }
}
