//! The WIT package parses, resolves against the WASI packages beside it, and its worlds offer what the README says.

use std::path::Path;

use stem_host_abi::{ABI_VERSION, WIT_PACKAGE};
use wit_parser::{Resolve, WorldId, WorldItem};

fn package() -> (Resolve, wit_parser::PackageId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit"))
        .unwrap_or_else(|error| panic!("the WIT package does not resolve: {error:#}"));
    (resolve, package)
}

fn world(name: &str) -> (Resolve, WorldId) {
    let (resolve, package) = package();
    let world = resolve.packages[package].worlds[name];
    (resolve, world)
}

fn names<'a>(
    resolve: &Resolve,
    items: impl Iterator<Item = (&'a wit_parser::WorldKey, &'a WorldItem)>,
) -> Vec<String> {
    items
        .filter(|(_, item)| matches!(item, WorldItem::Interface { .. }))
        .map(|(key, _)| resolve.name_world_key(key))
        .collect()
}

fn imports(name: &str) -> Vec<String> {
    let (resolve, world) = world(name);
    let mut names = names(&resolve, resolve.worlds[world].imports.iter());
    names.sort();
    names
}

fn exports(name: &str) -> Vec<String> {
    let (resolve, world) = world(name);
    names(&resolve, resolve.worlds[world].exports.iter())
}

fn ours(interfaces: &[&str]) -> Vec<String> {
    interfaces.iter().map(|interface| format!("stem:task/{interface}@{ABI_VERSION}")).collect()
}

fn only_ours(names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| name.starts_with("stem:task/")).collect()
}

#[test]
fn the_package_has_the_version_of_the_constants() {
    let (resolve, package) = package();
    assert_eq!(resolve.packages[package].name.to_string(), WIT_PACKAGE);
    assert_eq!(WIT_PACKAGE, format!("stem:task@{ABI_VERSION}"));
}

#[test]
fn there_are_four_worlds() {
    let (resolve, package) = package();
    let mut worlds: Vec<_> = resolve.packages[package].worlds.keys().map(String::as_str).collect();
    worlds.sort_unstable();
    assert_eq!(worlds, ["command", "guest", "pure-task", "task"]);
}

#[test]
fn a_pure_task_reaches_nothing_outside() {
    assert_eq!(imports("pure-task"), ours(&["context", "lifecycle", "log", "types"]));
    assert_eq!(exports("pure-task"), ours(&["handler"]));
}

#[test]
fn what_an_sdk_binds_needs_no_wasi_and_fits_a_task() {
    assert_eq!(
        imports("guest"),
        ours(&[
            "checkpoint",
            "children",
            "config",
            "context",
            "kv",
            "lifecycle",
            "log",
            "secrets",
            "types"
        ])
    );
    assert_eq!(exports("guest"), exports("task"));
    let offered = imports("task");
    assert!(imports("guest").iter().all(|import| offered.contains(import)));
}

#[test]
fn a_task_has_all_of_a_pure_task_and_wasi() {
    let offered = imports("task");
    assert_eq!(
        only_ours(offered.clone()),
        ours(&[
            "checkpoint",
            "children",
            "config",
            "context",
            "kv",
            "lifecycle",
            "log",
            "secrets",
            "stop-events",
            "types"
        ])
    );
    assert!(offered.contains(&"wasi:clocks/monotonic-clock@0.2.12".to_owned()));
    assert!(!offered.iter().any(|import| import.starts_with("wasi:http")));
    assert_eq!(exports("task"), ours(&["handler"]));
}

#[test]
fn a_command_runs_by_wasi_alone() {
    assert_eq!(exports("command"), ["wasi:cli/run@0.2.12"]);
    assert_eq!(only_ours(imports("command")), imports("guest"));
}
