//! Metrics and traces of a worker, through OpenTelemetry.
//!
//! ```text
//! worker ──Observer──► Telemetry ─┬─ Page: text for Prometheus, when it asks
//!        ◄──Gauges────            └─ OTLP: batches to a collector, from threads of its own
//! ```
//! | module | what it holds |
//! |---|---|
//! | [`names`] | every metric, in one table |
//! | `instruments` | the instruments, and those that are told apart by queue and task |
//! | `observer` | what a worker tells, as numbers and spans |
//! | `traces` | spans, and the bounded queue they wait in |
//! | `otlp` | the connection to a collector |
//! | `page` | the page that Prometheus reads |
//!
//! The worker knows none of this: it tells an [`Observer`], and without one nothing here
//! exists.

mod instruments;
pub mod names;
mod observer;
mod otlp;
mod page;
mod traces;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Instrument, PeriodicReader, SdkMeterProvider, Stream};
use opentelemetry_sdk::resource::EnvResourceDetector;
use prometheus::Registry;
use stem_core::id::{QueueName, TaskName};
use stem_core::observe::{Gauges, Observer};
use stem_core::trace::TraceParent;

pub use otlp::Endpoint;
pub use page::{PATH, Page};
pub use traces::ProducerSpan;

use crate::instruments::{Instruments, PAIRS};
use crate::names::Metric;
use crate::observer::Told;
use crate::otlp::Collector;
use crate::traces::Traces;

/// How often metrics are sent to a collector.
const PUSH: Duration = Duration::from_secs(15);
/// What a drop may take for what is still to be sent.
const LAST: Duration = Duration::from_secs(1);
/// Sets of labels that one metric may have: each pair of queue and task with some outcomes.
const CARDINALITY: usize = PAIRS * 5;

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporters cannot be set up.
    #[error("metrics and traces cannot be sent: {0}")]
    Collector(String),
    /// The page cannot be set up.
    #[error("the page of metrics cannot be made: {0}")]
    Registry(String),
}

/// Who speaks.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// `service.name`, unless `OTEL_SERVICE_NAME` says otherwise.
    pub service: &'static str,
    /// More of the resource, for instance `service.instance.id`.
    pub attributes: Vec<(&'static str, String)>,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who speaks.
    pub identity: Identity,
    /// Whether there will be a [`Page`].
    pub page: bool,
    /// Where to send spans.
    pub collector: Option<Endpoint>,
    /// Whether the numbers are sent there too; who lives for a moment has none.
    pub numbers: bool,
}

/// Metrics and traces of one process. Dropped without [`Telemetry::shutdown`] it blocks for a second at most.
pub struct Telemetry {
    meters: SdkMeterProvider,
    meter: Meter,
    traces: Option<Traces>,
    registry: Option<Registry>,
    told: Arc<Told>,
    ended: bool,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("traces", &self.traces.is_some()).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Starts the exporters, each on a thread of its own. Nobody is asked yet, so a collector that is away is no error.
    pub fn start(options: Options) -> Result<Self, TelemetryError> {
        let resource = resource(options.identity);
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_view(
            |_: &Instrument| Stream::builder().with_cardinality_limit(CARDINALITY).build().ok(),
        );
        let mut registry = None;
        if options.page {
            let of_page = Registry::new();
            let exporter = opentelemetry_prometheus::exporter()
                .with_registry(of_page.clone())
                .scope_info_enabled(false)
                .build()
                .map_err(|error| TelemetryError::Registry(error.to_string()))?;
            meters = meters.with_reader(exporter);
            registry = Some(of_page);
        }
        let collector = options.collector.map(Collector::new).transpose()?;
        if let Some(collector) = collector.as_ref().filter(|_| options.numbers) {
            let reader = PeriodicReader::builder(collector.metrics()?).with_interval(PUSH).build();
            meters = meters.with_reader(reader);
        }
        let meters = meters.build();
        let meter = meters.meter("stem");
        let traces =
            collector.map(|collector| Traces::start(&collector, resource, &meter)).transpose()?;
        let told = Arc::new(Told::new(Instruments::new(&meter), traces.clone()));
        Ok(Self { meters, meter, traces, registry, told, ended: false })
    }

