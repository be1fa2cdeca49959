//! What nodes run: commands, placeholders, variables; and what a worker makes of its own variables.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::nodes::Nodes;

const STEM: &str = env!("CARGO_BIN_EXE_stem");

fn commands(document: &Value) -> Vec<Value> {
    document["nodes"].as_array().unwrap().iter().map(|node| node["command"].clone()).collect()
}

#[test]
fn names_shows_what_start_would_run() {
    let nodes = Nodes::new();
    let words = [
        "alpha",
        "beta",
        "--workdir",
        "work/%N",
        "--command-line",
        "run '%n of %i' %h-%%",
        "--",
        "--name",
        "%n-%I",
    ];
    let mut command = nodes.command("names", &["--json"]);
    let output = command.args(words).env("STEM_WORKER_HOST", "h1").output().unwrap();
    let shown = super::support::Ran::of(output).expect(0).json();
    assert_eq!(
        commands(&shown),
        [
            json!(["run", "alpha of 1", "h1-%", "--name", "alpha-1"]),
            json!(["run", "beta of 2", "h1-%", "--name", "beta-2"]),
        ]
    );
    let place =
        |path: &str| nodes.place.path(path).canonicalize().unwrap_or(nodes.place.path(path));
    assert_eq!(Nodes::each(&shown, "workdir")[1], place("work/BETA").display().to_string());
    assert_eq!(Nodes::each(&shown, "pidfile")[0], place("run/alpha.pid").display().to_string());
    assert_eq!(Nodes::each(&shown, "logfile")[0], place("log/alpha.log").display().to_string());
    assert!(!nodes.place.path("work").exists() && !nodes.place.path("log").exists());

    let text =
        nodes.multi("names", &["alpha", "--command", "a", "--command", "b c"]).expect(0).stdout;
    assert!(text.contains("a 'b c'"), "{text}");
    let secret = "x --broker redis://u:hunter2@h --backend=redis://u:hunter2@h";
    let shown = nodes.multi("names", &["alpha", "--command-line", secret]).expect(0).stdout;
    assert!(shown.contains("redis://u:***@h") && !shown.contains("hunter2"), "{shown}");
    let secret = format!("{secret}/%x");
    let refused = nodes.multi("names", &["alpha", "--command-line", &secret]).expect(2);
    assert!(!refused.complains().says("no placeholder %x").stderr.contains("hunter2"));
    // Without a command it is this program, with the settings file that was named.
    let shown = nodes
        .place
        .stem(&[
            "--config",
            "x.toml",
            "worker",
            "multi",
            "names",
            "alpha",
            "--json",
            "--logfile",
            "%n-%d.log",
        ])
        .expect(0)
        .json();
    let config = nodes.place.path("x.toml").display().to_string();
    assert_eq!(commands(&shown), [json!([STEM, "worker", "start", "--config", config])]);
    let log = shown["nodes"][0]["logfile"].as_str().unwrap();
    assert!(log.contains("alpha-20") && log.ends_with("Z.log") && !log.contains(':'), "{log}");
    let pidfile = shown["nodes"][0]["pidfile"].as_str().unwrap();
    let default = if rustix::process::geteuid().is_root() {
        "/var/run/stem/alpha.pid".to_owned()
    } else {
        nodes.place.path("state/stem/run/alpha.pid").display().to_string()
    };
    assert_eq!(pidfile, default);
}

#[test]
fn what_is_meant_from_here_holds_in_the_directory_of_a_node() {
    let nodes = Nodes::new();
    let config = nodes.place.write("stem.toml", "").display().to_string();
    let words = |more: &[&str]| {
        let words = [&["alpha", "--workdir", "work"], more].concat();
        commands(&nodes.document("names", &words, 0))[0].clone()
    };
    assert_eq!(words(&[]), json!([STEM, "worker", "start", "--config", config]));
    let own = ["--", "--config", "own.toml"];
    assert_eq!(words(&own), json!([STEM, "worker", "start", "--config", "own.toml"]));
    assert_eq!(words(&["--command", "x"]), json!(["x"]));
    let started = ["alpha", "--workdir", "work", "--broker", "sqlite://here.db", "--timeout", "2m"];
    nodes.multi("start", &started).expect(0);
    assert!(nodes.place.path("here.db").exists() && !nodes.place.path("work/here.db").exists());
    nodes.multi("stop", &["alpha"]).expect(0);
}

