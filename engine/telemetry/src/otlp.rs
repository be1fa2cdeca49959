//! Sends what was gathered to a collector: OTLP over HTTP, from threads that nobody else waits for.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

use crate::TelemetryError;

/// The signals, as their addresses and the log name them.
const TRACES: &str = "traces";
const METRICS: &str = "metrics";
/// One request, its answer included, takes no longer.
const REQUEST: Duration = Duration::from_secs(5);
/// The most of an answer that is read; a collector that refuses says why in some words.
const ANSWER_BYTES: u64 = 64 << 10;

/// Where a collector listens. Shown without its password, however it is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Without user and password.
    base: Url,
    user: String,
    password: Option<String>,
}

impl Endpoint {
    /// Reads `http://host:4318` or `https://…`, a path included under which `/v1/traces` and `/v1/metrics` are found.
    /// The error does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut base = Url::parse(text).map_err(|_| "is not a URL; write http://host:4318")?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(
                "is neither http:// nor https://; OTLP is sent over HTTP (port 4318), not gRPC",
            );
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err("has something behind ? or #; a key goes into OTEL_EXPORTER_OTLP_HEADERS");
        }
        let plain = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            let problem = "has a user or password that is not UTF-8 once decoded";
            decoded.map(Cow::into_owned).map_err(|_| problem)
        };
        let user = plain(base.username())?;
        let password = base.password().map(plain).transpose()?;
        if base.set_password(None).is_err() || base.set_username("").is_err() {
            return Err("names no host");
        }
        Ok(Self { base, user, password })
    }

    fn of_signal(&self, signal: &str) -> String {
        format!("{}/v1/{signal}", self.base.as_str().trim_end_matches('/'))
    }

    fn authorization(&self) -> Option<HeaderValue> {
        if self.user.is_empty() && self.password.is_none() {
            return None;
        }
        let pair = format!("{}:{}", self.user, self.password.as_deref().unwrap_or_default());
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(pair)))
            .expect("base64 is ASCII");
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.base.clone();
        // Neither can fail where the parser found them.
        let _ = shown.set_username(&self.user);
        let _ = shown.set_password(self.password.as_ref().map(|_| "***"));
        f.write_str(shown.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The connection to one collector.
#[derive(Clone, Debug)]
pub(crate) struct Collector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    agent: ureq::Agent,
    authorization: Option<HeaderValue>,
    endpoint: Endpoint,
}

/// One signal on its way to a collector, which may take the one and refuse the other.
#[derive(Debug)]
struct Sender {
    collector: Collector,
    signal: &'static str,
    failing: AtomicBool,
}

impl Collector {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, TelemetryError> {
        Self::with(endpoint, system_certificates)
    }

    fn with(
        endpoint: Endpoint,
        trusted: impl FnOnce() -> Vec<Certificate<'static>>,
    ) -> Result<Self, TelemetryError> {
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST))
            .http_status_as_error(false)
            .max_redirects(0)
            // Where a collector is, one setting says and no other.
            .proxy(None)
            .max_response_header_size(16 << 10)
            .user_agent(concat!("stem/", env!("CARGO_PKG_VERSION")));
        if endpoint.base.scheme() == "https" {
            config = config.tls_config(tls(&trusted())?);
        }
        Ok(Self(Arc::new(Inner {
            agent: config.build().new_agent(),
            authorization: endpoint.authorization(),
            endpoint,
        })))
    }

    fn sender(&self, signal: &'static str) -> Sender {
        Sender { collector: self.clone(), signal, failing: AtomicBool::new(false) }
    }

    pub(crate) fn spans(&self) -> Result<SpanExporter, TelemetryError> {
        SpanExporter::builder()
            .with_http()
            .with_http_client(self.sender(TRACES))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(self.0.endpoint.of_signal(TRACES))
            .with_timeout(REQUEST)
            .build()
            .map_err(|error| TelemetryError::Collector(error.to_string()))
    }

    pub(crate) fn metrics(&self) -> Result<MetricExporter, TelemetryError> {
        MetricExporter::builder()
            .with_http()
            .with_http_client(self.sender(METRICS))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(self.0.endpoint.of_signal(METRICS))
            .with_timeout(REQUEST)
            .build()
            .map_err(|error| TelemetryError::Collector(error.to_string()))
    }
}

fn system_certificates() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect()
}

