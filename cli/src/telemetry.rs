//! Metrics and traces as this program sets them up: who speaks, where to, and how long the end may take.

use std::net::SocketAddr;
use std::time::Duration;

use stem_core::id::{QueueName, TaskName};
use stem_core::trace::TraceParent;
use stem_engine::WorkerConfig;
use stem_isolate::IsolateRuntime;
use stem_telemetry::{Endpoint, Identity, Options, PATH, Page, ProducerSpan, Telemetry};

use crate::connect::mask;
use crate::env::{self, Environment};
use crate::error::CliError;
use crate::output::say;
use crate::settings::Settings;

/// What a worker's end may take longer for what is still to be sent.
const LAST_OF_WORKER: Duration = Duration::from_secs(3);
/// The same for an enqueue, for which somebody waits.
const LAST_OF_PRODUCER: Duration = Duration::from_secs(1);

/// Reads where a collector listens, and does not repeat a password.
pub fn endpoint(text: &str) -> Result<Endpoint, String> {
    Endpoint::parse(text).map_err(|problem| format!("{:?} {problem}", mask(text)))
}

/// Reads where the page of metrics is to be.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address with a port, like 127.0.0.1:9464, 0.0.0.0:9464 or [::1]:9464")
    })
}

/// The telemetry of a worker, while it runs.
#[derive(Debug)]
pub struct OfWorker {
    telemetry: Telemetry,
    page: Option<Page>,
}

impl OfWorker {
    /// Starts what the settings ask for; `None` if that is nothing.
    pub fn start(
        settings: &Settings,
        worker: &WorkerConfig,
        host: &str,
    ) -> Result<Option<Self>, CliError> {
        let (metrics, collector) = (settings.metrics.value, settings.otlp_endpoint.value.clone());
        if metrics.is_none() && collector.is_none() {
            return Ok(None);
        }
        let identity = Identity {
            service: "stem-worker",
            attributes: vec![
                ("service.instance.id", worker.id.to_string()),
                ("stem.namespace", worker.namespace.to_string()),
                ("host.name", host.to_owned()),
                ("process.pid", std::process::id().to_string()),
            ],
        };
        let telemetry =
            start(Options { identity, page: metrics.is_some(), collector, numbers: true })?;
        let page =
            metrics.map(|at| telemetry.open_page(at).map_err(|error| cannot_listen(at, &error)));
        Ok(Some(Self { telemetry, page: page.transpose()? }))
    }

    /// Where the page is, as a URL.
    pub fn page(&self) -> Option<String> {
        self.page.as_ref().map(|page| format!("http://{}{PATH}", page.address()))
    }

    /// For the worker.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Tells the sandbox to tell of itself.
    pub fn observe(&self, isolates: &IsolateRuntime) {
        isolates.observe(self.telemetry.observer());
    }

    /// Sends what is left, in bounded time.
    pub async fn end(self) {
        drop(self.page);
        end(self.telemetry, LAST_OF_WORKER).await;
    }
}

fn cannot_listen(at: SocketAddr, error: &std::io::Error) -> CliError {
    CliError::failed(
        format!("the page of metrics cannot be opened at {at}: {error}"),
        "choose another --metrics (STEM_METRICS); each worker needs one of its own, and port 0 takes one that is free",
    )
}

fn start(options: Options) -> Result<Telemetry, CliError> {
    Telemetry::start(options).map_err(|error| {
        CliError::failed(
            error,
            "correct STEM_OTLP_ENDPOINT or the OTEL_EXPORTER_OTLP_ variables, or leave them out",
        )
    })
}

async fn end(telemetry: Telemetry, within: Duration) {
    let sent = tokio::task::spawn_blocking(move || telemetry.shutdown(within)).await;
    if !sent.unwrap_or(false) {
        tracing::warn!("the last metrics and traces were not all sent");
    }
}

/// The trace of one enqueue.
#[derive(Debug)]
pub struct OfProducer {
    parent: Option<TraceParent>,
    recorded: Option<(Telemetry, Option<ProducerSpan>)>,
}

impl OfProducer {
    /// Goes on with the trace that the environment names. Where spans are sent, the enqueue is one of its own.
    pub fn start(
        settings: &Settings,
        environment: &Environment,
        queue: &QueueName,
        name: &TaskName,
    ) -> Result<Self, CliError> {
        let parent = parent(environment);
        let Some(collector) = settings.otlp_endpoint.value.clone() else {
            return Ok(Self { parent, recorded: None });
        };
        let identity = Identity {
            service: "stem",
            attributes: vec![
                ("stem.namespace", settings.namespace.value.to_string()),
                ("host.name", crate::identity::host(environment)?),
            ],
        };
        let telemetry =
            start(Options { identity, page: false, collector: Some(collector), numbers: false })?;
        let span = telemetry.producer(parent, queue, name);
        Ok(Self { parent, recorded: Some((telemetry, span)) })
    }

    /// What the task is to carry.
    pub fn trace_parent(&self) -> Option<String> {
        let recorded = self.recorded.as_ref().and_then(|(_, span)| span.as_ref());
        recorded.map(ProducerSpan::parent).or(self.parent).map(|parent| parent.to_string())
    }

    /// The task is stored, or was there already. Sends the span, in bounded time.
    pub async fn enqueued(self, enqueued: &stem_engine::Enqueued) {
        if let Some((telemetry, span)) = self.recorded {
            if let Some(span) = span {
                span.enqueued(&enqueued.id, enqueued.deduplicated);
            }
            end(telemetry, LAST_OF_PRODUCER).await;
        }
    }

    /// The task was not stored. Sends the span, in bounded time.
    pub async fn failed(self) {
        if let Some((telemetry, span)) = self.recorded {
            drop(span);
            end(telemetry, LAST_OF_PRODUCER).await;
        }
    }
}

/// The trace that this process is a part of. Whoever set a wrong one is not this user, so it is said and left out.
fn parent(environment: &Environment) -> Option<TraceParent> {
    let text = environment.foreign(env::TRACEPARENT)?;
    let parent = TraceParent::parse(text);
    if parent.is_none() {
        say(
            "warning: TRACEPARENT is not a W3C traceparent; the task begins a trace of its own, or none",
        );
    }
    parent
}
