//! `wasi:http`: outgoing requests to granted hosts, through a client of our own.
//!
//! What is checked where:
//!
//! | when | what |
//! |---|---|
//! | a request is handed over | its host, port, method and scheme against the grants; how many the attempt has sent |
//! | its name is resolved | every address: one that is not public refuses the request, unless the grant says `private` |
//! | it is sent | to one of those addresses and no other, so a name that changes its mind changes nothing |
//! | bodies move, both ways | the attempt's bytes; the time of the whole exchange |
//!
//! A redirect is an answer like any other: a guest that follows it sends another request, which is checked as the first.

mod address;
mod client;
mod network;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Response};
use stem_core::grants::HttpGrant;
use stem_core::text::printable;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

pub(crate) use self::network::Network;
use super::denial;
use super::secrets::{Placeholders, Withheld};
use super::{AttemptHost, AttemptState, ComponentState, LogLevel};
use crate::granted::Granted;
use crate::isolate::TaskInfo;

/// Refused requests that are told in the log; more are only counted by the guest itself.
const TOLD: u32 = 10;
/// The longest time for making a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What an attempt has sent and received so far.
#[derive(Debug, Default)]
struct Spent {
    requests: AtomicU32,
    bytes: AtomicU64,
}

/// One attempt's side of `wasi:http`.
pub(crate) struct Http {
    context: WasiHttpCtx,
    rules: Rules,
}

/// What decides about a request, apart from the library's own state.
struct Rules {
    info: Arc<TaskInfo>,
    granted: Arc<Granted>,
    placeholders: Placeholders,
    host: Arc<dyn AttemptHost>,
    network: Arc<Network>,
    spent: Arc<Spent>,
    /// The attempt's hard limit: no exchange outlives it.
    until: Instant,
    told: u32,
}

/// Where an admitted request goes, and within which bounds.
#[derive(Debug)]
struct Plan {
    host: String,
    port: u16,
    tls: bool,
    /// Any address will do: the grant says so, or spells the address out.
    any_address: bool,
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
    whole: Duration,
    /// Bytes of bodies that the attempt may move in all.
    bytes: u64,
    spent: Arc<Spent>,
}

impl Http {
    /// Costs next to nothing for the many guests that send no request.
    pub(crate) fn new(attempt: &AttemptState, network: Arc<Network>) -> Self {
        let rules = Rules {
            info: Arc::clone(&attempt.info),
            granted: Arc::clone(&attempt.granted),
            placeholders: attempt.placeholders.clone(),
            host: Arc::clone(&attempt.host),
            network,
            spent: Arc::default(),
            until: Instant::now() + attempt.limits.hard.min(Duration::from_hours(24 * 365)),
            told: 0,
        };
        Self { context: WasiHttpCtx::new(), rules }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.http.rules,
            table: &mut self.table,
            ctx: &mut self.http.context,
        }
    }
}

impl Rules {
    /// Says in the log why a request was refused, a bounded number of times.
    fn tell(&mut self, what: impl fmt::Display) {
        self.told = self.told.saturating_add(1);
        if self.told <= TOLD {
            self.host.log(LogLevel::Warn, &printable(&what.to_string(), 1_000), &[]);
        }
    }

    /// What to put where, to allow what was denied.
    fn remedy(&self, grant: &str) -> String {
        denial::remedy(&self.info.task_name, grant)
    }

