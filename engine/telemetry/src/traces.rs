//! Spans: one for each enqueue and each attempt, handed over in batches through a bounded queue. What does not fit is
//! dropped and counted; nobody waits for a collector.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::metrics::{BoundCounter, Meter};
use opentelemetry::trace::Span as _;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
    SpanExporter, SpanProcessor,
};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::observe::{AttemptEnd, AttemptFacts, Ending, Trace};
use stem_core::trace::TraceParent;

use crate::TelemetryError;
use crate::instruments::counter;
use crate::names;
use crate::otlp::Collector;

/// Spans that wait to be sent, at most: some 4 MiB.
const QUEUE: usize = 4_096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others to travel with.
const GATHER: Duration = Duration::from_secs(1);

/// What happened to the spans that no collector got.
#[derive(Clone, Debug)]
struct Dropped {
    queue_full: BoundCounter<u64>,
    not_sent: BoundCounter<u64>,
}

/// Lets no more spans wait than fit.
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    dropped: Dropped,
}

impl fmt::Debug for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        // The library counts what its own queue refuses and keeps the number to itself; so it is never asked for more
        // than fits.
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.queue_full.add(1);
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Sends batches, and counts those that did not arrive.
#[derive(Debug)]
struct Counting {
    exporter: opentelemetry_otlp::SpanExporter,
    waiting: Arc<AtomicUsize>,
    dropped: Dropped,
}

impl SpanExporter for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let sent = self.exporter.export(batch).await;
        if sent.is_err() {
            self.dropped.not_sent.add(spans as u64);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Makes spans.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    pub(crate) fn start(
        collector: &Collector,
        resource: Resource,
        meter: &Meter,
    ) -> Result<Self, TelemetryError> {
        let lost = counter(meter, &names::SPANS_DROPPED);
        let dropped = Dropped {
            queue_full: lost.bind(&[KeyValue::new("reason", "queue-full")]),
            not_sent: lost.bind(&[KeyValue::new("reason", "not-sent")]),
        };
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Counting {
            exporter: collector.spans()?,
            waiting: Arc::clone(&waiting),
            dropped: dropped.clone(),
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(GATHER)
            .build();
        let batches = BatchSpanProcessor::new(exporter, config);
        let provider = SdkTracerProvider::builder()
            // A producer that does not record its trace does not want its attempts recorded either.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource)
            .with_span_processor(Bounded { batches, waiting, dropped })
            .build();
        let tracer = provider.tracer("stem");
        Ok(Self { provider, tracer })
    }

    pub(crate) fn shutdown(&self) -> OTelSdkResult {
        self.provider.shutdown()
    }

    /// A span below `parent`, or the first of a trace; `None` if it is not to be recorded.
    fn span(
        &self,
        name: String,
        kind: SpanKind,
        parent: Option<TraceParent>,
        attributes: Vec<KeyValue>,
    ) -> Option<Span> {
        let context = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(SpanContext::new(
                TraceId::from(parent.trace_id),
                SpanId::from(parent.span_id),
                TraceFlags::new(parent.flags),
                true,
                TraceState::default(),
            ))
        });
        let span = self
            .tracer
            .span_builder(name)
            .with_kind(kind)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &context);
        span.is_recording().then_some(span)
    }

    pub(crate) fn attempt(&self, attempt: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        let mut attributes = about(attempt.queue, attempt.name);
        attributes.push(KeyValue::new("messaging.operation.type", "process"));
        attributes.push(KeyValue::new("messaging.message.id", attempt.task.to_string()));
        attributes.push(KeyValue::new("stem.task.attempt", i64::from(attempt.attempt)));
        let name = format!("stem.execute.{}", attempt.name);
        let span = self.span(name, SpanKind::Consumer, attempt.parent, attributes)?;
        Some(Box::new(AttemptSpan(span)))
    }

    /// A span for an enqueue.
    pub(crate) fn producer(
        &self,
        parent: Option<TraceParent>,
        queue: &QueueName,
        name: &TaskName,
    ) -> Option<ProducerSpan> {
        let mut attributes = about(queue, name);
        attributes.push(KeyValue::new("messaging.operation.type", "send"));
        let span = self.span("stem.enqueue".to_owned(), SpanKind::Producer, parent, attributes)?;
        Some(ProducerSpan(span))
    }
}

fn about(queue: &QueueName, name: &TaskName) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "stem"),
        KeyValue::new("messaging.destination.name", queue.to_string()),
        KeyValue::new("stem.task.name", name.to_string()),
    ]
}

fn parent_of(span: &Span) -> TraceParent {
    let context = span.span_context();
    TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        flags: context.trace_flags().to_u8(),
    }
}

#[derive(Debug)]
struct AttemptSpan(Span);

impl Trace for AttemptSpan {
    fn parent(&self) -> TraceParent {
        parent_of(&self.0)
    }

    fn event(&mut self, name: &'static str, about: &str) {
        self.0.add_event(name, vec![KeyValue::new("stem.about", about.to_owned())]);
    }

    fn end(mut self: Box<Self>, end: &AttemptEnd<'_>) {
        let span = &mut self.0;
        span.set_attribute(KeyValue::new("stem.outcome", end.ending.as_str()));
        if let Some(usage) = end.usage {
            span.set_attribute(KeyValue::new("stem.guest.cpu_ms", usage.cpu_ms));
            let peak = i64::try_from(usage.peak_memory_bytes).unwrap_or(i64::MAX);
            span.set_attribute(KeyValue::new("stem.guest.peak_memory_bytes", peak));
        }
        if let Some(failure) = end.failure {
            span.set_attribute(KeyValue::new("error.type", failure.kind.as_str()));
            span.set_attribute(KeyValue::new("stem.failure.code", failure.code.clone()));
        }
        match end.ending {
            Ending::Succeeded => span.set_status(Status::Ok),
            // Without the message, which may say what the task is about; the record has it.
            Ending::Failed | Ending::Retried => {
                span.set_status(Status::error(end.failure.map_or("", |f| f.kind.as_str())));
            }
            Ending::LeaseLost | Ending::Abandoned => {
                span.set_status(Status::error(end.ending.as_str()));
            }
            Ending::Revoked | Ending::Expired | Ending::Released | Ending::Discarded => {}
        }
        span.end();
    }
}

/// The span of one enqueue. Ends when it is dropped, at the latest.
#[derive(Debug)]
pub struct ProducerSpan(Span);

impl ProducerSpan {
    /// What the task carries.
    pub fn parent(&self) -> TraceParent {
        parent_of(&self.0)
    }

    /// The task was enqueued, or was there already.
    pub fn enqueued(mut self, task: &TaskId, deduplicated: bool) {
        self.0.set_attribute(KeyValue::new("messaging.message.id", task.to_string()));
        self.0.set_attribute(KeyValue::new("stem.deduplicated", deduplicated));
        self.0.set_status(Status::Ok);
        self.0.end();
    }
}
