//! A real worker with its log, and what is asked of it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::Place;

/// Nothing that is waited for here takes longer, also on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(2);

/// Looks until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A worker; killed when dropped.
pub(crate) struct Worker {
    child: Child,
    /// What it said when it was ready.
    pub(crate) ready: Value,
    log: PathBuf,
}

impl Worker {
    #[track_caller]
    pub(crate) fn start(place: &Place, environment: &[(&str, &str)], args: &[&str]) -> Self {
        let log = place.path(&format!("log-{}", args.join("-").replace('/', "_")));
        let mut all = vec!["worker", "start", "--json"];
        all.extend(args);
        let mut child = place
            .command(&all)
            .envs(environment.iter().copied())
            .stderr(Stdio::from(File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line}\n{}", said()));
        Self { child, ready, log }
    }

    /// One whose standard output and standard error are these; what it says there, nobody knows.
    pub(crate) fn start_unheard(place: &Place, args: &[&str], [out, err]: [Stdio; 2]) -> Self {
        let mut all = vec!["worker", "start"];
        all.extend(args);
        let child = place.command(&all).stdout(out).stderr(err).spawn().unwrap();
        Self { child, ready: Value::Null, log: PathBuf::new() }
    }

    /// Everything it has said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// With which arguments it and every child of its run, as everybody on this machine may read.
    pub(crate) fn command_lines(&self) -> String {
        let number = self.child.id();
        let of_threads = std::fs::read_dir(format!("/proc/{number}/task")).unwrap().flatten();
        let children = of_threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
            .collect::<String>();
        let own = number.to_string();
        let numbers = children.split_whitespace().chain([own.as_str()]);
        let lines =
            numbers.filter_map(|number| std::fs::read(format!("/proc/{number}/cmdline")).ok());
        String::from_utf8_lossy(&lines.collect::<Vec<_>>().join(&b'\n')).replace('\0', " ")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Where its page of metrics is.
    pub(crate) fn address(&self) -> SocketAddr {
        let url = self.ready["metrics"].as_str().expect("it has a page");
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
        address.unwrap().parse().unwrap()
    }

    /// The page.
    #[track_caller]
    pub(crate) fn page(&self) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: worker\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{head}");
        page.to_owned()
    }

    /// Waits until a line of the page begins so and its number is above 0.
    #[track_caller]
    pub(crate) fn until_counted(&self, beginning: &str) {
        until(&format!("{beginning} in\n{}", self.page()), || {
            let page = self.page();
            let line = page.lines().find(|line| line.starts_with(beginning))?;
            let number: f64 = line.rsplit(' ').next()?.parse().ok()?;
            (number > 0.0).then_some(())
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        until("the worker's end", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
