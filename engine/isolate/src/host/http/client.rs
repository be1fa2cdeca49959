//! One exchange: resolve, check, connect, send, receive. A connection of its own for each request, so that nothing is
//! shared between attempts.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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
use super::network::Turn;
use super::target::Target;
use super::{Answer, Network, Plan, Spent};

/// Largest head of a response.
pub(super) const HEAD_BYTES: usize = 64 << 10;
/// Most addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// Sends a request. Dropping the future, or the one that comes with the response, ends the exchange.
pub(super) async fn send(network: &Arc<Network>, request: Request<WasiBody>, plan: Plan) -> Answer {
    let (head, headed) = oneshot::channel();
    let (frames, receiver) = mpsc::channel(1);
    let end = Arc::<End>::default();
    let spent = Arc::clone(&plan.spent);
    let exchange = Exchange {
        deadline: Instant::now() + plan.whole,
        network: Arc::clone(network),
        plan,
        frames,
        end: Arc::clone(&end),
    };
    // Not by dropping alone: whoever holds what is dropped may have to wait for a guest's thread.
    let unless_ended = async move {
        tokio::select! {
            biased;
            () = spent.ended() => {}
            () = exchange.run(request, head) => {}
        }
    };
    let running = Running(network.spawn(unless_ended).map_err(Error::Connect)?);
    let response = headed.await.map_err(|_| Error::ConnectionTerminated)??;
    let response =
        response.map(|size| Received { receiver, size, end, over: false }.boxed_unsync());
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

/// How a response ended; beside its pieces, so that a guest that reads late learns it too.
#[derive(Debug, Default)]
struct End(Mutex<Option<Result<(), Error>>>);

impl End {
    fn note(&self, end: Result<(), Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Once. Half an answer must not pass for a whole one: where nothing was noted, the exchange's thread broke.
    fn take(&self) -> Result<(), Error> {
        let end = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        end.unwrap_or(Err(Error::HttpResponseIncomplete))
    }
}

/// The body of a response, as it comes.
struct Received {
    receiver: mpsc::Receiver<Frame<Bytes>>,
    size: SizeHint,
    /// Noted before the channel closes.
    end: Arc<End>,
    over: bool,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        if self.over {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => {
                self.over = true;
                Poll::Ready(self.end.take().err().map(Err))
            }
            Poll::Pending => Poll::Pending,
        }
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
        match &polled {
            Poll::Ready(Some(Ok(frame))) if !self.spent.take(counted(frame), self.most) => {
                Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.most)))))
            }
            // A guest that ended in the middle of its body has not finished it, though the library says so: the server
            // must not take what came for the whole request.
            Poll::Ready(None) if self.spent.has_ended() => {
                Poll::Ready(Some(Err(Error::ConnectionTerminated)))
            }
            _ => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of a frame that count: trailers are none of the body.
fn counted(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, Bytes::len) as u64
}

struct Exchange {
    deadline: Instant,
    network: Arc<Network>,
    plan: Plan,
    frames: mpsc::Sender<Frame<Bytes>>,
    end: Arc<End>,
}

impl Exchange {
    async fn run(
        self,
        request: Request<WasiBody>,
        head: oneshot::Sender<Result<Response<SizeHint>, Error>>,
    ) {
        let turn = self.network.turn(&self.plan.turns);
        let Ok(Ok(turn)) = timeout_at(self.deadline, turn).await else {
            let _ = head.send(Err(Error::ConnectionTimeout));
            return;
        };
        // Ends with this: a connection that nobody waits for is closed.
        let mut connection = JoinSet::new();
        let response = match self.head(request, &turn, &mut connection).await {
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
        self.end.note(self.pass_on(&mut body).await);
    }

    /// Passes the pieces of a response on until its end.
    async fn pass_on(&self, body: &mut hyper::body::Incoming) -> Result<(), Error> {
        loop {
            let next = timeout_at(self.within(self.plan.between_bytes), body.frame()).await;
            let Some(frame) = next.map_err(|_| Error::ConnectionReadTimeout)? else {
                return Ok(());
            };
            let frame = frame?;
            if !self.plan.spent.take(counted(&frame), self.plan.bytes) {
                return Err(Error::HttpResponseBodySize(Some(self.plan.bytes)));
            }
            // A guest that does not read holds its connection no longer than the exchange may take.
            let passed_on = timeout_at(self.deadline, self.frames.send(frame)).await;
            // Where nobody receives any more, nobody asks how it ended.
            if passed_on.map_err(|_| Error::ConnectionReadTimeout)?.is_err() {
                return Ok(());
            }
        }
    }

    fn within(&self, bound: Duration) -> Instant {
        self.deadline.min(Instant::now() + bound)
    }

    async fn head(
        &self,
        request: Request<WasiBody>,
        turn: &Turn,
        connection: &mut JoinSet<()>,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let connect = self.within(self.plan.connect);
        let addresses =
            timeout_at(connect, self.addresses(turn)).await.unwrap_or(Err(Error::DnsTimeout))?;
        let mut sender = timeout_at(connect, self.connected(addresses, connection))
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
        addresses: Vec<SocketAddr>,
        connection: &mut JoinSet<()>,
    ) -> Result<http1::SendRequest<Sent>, Error> {
        let stream = stream(addresses).await?;
        if !self.plan.target.tls {
            return shake_hands(stream, connection).await;
        }
        let tls = self.network.tls().await.map_err(Error::Tls)?;
        let name = ServerName::try_from(self.plan.target.host.clone())
            .map_err(|_| Error::HttpRequestUriInvalid)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(Error::Tls)?;
        shake_hands(stream, connection).await
    }

    /// Where the host is. Asked once: what the name says a moment later changes nothing.
    async fn addresses(&self, turn: &Turn) -> Result<Vec<SocketAddr>, Error> {
        let Target { host, port, .. } = &self.plan.target;
        let found = self.network.addresses(host, *port, turn).await.map_err(|error| {
            tracing::debug!(%error, host, "a guest's request found no address");
            Error::DnsError { rcode: Some(error.to_string()), info_code: None }
        })?;
        if !self.plan.any_address && !found.iter().all(|address| is_public(address.ip())) {
            return Err(Error::DestinationIpProhibited);
        }
        Ok(found)
    }
}

/// A connection to one of these.
async fn stream(addresses: Vec<SocketAddr>) -> Result<TcpStream, Error> {
    let mut last = Error::DestinationNotFound;
    for address in addresses.into_iter().take(ADDRESSES) {
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

#[cfg(test)]
mod tests;
