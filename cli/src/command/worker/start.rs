//! `stem worker start`

mod classes;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stem_core::control::{Drain, WorkerState};
use stem_core::id::{QueueName, TaskName, TrustClass};
use stem_engine::audit::{AuditFile, Auditor};
use stem_engine::worker::Ready;
use stem_engine::{
    AutoscaleRules, Backends, QuotaFile, RevokePolicy, SystemClock, Worker, WorkerConfig,
    WorkerError, WorkerHandle,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::{Context, config, with_runtime};
use crate::args::WorkerStart;
use crate::audit;
use crate::connect::{self, ServiceUrl};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::hardening::{self, Needs};
use crate::identity;
use crate::nodes::own::{self, Own};
use crate::output::{Printer, say};
use crate::sandbox;
use crate::service_manager;
use crate::settings::{Setting, Settings, Source};
use crate::telemetry::OfWorker;

/// How long a start waits for what the module store says of itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the worker runs with beside the settings.
struct Plan {
    config: WorkerConfig,
    rows: Vec<(&'static str, Value, Source)>,
}

pub(super) fn run(context: &Context, args: WorkerStart) -> Outcome {
    let settings = context.settings_logging("info", |flags| {
        flags.namespace.clone_from(&args.namespace.namespace);
        flags.worker_queues.clone_from(&args.queue);
        flags.metrics = args.metrics;
        flags.policy.clone_from(&args.policy.policy);
        flags.quotas.clone_from(&args.quotas);
        flags.module_trust.clone_from(&args.trust);
        flags.hardening = args.hardening.map(Into::into);
        flags.signers.clone_from(&args.signers);
        flags.audit_log.clone_from(&args.audit_log);
    })?;
    let own = Own::read(args.pidfile.clone(), &context.environment)?;
    let classes = classes::read(&args, &settings, &context.environment)?;
    let mut plan = plan(&args, &settings, &own, &classes)?;
    let printer = Printer::new(args.json.json);
    if args.print_config {
        return print_config(printer, &settings, &plan, &own);
    }
    // Before the services: what is wrong with a file is known at once.
    plan.config.policy = sandbox::policy(&settings)?;
    plan.config.quotas = quotas(&settings)?;
    classes::warn(&plan.config);
    // Before the runtime: each of its threads is hardened as the one that makes it.
    let raised = hardening::raise(&Needs {
        settings: &settings,
        own: &own,
        modules: args.modules.as_deref(),
        policy: &plan.config.policy.current(),
        environment: &context.environment,
    })?;
    plan.config.hardening = Some(raised.facts.clone());
    with_runtime(work(args, &settings, plan.config, &own, printer))
}

async fn work(
    args: WorkerStart,
    settings: &Settings,
    config: WorkerConfig,
    own: &Own,
    printer: Printer,
) -> Outcome {
    // First: nothing but a handler makes a signal end the first process of a container.
    let mut orders = Orders::listen(!args.no_signal_handlers)?;
    // Before any service is asked: of two starts one ends at once.
    let pidfile = own.take_up(&config.id, &config.namespace)?;
    let auditor = auditor(settings, &config)?;
    let (worker, telemetry) = tokio::select! {
        prepared = prepare(args, settings, config, own, printer, auditor.clone()) => prepared?,
        () = orders.stop() => {
            tracing::info!("a signal came before the worker was ready; it ends");
            service_manager::stopping();
            return Ok(Ending::Done);
        }
    };
    tokio::spawn(orders.hand_over(worker.handle()));
    tokio::spawn(service_manager::follow(worker.handle().states()));
    if let Some(pidfile) = &pidfile {
        tokio::spawn(own::follow(Arc::downgrade(pidfile), worker.handle().states()));
    }
    let ended = worker.run().await;
    service_manager::stopping();
    if let Some(auditor) = auditor {
        // What it notes last is written, too.
        tokio::task::block_in_place(|| auditor.close());
    }
    if let Some(telemetry) = telemetry {
        telemetry.end().await;
    }
    ended.map_err(explain)?;
    Ok(Ending::Done)
}

/// What notes what the worker obeys and refuses. It does not start where nothing could be noted.
fn auditor(settings: &Settings, config: &WorkerConfig) -> Result<Option<Arc<Auditor>>, CliError> {
    let Some(path) = &settings.audit_log.value else { return Ok(None) };
    let file = AuditFile::open(path)
        .map_err(|problem| CliError::new(Ending::Unavailable, problem, audit::HINT))?;
    let auditor = Auditor::start(file, config.id.as_str(), Arc::new(SystemClock));
    auditor.map(Some).map_err(|error| explain(WorkerError::System(error)))
}

/// Opens the services, compiles the modules and puts the worker together. Dropped, it leaves nothing behind.
async fn prepare(
    args: WorkerStart,
    settings: &Settings,
    config: WorkerConfig,
    own: &Own,
    printer: Printer,
    auditor: Option<Arc<Auditor>>,
) -> Result<(Worker, Option<OfWorker>), CliError> {
    // Before the services, as the policy was.
    let trust = sandbox::trust(settings)?;
    let keys = settings.signing.open()?;
    let concurrency = config.concurrency;
    let backends = connect::Opener::new(settings).all(config.revoke_policy).await?;
    warn_of_unsafe(&backends, args.strict).await?;
    if settings.broker_url.value == ServiceUrl::Memory {
        say(
            "warning: memory:// is this process's own memory, so no other process can give this worker a task",
        );
    }
    let telemetry = OfWorker::start(settings, &config, &own.host.value)?;
    // The sandbox and the modules are prepared meanwhile.
    let mut builder = Worker::builder(backends, config).keys(keys).read_ahead();
    if let Some(auditor) = auditor {
        builder = builder.audit(auditor);
    }
    if let Some(telemetry) = &telemetry {
        builder = builder.observer(telemetry.telemetry().observer());
    }
    let page = telemetry.as_ref().and_then(OfWorker::page);
    let isolates = sandbox::start(u32::try_from(concurrency).unwrap_or(u32::MAX))?;
    if let Some(telemetry) = &telemetry {
        telemetry.observe(&isolates);
    }
    builder = builder.isolates(isolates).pushed_modules(trust);
    if let Some(dir) = args.modules {
        builder = builder.modules_dir(dir).await.map_err(sandbox::refused)?;
    }
    let worker = builder.build().map_err(explain)?.on_ready(move |ready| {
        // Whoever started it may have stopped reading; the worker works all the same.
        let page = page.as_deref();
        let _ = printer.print(&document(ready, page), || line(ready, page));
        service_manager::ready(&line(ready, page));
    });
    if let Some(telemetry) = &telemetry {
        telemetry.telemetry().watch(worker.gauges());
    }
    Ok((worker, telemetry))
}

/// Who may have how much of the worker, where a file says so.
fn quotas(settings: &Settings) -> Result<Option<Arc<QuotaFile>>, CliError> {
    let Some(path) = &settings.quotas.value else { return Ok(None) };
    let file = QuotaFile::open(path).map_err(|problem| {
        CliError::usage(
            format!("the quotas {problem}"),
            "correct the file, or name another with --quotas; docs/operations.md has a whole one",
        )
    })?;
    Ok(Some(Arc::new(file)))
}

/// The signals that end a worker, until it listens to them itself: SIGTERM, SIGINT, SIGQUIT; none of them with
/// `--no-signal-handlers`.
struct Orders(Option<[Signal; 3]>);

impl Orders {
    /// Listens from now on. On a runtime.
    fn listen(wanted: bool) -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CliError::failed(
                    format!("signals cannot be listened to: {error}"),
                    "check the limits of this process (ulimit -a)",
                )
            })
        };
        if !wanted {
            return Ok(Self(None));
        }
        Ok(Self(Some([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
        ])))
    }

    /// Returns when one came.
    async fn stop(&mut self) {
        let Some([terminate, interrupt, quit]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    }

    /// Passes on what comes before the worker listens, which it does long before it is ready. What both hear does no
    /// harm: this is the softest way to stop, which nothing harder gives way to.
    async fn hand_over(mut self, worker: WorkerHandle) {
        let mut states = worker.states();
        tokio::select! {
            biased;
            () = self.stop() => worker.shutdown(Drain::Warm, None),
            _ = states.wait_for(|state| *state != WorkerState::Starting) => {}
        }
    }
}