#[test]
fn a_command_that_leaves_its_worker_behind_is_a_node_as_well() {
    let nodes = Nodes::new();
    for line in [format!("setsid {STEM} worker start"), format!("sh -c '{STEM} worker start &'")] {
        let words = ["alpha", "--timeout", "2m", "--command-line", &line];
        let started = nodes.document("start", &words, 0);
        assert_eq!(Nodes::each(&started, "pid"), [nodes.told("alpha", "pid").unwrap()]);
        nodes.multi("stop", &["alpha"]).expect(0);
    }
    // One that leaves nothing behind.
    let words = ["alpha", "--timeout", "300ms", "--command", "true"];
    nodes.multi("start", &words).expect(1).complains().says("with exit code 0");
}

#[test]
fn commands_and_nodes_come_from_flags_then_the_file_then_the_environment() {
    let nodes = Nodes::new();
    let file =
        nodes.place.write("env", "STEM_WORKER_COMMAND='from file'\nSTEM_WORKER_NODES=\"f1 f2\"\n");
    let file = file.to_str().unwrap();
    let environment =
        [("STEM_WORKER_COMMAND", "from environment"), ("STEM_WORKER_NODES", "e1 e2 e3")];
    let names = |environment: &[(&str, &str)], words: &[&str]| {
        let mut all = vec!["worker", "multi", "names", "--json"];
        all.extend(words);
        let shown = nodes.place.stem_env(environment, &all).expect(0).json();
        (Nodes::each(&shown, "node").join(" "), commands(&shown)[0].clone())
    };
    assert_eq!(names(&environment, &[]), ("e1 e2 e3".to_owned(), json!(["from", "environment"])));
    let both = [environment[0], environment[1], ("STEMD_NODES", "d1")];
    assert_eq!(names(&both, &[]).0, "d1");
    assert_eq!(
        names(&environment, &["--env-file", file]),
        ("f1 f2".to_owned(), json!(["from", "file"]))
    );
    let words = ["--env-file", file, "--command-line", "from 'a flag'", "n"];
    assert_eq!(names(&environment, &words), ("n".to_owned(), json!(["from", "a flag"])));
    // The others too find the nodes in the file.
    nodes.multi("status", &["--env-file", file]).expect(3).says("node f2");
    nodes.multi("stop", &["--env-file", file]).expect(0);
}

