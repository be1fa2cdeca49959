//! The files of `cli/templates`: units, manifest, image, log rotation, environment. Whatever they name must be there, and
//! those who will read them must accept them.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Probe, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stem_cli::args::{Cli, Command as Stem, Worker};
use support::Place;
use support::started::Started;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")
}

fn template(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every template with its path below the folder.
fn templates() -> Vec<(String, String)> {
    fn walk(dir: &Path, into: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else {
                let name = path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
                into.push((name.clone(), template(&name)));
            }
        }
    }
    let mut all = Vec::new();
    walk(&folder(), &mut all);
    assert!(all.len() >= 6, "{all:?}");
    all
}

/// Without comments, and with lines that go on put together.
fn lines(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// A command of ours must be one that there is.
#[track_caller]
fn parse(words: &[String]) -> Cli {
    let mut words = words.to_vec();
    "stem".clone_into(&mut words[0]);
    // What the reader of the template puts in: %i, $(NAME), %h-%n.
    for word in &mut words {
        if word.contains(['%', '$']) {
            *word = if word.contains('/') { "/x".to_owned() } else { "x".to_owned() };
        }
    }
    Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn split(text: &str) -> Vec<String> {
    shell_words::split(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_variable_that_a_template_names_is_one_that_is_read() {
    let mut named = 0;
    for (name, text) in templates() {
        let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        for word in text.split(|c| !is_part(c)).filter(|word| word.starts_with("STEM")) {
            let known = stem_cli::env::ALL.iter().any(|known| known.name == word);
            assert!(known, "{name}: nothing reads {word}");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn every_command_in_a_comment_is_one_that_there_is() {
    use clap::error::ErrorKind::{ArgumentConflict, InvalidSubcommand, UnknownArgument};
    for (name, text) in templates() {
        for quoted in text.split('`').skip(1).step_by(2).filter(|text| text.starts_with("stem ")) {
            // What is only named lacks what it needs, which is no mistake.
            let wrong = Cli::try_parse_from(split(quoted)).err().filter(|error| {
                [ArgumentConflict, InvalidSubcommand, UnknownArgument].contains(&error.kind())
            });
            assert!(wrong.is_none(), "{name}: {quoted}: {}", wrong.unwrap());
        }
    }
}

/// A unit's settings in their order.
fn unit(name: &str) -> Vec<(String, String)> {
    let lines = lines(&template(name));
    let settings = lines.iter().filter_map(|line| line.split_once('='));
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn settings<'a>(unit: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    unit.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect()
}

/// The one value of a setting.
#[track_caller]
fn setting<'a>(unit: &'a [(String, String)], key: &str) -> &'a str {
    let values = settings(unit, key);
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values[0]
}

fn span(text: &str) -> Duration {
    stem_engine::units::duration(&text.replace("min", "m")).unwrap()
}

#[test]
fn systemd_takes_the_units_without_a_word() {
    let place = Place::new();
    let mut names = Vec::new();
    for (name, text) in templates().into_iter().filter(|(name, _)| name.starts_with("systemd/")) {
        // The program is where this build put it.
        let text = text.replace("/usr/bin/stem", env!("CARGO_BIN_EXE_stem"));
        let name = name.strip_prefix("systemd/").unwrap().to_owned();
        place.write(&format!("units/{name}"), text);
        names.push(name.replace('@', "@1"));
    }
    names.sort();
    assert_eq!(names, ["stem-worker@1.service", "stem-workers.service"]);
    let verify = |command: &[&str]| {
        let run = Command::new("systemd-analyze")
            .args(command)
            .args(&names)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", place.path("units").display()))
            .current_dir(place.path("units"))
            .output();
        run.expect("systemd-analyze is needed here: cargo xtask setup installs it")
    };
    let ran = verify(&["verify", "--man=no", "--recursive-errors=no"]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_workers_unit_is_hardened_and_says_what_it_must_not_be() {
    let place = Place::new();
    place.write("stem-worker@.service", template("systemd/stem-worker@.service"));
    let ran = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=30", "--no-pager"])
        .arg(place.path("stem-worker@.service"))
        .output()
        .expect("systemd-analyze is needed here: cargo xtask setup installs it");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "more exposed than 3.0:\n{said}");

    let unit = unit("systemd/stem-worker@.service");
    assert_eq!(setting(&unit, "Type"), "notify");
    // Guests are compiled in memory.
    assert_eq!(setting(&unit, "MemoryDenyWriteExecute"), "no");
    // Compilers are bounded and guests made nicer by calls of this group.
    assert!(
        settings(&unit, "SystemCallFilter")
            .iter()
            .all(|filter| !filter.contains("@resources") || !filter.starts_with('~'))
    );
    assert_eq!(setting(&unit, "User"), "stem");
    // Else a worker could not harden itself, just where most is done about it.
    let own = settings(&unit, "SystemCallFilter").last().copied().unwrap().split(' ');
    let own: Vec<_> = own.collect();
    for call in
        ["create_ruleset", "add_rule", "restrict_self"].map(|call| format!("landlock_{call}"))
    {
        assert!(own.contains(&call.as_str()), "{call}");
    }
    assert!(own.contains(&"seccomp"));
}

#[test]
fn systemd_expands_every_variable_of_a_command() {
    for name in ["systemd/stem-worker@.service", "systemd/stem-workers.service"] {
        for (key, command) in unit(name).into_iter().filter(|(key, _)| key.starts_with("Exec")) {
            for word in split(&command) {
                // It knows $NAME as a word of its own, ${NAME} anywhere, and $$ for what a shell is to see.
                let rest = word.replace("${", "").replace("$$", "");
                let own = word.strip_prefix('$').is_some_and(|name| !name.contains('$'));
                assert!(own || !rest.contains('$'), "{name}: {key}: {word} is left as it is");
            }
        }
    }
}

#[test]
fn a_stop_by_systemd_leaves_time_for_the_drain() {
    let unit = unit("systemd/stem-worker@.service");
    let stops = settings(&unit, "ExecStop");
    assert!(stops[0].contains("kill -TERM $MAINPID"), "{stops:?}");
    let drain = stops[1].split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap();
    let drain = Duration::from_secs(drain);
    let soft = stem_engine::WorkerConfig::new("w".parse().unwrap()).soft_grace;
    assert_eq!(setting(&unit, "KillSignal"), "SIGINT");
    assert!(span(setting(&unit, "TimeoutStopSec")) > drain + soft);
}

#[test]
fn the_commands_of_the_units_are_ours() {
    let unit = unit("systemd/stem-worker@.service");
    let start = parse(&split(setting(&unit, "ExecStart")));
    assert!(matches!(start.command, Stem::Worker(Worker::Start(_))));
    let check = split(setting(&unit, "ExecStartPost"));
    assert!(
        matches!(&parse(&check).command, Stem::Worker(Worker::Healthcheck(check)) if !check.ready)
    );
    // The file that is looked at is the one that is written.
    let pidfile = check.iter().skip_while(|word| *word != "--pidfile").nth(1).unwrap();
    let written = settings(&unit, "Environment");
    assert!(written.contains(&format!("STEM_WORKER_PIDFILE={pidfile}").as_str()), "{written:?}");
    let runtime = setting(&unit, "RuntimeDirectory");
    // One for each instance: it is removed with what is in it when its instance ends.
    assert_eq!(Path::new(pidfile).parent().unwrap(), Path::new("/run").join(runtime));
    assert!(runtime.ends_with("/%i"), "{runtime}");
    assert!(setting(&unit, "ExecReload").ends_with("kill -HUP $MAINPID"));
}

#[test]
fn the_rolling_restart_takes_one_worker_after_the_other_and_stops_at_one_that_fails() {
    let unit = unit("systemd/stem-workers.service");
    let line = setting(&unit, "ExecReload").replace("$$", "$");
    let words = split(&line);
    assert_eq!(words[..2], ["/bin/sh", "-ec"]);
    let place = Place::new();
    let log = place.path("log");
    // In systemctl's place: three workers, of which the second does not get ready.
    let systemctl = place.write(
        "bin/systemctl",
        format!(
            "#!/bin/sh\ncase $1 in list-units) printf 'stem-worker@%s.service loaded active running x\\n' 1 2 3;;\n\
             *) echo \"$*\" >> {log}; test \"$2\" != stem-worker@2.service;; esac\n",
            log = log.display()
        ),
    );
    std::fs::set_permissions(systemctl, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    let ran = Command::new(&words[0]).args(&words[1..]).env("PATH", path).status().unwrap();
    assert!(!ran.success());
    let done = std::fs::read_to_string(log).unwrap();
    assert_eq!(done, "restart stem-worker@1.service\nrestart stem-worker@2.service\n");
}

#[test]
fn the_environment_file_is_one_that_workers_and_diagnose_take() {
    let place = Place::new();
    let text = template("worker.env");
    // What is commented out must be right when it is taken in.
    let all = text.lines().map(taken_in).collect::<Vec<_>>().join("\n");
    for text in [text, all] {
        let path = place.write("worker.env", text);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640))
            .unwrap();
        let file = stem_cli::nodes::env_file::read(&path).unwrap();
        let command = file.get("STEM_WORKER_COMMAND").unwrap();
        assert!(matches!(parse(&split(command)).command, Stem::Worker(Worker::Start(_))));
        let environment: Vec<(&str, &str)> = file.iter().collect();
        let shown = place.stem_env(&environment, &["config", "show", "--json"]).expect(0).json();
        let broker = &shown["settings"][0];
        assert_eq!(broker["variable"], "STEM_BROKER_URL", "{shown}");
    }
}

/// A line `#NAME=value` without its #.
fn taken_in(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(rest) if rest.starts_with("STEM_") => rest,
        _ => line,
    }
}

/// The YAML documents of the manifest, by kind.
fn manifest() -> BTreeMap<String, Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&template("kubernetes/worker.yaml")).unwrap();
    let kind = |document: &Value| document["kind"].as_str().unwrap().to_owned();
    documents.into_iter().map(|document| (kind(&document), document)).collect()
}

/// A document as Kubernetes reads it. A key that it does not know would be dropped, and is an error here.
#[track_caller]
fn typed<T: DeserializeOwned + Serialize>(documents: &BTreeMap<String, Value>, kind: &str) -> T {
    let document = &documents[kind];
    let typed: T = serde_json::from_value(document.clone()).unwrap();
    let again = serde_json::to_value(&typed).unwrap();
    assert_eq!(&again, document, "{kind} has a key that is not in its schema");
    typed
}

fn exec(probe: Option<&Probe>) -> Vec<String> {
    probe.unwrap().exec.as_ref().unwrap().command.clone().unwrap()
}

fn variable<'a>(container: &'a Container, name: &str) -> &'a str {
    let variables = container.env.as_ref().unwrap();
    variables.iter().find(|known| known.name == name).unwrap().value.as_deref().unwrap()
}

