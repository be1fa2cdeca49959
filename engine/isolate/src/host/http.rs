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
mod bounds;
mod client;
mod network;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, header};
use stem_core::grants::HttpGrant;
use tokio::sync::{Notify, Semaphore};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

pub(crate) use self::bounds::add_to_linker;
pub(crate) use self::network::Network;
use self::target::Target;
use super::denial::Denials;
use super::secrets::{Placeholders, Withheld};
use super::{AttemptState, ComponentState};
use crate::granted::Granted;

/// The longest time for making a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections of one attempt at once; its further requests wait.
const CONNECTIONS: usize = 16;

/// What an attempt has sent and received so far, for those who move it.
#[derive(Debug, Default)]
struct Spent {
    bytes: AtomicU64,
    /// Whether the attempt has ended, and who waits for that.
    over: AtomicBool,
    ended: Notify,
}

impl Spent {
    /// Counts bytes of a body; whether they were still allowed.
    fn take(&self, size: u64, most: u64) -> bool {
        self.bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size) <= most
    }

    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.ended.notify_waiters();
    }

    fn has_ended(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits for the attempt's end.
    async fn ended(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        // Registered before the flag is looked at, so that what happens in between is not missed.
        ended.as_mut().enable();
        if !self.has_ended() {
            ended.await;
        }
    }
}

/// One attempt's side of `wasi:http`.
pub(crate) struct Http {
    context: WasiHttpCtx,
    rules: Rules,
}

/// What decides about a request, apart from the library's own state.
struct Rules {
    granted: Arc<Granted>,
    placeholders: Placeholders,
    denials: Denials,
    network: Arc<Network>,
    spent: Arc<Spent>,
    /// Requests that were admitted.
    requests: u32,
    turns: Arc<Semaphore>,
    /// The attempt's hard limit: no exchange outlives it.
    until: Instant,
}

/// Where an admitted request goes, and within which bounds.
#[derive(Debug)]
struct Plan {
    target: Target,
    /// Any address will do: the grant says so, or spells the address out.
    any_address: bool,
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
    whole: Duration,
    /// Bytes of bodies that the attempt may move in all.
    bytes: u64,
    spent: Arc<Spent>,
    turns: Arc<Semaphore>,
}

