//! What a module asks for, which comes with a module from whoever pushed it; and the files by which an operator says what
//! it gets and who is believed. One input may hold one of each: what follows a line `%% policy`, `%% trust` or `%% keys` is
//! such a file.

use std::path::Path;

use stem_core::grants::Grants;
use stem_core::limits::Limits;
use stem_core::release::MANIFEST_BYTES;
use stem_engine::manifest::{self, HandlerManifest};
use stem_engine::policy::{Origin, Policy};
use stem_engine::signing::{KeyFiles, Keys, Trust};

use crate::Met;
use crate::told::told;

/// Keys of manifests, policies and lists.
pub const WORDS: &[&str] = &[
    "[handlers.x]\nsource = \"file:x.wasm\"\n",
    "[handlers.\"a.b\"]\n",
    "[handlers.x.limits]\n",
    "[handlers.x.grants]\n",
    "[settings]\n",
    "[build]\n",
    "\n%% policy\n",
    "\n%% trust\n",
    "\n%% keys\n",
    "kind = \"command\"\n",
    "kind = \"raw\"\n",
    "on-failure = \"fail\"\n",
    "digest = \"sha256:",
    "version = \"1\"\n",
    "version = 1\n",
    "memory = \"64MiB\"\n",
    "cpu = \"10s\"\n",
    "soft = \"1s\"\n",
    "hard = \"2s\"\n",
    "tables = 1\n",
    "host-calls = 1\n",
    "scratch = true\n",
    "scratch = { bytes = \"1MiB\", files = 1 }\n",
    "http = [{ hosts = [\"a.example.org:443\"], methods = [\"GET\"] }]\n",
    "kv = [\"b:rw\"]\n",
    "children = [\"t.*\"]\n",
    "env = [\"LANG\"]\n",
    "config = [\"SIZE\"]\n",
    "secrets = [\"K@a.example.org\"]\n",
    "inputs = [\"models\"]\n",
    "arguments = [\"a\"]\n",
    "input-file = \"/scratch/a\"\n",
    "result-file = \"/scratch/b\"\n",
    "file:../x.wasm",
    "file:/x.wasm",
    "[[key]]\n",
    "roles = [\"control\"]\n",
    "18446744073709551615h",
    "99999999TiB",
    "\\u202e",
    "\\u0000",
    "*",
];

/// The longest that is said of a file that is refused.
const TOLD: usize = 1_400;
/// Before each further file.
const PART: &str = "\n%% ";

/// A manifest that is read says the same alone and written again, keeps every bound, and gets no more than it asks for and
/// a policy leaves. What is said of any file that is refused can be shown.
pub fn check(bytes: &[u8]) -> Met {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split(PART);
    let asked = manifest::read(Path::new("stem.toml"), parts.next().unwrap_or_default());
    let mut policy = Policy::none();
    let mut words = Vec::new();
    for part in parts {
        let (kind, part) = part.split_once('\n').unwrap_or((part, ""));
        let read = match kind {
            "policy" => in_a_file(part, |file| Policy::open(file).map_err(|error| error.problem))
                .map(|read| policy = read),
            "trust" => Trust::read(part).map(drop),
            "keys" => in_a_file(part, |file| {
                let files = KeyFiles { public: Some(file.to_owned()), ..KeyFiles::default() };
                Keys::open(files).map(drop)
            }),
            _ => continue,
        };
        words.push(read.map_err(|problem| told(&problem, TOLD)));
    }
    match &asked {
        Err(error) => {
            let problem = told(&error.problem, TOLD);
            return Met::Refused(format!("{problem} {words:?}"));
        }
        Ok(handlers) => {
            for handler in handlers {
                within_bounds(handler);
                alone(handler, &text);
                gets(handler, &policy);
                let Grants { scratch, inputs, env, config, secrets, http, children, kv } =
                    &handler.grants;
                let counts = [inputs.len(), env.len(), config.len(), secrets.len(), http.len()];
                let counts = [&counts[..], &[children.len(), kv.len()]].concat();
                let counts = counts.into_iter().map(|count| if count == 0 { '-' } else { 'x' });
                words.push(Err(format!("{:?} {}", scratch.is_some(), counts.collect::<String>())));
            }
        }
    }
    Met::Read(format!("{words:?}"))
}

