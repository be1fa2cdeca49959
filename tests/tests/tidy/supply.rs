//! What `cargo deny check bans licenses sources` would say, from `deny.toml` itself, so that it is checked where that
//! tool is not installed too. Of the dependencies that are built here; advisories are what `cargo xtask audit` looks for.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use stem_tests::root;
use toml::Table;

/// What is allowed, as `deny.toml` has it.
struct Rules {
    licences: Vec<String>,
    /// A package, and who may depend on it.
    bans: BTreeMap<String, Vec<String>>,
    registries: Vec<String>,
}

impl Rules {
    fn read(text: &str) -> Self {
        let table: Table = text.parse().expect("deny.toml is TOML");
        let words = |value: Option<&toml::Value>| -> Vec<String> {
            let items = value.and_then(toml::Value::as_array).into_iter().flatten();
            items.filter_map(|item| Some(item.as_str()?.to_owned())).collect()
        };
        let section = |name: &str, key: &str| table.get(name).and_then(|table| table.get(key));
        let bans = section("bans", "deny").and_then(toml::Value::as_array).into_iter().flatten();
        let bans = bans.map(|ban| {
            let name = ban.get("crate").and_then(toml::Value::as_str).expect("a ban has a crate");
            (name.to_owned(), words(ban.get("wrappers")))
        });
        let rules = Self {
            licences: words(section("licenses", "allow")),
            bans: bans.collect(),
            registries: words(section("sources", "allow-registry")),
        };
        for key in ["unknown-registry", "unknown-git"] {
            assert_eq!(
                section("sources", key).and_then(toml::Value::as_str),
                Some("deny"),
                "{key}"
            );
        }
        assert!(!rules.licences.is_empty() && !rules.bans.is_empty());
        assert!(!rules.registries.is_empty());
        rules
    }

    /// Everything that is against the rules in what `cargo metadata` says.
    fn findings(&self, metadata: &Value) -> Vec<String> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages = list(&metadata["packages"]);
        let names: BTreeMap<_, _> =
            packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let mut findings = Vec::new();
        let nodes = list(&metadata["resolve"]["nodes"]);
        for node in &nodes {
            let id = text(&node["id"]);
            let package = packages.iter().find(|package| package["id"] == node["id"]);
            let Some(package) = package else {
                findings.push(format!("{id} is used and not described"));
                continue;
            };
            let name = &names[&id];
            let licence = text(&package["license"]);
            if !self.allows(&licence) {
                findings.push(format!("{name}: the licence {licence:?} is not allowed"));
            }
            // Without a source it lies in this repository.
            if let Some(source) = package["source"].as_str() {
                let from = |known: &String| source.strip_prefix("registry+") == Some(known);
                if !self.registries.iter().any(from) {
                    findings.push(format!("{name} comes from {source}"));
                }
            }
            let ours = package["source"].is_null();
            for wild in list(&package["dependencies"])
                .iter()
                .filter(|wanted| ours && wanted["req"] == "*" && wanted["path"].is_null())
            {
                findings.push(format!("{name} takes any version of {}", text(&wild["name"])));
            }
            for used in list(&node["deps"]) {
                let used = names.get(&text(&used["pkg"])).cloned().unwrap_or_default();
                if self.bans.get(&used).is_some_and(|wrappers| !wrappers.contains(name)) {
                    findings.push(format!("{name} depends on {used}, which is banned"));
                }
            }
        }
        if nodes.is_empty() {
            findings.push("no dependency is known".to_owned());
        }
        findings
    }

    /// Whether one can choose allowed licences only: `OR` and `/` leave a choice, `AND` none, and `WITH` is a part of the
    /// name before it.
    fn allows(&self, expression: &str) -> bool {
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        self.any(&mut rest) == Some(true) && rest.is_empty()
    }

    fn any(&self, rest: &mut &[&str]) -> Option<bool> {
        let mut allowed = self.all(rest)?;
        while let [first, tail @ ..] = *rest
            && *first == "OR"
        {
            *rest = tail;
            allowed |= self.all(rest)?;
        }
        Some(allowed)
    }

    fn all(&self, rest: &mut &[&str]) -> Option<bool> {
        let mut allowed = self.one(rest)?;
        while let [first, tail @ ..] = *rest
            && *first == "AND"
        {
            *rest = tail;
            allowed &= self.one(rest)?;
        }
        Some(allowed)
    }

    fn one(&self, rest: &mut &[&str]) -> Option<bool> {
        let [first, tail @ ..] = *rest else { return None };
        *rest = tail;
        if *first == "(" {
            let inner = self.any(rest)?;
            let [")", tail @ ..] = *rest else { return None };
            *rest = tail;
            return Some(inner);
        }
        let mut name = (*first).to_owned();
        if let ["WITH", exception, tail @ ..] = *rest {
            name = format!("{name} WITH {exception}");
            *rest = tail;
        }
        Some(self.licences.contains(&name))
    }
}

fn rules() -> Rules {
    Rules::read(&fs::read_to_string(root().join("deny.toml")).expect("there is a deny.toml"))
}

/// For the platform that runs this: others' packages are not here to be looked at.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8(version.stdout).expect("it says so in text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--all-features", "--format-version", "1"])
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

#[test]
fn every_dependency_has_an_allowed_licence_and_source_and_none_is_banned() {
    let findings = rules().findings(&metadata());
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn what_deny_toml_forbids_is_found() {
    let rules = rules();
    let package = |name: &str, licence: &str, source: Value| json!({"id": name, "name": name, "license": licence, "source": source, "dependencies": []});
    let registry = || json!(format!("registry+{}", rules.registries[0]));
    let of = |package: Value, uses: Value| {
        let node = json!({"id": package["id"], "deps": uses});
        let other = package_named(&rules);
        let nodes = json!([node]);
        json!({"packages": [package, other], "resolve": {"nodes": nodes}})
    };
    let none = || json!([]);
    let good = of(package("good", "MIT OR GPL-3.0-only", registry()), none());
    assert_eq!(rules.findings(&good), [""; 0]);
    for (bad, words) in [
        (of(package("gpl", "GPL-3.0-only", registry()), none()), "gpl: the licence"),
        (of(package("none", "", registry()), none()), "none: the licence"),
        (of(package("git", "MIT", json!("git+https://example.org/x")), none()), "git comes from"),
        (
            of(package("other", "MIT", json!("registry+https://example.org/index")), none()),
            "other comes from",
        ),
        (of(package("user", "MIT", Value::Null), json!([{"pkg": "banned"}])), "user depends on"),
        (json!({"packages": [], "resolve": {"nodes": []}}), "no dependency"),
    ] {
        let findings = rules.findings(&bad);
        assert!(findings.len() == 1 && findings[0].starts_with(words), "{words}: {findings:?}");
    }
}

/// Whatever the first ban is about.
fn package_named(rules: &Rules) -> Value {
    let banned = rules.bans.keys().next().expect("there is a ban");
    json!({"id": "banned", "name": banned, "license": "MIT", "source": null, "dependencies": []})
}

#[test]
fn an_expression_of_licences_is_read_as_it_is_meant() {
    let rules = rules();
    for good in [
        "MIT",
        "MIT OR Apache-2.0",
        "Apache-2.0/MIT",
        "GPL-2.0-only OR (MIT AND ISC)",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
    ] {
        assert!(rules.allows(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "MIT WITH LLVM-exception",
        "(MIT",
        "MIT ISC",
        "OR MIT",
    ] {
        assert!(!rules.allows(bad), "{bad}");
    }
}
