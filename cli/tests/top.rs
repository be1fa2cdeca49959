//! `stem top` in a real terminal, that of tmux, beside real workers.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stem_services::RedisServer;
use support::Place;

/// For what takes a second on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(90);

/// Computes for ever and never looks up.
const SPIN: &str = r#"(module (memory (export "memory") 1)
    (func (export "stem_run") (result i32) (loop (br 0)) (i32.const 0)))"#;

/// Says how far it is, in words that would clear the screen, and stays there.
const TILES: &str = r#"(module
    (import "stem0" "progress" (func $progress (param i32 i32 i32) (result i32)))
    (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "tile 45\1b[2J of 100")
    (func (export "stem_run") (result i32)
        (drop (call $progress (i32.const 450) (i32.const 0) (i32.const 18)))
        (loop $again (br_if $again (i32.eqz (call $sleep (i64.const 50)))))
        (i32.const 1)))"#;

/// A worker as a process, killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(place: &Place, broker: Option<&str>, name: &str) -> Self {
        place.write("modules/spin.wasm", wat::parse_str(SPIN).unwrap());
        place.write("modules/tiles.wasm", wat::parse_str(TILES).unwrap());
        let words =
            ["worker", "start", "--name", name, "--modules", "modules", "--concurrency", "4"];
        let mut command = place.command(&words);
        command.stderr(std::process::Stdio::null());
        let mut child = command.envs(broker.map(|url| ("STEM_BROKER_URL", url))).spawn().unwrap();
        // Its first line says that it is ready.
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("ready"), "{said}");
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal of this size with the view in it, under a shell that says how it ended.
struct Terminal<'a> {
    place: &'a Place,
    /// Where its server listens; one that is on its way out would take the next one's orders.
    socket: PathBuf,
    size: (u16, u16),
}

impl<'a> Terminal<'a> {
    fn open(place: &'a Place, size: (u16, u16), env: &[(&str, &str)], words: &[&str]) -> Self {
        static OPENED: AtomicU32 = AtomicU32::new(0);
        let socket = place.path(&format!("tmux-{}", OPENED.fetch_add(1, Ordering::Relaxed)));
        let terminal = Self { place, socket, size };
        place.write("tmux.conf", "set -g status off\nset -g escape-time 0\n");
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let view = place.command(words);
        let mut start = terminal.tmux();
        start.args(["new-session", "-d", "-x", &width, "-y", &height]);
        start.args(["sh", "-c", "\"$0\" \"$@\"; echo left with $?; read line"]);
        start.arg(view.get_program()).args(view.get_args()).envs(env.iter().copied());
        let started = start.output().unwrap_or_else(|error| {
            panic!("tmux cannot be started: {error} (hint: `cargo xtask setup` installs it)")
        });
        assert!(started.status.success(), "{started:?}");
        assert_eq!(terminal.ask("#{pane_width}x#{pane_height}"), format!("{width}x{height}"));
        terminal
    }