#[test]
fn a_node_gets_the_variables_of_the_file_and_its_own() {
    let nodes = Nodes::new();
    let script = nodes.place.write("bin/wrapper", format!("#!/bin/sh\nenv > \"variables-$STEM_WORKER_NODE\"\n{STEM} worker start \"$@\"\necho \"it ended with $?\"\n"));
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = nodes.place.write("env", "# for nodes\nexport GREETING='hello $USER'\nSTEM_HEARTBEAT_INTERVAL=700ms\nSTEM_WORKER_NODE=ignored\n");
    let broker = format!("sqlite://{}", nodes.place.path("other.db").display());
    let words = [
        "--broker",
        &broker,
        "worker",
        "multi",
        "start",
        "alpha",
        "beta",
        "--pidfile",
        "run/%n.pid",
        "--logfile",
        "log/%n.log",
        "--workdir",
        "work",
        "--env-file",
        file.to_str().unwrap(),
        "--queue",
        "mail,reports",
        "--command-line",
        "../bin/wrapper --concurrency 2",
        "--timeout",
        "2m",
        "--json",
    ];
    // The worker is a child of the wrapper; it is found all the same, since it writes the PID file itself.
    let started = nodes.place.stem(&words).expect(0).json();
    let variables = std::fs::read_to_string(nodes.place.path("work/variables-beta")).unwrap();
    let place = |path: &str| nodes.place.path(path).canonicalize().unwrap();
    for line in [
        "GREETING=hello $USER".to_owned(),
        "STEM_WORKER_NODE=beta".to_owned(),
        "STEM_WORKER_INDEX=2".to_owned(),
        format!("STEM_WORKER_PIDFILE={}", place("run/beta.pid").display()),
        format!("STEM_WORKER_LOGFILE={}", place("log/beta.log").display()),
        format!("STEM_WORKER_HOST={}", nodes.told("beta", "host").unwrap()),
        format!("STEM_BROKER_URL={broker}"),
    ] {
        assert!(variables.lines().any(|found| found == line), "{line} is not in {variables}");
    }
    assert_eq!(nodes.told("beta", "index").as_deref(), Some("2"));
    assert_eq!(
        Nodes::each(&started, "pid"),
        ["alpha", "beta"].map(|node| nodes.told(node, "pid").unwrap())
    );
    let status =
        nodes.place.stem(&["--broker", &broker, "worker", "status", "--json"]).expect(0).json();
    assert_eq!((&status[1]["worker"], &status[1]["intervalMs"]), (&json!("beta"), &json!(700)));
    assert_eq!(status[1]["queues"], json!({"mail": 0, "reports": 0}));
    nodes.multi("stop", &["alpha", "beta"]).expect(0);
    super::nodes::until("the wrapper goes on", || nodes.log("alpha").contains("it ended with 0"));
}

#[test]
fn a_worker_reads_its_own_variables() {
    let nodes = Nodes::new();
    let print = |environment: &[(&str, &str)], words: &[&str]| {
        let mut all = vec!["worker", "start", "--print-config", "--json"];
        all.extend(words);
        nodes.place.stem_env(environment, &all).expect(0).json()
    };
    let row = |shown: &Value, key: &str| {
        let rows = shown["settings"].as_array().unwrap();
        rows.iter().find(|row| row["key"] == key).unwrap().clone()
    };
    let environment = [
        ("STEM_WORKER_NODE", "n1"),
        ("STEM_WORKER_INDEX", "7"),
        ("STEM_WORKER_HOST", "h1"),
        ("STEM_WORKER_PIDFILE", "p1"),
        ("STEM_WORKER_LOGFILE", "l1"),
    ];
    let shown = print(&environment, &[]);
    for (key, value, variable) in [
        ("name", json!("n1"), "STEM_WORKER_NODE"),
        ("node", json!("n1"), "STEM_WORKER_NODE"),
        ("index", json!(7), "STEM_WORKER_INDEX"),
        ("host", json!("h1"), "STEM_WORKER_HOST"),
        ("pidfile", json!("p1"), "STEM_WORKER_PIDFILE"),
        ("logfile", json!("l1"), "STEM_WORKER_LOGFILE"),
    ] {
        assert_eq!(
            row(&shown, key),
            json!({"key": key, "value": value, "source": "environment", "variable": variable})
        );
    }
    let shown = print(&environment, &["--name", "n2", "--pidfile", "p2"]);
    assert_eq!(
        (&row(&shown, "name")["value"], &row(&shown, "pidfile")["value"]),
        (&json!("n2"), &json!("p2"))
    );
    let shown = print(&environment[2..3], &[]);
    assert!(row(&shown, "name")["value"].as_str().unwrap().starts_with("h1-"), "{shown}");
    for bad in [
        ("STEM_WORKER_NODE", "a/b"),
        ("STEM_WORKER_INDEX", "0"),
        ("STEM_WORKER_HOST", "a b"),
        ("STEM_WORKER_PIDFILE", ""),
    ] {
        let ran = nodes.place.stem_env(&[bad], &["worker", "start", "--print-config"]).expect(2);
        ran.complains().says(bad.0);
    }
    assert!(!nodes.place.path("p1").exists());
}

