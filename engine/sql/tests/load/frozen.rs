//! A way to a server on which a process seems to stop: from a moment on nothing it says arrives, and nothing is closed. It
//! may also do what poolers do to startup options.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// More packets than any test sends.
const ENDLESS: i64 = i64::MAX / 2;

/// Passes on what comes to its own port.
pub(crate) struct Way {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    /// How many packets may still pass to the server.
    left: AtomicI64,
    frozen: Notify,
    drops_options: AtomicBool,
}

impl Way {
    /// To the server of this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = url.split(['@', '/']).nth(3).unwrap();
        let url = url.replace(server, &listener.local_addr().unwrap().to_string());
        let (server, left) = (server.to_owned(), AtomicI64::new(ENDLESS));
        let shared = Arc::new(Shared {
            server,
            left,
            frozen: Notify::new(),
            drops_options: AtomicBool::new(false),
        });
        let way = Self { url, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, Arc::clone(&shared)));
            }
        });
        way
    }

    /// The same URL by this way.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// So many more packets arrive.
    pub(crate) fn freeze_after(&self, packets: i64) {
        self.shared.left.store(packets, Ordering::SeqCst);
    }

    /// What a new connection asks of its search path is left out.
    pub(crate) fn drop_options(&self) {
        self.shared.drops_options.store(true, Ordering::SeqCst);
    }

    /// Returns when one did not arrive.
    pub(crate) async fn frozen(&self) {
        self.shared.frozen.notified().await;
    }
}

async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(&shared.server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let answers = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        _ = answers => {}
        () = ask(&mut from_client, to_server, &shared) => {}
    }
}

/// Passes on what the client says. Returns when it has gone.
async fn ask(from: &mut OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let mut packet = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut packet).await {
        if shared.drops_options.load(Ordering::SeqCst) {
            blank(&mut packet[..length], b"-c search_path=stem");
        }
        if shared.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            shared.frozen.notify_one();
        } else if to.write_all(&packet[..length]).await.is_err() {
            return;
        }
    }
}

fn blank(packet: &mut [u8], words: &[u8]) {
    if let Some(at) = packet.windows(words.len()).position(|part| part == words) {
        packet[at..at + words.len()].fill(b' ');
    }
}
