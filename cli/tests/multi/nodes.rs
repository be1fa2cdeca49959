//! Nodes in a place of their own, all of which are gone when it is dropped.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
        let place = Place::new();
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

/// A process of somebody else, which must outlive what is done here.
pub(crate) struct Bystander(pub(crate) Child);

impl Bystander {
    pub(crate) fn new() -> Self {
        Self(Command::new("sleep").arg("3600").stdout(Stdio::null()).spawn().unwrap())
    }

    #[track_caller]
    pub(crate) fn is_unharmed(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the bystander was signalled");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