thread_local! {
    static PLACE: tempfile::TempDir = crate::place();
}

/// For those that are read from files only.
fn in_a_file<T>(text: &str, read: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    PLACE.with(|place| {
        let path = place.path().join("f");
        std::fs::write(&path, text).expect("a small file can be written");
        read(&path)
    })
}

fn within_bounds(handler: &HandlerManifest) {
    let source = Path::new(&handler.source);
    let inside = |part| matches!(part, std::path::Component::Normal(_));
    assert!(
        source.components().all(inside) && source.file_name().is_some(),
        "{}",
        source.display()
    );
    let limits = &handler.limits;
    assert!(limits.soft.is_none_or(|soft| soft < limits.hard), "{limits:?}");
    assert!(!limits.cpu.is_zero() && !limits.hard.is_zero(), "{limits:?}");
    assert!(handler.arguments.iter().all(|argument| !argument.contains('\0')));
    for file in [&handler.input_file, &handler.result_file].into_iter().flatten() {
        assert!(handler.grants.scratch.is_some(), "{file} lies nowhere");
        let name = file.strip_prefix("/scratch/").expect("it lies there");
        assert!(!name.contains(['/', '\0']) && !matches!(name, "" | "." | ".."), "{file}");
    }
    for variable in &handler.grants.env {
        assert!(!manifest::is_workers_own(variable), "{variable} is the worker's");
    }
}

/// The part that travels with a module is a manifest of the same handler.
fn alone(handler: &HandlerManifest, text: &str) {
    let file = Path::new("stem.toml");
    let text = text.split(PART).next().unwrap_or_default();
    let part = match manifest::part_of(file, text, &handler.name) {
        Ok(part) => part.expect("it was read from there"),
        Err(error) => {
            // Without an end of its own it may be longer when it is written out.
            assert!(text.len() * 8 > MANIFEST_BYTES, "{error}");
            return;
        }
    };
    let read = manifest::read(file, &part);
    assert_eq!(read.as_deref(), Ok(std::slice::from_ref(handler)), "alone it is another:\n{part}");
    let again = manifest::part_of(file, &part, &handler.name);
    assert_eq!(again, Ok(Some(part)), "it has two forms");
}

/// What it is given is no more than it asks for, whoever wrote the policy.
fn gets(handler: &HandlerManifest, policy: &Policy) {
    let resolved = policy.resolve(handler, Origin::Pushed, &Limits::DEFAULT);
    let (asked, given) = (&handler.limits, &resolved.limits);
    let smaller = [
        (given.memory_bytes, asked.memory_bytes),
        (given.table_entries, asked.table_entries),
        (given.result_bytes, asked.result_bytes),
        (given.log_bytes, asked.log_bytes),
        (given.host_calls_per_second, asked.host_calls_per_second),
    ];
    assert!(smaller.iter().all(|(given, asked)| given <= asked), "{given:?} of {asked:?}");
    assert!(given.cpu <= asked.cpu && given.hard <= asked.hard, "{given:?} of {asked:?}");
    let (asked, given) = (&handler.grants, &resolved.granted.grants);
    for (asked, given) in
        [(&asked.inputs, &given.inputs), (&asked.env, &given.env), (&asked.config, &given.config)]
    {
        assert!(given.iter().all(|name| asked.contains(name)), "{given:?} of {asked:?}");
    }
    assert!(given.scratch.is_none() || asked.scratch.is_some());
    assert!(given.secrets.iter().all(|one| asked.secrets.iter().any(|two| one.name == two.name)));
    assert!(given.kv.iter().all(|one| {
        asked.kv.iter().any(|two| one.bucket == two.bucket && one.write <= two.write)
    }));
    let own = [given.http.len(), given.secrets.len(), given.env.len(), given.inputs.len()];
    assert!(policy.is_some() || own == [0; 4], "{given:?} without a policy");
    for refused in &resolved.refused {
        told(refused, TOLD * 2);
    }
}
