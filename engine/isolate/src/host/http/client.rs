//! One exchange: resolve, check, connect, send, receive. A connection of its own for each request, so that nothing is
//! shared between attempts.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, WasiBody};

use super::address::is_public;
use super::{Answer, Network, Plan, Spent};

/// Largest head of a response.
const HEAD_BYTES: usize = 64 << 10;
/// Most addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// Sends a request. Dropping the future, or the one that comes with the response, ends the exchange.
pub(super) async fn send(network: &Arc<Network>, request: Request<WasiBody>, plan: Plan) -> Answer {
    let (head, headed) = oneshot::channel();
    let (frames, receiver) = mpsc::channel(1);
    let exchange = Exchange {
        deadline: Instant::now() + plan.whole,
        network: Arc::clone(network),
        plan,
        frames,
    };
    let running = Running(network.spawn(exchange.run(request, head)).map_err(Error::Connect)?);
    let response = headed.await.map_err(|_| Error::ConnectionTerminated)??;
    let response = response.map(|size| Received { receiver, size }.boxed_unsync());
    Ok((response, Box::new(running.ended())))
}

/// Ends the exchange with its owner.
struct Running(JoinHandle<()>);

impl Running {
    async fn ended(mut self) -> Result<(), Error> {
        // A panic is not the guest's: the exchange is over either way.
        let _ = (&mut self.0).await;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Piece = Result<Frame<Bytes>, Error>;

/// The body of a response, as it comes.
struct Received {
    receiver: mpsc::Receiver<Piece>,
    size: SizeHint,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.receiver.poll_recv(context)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The body of a request, counted as it goes.
struct Sent {
    body: WasiBody,
    spent: Arc<Spent>,
    most: u64,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && !self.spent.take(frame, self.most)
        {
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.most)))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Spent {
    /// Counts the bytes of a frame; whether they were still allowed.
    fn take(&self, frame: &Frame<Bytes>, most: u64) -> bool {
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        self.bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size) <= most
    }
}

struct Exchange {
    deadline: Instant,
    network: Arc<Network>,
    plan: Plan,
    frames: mpsc::Sender<Piece>,
}

impl Exchange {
    async fn run(
        self,
        request: Request<WasiBody>,
        head: oneshot::Sender<Result<Response<SizeHint>, Error>>,
    ) {
        // Ends with this: a connection that nobody waits for is closed.
        let mut connection = JoinSet::new();
        let response = match self.head(request, &mut connection).await {
            Ok(response) => response,
            Err(error) => {
                let _ = head.send(Err(error));
                return;
            }
        };
        let (parts, mut body) = response.into_parts();
        let size = body.size_hint();
        if head.send(Ok(Response::from_parts(parts, size))).is_err() {
            return;
        }
        loop {
            let frame = match timeout_at(self.within(self.plan.between_bytes), body.frame()).await {
                Err(_) => Err(Error::ConnectionReadTimeout),
                Ok(None) => return,
                Ok(Some(Err(error))) => Err(error.into()),
                Ok(Some(Ok(frame))) if self.plan.spent.take(&frame, self.plan.bytes) => Ok(frame),
                Ok(Some(Ok(_))) => Err(Error::HttpResponseBodySize(Some(self.plan.bytes))),
            };
            let last = frame.is_err();
            // A guest that does not read holds its connection no longer than the exchange may take.
            let passed_on = timeout_at(self.deadline, self.frames.send(frame)).await;
            if last || !matches!(passed_on, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn within(&self, bound: Duration) -> Instant {
        self.deadline.min(Instant::now() + bound)
    }

    async fn head(
        &self,
        request: Request<WasiBody>,
        connection: &mut JoinSet<()>,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let connected = self.connected(connection);
        let mut sender = timeout_at(self.within(self.plan.connect), connected)
            .await
            .unwrap_or(Err(Error::ConnectionTimeout))?;
        let (mut parts, body) = request.into_parts();
        // The host stands in its header; the request line has the path alone.
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let body = Sent { body, spent: Arc::clone(&self.plan.spent), most: self.plan.bytes };
        let answered = sender.send_request(Request::from_parts(parts, body));
        timeout_at(self.within(self.plan.first_byte), answered)
            .await
            .map_err(|_| Error::HttpResponseTimeout)?
            .map_err(told_by_guest)
    }

    async fn connected(
        &self,
        connection: &mut JoinSet<()>,
    ) -> Result<http1::SendRequest<Sent>, Error> {
        let stream = self.stream().await?;
        if !self.plan.tls {
            return shake_hands(stream, connection).await;
        }
        let tls = self.network.tls().await.map_err(Error::Tls)?;
        let name = ServerName::try_from(self.plan.host.clone())
            .map_err(|_| Error::HttpRequestUriInvalid)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(Error::Tls)?;
        shake_hands(stream, connection).await
    }

    /// A connection to one of the addresses that were checked.
    async fn stream(&self) -> Result<TcpStream, Error> {
        let unknown =
            |_| Error::DnsError { rcode: Some("no such name".to_owned()), info_code: None };
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((self.plan.host.as_str(), self.plan.port))
                .await
                .map_err(unknown)?
                .collect();
        if !self.plan.any_address && !found.iter().all(|address| is_public(address.ip())) {
            return Err(Error::DestinationIpProhibited);
        }
        let mut last = Error::DestinationNotFound;
        for address in found.into_iter().take(ADDRESSES) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Requests are small and whole; waiting to fill a packet only delays them.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = Error::Connect(error),
            }
        }
        Err(last)
    }
}

async fn shake_hands<S>(
    stream: S,
    connection: &mut JoinSet<()>,
) -> Result<http1::SendRequest<Sent>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
    connection.spawn(async move {
        // Its error comes out where the response is waited for.
        let _ = driver.await;
    });
    Ok(sender)
}

/// An error of sending: where the guest's own body ended it, that error.
fn told_by_guest(error: hyper::Error) -> Error {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(Error::HttpRequestBodySize(most)) = cause.downcast_ref::<Error>() {
            return Error::HttpRequestBodySize(*most);
        }
        source = cause.source();
    }
    Error::Hyper(error)
}
