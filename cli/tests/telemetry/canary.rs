//! A password that is in every URL comes out nowhere.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use stem_services::{RedisServer, RedisSettings, count};

use crate::modules;
use crate::receiver::Receiver;
use crate::support::{Place, Ran, WITH_SERVICES};
use crate::worker::{Worker, until};

/// With a character that is another one in a URL.
const CANARY: &str = "canary@7f3a";
const IN_URL: &str = "canary%407f3a";

/// Every key and value of a Redis, as text.
const EVERYTHING: &str = r"
local how = {
    string = {'GET'}, hash = {'HGETALL'}, set = {'SMEMBERS'}, list = {'LRANGE', 0, -1}, zset = {'ZRANGE', 0, -1},
    stream = {'XRANGE', '-', '+'},
}
local all = {}
local function add(value)
    if type(value) == 'table' then
        for _, part in ipairs(value) do add(part) end
    else
        all[#all + 1] = tostring(value)
    end
end
for _, key in ipairs(redis.call('KEYS', '*')) do
    local read = how[redis.call('TYPE', key).ok]
    add(key)
    add(redis.call(read[1], key, unpack(read, 2)))
end
return table.concat(all, ' ')
";

/// What base64 makes of the canary, whatever stands before and after it.
fn in_base64() -> [String; 3] {
    // As many bytes before it, and the characters that have a part in those.
    [(0, 0), (1, 2), (2, 3)].map(|(before, not_its)| {
        let bytes = [&[0; 2][..before], CANARY.as_bytes()].concat();
        let whole = bytes.len() * 8 / 6;
        BASE64_STANDARD.encode(&bytes)[not_its..whole].to_owned()
    })
}

/// The canary in any of its guises, as it stands there.
fn guise_in(text: &str) -> Option<String> {
    let mut guises = [CANARY, IN_URL].map(str::to_owned).into_iter().chain(in_base64());
    guises.find(|guise| text.contains(guise))
}

#[track_caller]
fn is_clean(what: &str, text: &str) {
    let found = guise_in(text);
    assert!(found.is_none(), "{what} says {found:?}:\n{text}");
}

/// Everything that a command has told.
fn told(ran: &Ran) -> String {
    format!("{}\n{}", ran.stdout, ran.stderr)
}

fn redis() -> RedisServer {
    RedisServer::with(RedisSettings {
        password: Some(CANARY.to_owned()),
        ..RedisSettings::default()
    })
}

#[test]
fn a_password_in_every_url_comes_out_nowhere() {
    let place = Place::new();
    let modules = modules::write(&place);
    let redis = redis();
    let receiver = Receiver::start();
    let url = format!("redis://:{IN_URL}@127.0.0.1:{}/0", redis.port());
    let collector = format!("http://me:{IN_URL}@127.0.0.1:{}", receiver.port());
    let environment = [
        ("STEM_BROKER_URL", url.as_str()),
        ("STEM_RESULT_BACKEND_URL", &url),
        ("STEM_REVOKE_STORE_URL", &url),
        ("STEM_MODULE_STORE_URL", &url),
        ("STEM_OTLP_ENDPOINT", &collector),
        ("STEM_LOG", "trace"),
    ];
    let clean = |environment: &[(&str, &str)], args: &[&str]| {
        let ran = place.stem_env(environment, args);
        is_clean(&format!("{args:?}"), &told(&ran));
        ran
    };
    let args = ["--name", "w", "--modules", modules.to_str().unwrap(), "--metrics", "127.0.0.1:0"];
    let mut worker = Worker::start(&place, &environment, &args);
    clean(&environment, &["task", "enqueue", "tell", "--id", "t", "--wait"]).expect(0);
    clean(&environment, &["task", "enqueue", "trap", "--max-retries", "0", "--wait"]).expect(1);
    for words in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["worker", "start", "--print-config"],
        &["health", "--json"],
        &["worker", "status", "--json"],
        &["worker", "revoke", "--task", "t", "--json"],
        &["task", "show", "t", "--json"],
        // The name is taken.
        &["worker", "start", "--name", "w"],
    ] {
        clean(&environment, words);
    }
    for words in WITH_SERVICES.iter().filter(|words| !matches!(words[1..], ["start" | "shutdown"]))
    {
        clean(&environment, words);
    }

    // What cannot be reached, refuses, or is no URL, in each place that takes one.
    let refused = format!("redis://:{IN_URL}x@127.0.0.1:{}/0", redis.port());
    let away = format!("postgres://u:{IN_URL}@127.0.0.1:1/d?application_name=x");
    let broken = format!("redis://:{IN_URL}@[::1/0");
    let unknown = format!("reddis://:{IN_URL}@h");
    for wrong in [&refused, &away, &broken, &unknown] {
        for variable in [
            "STEM_BROKER_URL",
            "STEM_RESULT_BACKEND_URL",
            "STEM_REVOKE_STORE_URL",
            "STEM_MODULE_STORE_URL",
            "STEM_OTLP_ENDPOINT",
        ] {
            let one_wrong = [environment[0], (variable, wrong.as_str()), ("STEM_LOG", "trace")];
            for words in [
                &["health"][..],
                &["config", "show"],
                &["task", "list"],
                &["task", "enqueue", "tell"],
            ] {
                clean(&one_wrong, words);
            }
        }
        for flag in ["--broker", "--backend", "--revoke-store", "--module-store"] {
            clean(&[("STEM_LOG", "trace")], &[flag, wrong, "health", "--json"]);
        }
    }

    is_clean("the page of metrics", &worker.page());
    let lines = worker.command_lines();
    assert!(lines.contains("--metrics"), "{lines}");
    is_clean("the command line of the worker or of a child of its", &lines);
    let stored = redis.command(&["EVAL", EVERYTHING, "0"]).unwrap();
    assert!(stored.contains("\"inflight\""), "there is no heartbeat in {stored}");
    is_clean("the store, heartbeats included", &stored);
    place.stem_env(&environment, &["worker", "shutdown"]).expect(0);
    assert_eq!(worker.wait(), 0);
    is_clean("the worker's log", &worker.log());
    is_clean("what it said when it was ready", &worker.ready.to_string());
    for received in receiver.spans() {
        is_clean("a span", &format!("{received:?}"));
    }
    // It was used all the same.
    assert!(!receiver.authorizations().is_empty());
}