/// Says what is unsafe about how the services are set, each thing once; with `strict` that is a refusal.
async fn warn_of_unsafe(backends: &Backends, strict: bool) -> Result<(), CliError> {
    let mut asked = vec![
        backends.broker.health().await,
        backends.results.health().await,
        backends.revokes.health().await,
    ];
    // A worker starts without its module store, too.
    asked.extend(tokio::time::timeout(PATIENCE, backends.modules.health()).await.ok());
    let mut warnings = Vec::new();
    // One that cannot answer is waited for later; that is not a matter of its settings.
    for health in asked.into_iter().flatten() {
        for warning in health.warnings {
            let warning = format!("{}: {warning}", health.service);
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    if strict && !warnings.is_empty() {
        return Err(CliError::usage(
            format!("with --strict nothing may be unsafe: {}", warnings.join("; ")),
            "set the service as it says, or leave --strict out",
        ));
    }
    for warning in warnings {
        say(format!("warning: {warning}"));
    }
    Ok(())
}

fn plan(
    args: &WorkerStart,
    settings: &Settings,
    own: &Own,
    classes: &Setting<Vec<TrustClass>>,
) -> Result<Plan, CliError> {
    let name = match &args.name {
        Some(name) => Setting { value: name.clone(), source: Source::Flag("--name") },
        None => match &own.node {
            Setting { value: Some(node), source } => {
                Setting { value: node.clone(), source: source.clone() }
            }
            _ => Setting::default(identity::worker_id(&own.host.value)),
        },
    };
    let mut config = WorkerConfig::new(name.value);
    let chosen = |is_set: bool, flag: &'static str| {
        if is_set { Source::Flag(flag) } else { Source::Default }
    };
    config.namespace = settings.namespace.value.clone();
    config.queues.clone_from(&settings.worker_queues.value);
    config.classes.clone_from(&classes.value);
    config.heartbeat_interval = settings.heartbeat_interval.value;
    config.signal_handlers = !args.no_signal_handlers;
    let at_least = |flag: &str, given: Option<Duration>, least: Duration| match given {
        Some(given) if given < least => Err(CliError::usage(
            format!("{flag} {} is too short", stem_engine::units::write_duration(given)),
            format!("give at least {}", stem_engine::units::write_duration(least)),
        )),
        given => Ok(given),
    };
    if let Some(lease) = at_least("--lease", args.lease, Duration::from_millis(100))? {
        config.lease = lease;
    }
    if let Some(grace) = args.terminate_grace {
        config.terminate_grace = grace;
    }
    if let Some(grace) = args.soft_grace {
        config.soft_grace = grace;
    }
    if let Some(concurrency) = args.concurrency {
        config.concurrency = usize::try_from(concurrency).unwrap_or(usize::MAX);
    }
    let whole = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    if let Some((min, max)) = args.autoscale {
        config.concurrency = whole(max);
        config.autoscale = Some(AutoscaleRules::between(whole(min), whole(max)));
    }
    config.max_tasks_per_isolate = args.max_tasks_per_isolate;
    config.max_memory_per_isolate = args.max_memory_per_isolate;
    if let Some(policy) = args.revoke_policy {
        config.revoke_policy = policy.into();
    }
    if args.max_revocation_staleness.is_some() && config.revoke_policy == RevokePolicy::FailOpen {
        return Err(CliError::usage(
            "--max-revocation-staleness says when a worker that fails closed stops, and --revoke-policy is fail-open",
            "leave one of them out",
        ));
    }
    let staleness = Duration::from_secs(2);
    if let Some(staleness) =
        at_least("--max-revocation-staleness", args.max_revocation_staleness, staleness)?
    {
        config.max_revocation_staleness = staleness;
    }
    let prefetch = args.prefetch.map_or_else(
        || Setting {
            value: config.concurrency.saturating_mul(whole(settings.prefetch_multiplier.value)),
            source: Source::Follows("prefetch-multiplier"),
        },
        |prefetch| Setting { value: whole(prefetch), source: Source::Flag("--prefetch") },
    );
    config.prefetch = prefetch.value;
    let duration = |value: Duration| Value::from(stem_engine::units::write_duration(value));
    let rows = vec![
        ("name", json!(config.id), name.source),
        (
            "modules",
            args.modules.as_ref().map_or(Value::Null, |dir| json!(dir.display().to_string())),
            chosen(args.modules.is_some(), "--modules"),
        ),
        ("classes", json!(config.classes), classes.source.clone()),
        (
            "concurrency",
            json!(config.concurrency),
            match args.autoscale {
                Some(_) => Source::Follows("autoscale"),
                None => chosen(args.concurrency.is_some(), "--concurrency"),
            },
        ),
        (
            "autoscale",
            config
                .autoscale
                .as_ref()
                .map_or(Value::Null, |rules| json!(format!("{}..{}", rules.min, rules.max))),
            chosen(args.autoscale.is_some(), "--autoscale"),
        ),
        ("prefetch", json!(config.prefetch), prefetch.source),
        ("lease", duration(config.lease), chosen(args.lease.is_some(), "--lease")),
        (
            "terminate-grace",
            duration(config.terminate_grace),
            chosen(args.terminate_grace.is_some(), "--terminate-grace"),
        ),
        (
            "soft-grace",
            duration(config.soft_grace),
            chosen(args.soft_grace.is_some(), "--soft-grace"),
        ),
        (
            "max-tasks-per-isolate",
            json!(config.max_tasks_per_isolate),
            chosen(args.max_tasks_per_isolate.is_some(), "--max-tasks-per-isolate"),
        ),
        (
            "max-memory-per-isolate",
            json!(config.max_memory_per_isolate),
            chosen(args.max_memory_per_isolate.is_some(), "--max-memory-per-isolate"),
        ),
        (
            "revoke-policy",
            json!(config.revoke_policy.as_str()),
            chosen(args.revoke_policy.is_some(), "--revoke-policy"),
        ),
        (
            "max-revocation-staleness",
            duration(config.max_revocation_staleness),
            chosen(args.max_revocation_staleness.is_some(), "--max-revocation-staleness"),
        ),
        ("strict", json!(args.strict), chosen(args.strict, "--strict")),
        (
            "signal-handlers",
            json!(config.signal_handlers),
            chosen(args.no_signal_handlers, "--no-signal-handlers"),
        ),
    ];
    Ok(Plan { config, rows })
}

fn print_config(printer: Printer, settings: &Settings, plan: &Plan, own: &Own) -> Outcome {
    let own = own.rows();
    let mut rows = settings.rows();
    rows.extend(
        plan.rows.iter().chain(&own).map(|(key, value, source)| (*key, value.clone(), source)),
    );
    printer.print(&config::document(&rows), || config::text(&rows))?;
    Ok(Ending::Done)
}

fn document(ready: &Ready, page: Option<&str>) -> Value {
    let mut document = json!({
        "worker": ready.worker,
        "queues": ready.queues,
        "tasks": ready.tasks,
        "concurrency": ready.concurrency,
    });
    if let Some(min) = ready.min_concurrency {
        document["minConcurrency"] = json!(min);
    }
    if let Some(page) = page {
        document["metrics"] = json!(page);
    }
    document
}

/// One line, whatever it serves.
fn line(ready: &Ready, page: Option<&str>) -> String {
    let queues: Vec<&str> = ready.queues.iter().map(QueueName::as_str).collect();
    let tasks: Vec<&str> = ready.tasks.iter().map(TaskName::as_str).collect();
    let tasks = if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") };
    let least = ready.min_concurrency.map_or_else(String::new, |min| format!("{min}.."));
    let page = page.map_or_else(String::new, |page| format!("; metrics: {page}"));
    format!(
        "worker {} is ready; queues: {}; tasks: {tasks}; concurrency: {least}{}{page}",
        ready.worker,
        queues.join(", "),
        ready.concurrency
    )
}

fn explain(error: WorkerError) -> CliError {
    match error {
        WorkerError::Config(problem) => CliError::usage(problem, "see `stem worker start --help`"),
        WorkerError::NameTaken { .. } => CliError::failed(
            error,
            "choose another --name, or stop the other worker (`stem worker shutdown --worker NAME`); one that died is forgotten after three heartbeats",
        ),
        WorkerError::Backend(error) => error.into(),
        WorkerError::Modules(error) => sandbox::refused(error),
        WorkerError::System(_) => {
            CliError::failed(error, "check the limits of this process (ulimit -a)")
        }
    }
}