    /// With a server of its own, and the environment of the commands beside it.
    fn tmux(&self) -> Command {
        let view = self.place.command(&[]);
        let mut command = Command::new("tmux");
        command.env_clear().envs(view.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LC_ALL", "C.UTF-8").current_dir(self.place.path(""));
        command.arg("-u").arg("-S").arg(&self.socket).arg("-f").arg(self.place.path("tmux.conf"));
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        let output = self.tmux().args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        output
    }

    fn ask(&self, format: &str) -> String {
        let answer = self.run(&["display-message", "-p", format]).stdout;
        String::from_utf8(answer).unwrap().trim_end().to_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn text(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    fn screen(&self) -> String {
        let screen = String::from_utf8(self.run(&["capture-pane", "-p"]).stdout).unwrap();
        let widest = screen.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(widest <= usize::from(self.size.0), "{screen}");
        screen
    }

    /// Waits until the screen is so, and gives it.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let since = Instant::now();
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(since.elapsed() < PATIENCE, "never {what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn until_says(&self, words: &str) -> String {
        self.until(words, |screen| has(screen, words))
    }

    /// The view itself, below the shell.
    fn pid(&self) -> Pid {
        let shell = self.ask("#{pane_pid}");
        let children =
            std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        Pid::from_raw(children.trim().parse().unwrap()).unwrap()
    }

    /// It ended by itself, and the terminal is as it was.
    #[track_caller]
    fn until_left(&self, code: i32) -> String {
        let screen = self.until_says(&format!("left with {code}"));
        assert_eq!(self.ask("#{alternate_on}"), "0", "{screen}");
        // What is typed is shown again.
        self.text("typed");
        self.until_says("typed")
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
    }
}

/// Whether it says so, in one line or over the end of one.
fn has(screen: &str, words: &str) -> bool {
    screen.contains(words)
        || screen.split_whitespace().collect::<Vec<_>>().join(" ").contains(words)
}

/// The line that has this in it.
#[track_caller]
fn line<'a>(screen: &'a str, words: &str) -> &'a str {
    screen
        .lines()
        .find(|line| line.contains(words))
        .unwrap_or_else(|| panic!("{words:?} is not in\n{screen}"))
}

fn tail(id: &str) -> &str {
    &id[id.len() - 12..]
}

/// As it stands in the table, and nowhere else.
fn tail_cut(id: &str) -> String {
    format!("…{}", tail(id))
}

fn enqueue(place: &Place, env: &[(&str, &str)], words: &[&str]) -> String {
    let ran = place.stem_env(env, &[&["task", "enqueue"], words].concat()).expect(0);
    ran.stdout.trim().to_owned()
}

fn shown(place: &Place, id: &str) -> Value {
    place.stem(&["task", "show", id, "--json"]).expect(0).json()
}

#[track_caller]
fn until_state(place: &Place, id: &str, state: &str) -> Value {
    let since = Instant::now();
    loop {
        let task = shown(place, id);
        if task["state"] == state {
            return task;
        }
        assert!(since.elapsed() < PATIENCE, "never {state}: {task}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where the CPU time of a task stands, in milliseconds.
fn cpu(line: &str) -> Option<f64> {
    line.split_whitespace().rev().find_map(|word| word.strip_suffix("ms")?.parse().ok())
}

#[test]
fn an_operator_terminates_pauses_and_drains_by_keys_at_80_by_24() {
    let place = Place::new();
    let mut worker = Worker::start(&place, None, "alpha");
    let spin = enqueue(&place, &[], &["spin"]);
    let other = enqueue(&place, &[], &["spin"]);
    let tiles = enqueue(&place, &[], &["tiles"]);
    enqueue(&place, &[], &["report", "--queue", "reports"]);
    let top = Terminal::open(&place, (80, 24), &[], &["top", "--interval", "250ms"]);

    let screen = top.until("all is seen", |screen| {
        [&spin, &other, &tiles].iter().all(|id| screen.contains(tail(id)))
            && screen.contains("45%")
            && cpu(line(screen, tail(&spin))).is_some_and(|cpu| cpu > 50.0)
            && screen.contains(" MiB")
    });
    assert!(line(&screen, tail(&tiles)).ends_with("[##----]  45%"), "{screen}");
    assert!(line(&screen, tail(&spin)).contains(" spin ") && screen.contains("> …"), "{screen}");
    assert!(line(&screen, "alpha ").contains("running") && line(&screen, "alpha ").contains("3/4"));
    let waiting: Vec<&str> = line(&screen, " reports ").split_whitespace().collect();
    assert_eq!(waiting, ["reports", "not", "served", "1", "0", "0", "0", "1"], "{screen}");
    assert!(
        screen.starts_with("stem top  namespace stem  sqlite://") && screen.contains("every 250ms")
    );
    assert!(
        screen.contains("t  terminate")
            && screen.contains("?  help")
            && screen.contains("q  leave")
    );

    // Only the one that is meant, by the end of its id.
    top.text("/");
    top.text(tail(&spin));
    top.keys(&["Enter"]);
    top.until("only it is shown", |screen| {
        !screen.contains(tail(&other)) && screen.contains("TASKS 1 ")
    });
    top.text("t");
    let question = top.until_says("Enter does it.");
    for words in
        [spin.as_str(), "spin, attempt 1, running for", "worker alpha, queue default", "by force"]
    {
        assert!(question.contains(words), "{words:?} is not in\n{question}");
    }
    // A question does nothing by itself.
    top.keys(&["Escape"]);
    top.until("the question is gone", |screen| !screen.contains("Enter does it."));
    assert_eq!(shown(&place, &spin)["state"], "running");
    top.text("t");
    top.until_says("Enter does it.");
    top.text("wrong input");
    top.until_says("reason   wrong input_");
    top.keys(&["Enter"]);
    let told = top.until_says("acknowledged by alpha");
    assert!(has(&told, "stored; preempted on alpha after"), "{told}");
    let task = until_state(&place, &spin, "revoked");
    let end = &task["revocation"];
    assert_eq!(
        (&end["reason"], &end["how"]),
        (&json!("wrong input"), &json!("preempted")),
        "{task}"
    );
    assert!(end["requestedBy"].as_str().is_some_and(|who| !who.is_empty()), "{task}");
    let listed = place.stem(&["revokes", "list", "--json"]).expect(0).json();
    assert_eq!((&listed[0]["taskId"], &listed[0]["terminate"]), (&json!(spin), &json!(true)));
    top.until_says("none has");
    top.keys(&["Escape"]);
    top.until("the others are shown", |screen| {
        screen.contains(tail(&other)) && screen.contains("TASKS 2 ")
    });
    assert_eq!(shown(&place, &other)["state"], "running", "its neighbours run on");

    // A queue is paused, with a reason, and resumed.
    let paused = || place.stem(&["queue", "list", "--json"]).expect(0).json()[0].clone();
    top.text("2p");
    let question = top.until_says("Enter does it.");
    assert!(
        question.contains("pause queue default") && question.contains("No worker takes from it")
    );
    top.keys(&["Enter"]);
    top.until_says("pause queue default: done");
    top.until("it is seen to be paused", |screen| line(screen, " default ").contains("paused"));
    assert_eq!(
        (&paused()["paused"], &paused()["pauseReason"]),
        (&json!(true), &json!("by hand in stem top"))
    );
    top.text("p");
    assert!(top.until_says("Enter does it.").contains("resume queue default"));
    top.keys(&["Enter"]);
    top.until_says("resume queue default: done");
    assert_eq!(paused()["paused"], false);

    // A key is for its own table.
    top.text("t");
    top.until_says("that key is for a task");

    // A worker is drained, and ends when what it has is ended.
    top.text("1d");
    assert!(top.until_says("Enter does it.").contains("It takes nothing new"));
    top.keys(&["Enter"]);
    top.until_says("drain worker alpha: acknowledged by alpha");
    top.until("it drains", |screen| line(screen, " alpha ").contains("draining"));
    top.text("3");
    for _ in 0..2 {
        top.text("t");
        let question = top.until_says("Enter does it.");
        let named = line(&question, "| task ");
        let meant =
            [&other, &tiles].into_iter().find(|task| named.contains(task.as_str())).unwrap();
        top.keys(&["Enter"]);
        top.until("it is gone", |screen| {
            has(screen, &format!("terminate task {meant}: stored"))
                && !screen.contains(&tail_cut(meant))
        });
    }
    for task in [&other, &tiles] {
        assert_eq!(
            until_state(&place, task, "revoked")["revocation"]["reason"],
            "by hand in stem top"
        );
    }
    assert!(worker.0.wait().unwrap().success());
    top.until("it is gone", |screen| {
        screen.contains("WORKERS 0") && screen.contains("nothing runs")
    });
    top.text("q");
    top.until_left(0);
}

#[test]
fn a_large_screen_shows_whole_ids_and_what_tasks_say() {
    let place = Place::new();
    let _worker = Worker::start(&place, None, "alpha");
    let spin = enqueue(&place, &[], &["spin"]);
    let tiles = enqueue(&place, &[], &["tiles"]);
    let top = Terminal::open(&place, (200, 50), &[], &["top"]);
    let screen = top.until("all is seen", |screen| {
        screen.contains(&spin)
            && screen.contains(&tiles)
            && screen.contains("tile 45")
            && cpu(line(screen, &spin)).is_some_and(|cpu| cpu > 50.0)
    });
    let words = line(&screen, &tiles);
    assert!(words.contains("[####-------]  45%") && words.contains("isolate"), "{screen}");
    assert!(screen.contains("\\u{1b}[2J of 100"), "what a task says orders nothing:\n{screen}");
    for heading in ["RETRIED", "UPTIME", "HOST", "SIGN", "LEASE", "MESSAGE"] {
        assert!(screen.contains(heading), "{heading}:\n{screen}");
    }
    assert!(line(&screen, &spin).contains("never"), "it has given no sign of life:\n{screen}");
    // A task that is revoked and not terminated may finish.
    top.text("r");
    assert!(top.until_says("Enter does it.").contains("The attempt that runs may finish"));
    top.keys(&["Enter"]);
    top.until_says("stored; it may finish on alpha; acknowledged by alpha");
    let listed = place.stem(&["revokes", "list", "--json"]).expect(0).json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["terminate"]), (1, &json!(false)));
    top.text("?");
    top.until_says("drain the chosen worker");
    // The terminal may change its size at any time.
    top.run(&["resize-window", "-x", "80", "-y", "24"]);
    top.until("it is drawn anew", |screen| {
        !screen.contains(&spin) && screen.contains("drain the chosen")
    });
    top.keys(&["Escape"]);
    top.until("the help is gone", |screen| {
        !screen.contains("drain the chosen") && screen.contains(tail(&spin))
    });
    // On a screen that shows nothing, nothing is ordered: neither what was asked about before, nor anything new.
    top.text("t");
    top.until_says("Enter does it.");
    top.run(&["resize-window", "-x", "40", "-y", "10"]);
    top.until_says("is made for 80 x 24");
    top.keys(&["Enter"]);
    top.text("t");
    top.text("wrong input");
    top.keys(&["Enter", "C-c"]);
    top.until_left(0);
    let listed = place.stem(&["revokes", "list", "--json"]).expect(0).json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["terminate"]), (1, &json!(false)));
    assert_eq!(shown(&place, &spin)["state"], "running");
}

