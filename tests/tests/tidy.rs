//! The rules of ARCHITECTURE.md, checked over the files and over what cargo knows of the packages.

#[path = "tidy/supply.rs"]
mod supply;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stem_core::outcome::FailureKind;
use stem_core::settlement::DeadReason;
use stem_core::task::MOVES;
use stem_tests::{files, root};
use toml::Table;

/// A longer file holds more than one idea.
const LINES: usize = 800;

fn read(path: &Path) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files with one of these endings, with their text; not what others wrote and we keep unchanged.
fn texts(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let files = files().expect("the repository can be read");
    files
        .into_iter()
        .filter(|path| !path.starts_with("host-abi/wit/deps"))
        .filter(|path| {
            path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
        })
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

/// Fails with every finding, not only the first.
#[track_caller]
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// A package of the workspace and what it depends on directly.
struct Package {
    name: String,
    manifest: PathBuf,
    normal: Vec<String>,
    all: Vec<String>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let text = |value: &Value| value.as_str().expect("cargo writes text here").to_owned();
    let list = |value: &Value| value.as_array().expect("cargo writes a list here").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = list(&package["dependencies"]);
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            Package {
                name: text(&package["name"]),
                manifest: text(&package["manifest_path"]).into(),
                normal: normal.map(|dependency| text(&dependency["name"])).collect(),
                all: dependencies.iter().map(|dependency| text(&dependency["name"])).collect(),
            }
        })
        .collect()
}

fn package(name: &str) -> Package {
    packages()
        .into_iter()
        .find(|package| package.name == name)
        .unwrap_or_else(|| panic!("there is no package {name}"))
}

fn manifests() -> Vec<(PathBuf, Table)> {
    texts(&["toml"])
        .into_iter()
        .filter(|(path, _)| path.file_name().is_some_and(|name| name == "Cargo.toml"))
        .map(|(path, text)| {
            let table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, table)
        })
        .collect()
}

#[test]
fn each_outside_thing_is_named_by_one_crate_only() {
    let packages = packages();
    for (family, only) in [
        ("wasmtime", "stem-isolate"),
        ("sqlx", "stem-sql"),
        ("redis", "stem-redis"),
        ("landlock", "stem-harden"),
        ("seccompiler", "stem-harden"),
        ("libc", "stem-harden"),
    ] {
        let names: Vec<_> = packages
            .iter()
            .filter(|package| package.all.iter().any(|dependency| dependency.starts_with(family)))
            .map(|package| package.name.as_str())
            .collect();
        assert!(names.iter().all(|name| *name == only), "{family} belongs to {only}: {names:?}");
    }
}

/// A test may read what a collector reads.
#[test]
fn opentelemetry_is_named_by_one_crate_only() {
    for package in packages() {
        let names = |name: &String| name.starts_with("opentelemetry") || name == "prometheus";
        assert!(
            package.name == "stem-telemetry" || !package.normal.iter().any(names),
            "{} names OpenTelemetry",
            package.name
        );
    }
}