#[test]
fn the_manifest_fits_its_schema_and_its_probes_are_ours() {
    let documents = manifest();
    assert_eq!(
        documents.keys().collect::<Vec<_>>(),
        ["Deployment", "PodDisruptionBudget", "Secret"]
    );
    typed::<Secret>(&documents, "Secret");
    typed::<PodDisruptionBudget>(&documents, "PodDisruptionBudget");
    let deployment: Deployment = typed(&documents, "Deployment");
    let spec = deployment.spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels;
    assert_eq!(spec.selector.match_labels, labels);
    let pod = spec.template.spec.unwrap();
    let container = &pod.containers[0];

    let command = [container.command.clone().unwrap(), container.args.clone().unwrap()].concat();
    assert!(matches!(parse(&command).command, Stem::Worker(Worker::Start(_))));
    let live = exec(container.liveness_probe.as_ref());
    let ready = exec(container.readiness_probe.as_ref());
    for (words, asks) in [(&live, false), (&ready, true)] {
        let Stem::Worker(Worker::Healthcheck(check)) = parse(words).command else {
            panic!("{words:?}");
        };
        assert_eq!(check.ready, asks);
        assert_eq!(check.pidfile, Path::new(variable(container, "STEM_WORKER_PIDFILE")));
        // The time that it takes at most is within what it is given.
        let probe = if asks { &container.readiness_probe } else { &container.liveness_probe };
        let given = probe.as_ref().unwrap().timeout_seconds.unwrap();
        let given = Duration::from_secs(given.try_into().unwrap());
        assert!(given > check.timeout.unwrap_or_default());
    }
    // An empty volume is for everybody to write; the file lies in a directory that the worker makes in it.
    let pidfile = Path::new(variable(container, "STEM_WORKER_PIDFILE"));
    let mounts = container.volume_mounts.as_ref().unwrap();
    let mount = mounts.iter().find(|mount| pidfile.starts_with(&mount.mount_path)).unwrap();
    assert_ne!(pidfile.parent().unwrap(), Path::new(&mount.mount_path));

    let stop = container.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap();
    let stop = stop.exec.as_ref().unwrap().command.clone().unwrap();
    assert_eq!(stop[..2], ["sh", "-c"]);
    let words = split(&stop[2]);
    assert_eq!(words[..3], ["kill", "-TERM", "1;"]);
    let drain: u64 = words[4].parse().unwrap();
    let soft = stem_engine::WorkerConfig::new("w".parse().unwrap()).soft_grace.as_secs();
    let grace = u64::try_from(pod.termination_grace_period_seconds.unwrap()).unwrap();
    assert!(drain + soft < grace, "{drain} + {soft} < {grace}");

    let pod_context = pod.security_context.unwrap();
    assert_eq!(pod_context.run_as_non_root, Some(true));
    let context = container.security_context.as_ref().unwrap();
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.capabilities.as_ref().unwrap().drop.as_ref().unwrap(), &["ALL"]);
    assert_eq!(pod.automount_service_account_token, Some(false));
}