#[test]
fn a_worker_that_cannot_have_its_pid_file_does_not_start() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    let pidfile = nodes.pidfile("alpha");
    let other = ["worker", "start", "--name", "other", "--pidfile", pidfile.to_str().unwrap()];
    nodes.place.stem(&other).expect(1).complains().says("node alpha runs already");
    nodes.multi("status", &["alpha"]).expect(0);
    assert!(
        nodes.place.stem(&["worker", "status", "--worker", "other"]).expect(3).stdout.is_empty()
    );
}

#[test]
fn wrong_usage_is_code_2_and_starts_nothing() {
    let nodes = Nodes::new();
    let writable = nodes.place.write("writable", "A=1\n");
    std::fs::set_permissions(&writable, std::fs::Permissions::from_mode(0o666)).unwrap();
    nodes.place.write("bad", "A=1\nB hunter2\nLD_PRELOAD=x.so\n");
    for (words, says) in [
        (&["start"][..], "no node is named"),
        (&["status"], "no node is named"),
        (&["start", "a", "a"], "named twice"),
        (&["start", "a", "b", "--pidfile", "one.pid"], "same PID file"),
        (&["start", "a", "--pidfile", "%z.pid"], "no placeholder %z"),
        (&["status", "a", "--pidfile", "%n-%d.pid"], "--pidfile has %d"),
        (&["stopwait", "a", "--pidfile", "%n-%d.pid"], "--pidfile has %d"),
        (&["restart", "a", "--pidfile", "%n-%d.pid"], "--pidfile has %d"),
        (&["start", "a", "--logfile", "100%"], "single %"),
        (&["start", "a", "--workdir", "%q"], "no placeholder %q"),
        (&["start", "a", "--command-line", "x '%n"], "cannot be split"),
        (&["start", "a", "--command-line", "x %y"], "no placeholder %y"),
        (&["start", "a", "--command-line", "  "], "no words"),
        (&["start", "a", "--command", ""], "no words"),
        (&["start", "a", "--command", "no-such-program"], "not a program"),
        (&["start", "a", "--command-line", "STEM_BROKER_URL=redis://u:hunter2@h/0 x"], "***@h/0"),
        (&["start", "a", "--command", "x", "--command-line", "y"], "cannot be used with"),
        (&["start", "a", "--foreground", "--json"], "cannot be used with"),
        (&["start", "a", "--foreground", "--detach"], "cannot be used with"),
        (&["start", "a", "--env-file", "absent"], "absent cannot be read"),
        (&["start", "a", "--env-file", "writable"], "others than its owner may write it"),
        (&["stop", "a", "--env-file", "bad"], "line 2: there is no =; line 3: LD_PRELOAD"),
        (&["stop", "a", "--timeout", "5"], "not a duration"),
        (&["stopwait", "a", "--timeout", "5s"], "--timeout"),
        (&["start", "a", "--config", "x.toml", "--command", "y"], "--config"),
        (&["restart"], "no node is named"),
    ] {
        let mut all = vec!["worker", "multi"];
        all.extend(words);
        let ran = nodes.place.stem(&all).expect(2).complains().says(says);
        assert!(ran.stdout.is_empty() && !ran.stderr.contains("hunter2"), "{words:?}: {ran:?}");
    }
    for variable in ["STEM_WORKER_NODES", "STEMD_NODES"] {
        for value in ["", " ", "a,b", "a a/b"] {
            nodes
                .place
                .stem_env(&[(variable, value)], &["worker", "multi", "status"])
                .expect(2)
                .complains()
                .says(variable);
        }
    }
    nodes
        .place
        .stem_env(&[("STEM_WORKER_COMMAND", "'")], &["worker", "multi", "names", "a"])
        .expect(2)
        .says("STEM_WORKER_COMMAND");
    assert!(nodes.workers().is_empty());
}