#[test]
fn arrows_point_down() {
    let stem = |name: &str| -> Vec<String> {
        let ours = |name: &String| name.starts_with("stem-");
        package(name).normal.into_iter().filter(ours).collect()
    };
    assert!(stem("stem-core").is_empty(), "{:?}", stem("stem-core"));
    assert!(stem("stem-host-abi").is_empty(), "{:?}", stem("stem-host-abi"));
    assert_eq!(stem("stem-memory"), ["stem-core"]);
    assert_eq!(stem("stem-redis"), ["stem-core"]);
    assert_eq!(stem("stem-services"), [""; 0]);
    assert_eq!(stem("stem-sql"), ["stem-core"]);
    assert_eq!(stem("stem-file"), ["stem-core"]);
    assert_eq!(stem("stem-telemetry"), ["stem-core"]);
    assert_eq!(stem("stem-harden"), [""; 0]);
    assert_eq!(stem("stem-isolate"), ["stem-core", "stem-harden", "stem-host-abi"]);
    assert_eq!(stem("stem-engine"), ["stem-core", "stem-isolate"]);
    assert_eq!(stem("stem-conformance"), ["stem-core"]);
    for package in packages() {
        assert!(
            package.name == "stem-tests" || !package.normal.contains(&"stem-cli".to_owned()),
            "{} depends on the command line",
            package.name
        );
    }
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    let allowed =
        ["async-trait", "hashbrown", "jiff", "serde", "serde_json", "sha2", "thiserror", "uuid"];
    let core = package("stem-core");
    let foreign: Vec<_> =
        core.normal.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
    assert!(foreign.is_empty(), "the core would depend on {foreign:?}");
    let mut findings = Vec::new();
    for (path, text) in texts(&["rs"]) {
        if !path.starts_with("engine/core/src") {
            continue;
        }
        for word in [
            "std::fs",
            "std::net",
            "std::thread",
            "std::process",
            "std::env",
            "Instant::now",
            "SystemTime::now",
        ] {
            if text.contains(word) {
                findings.push(format!("{}: {word}", path.display()));
            }
        }
    }
    none(&findings);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not name them.
    let words = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let ignore = format!("#[{}", "ignore");
    let mut findings = Vec::new();
    for (path, text) in texts(&["rs"]) {
        for (number, line) in text.lines().enumerate() {
            if line.contains(&ignore) || words.iter().any(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none(&findings);
}

#[test]
fn no_file_is_too_long_to_read() {
    let findings: Vec<_> = texts(&["rs", "sql", "md", "toml", "wit", "sh"])
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(path, lines)| format!("{} has {lines} lines; at most {LINES}", path.display()))
        .collect();
    none(&findings);
}

#[test]
fn compiled_code_is_trusted_in_one_place() {
    let place = Path::new("engine/isolate/src/native.rs");
    let mut findings = Vec::new();
    for (path, text) in texts(&["rs"]) {
        // The bindings that a guest exports are generated where the macro expands; the line below is what it writes.
        let is_macro = path == Path::new("guest-sdk/rust/macros/src/expand.rs");
        if path == place || is_macro {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let lint = concat!("unsafe", "_code");
            if code.contains(concat!("unsafe", " {"))
                || code.contains(concat!("unsafe", " fn "))
                || code.contains(concat!("unsafe", " impl "))
                || code.contains(lint)
            {
                findings.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none(&findings);
}

/// What a guest is stopped by can be left out for measuring, and nowhere else.
#[test]
fn only_the_benchmarks_run_guests_that_cannot_be_stopped() {
    let asks = |(path, manifest): (PathBuf, Table)| {
        let isolate = manifest.get("dependencies").and_then(|all| all.get("stem-isolate"));
        let features = isolate.and_then(|isolate| isolate.get("features")).cloned();
        features.map(|features| (path, features))
    };
    let asking: Vec<_> = manifests().into_iter().filter_map(asks).collect();
    let features = toml::Value::Array(vec!["measure".into()]);
    assert_eq!(asking, [(PathBuf::from("tests/bench/Cargo.toml"), features)]);
    let off = concat!("epoch_interruption", "(false)");
    let may = ["engine/isolate/src/measure.rs", "engine/isolate/src/native.rs"].map(Path::new);
    let others = texts(&["rs"])
        .into_iter()
        .filter(|(path, text)| text.contains(off) && !may.contains(&path.as_path()));
    none(&others.map(|(path, _)| path.display().to_string()).collect::<Vec<_>>());
}

#[test]
fn every_package_has_the_workspaces_lints() {
    let root: Table = read(Path::new("Cargo.toml")).parse().expect("it is TOML");
    let shared = root["workspace"]["lints"].as_table().expect("a table").clone();
    for package in packages() {
        let text = fs::read_to_string(&package.manifest).expect("cargo has just read it");
        let manifest: Table = text.parse().expect("cargo has just read it");
        let lints = manifest.get("lints").and_then(toml::Value::as_table);
        let lints = lints.unwrap_or_else(|| panic!("{} has no [lints]", package.name));
        if package.name == "stem-isolate" {
            // One file of it may say so, and nothing else differs.
            let mut expected = shared.clone();
            let rust = expected["rust"].as_table_mut().expect("a table");
            rust.insert(concat!("unsafe", "_code").to_owned(), "deny".into());
            assert_eq!(lints, &expected, "stem-isolate's lints");
        } else {
            let inherits = lints.get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(inherits, Some(true), "{} has lints of its own", package.name);
        }
    }
}

/// Each workspace, the main one and that of the guests, has its versions in one place.
#[test]
fn every_version_is_in_a_workspaces_manifest() {
    let mut findings = Vec::new();
    for (path, manifest) in manifests() {
        let mut check = |table: Option<&toml::Value>, section: &str| {
            for (name, dependency) in table.and_then(toml::Value::as_table).into_iter().flatten() {
                let has = |key: &str| dependency.get(key).is_some();
                if !has("workspace") && !has("path") {
                    findings.push(format!("{}: {section}.{name} has a version", path.display()));
                }
            }
        };
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            check(manifest.get(section), section);
            let targets = manifest.get("target").and_then(toml::Value::as_table);
            for (target, table) in targets.into_iter().flatten() {
                check(table.get(section), &format!("target.{target}.{section}"));
            }
        }
        if let Some(package) = manifest.get("package") {
            for key in ["version", "edition", "license"] {
                if package.get(key).and_then(toml::Value::as_str).is_some() {
                    findings
                        .push(format!("{}: package.{key} is not the workspace's", path.display()));
                }
            }
        }
    }
    none(&findings);
}

/// Words in back quotes that begin with a folder of the repository, and the targets of links.
fn paths(text: &str) -> Vec<String> {
    let tops = [
        "host-abi/",
        "guest-sdk/",
        "engine/",
        "cli/",
        "example-tasks/",
        "tests/",
        ".ci/",
        ".config/",
    ];
    let quoted = text.split('`').skip(1).step_by(2);
    let mut found: Vec<String> = quoted
        .filter(|word| tops.iter().any(|top| word.starts_with(top)))
        .filter(|word| !word.contains(char::is_whitespace))
        .map(str::to_owned)
        .collect();
    for link in text.split("](").skip(1) {
        let target = link.split([')', '#', ' ']).next().unwrap_or_default();
        if !target.is_empty() && !target.contains("://") {
            found.push(target.to_owned());
        }
    }
    found
}

#[test]
fn the_paths_that_documents_name_exist() {
    let mut findings = Vec::new();
    for name in ["ARCHITECTURE.md", "README.md", "CHANGELOG.md"] {
        for path in paths(&read(Path::new(name))) {
            if !root().join(&path).exists() {
                findings.push(format!("{name}: {path}"));
            }
        }
    }
    none(&findings);
}

#[test]
fn the_tests_that_lists_of_failures_and_attacks_name_exist() {
    let sources: String = texts(&["rs"]).into_iter().map(|(_, text)| text).collect();
    let is_test = |word: &&str| {
        let is_lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        word.contains('_') && word.chars().all(is_lower)
    };
    let mut findings = Vec::new();
    for (list, least) in
        [("tests/README.md", 40), ("docs/hostile-input.md", 40), ("SECURITY.md", 10)]
    {
        let text = read(Path::new(list));
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
        assert!(named.len() > least, "{list}: {named:?}");
        let missing = named.into_iter().filter(|name| !sources.contains(&format!("fn {name}(")));
        findings.extend(missing.map(|name| format!("{list}: {name}")));
    }
    none(&findings);
}

/// The table in ARCHITECTURE.md as it must be.
fn states() -> String {
    let mut table = "| from | to | when |\n|---|---|---|\n".to_owned();
    for step in MOVES {
        let from = step.from.map_or_else(|| "(new)".to_owned(), |from| format!("`{from}`"));
        table.extend(["| ", &from, " | `", step.to.as_str(), "` | ", step.when, " |\n"]);
    }
    table
}

#[test]
fn the_table_of_states_is_the_codes() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let (begin, end) = ("<!-- states: begin -->\n", "<!-- states: end -->");
    let table = text.split(begin).nth(1).and_then(|rest| rest.split(end).next());
    let expected = states();
    assert!(
        table.is_some_and(|table| table == expected),
        "ARCHITECTURE.md must have between {} and {end}:\n\n{expected}",
        begin.trim()
    );
}

#[test]
fn the_readme_explains_every_word_for_a_failure() {
    let text = read(Path::new("README.md"));
    let reasons = [
        DeadReason::Fatal,
        DeadReason::RetriesExhausted,
        DeadReason::Poison,
        DeadReason::EnvelopeMalformed,
        DeadReason::EnvelopeVersion,
        DeadReason::Unroutable,
    ];
    let words = FailureKind::ALL.map(FailureKind::as_str);
    let findings: Vec<_> = words
        .into_iter()
        .chain(reasons.map(DeadReason::as_str))
        .filter(|word| !text.contains(&format!("`{word}`")))
        .map(|word| format!("README.md does not explain `{word}`"))
        .collect();
    none(&findings);
}

/// Both workspaces build with the same compiler, and what they share is one version.
#[test]
fn the_guests_workspace_agrees_with_the_main_one() {
    let versions = |path: &str| -> BTreeMap<String, String> {
        let manifest: Table = read(Path::new(path)).parse().expect("it is TOML");
        let dependencies = manifest["workspace"]["dependencies"].as_table().expect("a table");
        let version = |value: &toml::Value| {
            value.as_str().or_else(|| value.get("version")?.as_str()).map(str::to_owned)
        };
        let package = &manifest["workspace"]["package"];
        let edition = ["edition", "rust-version", "license", "version"]
            .map(|key| (key.to_owned(), package[key].as_str().unwrap_or_default().to_owned()));
        dependencies
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), version(value)?)))
            .chain(edition)
            .collect()
    };
    let main = versions("Cargo.toml");
    let differ: Vec<_> = versions("example-tasks/Cargo.toml")
        .into_iter()
        .filter(|(name, version)| main.get(name).is_some_and(|other| other != version))
        .map(|(name, version)| {
            format!("{name}: {version} in example-tasks, {} in the main one", main[&name])
        })
        .collect();
    none(&differ);
}