#[test]
fn the_image_runs_as_nobody_special_and_stops_as_the_manifest_says() {
    let lines = lines(&template("container/Containerfile"));
    let instruction = |name: &str| -> Vec<&str> {
        let of = |line: &String| line.split_once(' ').is_some_and(|(known, _)| known == name);
        let found = lines.iter().filter(|line| of(line));
        found.map(|line| line.split_once(' ').unwrap().1.trim()).collect()
    };
    let stages = instruction("FROM");
    assert!(stages.last().unwrap().contains("debian:bookworm-slim"), "{stages:?}");
    assert_eq!(instruction("USER"), ["10001:10001"]);
    // Beyond the warm drain of a manifest's preStop or a SIGTERM.
    assert_eq!(instruction("STOPSIGNAL"), ["SIGINT"]);
    let list = |text: &str| -> Vec<String> { serde_json::from_str(text).unwrap() };
    let entry = [list(instruction("ENTRYPOINT")[0]), list(instruction("CMD")[0])].concat();
    assert!(matches!(parse(&entry).command, Stem::Worker(Worker::Start(_))));
    let (_, check) = instruction("HEALTHCHECK")[0].split_once("CMD ").unwrap();
    let check = list(check);
    let Stem::Worker(Worker::Healthcheck(check)) = parse(&check).command else {
        panic!("{check:?}")
    };
    let environment = instruction("ENV")[0];
    let pidfile = format!("STEM_WORKER_PIDFILE={}", check.pidfile.display());
    assert!(environment.split_whitespace().any(|pair| pair == pidfile), "{environment}");
    // Every instruction is one that there is.
    let known = [
        "FROM",
        "RUN",
        "WORKDIR",
        "COPY",
        "USER",
        "ENV",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ];
    for line in &lines {
        assert!(known.contains(&line.split_whitespace().next().unwrap()), "{line}");
    }
}

