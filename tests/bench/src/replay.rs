//! What a worker gets out of Redis beside the very same commands sent by a bare client, and a sandbox beside an inline handler.
//!
//! A worker drains a backlog through a proxy that writes down what it sends. A second server that holds the same backlog then gets
//! these bytes as fast as it takes them, from a client that looks at no answer. So the bare client does all of the commands and
//! nothing else: no sandbox, no decision, no waiting for what an answer says. What the server itself works for a task then is what no
//! worker can save that gives the same guarantees by the same scripts.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use stem_engine::{Backends, Client, SystemClock};
use stem_services::RedisServer;

use crate::attempts::INPUT;
use crate::backlog::left;
use crate::figure::RATIO;
use crate::measure::cpu_seconds;
use crate::process::Process;
use crate::{Row, row};

const TASKS: u32 = 20_000;
const CONCURRENCY: usize = 256;
const PREFETCH: usize = 64;
/// Each kind of worker is measured so often, in turns; the best counts, as everything else on the machine only takes away.
const TURNS: usize = 3;
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let (mut inline, mut isolate, mut bare, mut redis) = (0f64, 0f64, 0f64, f64::MAX);
    for _ in 0..TURNS {
        inline = inline.max(drained("inline").await?);
        isolate = isolate.max(drained("isolate").await?);
        let (rate, cpu) = replayed().await?;
        (bare, redis) = (bare.max(rate), redis.min(cpu));
    }
    let what = "no-op on Redis, AOF everysec, concurrency 256, prefetch 64";
    Ok(vec![
        row(format!("inline {what}"), inline, "tasks/s"),
        row(format!("isolate {what}"), isolate, "tasks/s"),
        row("the same commands as the isolates', from a bare client", bare, "tasks/s"),
        row("the same commands as the isolates': CPU of Redis alone", redis, "µs/task"),
        row("inline over isolate", inline / isolate, RATIO).at_most(1.3),
        row("isolate over the bare client", isolate / bare, RATIO).at_least(0.6),
    ])
}

/// A server with a backlog, and a client that looks at it.
async fn backlog() -> anyhow::Result<(RedisServer, Client)> {
    let server = RedisServer::start();
    let client = Client::new(
        Backends::all_in_one(crate::redis(&server.url()).await?),
        Arc::new(SystemClock),
    );
    crate::endtoend::push(&client, &crate::peer::NAME.parse()?, INPUT, TASKS).await?;
    Ok((server, client))
}

/// Waits until no more than so many are left.
async fn down_to(client: &Client, most: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while left(client).await? > most {
        anyhow::ensure!(Instant::now() < deadline, "a backlog stays");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Tasks/s of a worker, from the first tenth on: before that it starts.
async fn drained(kind: &str) -> anyhow::Result<f64> {
    let (server, client) = backlog().await?;
    let worker = Process::idle_worker(kind, &server.url(), CONCURRENCY, PREFETCH)?;
    let first = u64::from(TASKS / 10 * 9);
    down_to(&client, first).await?;
    let (begin, at) = (left(&client).await?, Instant::now());
    down_to(&client, 0).await?;
    let seconds = at.elapsed().as_secs_f64();
    drop(worker);
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    Ok(begin as f64 / seconds)
}

/// Tasks/s of the bare client with what a worker sent, and the server's CPU for each, in µs.
async fn replayed() -> anyhow::Result<(f64, f64)> {
    let (server, client) = backlog().await?;
    let twin = RedisServer::start();
    copy(&server, &twin)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let proxy = listen(server.port(), Arc::clone(&heard))?;
    let worker = Process::idle_worker(
        "isolate",
        &format!("redis://127.0.0.1:{proxy}/0"),
        CONCURRENCY,
        PREFETCH,
    )?;
    down_to(&client, 0).await?;
    let sent = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    drop(worker);
    let cpu = cpu_seconds(twin.pid())?;
    let seconds = tokio::task::spawn_blocking({
        let port = twin.port();
        move || send(port, &sent)
    })
    .await??
    .as_secs_f64();
    let cpu = cpu_seconds(twin.pid())? - cpu;
    let twin_client =
        Client::new(Backends::all_in_one(crate::redis(&twin.url()).await?), Arc::new(SystemClock));
    let undone = left(&twin_client).await?;
    anyhow::ensure!(undone == 0, "the replayed commands left {undone} of {TASKS} tasks undone");
    Ok((f64::from(TASKS) / seconds, cpu / f64::from(TASKS) * 1e6))
}

/// Makes the twin hold what the server holds.
fn copy(server: &RedisServer, twin: &RedisServer) -> anyhow::Result<()> {
    twin.command(&["REPLICAOF", "127.0.0.1", &server.port().to_string()])?;
    let deadline = Instant::now() + PATIENCE;
    while !twin.command(&["INFO", "replication"])?.contains("master_link_status:up") {
        anyhow::ensure!(Instant::now() < deadline, "a replica does not get its data");
        thread::sleep(Duration::from_millis(20));
    }
    twin.command(&["REPLICAOF", "NO", "ONE"])?;
    Ok(())
}

/// Passes one connection on to the server, and writes down what is sent to it; answers with its port.
fn listen(server: u16, heard: Arc<Mutex<Vec<u8>>>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || -> anyhow::Result<()> {
        // A worker has one connection.
        let (mut client, _) = listener.accept()?;
        let mut redis = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
        for stream in [&client, &redis] {
            stream.set_nodelay(true)?;
        }
        let (mut back, mut answers) = (client.try_clone()?, redis.try_clone()?);
        thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let mut piece = vec![0; 1 << 16];
        loop {
            let count = client.read(&mut piece)?;
            let Some(piece) = piece.get(..count).filter(|piece| !piece.is_empty()) else {
                return Ok(());
            };
            heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(piece);
            redis.write_all(piece)?;
        }
    });
    Ok(port)
}

/// Sends bytes to a server; how long it takes until all of them are answered.
fn send(port: u16, bytes: &[u8]) -> anyhow::Result<Duration> {
    const MARK: &[u8] = b"all-was-answered";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = stream.try_clone()?;
    let at = Instant::now();
    let reader = thread::spawn(move || -> anyhow::Result<Duration> {
        let (mut piece, mut tail) = (vec![0; 1 << 16], Vec::new());
        loop {
            let count = answers.read(&mut piece)?;
            let piece = piece.get(..count).filter(|piece| !piece.is_empty());
            tail.extend_from_slice(piece.context("the server has closed the connection")?);
            if tail.windows(MARK.len()).any(|window| window == MARK) {
                return Ok(at.elapsed());
            }
            tail.drain(..tail.len().saturating_sub(MARK.len()));
        }
    });
    stream.write_all(bytes)?;
    let mark = std::str::from_utf8(MARK)?;
    stream.write_all(format!("*2\r\n$4\r\nECHO\r\n${}\r\n{mark}\r\n", mark.len()).as_bytes())?;
    reader.join().map_err(|_| anyhow::anyhow!("the reader of answers broke"))?
}