    /// For the worker.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.told) as _
    }

    /// Shows what a worker is like whenever somebody asks. `look` must not wait; `None` means that the worker is gone.
    pub fn watch(&self, look: impl Fn() -> Option<Gauges> + Clone + Send + Sync + 'static) {
        let whole = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let gauge = |metric: &Metric, of: fn(&Gauges) -> usize| {
            let look = look.clone();
            self.meter
                .u64_observable_gauge(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.about)
                .with_callback(move |gauge| {
                    if let Some(now) = look() {
                        gauge.observe(whole(of(&now)), &[]);
                    }
                })
                .build()
        };
        // The callbacks stay with the meter; what is returned here is of no further use.
        gauge(&names::INFLIGHT, |now| now.inflight);
        gauge(&names::CONCURRENCY, |now| now.concurrency);
        gauge(&names::REVOCATIONS, |now| now.revocations);
        let aged = look.clone();
        self.meter
            .f64_observable_gauge(names::REVOCATIONS_AGE.name)
            .with_unit(names::REVOCATIONS_AGE.unit)
            .with_description(names::REVOCATIONS_AGE.about)
            .with_callback(move |gauge| {
                if let Some(age) = aged().and_then(|now| now.revocations_age) {
                    gauge.observe(age.as_secs_f64(), &[]);
                }
            })
            .build();
        self.meter
            .u64_observable_gauge(names::DEPTH.name)
            .with_unit(names::DEPTH.unit)
            .with_description(names::DEPTH.about)
            .with_callback(move |gauge| {
                for (queue, depth) in look().map(|now| now.depths).unwrap_or_default() {
                    gauge.observe(depth, &[KeyValue::new("queue", queue.to_string())]);
                }
            })
            .build();
    }

    /// Opens the page; only where [`Options::page`] said that there would be one.
    pub fn open_page(&self, at: SocketAddr) -> io::Result<Page> {
        let absent = || io::Error::other("no page was asked for");
        Page::open(at, self.registry.clone().ok_or_else(absent)?)
    }

    /// The span of an enqueue, below what the producer runs in; `None` where spans are not sent, or this one is not
    /// recorded.
    pub fn producer(
        &self,
        parent: Option<TraceParent>,
        queue: &QueueName,
        name: &TaskName,
    ) -> Option<ProducerSpan> {
        self.traces.as_ref()?.producer(parent, queue, name)
    }

    /// Sends what is left, and ends; says whether all of it was sent. Takes no longer than `within`: what is not sent
    /// by then is lost. Blocks.
    pub fn shutdown(mut self, within: Duration) -> bool {
        self.end(within)
    }

    fn end(&mut self, within: Duration) -> bool {
        self.ended = true;
        let (done, wait) = mpsc::channel();
        // The last of a provider to be dropped waits for the collector: that is to be the thread's.
        let (meters, traces) = (self.meters.clone(), self.traces.clone());
        // The libraries' own limits do not hold for both signals together; the process does not wait for this thread.
        let ending = std::thread::Builder::new().name("stem-flush".to_owned()).spawn(move || {
            let spans = traces.is_none_or(|traces| traces.shutdown().is_ok());
            let numbers = meters.shutdown().is_ok();
            // Nobody listens any more when it took too long.
            let _ = done.send(spans && numbers);
        });
        ending.is_ok() && wait.recv_timeout(within).unwrap_or(false)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if !self.ended {
            self.end(LAST);
        }
    }
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, which every program with OpenTelemetry knows, win over what we say.
fn resource(identity: Identity) -> Resource {
    let service = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let more = identity.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
    let named = Resource::builder_empty()
        .with_service_name(identity.service)
        .with_attributes([version].into_iter().chain(more))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match service {
        Some(service) => named.with_service_name(service).build(),
        None => named.build(),
    }
}
