//! Exchanges with servers that behave badly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc as channel};

use http_body_util::Empty;
use tokio::sync::Semaphore;

use super::*;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that does this with each connection, once it has read a head.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), Arc::clone(&serve));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                serve(reader.into_inner());
            });
        }
    });
    port
}

fn plan(host: &str, port: u16) -> Plan {
    Plan {
        target: Target { host: host.to_owned(), port, tls: false },
        any_address: true,
        connect: PATIENCE,
        first_byte: PATIENCE,
        between_bytes: PATIENCE,
        whole: PATIENCE,
        bytes: 1 << 30,
        spent: Arc::default(),
        turns: Arc::new(Semaphore::new(8)),
    }
}

fn get() -> Request<WasiBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get("http://host/").body(body).unwrap()
}

#[tokio::test]
async fn half_an_answer_never_looks_whole_to_a_guest_that_reads_late() {
    let port = server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while stream.write_all(b"5\r\nhello\r\n").is_ok() {}
    });
    let plan = Plan { whole: Duration::from_secs(2), ..plan("127.0.0.1", port) };
    let (response, ended) = send(&Arc::default(), get(), plan).await.unwrap();
    // Until the time is over, so that what comes now was on its way before.
    Pin::from(ended).await.unwrap();
    let mut body = response.into_body();
    let mut frames = 0;
    loop {
        match body.frame().await {
            Some(Ok(_)) => frames += 1,
            Some(Err(error)) => break assert!(matches!(error, Error::ConnectionReadTimeout)),
            None => panic!("what was cut off ended as if it were whole"),
        }
    }
    assert_eq!(frames, 1);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_guest_that_reads_late_learns_which_bound_its_answer_is_over() {
    let port = server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let _ = stream.write_all(b"5\r\nhello\r\n");
        // Read as a piece of its own.
        std::thread::sleep(Duration::from_millis(200));
        let _ = stream.write_all(b"5\r\nhello\r\n");
    });
    let plan = Plan { bytes: 5, ..plan("127.0.0.1", port) };
    let (response, ended) = send(&Arc::default(), get(), plan).await.unwrap();
    Pin::from(ended).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    let over = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(over, Error::HttpResponseBodySize(Some(5))), "{over}");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_whole_answer_is_whole_however_late_it_is_read() {
    let port = server(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
    });
    let (response, ended) = send(&Arc::default(), get(), plan("127.0.0.1", port)).await.unwrap();
    Pin::from(ended).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn the_end_of_an_attempt_closes_its_connections_whoever_still_holds_them() {
    let (said, told) = channel::channel();
    let said = Mutex::new(said);
    let port = server(move |mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        said.lock().unwrap().send(stream.read(&mut [0])).unwrap();
    });
    let plan = plan("127.0.0.1", port);
    let spent = Arc::clone(&plan.spent);
    let network = Arc::default();
    let (response, _ended) = send(&network, get(), plan).await.unwrap();
    spent.end();
    let closed = tokio::task::spawn_blocking(move || told.recv_timeout(PATIENCE)).await.unwrap();
    assert_eq!(closed.unwrap().unwrap(), 0);
    assert!(matches!(response.into_body().collect().await, Err(Error::HttpResponseIncomplete)));
    // Nor does it begin another.
    let late = Plan { spent, ..self::plan("127.0.0.1", port) };
    assert!(matches!(send(&network, get(), late).await, Err(Error::ConnectionTerminated)));
}

#[tokio::test]
async fn no_time_at_all_is_an_error_like_any_other() {
    let silent = server(|mut stream| {
        let _ = stream.read(&mut [0]);
    });
    let halting = server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        let _ = stream.read(&mut [0]);
    });
    let network = Arc::default();
    let (none, short) = (Duration::ZERO, Duration::from_millis(200));
    let plan = |port| Plan { whole: short, ..plan("127.0.0.1", port) };
    // A connection to oneself may be there before the clock has ticked.
    let error = send(&network, get(), Plan { connect: none, ..plan(silent) }).await.err().unwrap();
    assert!(matches!(error, Error::ConnectionTimeout | Error::HttpResponseTimeout), "{error}");
    let hasty = Plan { first_byte: none, whole: PATIENCE, ..plan(silent) };
    let error = send(&network, get(), hasty).await.err().unwrap();
    assert!(matches!(error, Error::HttpResponseTimeout), "{error}");
    send(&network, get(), Plan { whole: none, ..plan(silent) }).await.err().unwrap();
    let patient = Plan { between_bytes: none, whole: PATIENCE, ..plan(halting) };
    let (response, _ended) = send(&network, get(), patient).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error}");
}