    /// Decides about a request; what it carries of secrets' placeholders is replaced.
    fn admit(
        &mut self,
        request: &mut Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Plan, Error> {
        let uri = request.uri();
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        // A name and a password in front of the host are a way to hide the host.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(Error::HttpRequestUriInvalid);
        }
        let tls = uri.scheme() != Some(&Scheme::HTTP);
        let port = match authority.port() {
            None if authority.as_str().ends_with(':') => return Err(Error::HttpRequestUriInvalid),
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) if port.as_u16() == 0 => return Err(Error::HttpRequestUriInvalid),
            Some(port) => port.as_u16(),
        };
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.to_owned();
        let method = request.method();
        if *method == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let granted = Arc::clone(&self.granted);
        let Some((grant, spelled_out)) =
            find(&granted.grants.http, &host, port, method.as_str(), tls)
        else {
            let plain = if tls { "" } else { ", plain = true" };
            let grant = format!(
                "http = [{{ hosts = [\"{host}:{port}\"], methods = [\"{method}\"]{plain} }}]"
            );
            self.tell(format!("denied: {}", self.remedy(&grant)));
            return Err(Error::HttpRequestDenied);
        };
        if self.spent.requests.fetch_add(1, Ordering::Relaxed) >= grant.requests {
            let most = grant.requests;
            self.tell(format!("refused: an attempt that asks {host} may send {most} requests"));
            return Err(Error::ConnectionLimitReached);
        }
        if let Err(Withheld { secret }) = fill(&self.placeholders, request, &host, port)? {
            let grant = format!("secrets = [\"{secret}@{host}:{port}\"]");
            self.tell(format!("denied: {}", self.remedy(&grant)));
            return Err(Error::HttpRequestDenied);
        }
        let whole = grant.timeout.min(self.until.saturating_duration_since(Instant::now()));
        let bound = |asked: Option<Duration>, most: Duration| asked.unwrap_or(most).min(most);
        Ok(Plan {
            any_address: grant.private || spelled_out,
            host,
            port,
            tls,
            connect: bound(options.connect_timeout, CONNECT.min(whole)),
            first_byte: bound(options.first_byte_timeout, whole),
            between_bytes: bound(options.between_bytes_timeout, whole),
            whole,
            bytes: grant.bytes,
            spent: Arc::clone(&self.spent),
        })
    }
}

/// Puts secrets where their placeholders stand. The outer error is of a secret that no header can hold.
fn fill(
    placeholders: &Placeholders,
    request: &mut Request<WasiBody>,
    host: &str,
    port: u16,
) -> Result<Result<(), Withheld>, Error> {
    for value in request.headers_mut().values_mut() {
        match placeholders.fill(value.as_bytes(), host, port) {
            Ok(None) => {}
            Ok(Some(filled)) => {
                let fits = HeaderValue::from_bytes(&filled);
                *value = fits.map_err(|_| {
                    Error::InternalError(Some("the secret is no header".to_owned()))
                })?;
                value.set_sensitive(true);
            }
            Err(withheld) => return Ok(Err(withheld)),
        }
    }
    Ok(Ok(()))
}

/// The first grant that allows a request, and whether it spells the host out as an address.
fn find<'a>(
    grants: &'a [HttpGrant],
    host: &str,
    port: u16,
    method: &str,
    tls: bool,
) -> Option<(&'a HttpGrant, bool)> {
    grants.iter().find_map(|grant| {
        let fits = (tls || grant.plain) && grant.methods.iter().any(|allowed| allowed == method);
        let pattern = grant.hosts.iter().find(|pattern| pattern.matches(host, port))?;
        fits.then(|| (grant, pattern.is_address()))
    })
}

type Answer =
    Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Rules {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let plan = self.admit(&mut request, options.unwrap_or_default());
        let network = Arc::clone(&self.network);
        Box::new(async move { client::send(&network, request, plan?).await })
    }

    // The library's own answers to these are warnings in the log, as many as a guest likes.

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "an exchange of a guest failed");
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            ErrorCode::HttpResponseIncomplete
        } else {
            ErrorCode::HttpProtocolError
        }
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(%error, "a guest's request did not connect");
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(%error, "a guest's request found no secure connection");
        let certificate = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
        if certificate { ErrorCode::TlsCertificateError } else { ErrorCode::TlsProtocolError }
    }
}

#[cfg(test)]
mod tests {
    use stem_core::grants::HostPattern;

    use super::*;

    #[test]
    fn a_grant_is_for_a_host_a_port_a_method_and_a_scheme() {
        let grant = |host: &str, plain| HttpGrant {
            hosts: vec![HostPattern::new(host).unwrap()],
            methods: vec!["GET".to_owned()],
            plain,
            private: false,
            requests: 1,
            bytes: 1,
            timeout: Duration::from_secs(1),
        };
        let grants = [grant("api.example.org", false), grant("127.0.0.1:8080", true)];
        let found = |host, port, method, tls| {
            find(&grants, host, port, method, tls).map(|(_, spelled_out)| spelled_out)
        };
        assert_eq!(found("api.example.org", 443, "GET", true), Some(false));
        assert_eq!(found("api.example.org", 443, "POST", true), None);
        assert_eq!(found("api.example.org", 80, "GET", false), None);
        assert_eq!(found("127.0.0.1", 8080, "GET", false), Some(true));
        assert_eq!(found("127.0.0.1", 80, "GET", false), None);
        assert_eq!(found("127.1", 8080, "GET", false), None);
    }
}
