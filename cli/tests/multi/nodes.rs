//! Nodes in a place of their own, all of which are gone when it is dropped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::support::{Place, Ran};

/// Far longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Nodes {
    pub(crate) place: Place,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Self::of(Place::new())
    }

    /// Nodes of a program with a bug, as [`Place::with_planted`] takes it.
    pub(crate) fn with_planted(around: &'static str) -> Self {
        Self::of(Place::with_planted(around))
    }

    fn of(place: Place) -> Self {
        place.write("modules/quick.wasm", super::support::command_module());
        place.write("modules/spin.wasm", super::support::talking_spin());
        Self { place }
    }

    /// `stem worker multi ACTION WORDS`, with the files of nodes in this place.
    pub(crate) fn command(&self, action: &str, words: &[&str]) -> Command {
        let mut all = vec!["worker", "multi", action, "--pidfile", "run/%n.pid"];
        if ["start", "restart", "names"].contains(&action) && !words.contains(&"--foreground") {
            all.extend(["--logfile", "log/%n.log"]);
        }
        all.extend(words);
        self.place.command(&all)
    }

    pub(crate) fn multi(&self, action: &str, words: &[&str]) -> Ran {
        Ran::of(self.command(action, words).output().unwrap())
    }

    /// Starts nodes that know the tasks `quick` and `spin`.
    pub(crate) fn start(&self, nodes: &[&str]) {
        let mut words = nodes.to_vec();
        words.extend(["--timeout", "2m", "--", "--modules", "modules", "--concurrency", "2"]);
        self.multi("start", &words).expect(0);
    }

    /// The document of an action that must end with this code.
    pub(crate) fn document(&self, action: &str, words: &[&str], code: i32) -> Value {
        let mut all = vec!["--json"];
        all.extend(words);
        let document = self.multi(action, &all).expect(code).json();
        assert_eq!(document["action"], action);
        document
    }

    /// A word about each node: what `key` says, in the order of the document.
    pub(crate) fn each(document: &Value, key: &str) -> Vec<String> {
        let nodes = document["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node[key].to_string().trim_matches('"').to_owned()).collect()
    }

    pub(crate) fn pidfile(&self, node: &str) -> PathBuf {
        self.place.path(&format!("run/{node}.pid"))
    }

    pub(crate) fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.place.path(&format!("log/{node}.log"))).unwrap_or_default()
    }

    /// What the node's PID file says of itself under this key.
    pub(crate) fn told(&self, node: &str, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.pidfile(node)).ok()?;
        let mut lines = text.lines();
        if key == "pid" {
            return lines.next().map(str::to_owned);
        }
        lines.find_map(|line| {
            line.strip_prefix(key)?.strip_prefix(' ').map(|value| value.trim().to_owned())
        })
    }

    pub(crate) fn pid(&self, node: &str) -> Pid {
        pid(self.told(node, "pid").unwrap().parse().unwrap())
    }

    /// The processes that run in this place, by the state directory in their environment.
    pub(crate) fn workers(&self) -> Vec<Pid> {
        let mark = format!("XDG_STATE_HOME={}", self.place.path("state").display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        numbers
            .filter(|number| {
                let environment =
                    std::fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes())
            })
            .filter_map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for pid in self.workers() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

pub(crate) fn pid(number: i32) -> Pid {
    Pid::from_raw(number).unwrap()
}

pub(crate) fn lives(pid: Pid) -> bool {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with('Z'))
}

/// Waits until it is so; a bound that only a hang reaches.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says each line back, and each signal that it can get, also those that do nothing to others.
const BYSTANDER: &str = r#"
some='1 2 3 4 5 6 7 8 10 11 12 13 14 15 16 17 18'
trap 'echo signalled' $some 20 21 22 23 24 25 26 27 28 29 30 31
while read -r line; do echo "$line"; done
"#;

/// A process of somebody else, which must outlive what is done here and never hear of it. It ends with its pipe.
pub(crate) struct Bystander {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    asked: u32,
}

impl Bystander {
    pub(crate) fn new() -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", BYSTANDER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| said.send(line))
        });
        let mut new = Self { child, input, lines, asked: 0 };
        // From here on it hears signals.
        new.is_unharmed();
        new
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What was done to it since it was last asked. A signal that was sent before takes effect before it can answer, so
    /// an answer proves that there was none.
    pub(crate) fn harm(&mut self) -> Option<String> {
        self.asked += 1;
        let question = format!("question {}", self.asked);
        // To one that is gone this fails, and it does not answer either.
        let _ = writeln!(self.input, "{question}");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) if line == question => return None,
                Ok(line) => return Some(line),
                Err(RecvTimeoutError::Disconnected) => return Some("killed".to_owned()),
                Err(RecvTimeoutError::Timeout) if self.is_stopped() => {
                    return Some("stopped".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Some("mute".to_owned())
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, after)| after.starts_with(['T', 't']))
    }

    #[track_caller]
    pub(crate) fn is_unharmed(&mut self) {
        let harm = self.harm();
        assert!(harm.is_none(), "the bystander was signalled: {harm:?}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
