use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use stem_core::limits::Limits;

use super::*;
use crate::manifest;

/// A place with a secret and an input.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("key", "hunter2\n");
        std::fs::create_dir(place.0.path().join("models")).unwrap();
        place
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// Reads a policy, in which `DIR` is this place.
    fn policy(&self, text: &str) -> Result<Policy, PolicyError> {
        let text = text.replace("DIR", &self.0.path().display().to_string());
        Policy::open(&self.write("policy.toml", &text))
    }
}

fn handler(name: &str, rest: &str) -> HandlerManifest {
    let text = format!("[handlers.{name:?}]\nsource = \"file:x.wasm\"\n{rest}");
    manifest::read(Path::new("stem.toml"), &text).unwrap().remove(0)
}

fn asking() -> HandlerManifest {
    handler(
        "x",
        r#"
        grants.scratch = { bytes = "1GiB" }
        grants.inputs = ["models"]
        grants.env = ["PATH"]
        grants.config = ["SIZE"]
        grants.secrets = ["KEY@a.example.org"]
        grants.http = [{ hosts = ["a.example.org"] }]
        grants.children = ["thumb.*"]
        grants.kv = ["thumbs:rw"]
        "#,
    )
}

fn refused(resolved: &Resolved) -> Vec<(&str, Why)> {
    resolved.refused.iter().map(|refused| (refused.grant.as_str(), refused.why)).collect()
}

#[test]
fn without_a_policy_a_manifest_of_the_operators_holds_as_it_stands() {
    let resolved = Policy::none().resolve(&asking(), Origin::Local, &Limits::DEFAULT);
    assert_eq!(resolved.granted.grants, asking().grants);
    assert_eq!(resolved.granted.settings.get("PATH"), std::env::var("PATH").ok().as_ref());
    // Nothing is behind these names without a policy.
    let missing =
        ["config SIZE", "secrets KEY", "inputs models"].map(|grant| (grant, Why::NoValue));
    assert_eq!(refused(&resolved), missing);
    let said = resolved.refused[0].to_string();
    assert!(said.contains("[config] of the policy: SIZE = "), "{said}");
}

#[test]
fn without_a_policy_a_pushed_module_reaches_nothing_outside_of_stem() {
    let resolved = Policy::none().resolve(&asking(), Origin::Pushed, &Limits::DEFAULT);
    let grants = &resolved.granted.grants;
    assert_eq!(grants.scratch, Some(Scratch::DEFAULT));
    assert_eq!((&grants.children, &grants.kv), (&asking().grants.children, &asking().grants.kv));
    assert_eq!(words::all(grants), ["scratch", "children thumb.*", "kv thumbs:rw"]);
    assert!(resolved.granted.settings.is_empty());
    let not = ["inputs models", "env PATH", "config SIZE", "secrets KEY", "http a.example.org"];
    assert_eq!(refused(&resolved), not.map(|grant| (grant, Why::NoPolicy)));
}

#[test]
fn a_policy_caps_both_and_has_the_values() {
    let place = Place::new();
    let policy = place
        .policy(
            r#"
            [limits]
            memory = "32MiB"
            hard = "5s"
            [grants]
            scratch = "1MiB"
            inputs = ["models"]
            config = ["*"]
            secrets = ["KEY@*.example.org"]
            http = [{ hosts = ["*.example.org"], requests = 3 }]
            kv = ["thumbs"]
            [config]
            SIZE = "800"
            [secrets.KEY]
            file = "DIR/key"
            [inputs.models]
            path = "DIR/models"
            "#,
        )
        .unwrap();
    let local = policy.resolve(&asking(), Origin::Local, &Limits::DEFAULT);
    assert_eq!(local, policy.resolve(&asking(), Origin::Pushed, &Limits::DEFAULT));
    assert_eq!((local.limits.memory_bytes, local.limits.hard), (32 << 20, Duration::from_secs(5)));
    let Granted { grants, settings, secrets, inputs, .. } = &*local.granted;
    assert_eq!(grants.scratch.unwrap().bytes, 1 << 20);
    assert_eq!((grants.http[0].requests, grants.kv[0].write), (3, false));
    assert_eq!(settings["SIZE"], "800");
    assert_eq!(secrets["KEY"].expose(), b"hunter2");
    assert_eq!(inputs["models"], place.0.path().join("models"));
    let not = ["env PATH", "children thumb.*", "kv thumbs:rw"];
    assert_eq!(refused(&local), not.map(|grant| (grant, Why::Policy)));
    assert!(local.refused[2].remedy.ends_with("[grants] of the policy: kv = [\"thumbs:rw\"]"));
    assert!(!format!("{policy:?} {local:?}").contains("hunter2"));
    // No policy raises what the worker itself allows.
    let cap = Limits { memory_bytes: 1 << 20, ..Limits::DEFAULT };
    assert_eq!(policy.resolve(&asking(), Origin::Local, &cap).limits.memory_bytes, 1 << 20);
}

