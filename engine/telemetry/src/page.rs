//! The page that Prometheus reads. Its thread is its own, and what a reader may cost is bounded: connections, their
//! time, the size of a request.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

/// Where it is.
pub const PATH: &str = "/metrics";
/// More readers than this at once are turned away.
const CONNECTIONS: usize = 16;
/// How long a reader may take to ask.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last, the answer included; it is for one request.
const CONNECTION: Duration = Duration::from_secs(15);
/// The most bytes of a request.
const HEAD_BYTES: usize = 16 << 10;
/// The most headers of a request.
const HEADERS: usize = 64;
/// The pause after a connection that the system did not give.
const PAUSE: Duration = Duration::from_millis(100);

/// A page that is there until it is dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Page {
    /// Listens there, and answers from a thread of its own. Port 0 takes a free one.
    pub(crate) fn open(at: SocketAddr, registry: Registry) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("stem-metrics".to_owned()).spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        served = serve(listener, registry) => if let Err(error) = served {
                            tracing::error!(%error, "the page of metrics is not there any more");
                        },
                        // Also when the page is dropped without a word.
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends between two requests, and those under way end with it.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, registry: Registry) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a reader of the metrics could not be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Dropped, and so closed, where there is no room.
        if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
            let registry = registry.clone();
            tokio::spawn(async move {
                // One that is slow, or breaks, is nobody's problem but its own.
                let _ = tokio::time::timeout(CONNECTION, answer(stream, registry)).await;
                drop(place);
            });
        }
    }
}

async fn answer(stream: TcpStream, registry: Registry) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &registry);
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(method: &Method, path: &str, registry: &Registry) -> Response<Full<Bytes>> {
    let words = |status, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    if path != PATH {
        return words(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = words(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut page = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut page) {
        tracing::error!(%error, "the page of metrics cannot be written");
        return words(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n");
    }
    let mut response = Response::new(Full::new(Bytes::from(page)));
    let text = HeaderValue::from_static(prometheus::TEXT_FORMAT);
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    fn open() -> Page {
        Page::open("127.0.0.1:0".parse().unwrap(), Registry::new()).unwrap()
    }

    fn ask(page: &Page, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(page.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // A request that is too large is answered before it is read.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn it_answers_one_path_and_two_methods_and_closes() {
        let page = open();
        let first = |request: &str| {
            ask(&page, format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(first("GET /metrics"), "HTTP/1.1 200 OK");
        assert_eq!(first("HEAD /metrics"), "HTTP/1.1 200 OK");
        assert_eq!(first("GET /"), "HTTP/1.1 404 Not Found");
        assert_eq!(first("POST /metrics"), "HTTP/1.1 405 Method Not Allowed");
    }

    #[test]
    fn a_request_is_bounded_in_size_and_time_and_others_are_served_meanwhile() {
        let page = open();
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
        assert!(!ask(&page, long.as_bytes()).contains("200 OK"));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000));
        assert!(!ask(&page, many.as_bytes()).contains("200 OK"));
        let begun = Instant::now();
        // All but one of the places are held by readers that never ask.
        let idle: Vec<_> =
            (1..CONNECTIONS).map(|_| TcpStream::connect(page.address()).unwrap()).collect();
        let good = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        assert!(ask(&page, good).contains("200 OK"));
        for mut stream in idle {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut nothing = Vec::new();
            let _ = stream.read_to_end(&mut nothing);
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
        assert!(ask(&page, good).contains("200 OK"));
    }

    #[test]
    fn a_page_that_is_dropped_lets_its_port_go() {
        let page = open();
        let address = page.address();
        drop(page);
        drop(TcpListener::bind(address).unwrap());
    }
}