#[test]
fn a_rotated_log_is_written_on_in_a_new_file() {
    let place = Place::new();
    let log = place.write("log/alpha.log", "");
    let file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    let (log, pidfile) = (log.to_str().unwrap(), place.path("run/alpha.pid"));
    let mut command = place.command(&["worker", "start"]);
    command.env("STEM_WORKER_LOGFILE", log).env("STEM_WORKER_PIDFILE", &pidfile);
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let worker = Started { child: command.spawn().unwrap() };
    let holds = |path: &str, words: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(words))
    };
    until(|| holds(log, "is ready"));

    // The user of this test is the user whose workers they are.
    let all = template("logrotate/stem");
    let (before, rest) = all.split_once("setpriv ").unwrap();
    let text = format!("{before}{}", &rest[rest.find("sh -c").unwrap()..])
        .replace("    su stem stem\n", "")
        .replace("/var/log/stem", place.path("log").to_str().unwrap())
        .replace("/var/run/stem", place.path("run").to_str().unwrap())
        .replace("stem worker", concat!(env!("CARGO_BIN_EXE_stem"), " worker"));
    // A worker that has gone is passed over.
    place.write("run/dead.pid", "2147483647");
    let config = place.write("rotate", text);
    std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let ran = Command::new("logrotate")
        .args(["--force", "--state"])
        .args([place.path("rotate.state"), config])
        .env("PATH", path)
        .output()
        .expect("logrotate is needed here: cargo xtask setup installs it");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    until(|| holds(log, "opened anew"));
    let old = format!("{log}.1");
    assert!(holds(&old, "is ready") && !holds(log, "is ready"));
    drop(worker);
}

#[track_caller]
fn until(mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_mins(1), "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