#[test]
fn of_all_words_on_a_handler_the_most_specific_holds() {
    let policy = Place::new()
        .policy(
            r#"
            [limits]
            memory = "8MiB"
            cpu = "1s"
            [grants]
            kv = ["*:rw"]
            scratch = true
            [handlers."thumb.*".limits]
            memory = "64MiB"
            [handlers."thumb.*".grants]
            kv = []
            [handlers."thumb.large.*".grants]
            scratch = false
            [handlers."thumb.large.one".limits]
            cpu = "2s"
            "#,
        )
        .unwrap();
    for (name, memory, cpu, granted) in [
        ("other", 8, 1, &["scratch", "kv b:rw"][..]),
        ("thumb.small", 64, 1, &["scratch"]),
        ("thumb.large.two", 64, 1, &[]),
        ("thumb.large.one", 64, 2, &[]),
        ("thumb.large.one.more", 64, 1, &[]),
    ] {
        let asks = handler(name, "grants.kv = [\"b:rw\"]\ngrants.scratch = true");
        let resolved = policy.resolve(&asks, Origin::Pushed, &Limits::DEFAULT);
        assert_eq!(resolved.limits.memory_bytes, memory << 20, "{name}");
        assert_eq!(resolved.limits.cpu, Duration::from_secs(cpu), "{name}");
        assert_eq!(words::all(&resolved.granted.grants), granted, "{name}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_without_secrets() {
    let place = Place::new();
    for (text, words) in [
        ("[grants", "policy.toml: line 1"),
        ("[grant]", "unknown key \"grant\"; did you mean \"grants\""),
        ("[grants]\nhtpp = []", "grants has an unknown key \"htpp\"; did you mean \"http\""),
        ("[limits]\nmem = \"1MiB\"", "limits has an unknown key \"mem\""),
        ("[limits]\nhard = \"0s\"", "limits.hard must be above 0"),
        ("limits = 3", "limits is integer, not a table"),
        ("[handlers.\"a b\"]", "not a pattern of task names"),
        ("[handlers.x]\nsource = \"file:x\"", "handlers.x has an unknown key \"source\""),
        ("[handlers.x.grants]\nkv = [\"a:b\"]", "handlers.x.grants.kv[0]: \"b\" is neither"),
        ("[limits]\nsoft = \"9s\"\n[handlers.x.limits]\nhard = \"5s\"", "handlers.x.limits.soft"),
        ("[config]\n\"A B\" = \"1\"", "is not made of"),
        ("[config]\nSTEM_LOG = \"1\"", "STEM_"),
        ("[config]\nSIZE = 8", "config.SIZE is integer, not text"),
        ("[grants]\nconfig = [\"SIZE\"]", "grants.config allows \"SIZE\", which has no value"),
        ("[grants]\ninputs = [\"models\"]", "which is nowhere"),
        ("[grants]\nsecrets = [\"KEY@a.example.org\"]", "write secrets.KEY.file"),
        ("[secrets]\nKEY = \"hunter2\"", "secrets.KEY is string, not a table"),
        ("[secrets.KEY]\nvalue = \"hunter2\"", "unknown key \"value\""),
        ("[secrets.KEY]", "needs one of"),
        ("[secrets.KEY]\nfile = \"DIR/key\"\nenv = \"KEY\"", "needs one of"),
        ("[secrets.KEY]\nfile = \"key\"", "not an absolute path"),
        ("[secrets.KEY]\nfile = \"DIR/none\"", "cannot be read"),
        ("[secrets.KEY]\nfile = \"DIR\"", "no plain file"),
        ("[secrets.KEY]\nenv = \"STEM_TEST_ABSENT\"", "is not set"),
        ("[secrets.\"a@b\"]\nfile = \"DIR/key\"", "the name of a secret"),
        ("[inputs.models]\npath = \"DIR/key\"", "is not a directory"),
        ("[inputs.models]\npath = \"DIR/none\"", "cannot be used"),
        ("[inputs.\"../x\"]\npath = \"DIR/models\"", "the name of an input"),
    ] {
        let error = place.policy(text).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("hunter2"), "{text}: {error}");
    }
    place.write("empty", "\n");
    let error = place.policy("[secrets.KEY]\nfile = \"DIR/empty\"").unwrap_err();
    assert!(error.problem.ends_with("is empty"), "{error}");
}

#[test]
fn what_others_can_write_is_refused_and_what_all_can_read_is_warned_of() {
    let place = Place::new();
    let text = "[secrets.KEY]\nfile = \"DIR/key\"";
    let key = place.0.path().join("key");
    for (mode, fine, warned) in
        [(0o600, true, false), (0o640, true, false), (0o644, true, true), (0o620, false, false)]
    {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        let policy = place.policy(text);
        assert_eq!(policy.is_ok(), fine, "{mode:o}");
        assert_eq!(policy.is_ok_and(|policy| !policy.warnings().is_empty()), warned, "{mode:o}");
    }
    let path = place.write("policy.toml", "");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    assert!(Policy::open(&path).unwrap_err().problem.contains("chmod go-w"));
}

#[test]
fn a_variable_that_holds_a_secret_is_given_to_nobody_as_a_variable() {
    // Set wherever tests run.
    let policy = Place::new()
        .policy("[grants]\nenv = [\"*\"]\nsecrets = [\"KEY@a.example.org\"]\n[secrets.KEY]\nenv = \"PATH\"")
        .unwrap();
    let asks = handler("x", "grants.env = [\"PATH\"]\ngrants.secrets = [\"KEY@a.example.org\"]");
    let resolved = policy.resolve(&asks, Origin::Local, &Limits::DEFAULT);
    assert!(resolved.granted.settings.is_empty() && resolved.granted.grants.env.is_empty());
    assert_eq!(refused(&resolved), [("env PATH", Why::NoValue)]);
    assert!(!resolved.granted.secrets["KEY"].expose().is_empty());
}

#[test]
fn a_class_is_of_the_most_specific_table_that_names_one() {
    let name = |name: &str| TaskName::new(name).unwrap();
    assert_eq!(Policy::none().class(&name("any")).as_str(), "default");
    let place = Place::new();
    let handlers = r#"
        handlers."acme.*".class = "untrusted"
        handlers."acme.web.*".grants.kv = ["*:rw"]
        handlers."acme.web.ours".class = "ours"
        "#;
    let policy = place.policy(handlers).unwrap();
    let class = |policy: &Policy, task: &str| policy.class(&name(task)).to_string();
    for (task, expected) in [
        ("acme.x", "untrusted"),
        ("acme.web.x", "untrusted"),
        ("acme.web.ours", "ours"),
        ("other", "default"),
    ] {
        assert_eq!(class(&policy, task), expected, "{task}");
    }
    let classes: Vec<_> = policy.classes().into_iter().map(TrustClass::as_str).collect();
    assert_eq!(classes, ["default", "ours", "untrusted"]);
    let policy = place.policy(&format!("class = \"general\"\n{handlers}")).unwrap();
    assert_eq!(class(&policy, "other"), "general");
    assert_eq!(class(&policy, "acme.x"), "untrusted");
    for (bad, words) in [
        ("class = 7", "class is integer, not text"),
        ("handlers.x.class = \"a b\"", "handlers.x.class: trust class"),
    ] {
        let problem = place.policy(bad).unwrap_err().problem;
        assert!(problem.contains(words), "{problem}");
    }
}
