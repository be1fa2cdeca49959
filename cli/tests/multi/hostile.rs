//! PID files that a dead worker left, that somebody planted, or that name somebody else: nobody is signalled.

use std::os::unix::fs::symlink;

use stem_services::count;

use super::nodes::{Bystander, Nodes, lives};

/// Puts something in the place of a PID file.
type Plant<'a> = &'a dyn Fn();

/// A PID file as a worker of this form would have written it.
fn file(pid: u32, ticks: u64) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    format!(
        "{pid}\nstem-worker 1\nnode alpha\nindex 1\nhost h\nworker alpha\nnamespace stem\nstart-ticks {ticks}\nboot {boot}since 2026-11-22T08:00:00.000Z\nstate running \n"
    )
}

fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

#[test]
fn a_recycled_number_is_not_the_worker_and_is_not_signalled() {
    let nodes = Nodes::new();
    let mut bystander = Bystander::new();
    let pid = bystander.id();
    nodes.place.write("run/alpha.pid", file(pid, ticks(pid) - 1));
    nodes.multi("status", &["alpha"]).expect(3).complains().says("another's now");
    let stopped = nodes.document("stop", &["alpha", "--timeout", "0s"], 0);
    assert_eq!(Nodes::each(&stopped, "status"), ["not-running"]);
    assert!(!nodes.pidfile("alpha").exists(), "a dead worker's file is removed");
    bystander.is_unharmed();

    // The very process, but it holds nothing: somebody wrote that file, and no worker did.
    nodes.place.write("run/alpha.pid", file(pid, ticks(pid)));
    nodes.multi("status", &["alpha"]).expect(3).complains().says("does not hold");
    for action in ["stop", "start", "restart"] {
        nodes.multi(action, &["alpha"]).expect(1).complains().says("which does not hold it");
    }
    assert!(nodes.pidfile("alpha").exists());
    bystander.is_unharmed();

    // What is left of a dead one does not keep a new one from starting.
    nodes.place.write("run/alpha.pid", file(pid, ticks(pid) - 1));
    nodes.start(&["alpha"]);
    nodes.multi("restart", &["alpha"]).expect(0);
    bystander.is_unharmed();
    assert!(lives(nodes.pid("alpha")));
}

#[test]
fn a_copy_in_the_place_of_the_file_does_not_make_a_living_node_one_that_does_not_run() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    let (pid, path) = (nodes.pid("alpha"), nodes.pidfile("alpha"));
    let copy = nodes.place.path("run/copy");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    for action in ["stop", "start"] {
        nodes.multi(action, &["alpha"]).expect(1).complains().says("names the living process");
    }
    assert!(path.exists() && nodes.workers() == [pid]);
}

