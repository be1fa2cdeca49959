//! What is in a PID file: the number on a line of its own, as every tool expects it, and below it what makes it certain.

use std::collections::BTreeMap;
use std::time::SystemTime;

use stem_core::control::WorkerState;
use stem_core::id::{Namespace, WorkerId};
use stem_core::text::printable;
use stem_core::time::Timestamp;

use crate::nodes::process::Identity;

/// The second line. A later form that older programs must not read has another number.
const FORM: &str = "stem-worker 1";
/// What is wrong with an empty file.
pub(super) const EMPTY: &str = "it is empty";

/// Whose file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The node, for a worker that was started as one.
    pub node: Option<WorkerId>,
    /// The node's place in its list, from 1.
    pub index: Option<u32>,
    /// The machine's name.
    pub host: String,
    /// The worker's id, as it is in heartbeats and replies.
    pub worker: WorkerId,
    /// The scope in which that id is unique.
    pub namespace: Namespace,
}

impl About {
    /// For people.
    pub fn name(&self) -> String {
        match &self.node {
            Some(node) => format!("node {node}"),
            None => format!("worker {}", self.worker),
        }
    }
}

/// Everything in a PID file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The process.
    pub identity: Identity,
    /// Whose file it is.
    pub about: About,
    /// When the file was written.
    pub since: Timestamp,
    /// What the worker is at: starting, running (it takes tasks) or draining.
    pub state: WorkerState,
}

impl Record {
    pub(super) fn new(identity: Identity, about: About) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = Timestamp::from_unix_millis(since.as_millis().try_into().unwrap_or(i64::MAX));
        Self { identity, about, since, state: WorkerState::Starting }
    }

    /// The file's text. The state is padded to the longest, so that every state gives the same length.
    pub(super) fn text(&self) -> String {
        let Self { identity, about, since, state } = self;
        let mut lines = vec![identity.pid.to_string(), FORM.to_owned()];
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            lines.push(format!("{key} {value}"));
        };
        if let Some(node) = &about.node {
            line("node", node);
        }
        if let Some(index) = &about.index {
            line("index", index);
        }
        line("host", &about.host);
        line("worker", &about.worker);
        line("namespace", &about.namespace);
        line("start-ticks", &identity.start_ticks);
        line("boot", &identity.boot);
        line("since", since);
        line("state", &format!("{:<8}", state.as_str()));
        lines.join("\n") + "\n"
    }
}

/// What the bytes of a file are.
#[derive(Debug)]
pub(super) enum Content {
    /// What a worker writes.
    Record(Box<Record>),
    /// A process number and nothing else.
    Number(u32),
    /// Something else; says what is wrong with it.
    Other(String),
}

impl Content {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self::read(bytes).unwrap_or_else(Self::Other)
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err(EMPTY.to_owned());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let digits = first.bytes().all(|b| b.is_ascii_digit()) && !first.is_empty();
        let pid = first.parse().ok().filter(|pid| digits && (1..=i32::MAX as u32).contains(pid));
        let pid: u32 = pid.ok_or_else(|| {
            format!(
                "its first line is {:?}, which is not the number of a process",
                printable(first, 40)
            )
        })?;
        match lines.next() {
            None => return Ok(Self::Number(pid)),
            Some(FORM) => {}
            Some(other) => {
                return Err(format!("its second line is {:?}, not {FORM:?}", printable(other, 40)));
            }
        }
        let fields: BTreeMap<&str, &str> = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key, value.trim_end()))
            .collect();
        let odd = |key: &str| format!("its line {key:?} is missing or odd");
        let field = |key: &str| fields.get(key).copied();
        let node =
            field("node").map(|node| WorkerId::new(node).map_err(|_| odd("node"))).transpose()?;
        let index =
            field("index").map(|index| index.parse().map_err(|_| odd("index"))).transpose()?;
        let about = About {
            node,
            index,
            host: field("host").map(|host| printable(host, 100)).ok_or_else(|| odd("host"))?,
            worker: parse(field("worker")).ok_or_else(|| odd("worker"))?,
            namespace: parse(field("namespace")).ok_or_else(|| odd("namespace"))?,
        };
        let identity = Identity {
            pid,
            start_ticks: parse(field("start-ticks")).ok_or_else(|| odd("start-ticks"))?,
            boot: parse(field("boot")).ok_or_else(|| odd("boot"))?,
        };
        let state = [WorkerState::Starting, WorkerState::Running, WorkerState::Draining]
            .into_iter()
            .find(|state| field("state") == Some(state.as_str()))
            .ok_or_else(|| odd("state"))?;
        let since = parse(field("since")).ok_or_else(|| odd("since"))?;
        Ok(Self::Record(Box::new(Record { identity, about, since, state })))
    }
}

fn parse<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text?.parse().ok()
}
