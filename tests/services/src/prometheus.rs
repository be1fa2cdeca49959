//! [`PrometheusServer`]: a private Prometheus.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::programs;
use crate::server::{self, Server};

/// No answer takes longer.
const ANSWER: Duration = Duration::from_secs(30);

/// What it scrapes is a file that it reads again by itself.
const CONFIG: &str = r"
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
scrape_configs:
  - job_name: stem
    file_sd_configs:
      - files: [targets.json]
        refresh_interval: 1s
";

/// A private Prometheus on a port of 127.0.0.1, in a directory of its own; gone when dropped.
#[derive(Debug)]
pub struct PrometheusServer {
    server: Server,
}

impl PrometheusServer {
    /// Starts one that scrapes nothing yet.
    #[track_caller]
    pub fn start() -> Self {
        let start = || {
            let server = Self { server: Server::new("prometheus")? };
            fs::write(server.server.directory().join("prometheus.yml"), CONFIG)?;
            server.write_targets(&[])?;
            server.launch()?;
            Ok(server)
        };
        server::on_a_free_port(start).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Scrapes these from now on, twice a second, at `/metrics`.
    #[track_caller]
    pub fn scrape(&self, targets: &[SocketAddr]) {
        self.write_targets(targets).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The answer of its HTTP interface to a query, as JSON.
    pub fn query(&self, query: &str) -> Result<String> {
        let escaped = query.bytes().fold(String::new(), |text, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text + &char::from(byte).to_string(),
            _ => format!("{text}%{byte:02X}"),
        });
        get(self.server.port(), &format!("/api/v1/query?query={escaped}"))
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// What `promtool check metrics` finds wrong with a page; empty if nothing.
    #[track_caller]
    pub fn faults_of(page: &str) -> String {
        let check = || -> Result<String> {
            let mut tool = Command::new(programs::prometheus("promtool")?)
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            tool.stdin.take().context("it was asked for")?.write_all(page.as_bytes())?;
            let output = tool.wait_with_output()?;
            let said = [output.stdout, output.stderr].concat();
            ensure!(
                output.status.success() || !said.is_empty(),
                "promtool ended with {}",
                output.status
            );
            Ok(String::from_utf8_lossy(&said).into_owned())
        };
        check().unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn write_targets(&self, targets: &[SocketAddr]) -> Result<()> {
        let quoted: Vec<String> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let directory = self.server.directory();
        let new = directory.join("targets.new");
        fs::write(&new, format!("[{{\"targets\": [{}]}}]", quoted.join(", ")))?;
        Ok(fs::rename(new, directory.join("targets.json"))?)
    }

    fn launch(&self) -> Result<()> {
        let mut command = Command::new(programs::prometheus("prometheus")?);
        command
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.server.port()));
        let port = self.server.port();
        self.server.launch(command, |_| get(port, "/-/ready").is_ok())
    }
}

/// One request, on a connection of its own. By HTTP/1.0 the answer ends with the connection.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "prometheus answers {status}: {body}");
    Ok(body.to_owned())
}
