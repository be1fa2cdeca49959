//! What a new project is made of: a language's template, its library, and where each of their files goes.

use std::path::PathBuf;

use stem_core::id::TaskName;

use crate::args::Language;

/// Paths in the repository and texts, put in by the build script.
static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/skeletons.rs"));

/// The end of a template's file name that keeps tools from taking the file for what it will be.
const SUFFIX: &str = ".template";

/// Longest name of a project: one that every registry and file system takes.
pub const NAME_BYTES: usize = 64;

/// Packages that a project gets from us: two of one name cannot be told apart.
pub const OURS: [&str; 3] = ["stem-guest", "stem-guest-macros", "stem-host-abi"];

/// A folder or file of the repository and where it goes in a project. In what is filled in, placeholders are replaced.
struct Part {
    from: &'static str,
    to: &'static str,
    filled_in: bool,
}

const fn template(from: &'static str) -> Part {
    Part { from, to: "", filled_in: true }
}

const fn copied(from: &'static str, to: &'static str) -> Part {
    Part { from, to, filled_in: false }
}

const JAVASCRIPT_LIBRARY: Part = copied("guest-sdk/javascript/library/", "stem-guest/");
const JAVASCRIPT_WIT: Part = copied("host-abi/wit/", "stem-guest/wit/");

fn parts(language: Language) -> Vec<Part> {
    match language {
        Language::Rust => vec![
            template("guest-sdk/rust/template/"),
            copied("guest-sdk/rust/vendored/", "vendor/stem/"),
            copied("guest-sdk/rust/Cargo.toml", "vendor/stem/guest-sdk/rust/Cargo.toml"),
            copied("guest-sdk/rust/src/", "vendor/stem/guest-sdk/rust/src/"),
            copied("guest-sdk/rust/macros/", "vendor/stem/guest-sdk/rust/macros/"),
            copied("host-abi/", "vendor/stem/host-abi/"),
        ],
        Language::Javascript => {
            vec![template("guest-sdk/javascript/template/"), JAVASCRIPT_LIBRARY, JAVASCRIPT_WIT]
        }
        Language::Typescript => vec![
            template("guest-sdk/javascript/template-typescript/"),
            JAVASCRIPT_LIBRARY,
            JAVASCRIPT_WIT,
        ],
        Language::Python => vec![
            template("guest-sdk/python/template/"),
            copied("guest-sdk/python/library/", "stem_guest/"),
            copied("host-abi/wit/", "stem_guest/wit/"),
        ],
        Language::C => {
            vec![template("guest-sdk/c/template/"), copied("guest-sdk/c/library/", "stem/")]
        }
        Language::Go => {
            vec![template("guest-sdk/go/template/"), copied("guest-sdk/go/library/", "stem/")]
        }
    }
}

/// The files of a new project, as paths in it and texts, in the order of their paths.
pub fn files(language: Language, name: &TaskName) -> Vec<(PathBuf, String)> {
    let module = identifier(name.as_str());
    let fill_in =
        |text: &str| text.replace("{{name}}", name.as_str()).replace("{{module}}", &module);
    let mut files = Vec::new();
    for part in parts(language) {
        for (path, text) in FILES {
            let Some(rest) = path.strip_prefix(part.from) else { continue };
            let path = format!("{}{rest}", part.to);
            files.push(if part.filled_in {
                let path = fill_in(path.strip_suffix(SUFFIX).unwrap_or(&path));
                (PathBuf::from(path), fill_in(text))
            } else {
                (PathBuf::from(path), (*text).to_owned())
            });
        }
    }
    files.sort();
    files
}

