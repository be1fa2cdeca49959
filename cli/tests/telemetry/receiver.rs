//! A receiver of OTLP over HTTP, made of the official messages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A span with the attributes of who sent it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) span: Span,
    pub(crate) resource: BTreeMap<String, String>,
}

impl Received {
    pub(crate) fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        texts(&self.span.attributes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Every attribute as text.
fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|pair| (pair.key.clone(), text(pair.value.clone().and_then(|value| value.value))))
        .collect()
}

#[derive(Debug, Default)]
struct Got {
    spans: Vec<Received>,
    metrics: Vec<String>,
    authorizations: Vec<String>,
}

/// Receives until it is dropped.
#[derive(Debug)]
pub(crate) struct Receiver {
    port: u16,
    got: Arc<Mutex<Got>>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Got::default()));
        let into = Arc::clone(&got);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let into = Arc::clone(&into);
                tokio::spawn(async move {
                    let service = service_fn(move |request| receive(request, Arc::clone(&into)));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, got, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn spans(&self) -> Vec<Received> {
        self.got.lock().unwrap().spans.clone()
    }

    /// The names of metrics that came.
    pub(crate) fn metrics(&self) -> Vec<String> {
        self.got.lock().unwrap().metrics.clone()
    }

    /// The `authorization` of each request that had one.
    pub(crate) fn authorizations(&self) -> Vec<String> {
        self.got.lock().unwrap().authorizations.clone()
    }
}

async fn receive(
    request: Request<Incoming>,
    got: Arc<Mutex<Got>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get("authorization").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut got = got.lock().unwrap();
    got.authorizations.extend(authorization.map(|value| value.to_str().unwrap().to_owned()));
    let status = match path.as_str() {
        "/v1/traces" => {
            for of_one in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
                let resource = texts(&of_one.resource.unwrap_or_default().attributes);
                for span in of_one.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    got.spans.push(Received { span, resource: resource.clone() });
                }
            }
            StatusCode::OK
        }
        "/v1/metrics" => {
            let all = ExportMetricsServiceRequest::decode(body).unwrap().resource_metrics;
            let scopes = all.into_iter().flat_map(|of_one| of_one.scope_metrics);
            got.metrics.extend(scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name));
            StatusCode::OK
        }
        _ => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}