#[tokio::test]
async fn an_attempt_has_so_many_connections_and_its_next_request_waits() {
    let (said, told) = channel::channel();
    let said = Mutex::new(said);
    let port = server(move |stream| said.lock().unwrap().send(stream).unwrap());
    let network = Arc::default();
    let turns = Arc::new(Semaphore::new(2));
    let plan = || Plan { turns: Arc::clone(&turns), ..plan("127.0.0.1", port) };
    let asked = |plan| {
        let network = Arc::clone(&network);
        tokio::spawn(async move { send(&network, get(), plan).await.map(|(response, _)| response) })
    };
    let mut all: Vec<_> = (0..2).map(|_| asked(plan())).collect();
    let next = || {
        let told = &told;
        async move {
            loop {
                match told.try_recv() {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        }
    };
    let within = |future| tokio::time::timeout(PATIENCE, future);
    let (mut first, _second) = (within(next()).await.unwrap(), within(next()).await.unwrap());
    let impatient = Plan { whole: Duration::from_millis(200), ..plan() };
    let error = send(&network, get(), impatient).await.err().unwrap();
    assert!(matches!(error, Error::ConnectionTimeout), "{error}");
    all.push(asked(plan()));
    assert!(told.try_recv().is_err());
    first.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    within(next()).await.unwrap();
}

#[tokio::test]
async fn a_lookup_that_hangs_ends_the_request_and_not_its_turn() {
    let (answer, wait) = channel::channel::<()>();
    let wait = Mutex::new(wait);
    let network = Arc::new(Network::resolving(move |_, _| {
        let _ = wait.lock().unwrap().recv();
        Ok(Vec::new())
    }));
    let turns = Arc::new(Semaphore::new(1));
    let plan = || Plan { turns: Arc::clone(&turns), ..plan("slow.example.org", 80) };
    let hasty = Plan { connect: Duration::from_millis(50), ..plan() };
    let error = send(&network, get(), hasty).await.err().unwrap();
    assert!(matches!(error, Error::DnsTimeout), "{error}");
    let hasty = Plan { whole: Duration::from_millis(50), ..plan() };
    let error = send(&network, get(), hasty).await.err().unwrap();
    assert!(matches!(error, Error::ConnectionTimeout), "{error}");
    drop(answer);
    let error = send(&network, get(), plan()).await.err().unwrap();
    assert!(matches!(error, Error::DestinationNotFound), "{error}");
}

/// Somebody who takes every connection, says nothing and hangs up.
struct Door {
    port: u16,
    came: Arc<AtomicUsize>,
}

impl Door {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let came = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&came);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { port, came }
    }

    /// How many came. They are taken in turn: once this has been, everybody before it is counted.
    fn came(self) -> usize {
        let mut last = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        last.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(last.read(&mut [0]).unwrap(), 0);
        self.came.load(Ordering::SeqCst) - 1
    }
}

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THEIRS: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 216, 34));

/// How a request ends whose host's name has these addresses, how often it was asked for them, and how many came to our
/// door of it.
async fn mixed(found: Vec<IpAddr>, any_address: bool) -> (Error, usize, usize) {
    let door = Door::new();
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let network = Arc::new(Network::resolving(move |host, port| {
        assert_eq!(host, "mixed.example.org");
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(found.iter().map(|&address| (address, port).into()).collect())
    }));
    let plan = Plan { any_address, ..plan("mixed.example.org", door.port) };
    let error = send(&network, get(), plan).await.err().unwrap();
    (error, asked.load(Ordering::SeqCst), door.came())
}

#[tokio::test]
async fn one_address_inside_is_enough_to_refuse_and_a_name_is_asked_once() {
    for found in [vec![OURS], vec![THEIRS, OURS], vec![OURS, THEIRS]] {
        let (error, asked, came) = mixed(found, false).await;
        assert!(matches!(error, Error::DestinationIpProhibited), "{error}");
        assert_eq!((asked, came), (1, 0));
    }
}

#[tokio::test]
async fn a_planted_client_that_does_not_look_at_addresses_is_counted_at_the_door() {
    // Nobody else's address comes first: there might be somebody.
    for found in [vec![OURS], vec![OURS, THEIRS]] {
        let (error, asked, came) = mixed(found, true).await;
        assert!(!matches!(error, Error::DestinationIpProhibited), "{error}");
        assert_eq!((asked, came), (1, 1));
    }
    stem_services::count("plants", 1);
}
