use std::time::Duration;

use super::*;

fn grants(text: &str, side: Side) -> Result<Grants, String> {
    read("grants", &Value::Table(super::super::part::table(text).unwrap()), side)
}

#[test]
fn every_kind_is_read() {
    let read = grants(
        r#"
        scratch = { bytes = "64MiB", files = 1000 }
        inputs = ["models"]
        env = ["LANG"]
        config = ["SIZE"]
        secrets = ["API_KEY@api.example.org:8443", { name = "DB", hosts = ["*.db.example.org"], reveal = true }]
        children = ["thumb.*", "report"]
        kv = ["thumbs:rw", "settings:ro", "more"]
        [[http]]
        hosts = ["api.example.org", "[::1]:80"]
        [[http]]
        hosts = ["localhost:8080"]
        methods = ["POST", "DELETE"]
        plain = true
        private = true
        requests = 3
        bytes = "1MiB"
        timeout = "2s"
        "#,
        Side::Manifest,
    )
    .unwrap();
    assert_eq!(read.scratch, Some(Scratch { bytes: 64 << 20, files: 1000 }));
    assert_eq!(read.secrets[0].name, "API_KEY");
    assert_eq!(read.secrets[0].hosts, [HostPattern::new("api.example.org:8443").unwrap()]);
    assert!(!read.secrets[0].reveal && read.secrets[1].reveal);
    assert_eq!((read.http[0].methods.len(), read.http[0].requests), (2, HTTP_REQUESTS));
    assert!(!read.http[0].plain && !read.http[0].private);
    let other = &read.http[1];
    assert_eq!((other.methods.join(" "), other.requests), ("POST DELETE".to_owned(), 3));
    assert!(other.plain && other.private && other.timeout == Duration::from_secs(2));
    assert_eq!(read.children[0].as_str(), "thumb.*");
    let kv: Vec<_> = read.kv.iter().map(BucketGrant::written).collect();
    assert_eq!(kv, ["thumbs:rw", "settings", "more"]);
    assert_eq!(grants("scratch = true", Side::Manifest).unwrap().scratch, Some(Scratch::DEFAULT));
    let size = grants("scratch = \"1KiB\"", Side::Manifest).unwrap().scratch;
    assert_eq!(size, Some(Scratch { bytes: 1024, files: SCRATCH_FILES }));
    assert!(grants("scratch = false\nkv = []", Side::Manifest).unwrap().is_empty());
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, words) in [
        ("htp = []", "did you mean \"http\""),
        (
            "http = [{ host = [\"a.b\"] }]",
            "grants.http[0] has an unknown key \"host\"; did you mean \"hosts\"",
        ),
        ("http = {}", "grants.http is table, not a list"),
        ("http = [\"a.example.org\"]", "grants.http[0] is string, not a table"),
        ("http = [{}]", "names no hosts"),
        ("http = [{ hosts = [\"*\"] }]", "grants.http[0].hosts[0]: \"*\" is not a host"),
        ("http = [{ hosts = [\"a.b\", \"a.b\"] }]", "a second time"),
        ("http = [{ hosts = [\"a.b\"], methods = [\"get\"] }]", "did you mean \"GET\""),
        ("http = [{ hosts = [\"a.b\"], methods = [\"CONNECT\"] }]", "not a method"),
        ("http = [{ hosts = [\"a.b\"], methods = [] }]", "leave it out for GET and HEAD"),
        ("http = [{ hosts = [\"a.b\"], plain = 1 }]", "not true or false"),
        ("http = [{ hosts = [\"a.b\"], requests = 0 }]", "above 0"),
        ("http = [{ hosts = [\"a.b\"], requests = 5000000000 }]", "is above"),
        ("http = [{ hosts = [\"a.b\"], bytes = 5 }]", "not text in quotes"),
        ("http = [{ hosts = [\"a.b\"], timeout = \"0s\" }]", "above 0"),
        ("scratch = 5", "write true"),
        ("scratch = \"0B\"", "0 bytes"),
        ("scratch = \"5MB\"", "not a size"),
        ("scratch = { size = \"1MiB\" }", "unknown key \"size\""),
        ("inputs = [\"..\"]", "grants.inputs[0] \"..\" is not a name"),
        ("inputs = [\"a/b\"]", "is not a name"),
        ("inputs = \"models\"", "not a list"),
        ("env = [\"STEM_BROKER_URL\"]", "the worker itself reads"),
        ("env = [\"OTEL_EXPORTER_OTLP_HEADERS\"]", "the worker itself reads"),
        ("env = [\"PGPASSWORD\"]", "the worker itself reads"),
        ("config = [\"STEM_SIZE\"]", "the worker's own"),
        ("env = [\"A=B\"]", "is not a name"),
        ("env = [\"*\"]", "is not a name"),
        ("env = [3]", "grants.env[0] is integer"),
        ("config = [\"A\", \"A\"]", "a second time"),
        ("secrets = [\"KEY\"]", "write \"KEY@HOST\""),
        ("secrets = [\"KEY@\"]", "is not a host"),
        ("secrets = [\"KEY reveal\"]", "reveal = true"),
        ("secrets = [\"@a.b\"]", "is not a name"),
        ("secrets = [{ name = \"KEY\" }]", "can do nothing"),
        ("secrets = [{ reveal = true }]", "has no name"),
        ("secrets = [\"KEY@a.b\", \"KEY@c.d\"]", "write it once"),
        ("children = [\"a b\"]", "not a pattern of task names"),
        ("children = [\"a*b\"]", "not a pattern of task names"),
        ("kv = [\"x:w\"]", "neither ro nor rw"),
        ("kv = [\"x\", \"x:rw\"]", "a second time"),
        ("kv = [\"*:rw\"]", "the bucket \"*\" is not a name"),
        ("kv = [\"a b\"]", "is not a name"),
    ] {
        let problem = grants(text, Side::Manifest).unwrap_err();
        assert!(problem.contains(words), "{text}: {problem}");
    }
}

#[test]
fn a_star_stands_for_all_in_a_policy_only() {
    let all =
        "env = [\"*\"]\nconfig = [\"*\"]\ninputs = [\"*\"]\nkv = [\"*:rw\"]\nchildren = [\"*\"]";
    let read = grants(all, Side::Policy).unwrap();
    assert_eq!((read.env.join(""), read.kv[0].written()), ("*".to_owned(), "*:rw".to_owned()));
    assert!(grants(all, Side::Manifest).is_err());
    assert!(grants("env = [\"PGPASSWORD\"]", Side::Policy).is_err());
    assert!(grants("secrets = [\"*@a.b\"]", Side::Policy).is_err());
}