#[test]
fn a_frozen_worker_is_seen_and_holds_nobody_up() {
    let place = Place::new();
    // Not on SQLite: who is frozen in the middle of a write there holds everyone up.
    let server = RedisServer::start();
    let url = server.url();
    let env = [("STEM_BROKER_URL", url.as_str())];
    let _alpha = Worker::start(&place, Some(&url), "alpha");
    let spin = enqueue(&place, &env, &["spin"]);
    let beta = Worker::start(&place, Some(&url), "beta");
    let top = Terminal::open(&place, (80, 24), &env, &["top", "--interval", "250ms"]);
    top.until("all is seen", |screen| {
        screen.contains(" beta ")
            && screen.lines().any(|line| line.contains(tail(&spin)) && cpu(line).is_some())
    });
    beta.signal(Signal::STOP);
    // Not what is said above all of it, of a look that takes long on a busy machine.
    let screen = top.until("it is said not to answer", |screen| {
        screen.lines().any(|line| line.contains(" beta ") && line.contains("no answer"))
    });
    let seen = cpu(line(&screen, tail(&spin))).unwrap();
    // What the other runs goes on counting, and keys work.
    top.until("the other one is still looked at", |screen| {
        cpu(line(screen, tail(&spin))).is_some_and(|cpu| cpu > seen + 100.0)
    });
    top.text("1");
    top.keys(&["Down"]);
    top.text("d");
    assert!(top.until_says("Enter does it.").contains("It does not answer"));
    top.keys(&["Escape"]);
    beta.signal(Signal::CONT);
    top.until("it is back", |screen| {
        !screen.contains("not answering") && screen.contains("2 workers")
    });
    // Whoever ends it from outside gets the terminal back, too.
    kill_process(top.pid(), Signal::TERM).unwrap();
    top.until_left(0);
}