/// The name of a project as an identifier of a programming language.
fn identifier(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether the name can be that of a package in every language.
pub fn is_project_name(name: &str) -> bool {
    name.len() <= NAME_BYTES
        && name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && name.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::ValueEnum;

    use super::*;

    fn of(language: Language) -> Vec<(PathBuf, String)> {
        files(language, &TaskName::new("count-words").unwrap())
    }

    #[test]
    fn every_language_has_a_whole_project() {
        for language in Language::value_variants() {
            let files = of(*language);
            let text = |name: &str| {
                let found = files.iter().find(|(path, _)| path.as_os_str() == name);
                &found.unwrap_or_else(|| panic!("{language:?} has no {name}")).1
            };
            let manifest = text("stem.toml");
            assert!(manifest.contains("[handlers.count-words]"), "{manifest}");
            assert!(text("README.md").starts_with("# count-words\n"), "{language:?}");
            assert!(text(".gitignore").contains(".stem/"), "{language:?}");
            for (path, text) in &files {
                let place = path.display();
                assert!(path.is_relative() && !place.to_string().contains(SUFFIX), "{place}");
                for word in ["{{name}}", "{{module}}"] {
                    assert!(!text.contains(word) && !place.to_string().contains(word), "{place}");
                }
            }
            let mut paths: Vec<_> = files.iter().map(|(path, _)| path).collect();
            paths.dedup();
            assert_eq!(paths.len(), files.len(), "{language:?} has a path twice");
        }
    }

    #[test]
    fn a_rust_project_has_the_whole_crate() {
        let files = of(Language::Rust);
        for name in [
            "Cargo.toml",
            "Cargo.lock",
            "vendor/stem/Cargo.toml",
            "vendor/stem/guest-sdk/rust/src/lib.rs",
            "vendor/stem/guest-sdk/rust/macros/Cargo.toml",
            "vendor/stem/host-abi/src/raw.rs",
            "vendor/stem/host-abi/wit/worlds.wit",
        ] {
            assert!(files.iter().any(|(path, _)| path.as_os_str() == name), "{name}");
        }
    }

    /// What the copy declares is what the repository's own workspace has.
    #[test]
    fn the_copied_crate_is_built_as_the_repository_builds_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: &str| -> toml::Table {
            std::fs::read_to_string(root.join(path)).unwrap().parse().unwrap()
        };
        let (ours, theirs) = (read("Cargo.toml"), read("guest-sdk/rust/vendored/Cargo.toml"));
        assert_eq!(ours["workspace"]["package"], theirs["workspace"]["package"]);
        let all = &ours["workspace"]["dependencies"];
        for (name, dependency) in theirs["workspace"]["dependencies"].as_table().unwrap() {
            assert_eq!(&all[name], dependency, "{name}");
        }
    }

    /// Compilers name what they make by the library's name alone, and people share a folder for builds.
    #[test]
    fn no_two_projects_in_rust_make_a_file_of_one_name() {
        for name in ["one", "an-other"] {
            let files = files(Language::Rust, &TaskName::new(name).unwrap());
            let text = |path: &str| &files.iter().find(|(at, _)| at.as_os_str() == path).unwrap().1;
            let library = format!("task_{}", name.replace('-', "_"));
            assert!(text("Cargo.toml").contains(&format!("name = \"{library}\"\n")));
            assert!(text("stem.toml").contains(&format!("/{library}.wasm\"\n")));
        }
    }

    /// A worker may be watching the folder, and what a compiler writes is there bit by bit. The libraries for JavaScript and
    /// Python see to that themselves.
    #[test]
    fn no_compiler_writes_where_the_module_belongs() {
        for language in [Language::Rust, Language::C, Language::Go] {
            let files = of(language);
            let (_, manifest) =
                files.iter().find(|(path, _)| path.as_os_str() == "stem.toml").unwrap();
            let manifest: toml::Table = manifest.parse().unwrap();
            let source = manifest["handlers"]["count-words"]["source"].as_str().unwrap();
            let output = manifest["build"]["output"].as_str().unwrap();
            assert_ne!(source.strip_prefix("file:").unwrap(), output, "{language:?}");
            // A worker takes every .wasm file in the folder and in those right below it.
            let output = Path::new(output);
            let deep = output.components().count() > 2;
            assert!(output.extension().is_none() || deep, "{}", output.display());
            let command = manifest["build"]["command"].to_string();
            assert!(command.contains("target") || command.contains(&*output.to_string_lossy()));
        }
    }

    #[test]
    fn a_project_has_a_name_that_every_language_takes() {
        assert!(is_project_name("count-words_2"));
        for bad in ["", "-x", "2d", "Count", "a.b", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(!is_project_name(bad), "{bad}");
        }
    }
}
