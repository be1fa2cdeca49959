//! [`Proxy`]: a bad network between a server and those who use it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::server::random;

/// Between two looks at what the network is like, where nothing arrives.
const LOOK: Duration = Duration::from_millis(20);
/// What goes on at once.
const CHUNK: usize = 16 << 10;
/// A torn connection takes so many bytes each way, at most.
const TORN: u64 = 20_000;

/// What the network is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// There is none to speak of.
    #[default]
    Good,
    /// Each piece takes so long, each way.
    Slow(Duration),
    /// Nothing arrives, and nobody is told. What was sent arrives later.
    Silent,
    /// Each connection breaks in the middle of something, also of an answer.
    Torn,
    /// Clients are told that their connections are over, and new ones lead nowhere. The server is told nothing: to it those
    /// it had are idle, until the network is another.
    HalfClosed,
}

/// Passes on what comes to a port of its own. Made for one server, which may be restarted; gone when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    network: Mutex<Network>,
    over: AtomicBool,
    /// How often the network was changed.
    changes: AtomicU64,
}

impl Shared {
    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Network {
        *self.network()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits for as long as nothing arrives.
    fn until_it_arrives(&self) {
        while self.now() == Network::Silent && !self.is_over() {
            thread::sleep(LOOK);
        }
    }
}

impl Proxy {
    /// Before the server on this port of 127.0.0.1.
    #[track_caller]
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            network: Mutex::default(),
            over: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        });
        let of_all = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if of_all.is_over() {
                    return;
                }
                let shared = Arc::clone(&of_all);
                if let Ok(client) = client {
                    thread::spawn(move || connect(&shared, &client, server));
                }
            }
        });
        Self { port, shared }
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes it another, for the connections there are and for new ones.
    pub fn set(&self, network: Network) {
        *self.shared.network() = network;
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the one that listens.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn connect(shared: &Arc<Shared>, client: &TcpStream, server: u16) {
    shared.until_it_arrives();
    if shared.now() == Network::HalfClosed {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { return };
    let pair = [(client, &server), (&server, client)].map(|(from, to)| {
        // Small pieces are most of what there is.
        let ready = from.set_nodelay(true).and_then(|()| from.set_read_timeout(Some(LOOK)));
        ready.and_then(|()| Ok((from.try_clone()?, to.try_clone()?)))
    });
    let [Ok(there), Ok(back)] = pair else { return };
    let of_there = Arc::clone(shared);
    let there = thread::spawn(move || pass(&of_there, there, Side::Client));
    pass(shared, back, Side::Server);
    let _ = there.join();
}

/// Whose words are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Passes one direction on until either end is gone or the network takes it.
fn pass(shared: &Shared, (mut from, mut to): (TcpStream, TcpStream), side: Side) {
    let mut bytes = vec![0; CHUNK];
    let mut left = random() % TORN;
    loop {
        if shared.is_over() {
            break;
        }
        match shared.now() {
            Network::HalfClosed => return half_close(shared, &from, &to, side),
            Network::Silent => shared.until_it_arrives(),
            Network::Good | Network::Slow(_) | Network::Torn => {}
        }
        let count = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        let mut piece = &bytes[..count];
        match shared.now() {
            Network::Slow(time) => thread::sleep(time),
            Network::Silent => shared.until_it_arrives(),
            Network::Torn => {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                piece = &piece[..count.min(most)];
                left = left.saturating_sub(count as u64);
            }
            Network::Good | Network::HalfClosed => {}
        }
        if to.write_all(piece).is_err() || piece.len() < count {
            break;
        }
    }
    if shared.now() == Network::HalfClosed {
        return half_close(shared, &from, &to, side);
    }
    // Either end may be gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Tells the client that it is over, and the server nothing until the network is another.
fn half_close(shared: &Shared, from: &TcpStream, to: &TcpStream, side: Side) {
    let (client, server) = if side == Side::Client { (from, to) } else { (to, from) };
    let _ = client.shutdown(Shutdown::Both);
    let before = shared.changes.load(Ordering::Relaxed);
    while shared.changes.load(Ordering::Relaxed) == before && !shared.is_over() {
        thread::sleep(LOOK);
    }
    let _ = server.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A server that says back what it hears, and a client behind a proxy.
    fn echo() -> (Proxy, impl Fn() -> TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut (&stream), &mut (&stream));
                });
            }
        });
        let port = proxy.port();
        let client = move || {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream
        };
        (proxy, client)
    }

    fn say(mut stream: &TcpStream) {
        stream.write_all(b"word").unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"word");
    }

    #[test]
    fn a_good_network_passes_everything_on_and_a_slow_one_later() {
        let (proxy, client) = echo();
        let stream = client();
        say(&stream);
        proxy.set(Network::Slow(Duration::from_millis(100)));
        let start = Instant::now();
        say(&stream);
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        proxy.set(Network::Good);
        let mut large = vec![7; 1 << 20];
        let writer = stream.try_clone().unwrap();
        let sent = large.clone();
        let sending = thread::spawn(move || (&writer).write_all(&sent).unwrap());
        (&stream).read_exact(&mut large).unwrap();
        sending.join().unwrap();
        assert!(large.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn through_a_silent_network_words_come_when_it_is_over() {
        let (proxy, client) = echo();
        let stream = client();
        say(&stream);
        proxy.set(Network::Silent);
        (&stream).write_all(b"word").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut bytes = [0; 4];
        let error = (&stream).read_exact(&mut bytes).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        proxy.set(Network::Good);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        (&stream).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"word");
    }

    #[test]
    fn a_torn_connection_breaks_and_a_half_closed_one_is_over_for_its_client() {
        let (proxy, client) = echo();
        proxy.set(Network::Torn);
        let stream = client();
        let mut passed = 0;
        let mut bytes = [0; 1000];
        while (&stream).write_all(&[1; 1000]).is_ok()
            && let Ok(count) = (&stream).read(&mut bytes)
            && count > 0
        {
            passed += count;
        }
        assert!(passed < 2 * 20_000, "{passed}");
        proxy.set(Network::Good);
        let stream = client();
        say(&stream);
        proxy.set(Network::HalfClosed);
        assert_eq!((&stream).read(&mut bytes).unwrap(), 0);
        proxy.set(Network::Good);
        say(&client());
    }
}