/// With the provider of cryptography that the other connections use.
fn tls(certificates: &[Certificate<'static>]) -> Result<TlsConfig, TelemetryError> {
    if certificates.is_empty() {
        return Err(TelemetryError::Collector(
            "the system has no certificates to know a collector by https:// with".to_owned(),
        ));
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(certificates))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

#[async_trait]
impl HttpClient for Sender {
    /// Blocks: it is called from the exporters' own threads, which do nothing else.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.collector.send(request);
        let problem = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let (signal, collector) = (self.signal, &self.collector.0.endpoint);
        let failed_before = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !failed_before => tracing::warn!(
                %collector,
                problem,
                "{signal} cannot be sent; what is gathered meanwhile is lost, and the work goes on"
            ),
            None if failed_before => {
                tracing::info!(%collector, "{signal} are sent again");
            }
            _ => {}
        }
        answer
    }
}

impl Collector {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut parts, body) = request.into_parts();
        if let Some(authorization) = &self.0.authorization {
            parts.headers.insert(ureq::http::header::AUTHORIZATION, authorization.clone());
        }
        let answer = self.0.agent.run(Request::from_parts(parts, &body[..]))?;
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_its_password_and_sends_it_decoded() {
        let endpoint = Endpoint::parse("https://me:hunter2%40@host:4318/otlp/").unwrap();
        assert_eq!(endpoint.to_string(), "https://me:***@host:4318/otlp");
        assert_eq!(format!("{endpoint:?}"), endpoint.to_string());
        assert_eq!(endpoint.of_signal("traces"), "https://host:4318/otlp/v1/traces");
        let sent = BASE64_STANDARD.encode("me:hunter2@");
        assert_eq!(endpoint.authorization().unwrap(), format!("Basic {sent}"));
        let plain = Endpoint::parse("http://localhost:4318").unwrap();
        assert_eq!(plain.of_signal("metrics"), "http://localhost:4318/v1/metrics");
        assert!(plain.authorization().is_none());
    }

    /// Answers one request over TLS, and says what it began with.
    fn serve_once(listener: &std::net::TcpListener, server: Arc<rustls::ServerConfig>) -> String {
        use std::io::{BufRead as _, BufReader, Write as _};
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(server).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        let mut first = String::new();
        let read = BufReader::new(&mut stream).read_line(&mut first);
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.flush();
        read.map_or_else(|error| error.to_string(), |_| first)
    }

    #[test]
    fn a_collector_behind_tls_is_known_by_its_certificate() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let certificate = Certificate::from_der(made.cert.der()).to_owned();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let server = Arc::new(server);
        for trusted in [true, false] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let endpoint = Endpoint::parse(&format!("https://localhost:{port}")).unwrap();
            let url = endpoint.of_signal("traces");
            let known = certificate.clone();
            let collector = if trusted {
                Collector::with(endpoint, || vec![known]).unwrap()
            } else {
                Collector::new(endpoint).unwrap()
            };
            let server = Arc::clone(&server);
            let served = std::thread::spawn(move || serve_once(&listener, server));
            let request = Request::post(url).body(Bytes::from_static(b"spans")).unwrap();
            let answer = collector.send(request);
            assert_eq!(answer.is_ok(), trusted, "{answer:?}");
            let first = served.join().unwrap();
            assert_eq!(first.starts_with("POST /v1/traces"), trusted, "{first}");
        }
    }

    /// As Jaeger answers.
    #[test]
    fn a_collector_that_takes_one_signal_only_fails_for_the_other_only() {
        use std::io::{BufRead as _, BufReader, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
                let status = if first.contains("/v1/traces") { "200 OK" } else { "404 Not Found" };
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let collector = Collector::new(Endpoint::parse(&at).unwrap()).unwrap();
        let (traces, metrics) = (collector.sender(TRACES), collector.sender(METRICS));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            for sender in [&traces, &metrics] {
                let url = collector.0.endpoint.of_signal(sender.signal);
                let request = Request::post(url).body(Bytes::new()).unwrap();
                runtime.block_on(sender.send_bytes(request)).unwrap();
            }
            assert!(!traces.failing.load(Ordering::Relaxed));
            assert!(metrics.failing.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_being_repeated() {
        for bad in [
            "",
            "localhost:4318",
            "grpc://hunter2",
            "http://",
            "http://h?key=hunter2",
            "http://h#hunter2",
        ] {
            let problem = Endpoint::parse(bad).unwrap_err();
            assert!(!problem.contains("hunter2"), "{bad}: {problem}");
        }
    }
}