impl Http {
    /// Costs next to nothing for the many guests that send no request.
    pub(crate) fn new(attempt: &AttemptState, network: Arc<Network>) -> Self {
        let rules = Rules {
            granted: Arc::clone(&attempt.granted),
            placeholders: attempt.placeholders.clone(),
            denials: attempt.denials.clone(),
            network,
            spent: Arc::default(),
            requests: 0,
            turns: Arc::new(Semaphore::new(CONNECTIONS)),
            until: Instant::now() + attempt.limits.hard.min(Duration::from_hours(24 * 365)),
        };
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(bounds::FIELD_BYTES);
        Self { context, rules }
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

impl Drop for Rules {
    /// Before what the guest left behind goes, which is not finished then.
    fn drop(&mut self) {
        self.spent.end();
    }
}

impl Rules {
    /// Decides about a request; what it carries of secrets' placeholders is replaced.
    fn admit(
        &mut self,
        request: &mut Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Plan, Error> {
        let target = Target::of(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
        let method = request.method();
        // No grant can name any other.
        let word = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        if *method == Method::CONNECT || !method.as_str().bytes().all(word) {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let granted = Arc::clone(&self.granted);
        let Some((grant, spelled_out)) = find(&granted.grants.http, &target, method.as_str())
        else {
            let grant = would_allow(&target, method, false);
            self.denials.denied(&grant);
            return Err(Error::HttpRequestDenied);
        };
        if self.requests >= grant.requests {
            let (host, most) = (&target.host, grant.requests);
            let line = format!("refused: an attempt that asks {host} may send {most} requests");
            self.denials.tell(line);
            return Err(Error::ConnectionLimitReached);
        }
        self.requests += 1;
        match fill(&self.placeholders, request, &target) {
            Ok(()) => {}
            Err(Unfilled::Withheld(Withheld { secret })) => {
                let grant = format!("secrets = [\"{secret}@{target}\"]");
                self.denials.denied(&grant);
                return Err(Error::HttpRequestDenied);
            }
            Err(Unfilled::NoHeader) => {
                let line = format!(
                    "refused: a secret for {target} is not one line of text, as a header is"
                );
                self.denials.tell(line);
                return Err(Error::InternalError(Some("the secret is no header".to_owned())));
            }
        }
        let whole = grant.timeout.min(self.until.saturating_duration_since(Instant::now()));
        let bound = |asked: Option<Duration>, most: Duration| asked.unwrap_or(most).min(most);
        Ok(Plan {
            any_address: grant.private || spelled_out,
            target,
            connect: bound(options.connect_timeout, CONNECT.min(whole)),
            first_byte: bound(options.first_byte_timeout, whole),
            between_bytes: bound(options.between_bytes_timeout, whole),
            whole,
            bytes: grant.bytes,
            spent: Arc::clone(&self.spent),
            turns: Arc::clone(&self.turns),
        })
    }
}

/// Why a secret was not put into a request.
enum Unfilled {
    Withheld(Withheld),
    /// No header can hold it.
    NoHeader,
}

/// Puts secrets where their placeholders stand. The host is not the guest's to choose freely, and stays as it is.
fn fill(
    placeholders: &Placeholders,
    request: &mut Request<WasiBody>,
    target: &Target,
) -> Result<(), Unfilled> {
    for (name, value) in request.headers_mut() {
        let filled = placeholders.fill(value.as_bytes(), &target.host, target.port);
        let Some(filled) = filled.map_err(Unfilled::Withheld)? else { continue };
        if name == header::HOST {
            continue;
        }
        *value = HeaderValue::from_bytes(&filled).map_err(|_| Unfilled::NoHeader)?;
        value.set_sensitive(true);
    }
    Ok(())
}

/// The grant that would allow a request.
fn would_allow(target: &Target, method: &Method, private: bool) -> String {
    let plain = if target.tls { "" } else { ", plain = true" };
    let private = if private { ", private = true" } else { "" };
    format!("http = [{{ hosts = [\"{target}\"], methods = [\"{method}\"]{plain}{private} }}]")
}

/// The first grant that allows a request, and whether it spells the host out as an address.
fn find<'a>(
    grants: &'a [HttpGrant],
    target: &Target,
    method: &str,
) -> Option<(&'a HttpGrant, bool)> {
    let Target { host, port, tls } = target;
    grants.iter().find_map(|grant| {
        let fits = (*tls || grant.plain) && grant.methods.iter().any(|allowed| allowed == method);
        let pattern = grant.hosts.iter().find(|pattern| pattern.matches(host, *port))?;
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
        let (network, denials) = (Arc::clone(&self.network), self.denials.clone());
        Box::new(async move {
            let plan = plan?;
            let target = plan.target.clone();
            let grant = would_allow(&target, request.method(), true);
            let answer = client::send(&network, request, plan).await;
            if matches!(answer, Err(Error::DestinationIpProhibited)) {
                denials.tell(format!("refused: {target} is at an address that is not public"));
                denials.denied(&grant);
            }
            answer
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        bounds::PIECE_BYTES
    }

    // The library's own answers to these are warnings in the log, as many as a guest likes.

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "an exchange of a guest failed");
        if error.is_parse_too_large() {
            ErrorCode::HttpResponseHeaderSectionSize(u32::try_from(client::HEAD_BYTES).ok())
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
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
    use http_body_util::{BodyExt as _, Empty};
    use stem_core::grants::{Grants, HostPattern, SecretGrant};

    use super::*;
    use crate::granted::Secret;

    #[test]
    fn a_secret_is_put_into_the_values_of_headers_and_nowhere_else() {
        let secret = |value: &str| {
            let hosts = vec![HostPattern::new("*.example.org").unwrap()];
            let grant = SecretGrant { name: "KEY".to_owned(), hosts, reveal: false };
            Placeholders::new(Arc::new(Granted {
                grants: Grants { secrets: vec![grant], ..Grants::default() },
                secrets: [("KEY".to_owned(), Secret::new(value))].into(),
                ..Granted::default()
            }))
        };
        let request = |text: &str| {
            let uri = format!("https://{text}.example.org/{text}?key={text}");
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::get(uri)
                .header("host", format!("{text}.example.org"))
                .header("x-a", format!("Bearer {text}"))
                .header(text, text);
            request.body(body).unwrap()
        };
        let ours = secret("hunter2");
        let text = ours.stand_in("KEY").unwrap();
        let mut filled = request(&text);
        let target = Target::of(filled.uri()).unwrap();
        assert!(fill(&ours, &mut filled, &target).is_ok());
        let headers = filled.headers();
        assert_eq!(
            (&headers["x-a"], &headers[&text]),
            (&"Bearer hunter2".parse().unwrap(), &"hunter2".parse().unwrap())
        );
        assert!(headers["x-a"].is_sensitive());
        assert!(!headers["host"].to_str().unwrap().contains("hunter2"));
        assert!(!filled.uri().to_string().contains("hunter2"));

        // Nor is a header made of what is none: a second line would be a second header.
        let two_lines = secret("hunter2\r\nx-admin: yes");
        let mut request = request(&two_lines.stand_in("KEY").unwrap());
        assert!(matches!(fill(&two_lines, &mut request, &target), Err(Unfilled::NoHeader)));
    }

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
        let found = |host: &str, port, method, tls| {
            let target = Target { host: host.to_owned(), port, tls };
            find(&grants, &target, method).map(|(_, spelled_out)| spelled_out)
        };
        assert_eq!(found("api.example.org", 443, "GET", true), Some(false));
        assert_eq!(found("api.example.org", 443, "POST", true), None);
        assert_eq!(found("api.example.org", 80, "GET", false), None);
        assert_eq!(found("127.0.0.1", 8080, "GET", false), Some(true));
        assert_eq!(found("127.0.0.1", 80, "GET", false), None);
        assert_eq!(found("127.1", 8080, "GET", false), None);
    }
}
