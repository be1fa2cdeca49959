//! What the messages of one task cost on an idle machine when nothing else is done: what lies between that and a task's
//! latency on Redis is computing, of scripts, client and worker.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use stem_services::RedisServer;

/// Between two tasks, as in the figure beside it.
const REST: Duration = Duration::from_millis(5);

/// One connection, on which bare commands go out and whatever comes back is read.
struct Line(TcpStream);

impl Line {
    fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(stream))
    }

    fn hear(&mut self) -> anyhow::Result<()> {
        let mut some = [0; 512];
        let count = self.0.read(&mut some)?;
        anyhow::ensure!(count > 0, "the server hung up");
        anyhow::ensure!(some[0] != b'-', "{}", String::from_utf8_lossy(&some[..count]));
        Ok(())
    }

    fn call(&mut self, command: &str) -> anyhow::Result<()> {
        self.0.write_all(command.as_bytes())?;
        self.hear()
    }
}

/// Milliseconds of so many rounds: a producer stores and is answered, a worker hears of it, takes it, ends it, and the
/// producer hears of that. Two threads, blocking sockets, one short command where Stem has a script.
pub(crate) fn rounds(server: &RedisServer, count: usize) -> anyhow::Result<Vec<f64>> {
    let url = server.url();
    let address =
        url.trim_start_matches("redis://").split('/').next().unwrap_or_default().to_owned();
    let (mut bell, mut work) = (Line::open(&address)?, Line::open(&address)?);
    bell.call("SUBSCRIBE floor-bell\r\n")?;
    let worker = thread::spawn(move || {
        for _ in 0..count {
            bell.hear()?;
            work.call("LPOP floor-list\r\n")?;
            work.call("PUBLISH floor-tell x\r\n")?;
        }
        anyhow::Ok(())
    });
    let (mut told, mut produce) = (Line::open(&address)?, Line::open(&address)?);
    told.call("SUBSCRIBE floor-tell\r\n")?;
    let script = "EVAL \"redis.call('RPUSH','floor-list','x') return redis.call('PUBLISH','floor-bell','x')\" 0\r\n";
    let mut took = Vec::new();
    for _ in 0..count {
        thread::sleep(REST);
        let at = Instant::now();
        produce.call(script)?;
        told.hear()?;
        took.push(at.elapsed().as_secs_f64() * 1e3);
    }
    worker.join().ok().context("the bare worker panicked")??;
    Ok(took)
}
