//! The audit log as an operator and whoever looks after one find it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Place, Ran};

const LOG: [(&str, &str); 1] = [("STEM_AUDIT_LOG", "audit.jsonl")];

fn entries(place: &Place, more: &[&str]) -> Vec<Value> {
    let words = [&["audit", "--file", "audit.jsonl", "--json"], more].concat();
    let document = place.stem(&words).expect(0).json();
    assert_eq!(document["intact"], true, "{document}");
    document["entries"].as_array().unwrap().clone()
}

/// Verdict, command and exit code of each.
fn told(entries: &[Value]) -> Vec<String> {
    let word = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let one = |entry: &Value| {
        let exit = entry["exit"].as_u64().map_or_else(String::new, |exit| format!(" {exit}"));
        format!("{} {}{exit}", word(entry, "verdict"), word(entry, "what"))
    };
    entries.iter().map(one).collect()
}

#[test]
fn what_is_ordered_is_written_down_before_it_is_done_and_how_it_ended() {
    let place = Place::new();
    let stem = |words: &[&str]| place.stem_env(&LOG, words);
    stem(&["audit"]).expect(3).complains().says("there is no audit log");
    place.stem(&["audit"]).expect(2).complains().says("no audit log is set");
    // What only looks, enqueues, or says what it would do is not noted.
    for words in [
        &["queue", "list"][..],
        &["task", "enqueue", "x"],
        &["queue", "purge", "default", "--dry-run"],
    ] {
        stem(words).expect(0);
    }
    assert!(!place.path("audit.jsonl").exists());

    stem(&["queue", "pause", "mail", "--reason", "why\u{a0}not"]).expect(0);
    stem(&["worker", "revoke", "--task", "t", "--namespace", "blue", "--terminate"]).expect(0);
    stem(&["revokes", "undo", "--task", "nobody"]).expect(3);
    let files = ["--public", "signers.toml", "--private", "ops.toml"];
    stem(&[&["keys", "new", "ops", "--role", "control"][..], &files].concat()).expect(0);
    stem(&["worker", "shutdown"]).expect(3);
    let all = entries(&place, &[]);
    let expected = [
        "asked queue pause",
        "done queue pause 0",
        "asked worker revoke",
        "done worker revoke 0",
        "asked revokes undo",
        "failed revokes undo 3",
        "asked keys new",
        "done keys new 0",
        "asked worker shutdown",
        "failed worker shutdown 3",
    ];
    assert_eq!(told(&all), expected);
    assert_eq!(
        (&all[0]["seq"], &all[1]["asked"], &all[0]["side"]),
        (&json!(1), &json!(1), &json!("operator"))
    );
    assert!(all[0]["by"].as_str().unwrap().contains('@'), "{}", all[0]);
    assert_eq!(all[0]["about"], json!({"queues": ["mail"], "reason": "why\u{a0}not"}));
    assert_eq!(all[2]["about"], json!({"tasks": ["t"], "terminate": true}));
    assert_eq!((&all[2]["namespace"], &all[4]["namespace"]), (&json!("blue"), &json!("stem")));
    let text = std::fs::read_to_string(place.path("audit.jsonl")).unwrap();
    let secret = std::fs::read_to_string(place.path("ops.toml")).unwrap();
    let secret = secret.split("private = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(!text.contains(&secret) && text.lines().count() == expected.len());

    assert_eq!(told(&entries(&place, &["--what", "revoke"])), expected[2..4]);
    assert_eq!(told(&entries(&place, &["--what", "queue pause", "--limit", "1"])), expected[1..2]);
    assert_eq!(entries(&place, &["--since", "1h", "--until", "0s"]).len(), expected.len());
    for words in [&["--refused"][..], &["--until", "1h"], &["--key", "ops"], &["--what", "pau"]] {
        let ran = stem(&[&["audit", "--json"], words].concat()).expect(3).complains();
        assert_eq!(ran.json()["entries"], json!([]));
    }
    let people = stem(&["audit"]).expect(0);
    assert!(
        people.stdout.lines().count() == expected.len() + 1 && people.stderr.is_empty(),
        "{people:?}"
    );
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let paused = |place: &Place| {
        let queues = place.stem(&["queue", "list", "--json"]).expect(0).json();
        queues.as_array().unwrap().iter().any(|queue| queue["paused"] == true)
    };
    let pause = ["queue", "pause", "mail"];
    let refused =
        |ran: Ran, words: &str| ran.expect(5).complains().says(words).says("nothing was done");
    let place = Place::new();
    std::fs::create_dir(place.path("audit.jsonl")).unwrap();
    refused(place.stem_env(&LOG, &pause), "audit.jsonl");
    place.stem_env(&LOG, &["worker", "start"]).expect(5).complains().says("audit.jsonl");
    let place = Place::new();
    place.write("audit.jsonl", "");
    std::fs::set_permissions(place.path("audit.jsonl"), PermissionsExt::from_mode(0o666)).unwrap();
    refused(place.stem_env(&LOG, &pause), "mode 0666");
    refused(place.stem_env(&[("STEM_AUDIT_LOG", "absent/audit.jsonl")], &pause), "absent");
    assert!(!paused(&place));
    // A disk that is full: the log may not grow, and what stands in it is left as it is.
    let place = Place::new();
    place.stem_env(&LOG, &["queue", "resume", "mail"]).expect(0);
    let text = std::fs::read_to_string(place.path("audit.jsonl")).unwrap();
    let text = format!("{}{text}", "\n".repeat(1 << 20));
    std::fs::write(place.path("audit.jsonl"), &text).unwrap();
    refused(place.stem_with_small_files(&LOG, &pause), "cannot be written");
    assert!(!paused(&place));
    assert_eq!(std::fs::read_to_string(place.path("audit.jsonl")).unwrap(), text);
    // There is room again.
    place.stem_env(&LOG, &pause).expect(0);
    assert!(paused(&place));
    place.stem_env(&LOG, &["audit", "--verify"]).expect(0);
}

#[test]
fn a_log_that_was_changed_is_told_from_one_that_was_not() {
    let place = Place::new();
    let stem = |words: &[&str]| place.stem_env(&LOG, words);
    for _ in 0..3 {
        stem(&["queue", "pause", "mail"]).expect(0);
    }
    let whole = stem(&["audit", "--verify", "--json"]).expect(0).json();
    let expected = json!({"file": "audit.jsonl", "files": 1, "intact": true, "entries": 6, "first": 1, "last": 6, "unreadable": 0, "vouched": true, "broken": []});
    assert_eq!(whole, expected);
    let text = std::fs::read_to_string(place.path("audit.jsonl")).unwrap();
    let write = |text: &str| std::fs::write(place.path("audit.jsonl"), text).unwrap();
    let changed = text.replacen("\"mail\"", "\"spam\"", 1);
    let cut: Vec<&str> = text.split_inclusive('\n').take(4).collect();
    for (harmed, line) in [(&changed, 1), (&cut.concat(), 5)] {
        write(harmed);
        let told = stem(&["audit", "--verify", "--json"]).expect(1).complains().json();
        assert_eq!(
            (&told["intact"], &told["broken"][0]["line"]),
            (&json!(false), &json!(line)),
            "{told}"
        );
        stem(&["audit"]).expect(0).says("warning: audit.jsonl, line");
    }
    // Whoever writes next says so, so that it stays known.
    stem(&["queue", "resume", "mail"]).expect(0);
    stem(&["audit", "--verify"]).expect(1).complains();
    let last = stem(&["audit", "--json", "--limit", "3"]).expect(0).json();
    assert_eq!(
        (&last["entries"][0]["verdict"], &last["intact"]),
        (&json!("broken"), &json!(false))
    );
    // A copy of what is whole, elsewhere: nobody vouches for its end, and that is said.
    place.write("copy.jsonl", &text);
    stem(&["audit", "--verify", "--file", "copy.jsonl"])
        .expect(0)
        .says("its end may have been cut");
}

#[test]
fn entries_are_followed_as_they_come() {
    let place = Place::new();
    place.stem_env(&LOG, &["queue", "pause", "mail"]).expect(0);
    let mut follow =
        place.command(&["audit", "--follow", "--json", "--limit", "1"]).envs(LOG).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(told(&[next()]), ["done queue pause 0"]);
    place.stem_env(&LOG, &["queue", "resume", "mail"]).expect(0);
    assert_eq!(told(&[next(), next()]), ["asked queue resume", "done queue resume 0"]);
    follow.kill().unwrap();
    follow.wait().unwrap();
}