#[test]
fn a_file_that_proves_nothing_gets_nobody_signalled_and_stays() {
    let nodes = Nodes::new();
    let mut bystander = Bystander::new();
    let number = bystander.id().to_string();
    let me = std::process::id().to_string();
    for (text, running) in [
        ("-1", 3),
        ("0", 3),
        ("1", 3),
        ("-1\nstem-worker 1\n", 3),
        ("99999999999999999999", 3),
        ("alpha", 3),
        ("\u{1b}[2J", 3),
        (number.as_str(), 3),
        (me.as_str(), 3),
    ] {
        let path = nodes.place.write("run/alpha.pid", text);
        let status = nodes.multi("status", &["alpha"]).expect(running).complains();
        assert!(!status.stderr.contains('\u{1b}'), "{status:?}");
        // What a start refuses is not to be mended by a start.
        assert!(status.stderr.contains("look at what is there, and remove it"), "{status:?}");
        for action in ["stop", "stopwait", "restart", "start"] {
            let ran = nodes.multi(action, &["alpha"]).expect(1).complains();
            assert!(ran.stderr.contains("alpha.pid"), "{action} with {text:?}: {ran:?}");
        }
        bystander.is_unharmed();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    assert!(nodes.workers().is_empty());
}

#[test]
fn what_is_no_plain_file_of_ours_is_neither_followed_nor_removed() {
    let nodes = Nodes::new();
    let mut bystander = Bystander::new();
    let pid = bystander.id();
    let good = nodes.place.write("elsewhere/alpha.pid", file(pid, ticks(pid)));
    let path = nodes.pidfile("alpha");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let plants: [(&str, Plant<'_>); 4] = [
        ("symbolic link", &|| symlink(&good, &path).unwrap()),
        ("names", &|| std::fs::hard_link(&good, &path).unwrap()),
        ("directory", &|| std::fs::create_dir(&path).unwrap()),
        ("FIFO", &|| {
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        }),
    ];
    for (words, plant) in plants {
        plant();
        for action in ["status", "stop", "start", "restart", "stopwait"] {
            nodes.multi(action, &["alpha"]).expect(1).complains().says(words);
        }
        bystander.is_unharmed();
        assert!(path.symlink_metadata().is_ok(), "{words}");
        if path.symlink_metadata().unwrap().is_dir() {
            std::fs::remove_dir(&path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
    }
    assert_eq!(std::fs::read_to_string(&good).unwrap(), file(pid, ticks(pid)));
    // Only root can give a file away.
    if rustix::process::geteuid().is_root() {
        nodes.place.write("run/alpha.pid", file(pid, ticks(pid)));
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        nodes.multi("stop", &["alpha"]).expect(1).complains().says("--reuid 12345");
        bystander.is_unharmed();
    }
    assert!(nodes.workers().is_empty());
}

#[test]
fn names_that_are_paths_flags_or_worse_are_refused() {
    let nodes = Nodes::new();
    let long = "n".repeat(300);
    for name in ["../x", "a/b", ".", "..", "-rf", "--", "a\nb", "a b", "", "\u{1b}[2J", &long] {
        let words: &[&str] = if name.starts_with('-') { &["--", name] } else { &[name] };
        for action in ["stop", "status"] {
            nodes.multi(action, words).expect(2);
        }
        nodes.multi("start", words).expect(2);
        let from_variable =
            nodes.command("status", &[]).env("STEM_WORKER_NODES", name).output().unwrap();
        assert!(
            name == "a b" || name == "a\nb" || from_variable.status.code() == Some(2),
            "{name:?}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(nodes.place.path(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["modules"], "nothing was made");
}

#[test]
fn a_file_of_another_node_gets_nobody_signalled() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    std::fs::rename(nodes.pidfile("alpha"), nodes.pidfile("beta")).unwrap();
    for action in ["status", "stop", "start", "restart"] {
        nodes.multi(action, &["beta"]).expect(1).complains().says("held by node alpha");
    }
    assert!(lives(nodes.pid("beta")));
}

#[test]
fn a_log_that_is_a_trap_is_not_written() {
    let nodes = Nodes::new();
    let victim = nodes.place.write("victim", "precious");
    std::fs::create_dir(nodes.place.path("log")).unwrap();
    symlink(&victim, nodes.place.path("log/alpha.log")).unwrap();
    std::fs::hard_link(&victim, nodes.place.path("log/beta.log")).unwrap();
    let ran = nodes.multi("start", &["alpha", "beta"]).expect(1).complains();
    assert!(ran.stderr.contains("symbolic link") && ran.stderr.contains("2 names"), "{ran:?}");
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert!(nodes.workers().is_empty());
}

/// What becomes of a bystander whose number is in a PID file, where `stem worker multi stop` is this.
fn harm_by(planted: &'static str) -> Option<String> {
    let nodes = Nodes::with_planted(planted);
    let mut bystander = Bystander::new();
    nodes.place.write("run/alpha.pid", file(bystander.id(), ticks(bystander.id()) - 1));
    nodes.multi("stop", &["alpha", "--timeout", "0s"]).expect(0);
    bystander.harm()
}

#[test]
fn a_planted_tool_that_trusts_the_number_in_a_file_is_found_whatever_it_sends() {
    assert_eq!(harm_by(r#"exec "$0" "$@""#), None, "the real one");
    assert_eq!(harm_by("kill -0 $(head -n 1 run/alpha.pid)"), None, "a look is no signal");
    let bugs = [
        ("kill $(head -n 1 run/alpha.pid)", "signalled"),
        ("kill -INT $(head -n 1 run/alpha.pid)", "signalled"),
        ("kill -QUIT $(head -n 1 run/alpha.pid)", "signalled"),
        ("kill -KILL $(head -n 1 run/alpha.pid)", "killed"),
        ("kill -STOP $(head -n 1 run/alpha.pid)", "stopped"),
        // After these it goes on as if nothing had been.
        ("pid=$(head -n 1 run/alpha.pid); kill -STOP $pid; kill -CONT $pid", "signalled"),
        ("kill -CONT $(head -n 1 run/alpha.pid)", "signalled"),
        ("kill -WINCH $(head -n 1 run/alpha.pid)", "signalled"),
    ];
    for (planted, harm) in bugs {
        assert_eq!(harm_by(planted).as_deref(), Some(harm), "{planted}");
    }
    count("plants", bugs.len().try_into().unwrap());
}