#[test]
fn a_service_that_goes_away_is_said_and_comes_back_by_itself() {
    let place = Place::new();
    let server = RedisServer::start();
    let url = server.url();
    let env = [("STEM_BROKER_URL", url.as_str())];
    let _worker = Worker::start(&place, Some(&url), "alpha");
    let spin = enqueue(&place, &env, &["spin"]);
    let top = Terminal::open(&place, (80, 24), &env, &["top", "--interval", "250ms"]);
    top.until("it is seen", |screen| screen.contains(tail(&spin)) && screen.contains("1 worker "));
    server.kill();
    let screen = top.until_says("OLD: redis");
    assert!(screen.contains("\n! ") && screen.contains(" alpha "), "{screen}");
    assert!(screen.contains(tail(&spin)), "the last picture stays:\n{screen}");
    top.text("t");
    top.until_says("Enter does it.");
    top.keys(&["Enter"]);
    top.until_says(&format!("terminate task {spin}: redis"));
    server.restart();
    top.until("it is back", |screen| !screen.contains("\n! ") && screen.contains(tail(&spin)));
    // Whoever leaves while an order is being carried out is still told what became of it.
    server.freeze();
    top.text("t");
    top.until_says("Enter does it.");
    top.keys(&["Enter"]);
    top.until_says(&format!("terminate task {spin} ..."));
    top.text("q");
    top.until_says("waiting for its end");
    server.thaw();
    let screen = top.until_left(0);
    assert_eq!(screen.matches("terminate task").count(), 2, "{screen}");
    drop(top);
    // On a busy machine the order may have been given up while the server was frozen.
    let _ = place.stem_env(&env, &["worker", "revoke", "--terminate", "--task", &spin]);
    // Unless there is no waiting for that: the signal is the one that a terminal makes of Ctrl-C.
    let other = enqueue(&place, &env, &["spin"]);
    let top = Terminal::open(&place, (80, 24), &env, &["top", "--interval", "250ms"]);
    top.until("only it is seen", |screen| {
        screen.contains(&tail_cut(&other)) && screen.contains("TASKS 1 ")
    });
    server.freeze();
    top.text("t");
    top.until_says("Enter does it.");
    top.keys(&["Enter"]);
    top.until_says(&format!("terminate task {other} ..."));
    top.text("q");
    top.until_says("waiting for its end");
    kill_process(top.pid(), Signal::INT).unwrap();
    let screen = top.until_left(0);
    assert!(has(&screen, "MAY HAVE BEEN GIVEN"), "{screen}");
    server.thaw();
}

