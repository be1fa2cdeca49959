//! A web server: every path is a behaviour.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lab::PATIENCE;

/// A web server of this test.
pub(super) struct Server {
    pub(super) port: u16,
    address: SocketAddr,
    seen: Arc<Seen>,
    /// Connections of the test's own.
    markers: AtomicUsize,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    cut: AtomicUsize,
    authorization: Mutex<Vec<String>>,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(super) fn on(listener: TcpListener) -> Self {
        Self::with(listener, answer)
    }

    pub(super) fn with_tls(config: rustls::ServerConfig) -> Self {
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::with(listener, move |stream, seen| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            answer(rustls::StreamOwned::new(connection, stream), seen);
        })
    }

    fn with(
        listener: TcpListener,
        serve: impl Fn(TcpStream, &Seen) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (seen, serve) = (Arc::<Seen>::default(), Arc::new(serve));
        let counted = Arc::clone(&seen);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, serve) = (Arc::clone(&counted), Arc::clone(&serve));
                seen.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(stream.unwrap(), &seen));
            }
        });
        Self { port: address.port(), address, seen, markers: AtomicUsize::new(0) }
    }

    /// How many connections there were. They are taken in turn: once this has made one and was answered, every one
    /// before it is counted. Not for a server with TLS.
    pub(super) fn connections(&self) -> usize {
        let mut marker = TcpStream::connect(self.address).unwrap();
        marker.set_read_timeout(Some(PATIENCE)).unwrap();
        marker.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(marker.read(&mut [0]).unwrap() > 0);
        let markers = self.markers.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.connections.load(Ordering::SeqCst) - markers
    }

    /// Connections that were closed by the other side while an answer was still under way.
    pub(super) fn cut(&self) -> usize {
        self.seen.cut.load(Ordering::SeqCst)
    }

    /// What the header of that name said, request by request.
    pub(super) fn authorization(&self) -> Vec<String> {
        self.seen.authorization.lock().unwrap().clone()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Reads a body to its end, if it comes that far.
fn body_is_whole(stream: &mut impl BufRead) -> bool {
    loop {
        let mut line = String::new();
        let size = match stream.read_line(&mut line) {
            Ok(read) if read > 0 => usize::from_str_radix(line.trim_end(), 16).unwrap(),
            _ => return false,
        };
        // With the line end that follows each piece.
        if stream.read_exact(&mut vec![0; size + 2]).is_err() {
            return false;
        }
        if size == 0 {
            return true;
        }
    }
}

/// Reads one request and answers it, as its path says.
fn answer(stream: impl Read + Write, seen: &Seen) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(read) if read > 0 && line != "\r\n" => head.push(line.trim_end().to_owned()),
            _ => break,
        }
    }
    let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
    for line in &head {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            seen.authorization.lock().unwrap().push(value.to_owned());
        }
    }
    if head.iter().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"))
        && !body_is_whole(&mut stream)
    {
        return;
    }
    let whole = |status: &str, more: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
    };
    let path = path.to_owned();
    let stream = stream.get_mut();
    let written = match path.as_str() {
        "/redirect" => {
            stream.write_all(whole("302 Found", "location: http://127.0.0.1:1/\r\n", "").as_bytes())
        }
        "/big" => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 20 << 20);
            let piece = vec![b'x'; 64 << 10];
            stream
                .write_all(head.as_bytes())
                .and_then(|()| (0..20 << 4).try_for_each(|_| stream.write_all(&piece)))
        }
        "/slow" => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).and_then(|()| {
                (0..3_000).try_for_each(|_| {
                    std::thread::sleep(Duration::from_millis(20));
                    stream.write_all(b"1\r\nx\r\n").and_then(|()| stream.flush())
                })
            })
        }
        "/silent" => {
            let mut byte = [0];
            stream.read(&mut byte).and_then(|read| {
                if read == 0 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
            })
        }
        "/broken" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
        "/nonsense" => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "/head" => {
            let more = format!("x-long: {}\r\n", "x".repeat(200 << 10));
            stream.write_all(whole("200 OK", &more, "").as_bytes())
        }
        _ => stream.write_all(whole("200 OK", "", "hello").as_bytes()),
    };
    if written.and_then(|()| stream.flush()).is_err() {
        seen.cut.fetch_add(1, Ordering::SeqCst);
    }
}
