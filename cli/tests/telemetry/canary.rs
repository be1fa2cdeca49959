//! A password that is in every URL comes out nowhere.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use stem_services::{RedisServer, RedisSettings};

use crate::modules;
use crate::receiver::Receiver;
use crate::support::{Place, WITH_SERVICES};
use crate::worker::Worker;

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

/// Looks for the canary in all its guises.
#[track_caller]
fn is_clean(what: &str, text: &str) {
    let of_pair = |user: &str| BASE64_STANDARD.encode(format!("{user}:{CANARY}"));
    let guises = [
        CANARY.to_owned(),
        IN_URL.to_owned(),
        BASE64_STANDARD.encode(CANARY),
        of_pair("me"),
        of_pair(""),
    ];
    for guise in guises {
        assert!(!text.contains(&guise), "{what} says {guise}:\n{text}");
    }
}

#[test]
fn a_password_in_every_url_comes_out_nowhere() {
    let place = Place::new();
    let modules = modules::write(&place);
    let settings = RedisSettings { password: Some(CANARY.to_owned()), ..RedisSettings::default() };
    let redis = RedisServer::with(settings);
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
        is_clean(&format!("{args:?}"), &format!("{}\n{}", ran.stdout, ran.stderr));
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