#[test]
fn no_color_is_obeyed_and_colours_are_used_without_it() {
    let place = Place::new();
    let _worker = Worker::start(&place, None, "alpha");
    for (env, has_colour) in [(&[][..], true), (&[("NO_COLOR", "1")][..], false)] {
        let top = Terminal::open(&place, (80, 24), env, &["top"]);
        top.until_says(" alpha ");
        let escaped = String::from_utf8(top.run(&["capture-pane", "-p", "-e"]).stdout).unwrap();
        // What tmux writes to choose one; 39 and 49 are those of the terminal itself.
        let codes = escaped.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
        let found = codes
            .filter_map(|(codes, _)| codes.split(';').next()?.parse().ok())
            .any(|code| matches!(code, 30..=38 | 40..=48 | 90..=107));
        assert_eq!(found, has_colour, "{escaped:?}");
    }
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let place = Place::new();
    place.stem(&["top"]).expect(2).complains().says("stem worker status --follow --json");
    for bad in ["249ms", "2h", "0s", "5"] {
        place.stem(&["top", "--interval", bad]).expect(2).complains().says(bad);
    }
    assert!(!place.database().exists(), "a usage error must not touch anything");
    let top = Terminal::open(&place, (80, 24), &[("STEM_BROKER_URL", "memory://")], &["top"]);
    let screen = top.until_left(2);
    assert!(has(&screen, "in which no worker can be seen"), "{screen}");
    drop(top);
    let top =
        Terminal::open(&place, (80, 24), &[("STEM_BROKER_URL", "redis://127.0.0.1:1")], &["top"]);
    let screen = top.until_left(5);
    assert!(screen.contains("error: ") && screen.contains("hint: "), "{screen}");
}