/// A program that shows its environment, and then does what it is asked.
const SHOWS_ENVIRONMENT: &str = r#"env >&2; exec "$0" "$@""#;
/// A program that hands on in arguments what it has from its environment.
const HANDS_ON_IN_ARGUMENTS: &str = r#"exec "$0" --broker "$STEM_BROKER_URL" "$@""#;

#[test]
fn a_planted_canary_is_found_raw_percent_encoded_and_in_base64() {
    let (redis, receiver) = (redis(), Receiver::start());
    let url = format!("redis://:{IN_URL}@127.0.0.1:{}/0", redis.port());
    let collector = format!("http://me:{IN_URL}@127.0.0.1:{}", receiver.port());
    let environment = [("STEM_BROKER_URL", url.as_str()), ("STEM_OTLP_ENDPOINT", &collector)];

    let raw = redis.command(&["CONFIG", "GET", "requirepass"]).unwrap();
    assert_eq!(guise_in(&raw).as_deref(), Some(CANARY), "{raw}");

    let place = Place::with_planted(SHOWS_ENVIRONMENT);
    let shown = told(&place.stem_env(&environment, &["config", "show"]));
    assert_eq!(guise_in(&shown).as_deref(), Some(IN_URL), "{shown}");

    let place = Place::with_planted(HANDS_ON_IN_ARGUMENTS);
    let modules = modules::write(&place);
    let worker = Worker::start(&place, &environment, &["--modules", modules.to_str().unwrap()]);
    let lines = worker.command_lines();
    assert_eq!(guise_in(&lines).as_deref(), Some(IN_URL), "{lines}");

    // Of `me:`, as it was sent.
    place.stem_env(&environment, &["task", "enqueue", "tell", "--wait"]).expect(0);
    let sent = until("a request with a password", || receiver.authorizations().pop());
    assert_eq!(guise_in(&sent).as_ref(), Some(&in_base64()[0]), "{sent}");
    count("plants", 4);
}

#[test]
fn a_planted_canary_is_found_in_base64_wherever_it_stands() {
    for before in ["", ":", "a:", "me:", "longer:"] {
        for after in ["", "\n", "@host", "@host/0?x"] {
            let text = BASE64_STANDARD.encode(format!("{before}{CANARY}{after}"));
            assert!(
                guise_in(&format!("Basic {text}, x")).is_some(),
                "{before:?} {after:?}: {text}"
            );
            let other = BASE64_STANDARD.encode(format!("{before}canary-7f3a{after}"));
            assert_eq!(guise_in(&other), None);
        }
    }
    count("plants", 1);
}
