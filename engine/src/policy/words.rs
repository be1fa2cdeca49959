//! Grants in words, and the line that would allow one.

use stem_core::grants::{BucketGrant, Grants, HTTP_METHODS, HttpGrant, SecretGrant};

/// The kinds of grants, as manifests and policies call them, in the order in which they are shown.
pub use crate::manifest::grants::KEYS as KINDS;
use crate::units;

/// What a set of grants has of one kind, in words without the kind; an unknown kind has nothing.
pub fn of_kind(grants: &Grants, kind: &str) -> Vec<String> {
    match kind {
        "scratch" => {
            grants.scratch.iter().map(|scratch| units::write_bytes(scratch.bytes)).collect()
        }
        "inputs" => grants.inputs.clone(),
        "env" => grants.env.clone(),
        "config" => grants.config.clone(),
        "secrets" => grants.secrets.iter().flat_map(secret).collect(),
        "http" => grants.http.iter().flat_map(http).collect(),
        "children" => grants.children.iter().map(|name| name.as_str().to_owned()).collect(),
        "kv" => grants.kv.iter().map(BucketGrant::written).collect(),
        _ => Vec::new(),
    }
}

/// Every grant as its kind and its object: `kv thumbs:rw`.
pub fn all(grants: &Grants) -> Vec<String> {
    let mut words = Vec::new();
    for kind in KINDS {
        if kind == "scratch" {
            words.extend(grants.scratch.map(|_| kind.to_owned()));
        } else {
            words.extend(of_kind(grants, kind).iter().map(|object| format!("{kind} {object}")));
        }
    }
    words
}

fn secret(grant: &SecretGrant) -> Vec<String> {
    let to = grant.hosts.iter().map(|host| format!("{}@{host}", grant.name));
    to.chain(grant.reveal.then(|| format!("{} reveal", grant.name))).collect()
}

fn http(grant: &HttpGrant) -> Vec<String> {
    let mut how = String::new();
    if grant.methods != HTTP_METHODS {
        how = format!("{} ", grant.methods.join(","));
    }
    for (holds, word) in [(grant.plain, "plain "), (grant.private, "private ")] {
        how.push_str(if holds { word } else { "" });
    }
    grant.hosts.iter().map(|host| format!("{how}{host}")).collect()
}

/// What to write into a policy to allow a refused grant, given in the words of [`Grants::capped_by`].
pub(super) fn remedy(refused: &str) -> String {
    let (kind, object) = refused.split_once(' ').unwrap_or((refused, ""));
    let line = match (kind, object.split_once(' ')) {
        ("scratch", _) => "scratch = true".to_owned(),
        ("http", Some((how @ ("plain" | "private"), host))) => {
            format!("http = [{{ hosts = [{host:?}], {how} = true }}]")
        }
        ("http", Some((method, host))) => {
            format!("http = [{{ hosts = [{host:?}], methods = [{method:?}] }}]")
        }
        ("http", None) => format!("http = [{{ hosts = [{object:?}] }}]"),
        ("secrets", Some((name, _))) => {
            format!("secrets = [{{ name = {name:?}, reveal = true }}]")
        }
        ("secrets", None) if !object.contains('@') => {
            format!("secrets = [{:?}]", format!("{object}@HOST"))
        }
        _ => format!("{kind} = [{object:?}]"),
    };
    format!("to allow it write into [grants] of the policy: {line}")
}

/// What to write into a policy to put a value behind a name.
pub(super) fn value(kind: &str, name: &str) -> String {
    match kind {
        "config" => format!("to give it write into [config] of the policy: {name} = \"…\""),
        "secrets" => format!("to give it write into the policy: secrets.{name}.file = \"/…\""),
        "inputs" => format!("to give it write into the policy: inputs.{name}.path = \"/…\""),
        _ => format!("{name} holds a secret of the policy, which no handler gets as a variable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_can_be_read_as_grants() {
        use crate::manifest::grants::{Side, read};
        for refused in [
            "scratch",
            "inputs models",
            "env LANG",
            "config SIZE",
            "secrets KEY@a.example.org",
            "secrets KEY reveal",
            "http a.example.org:443",
            "http POST a.example.org",
            "http plain a.example.org",
            "http private a.example.org",
            "children thumb.*",
            "kv thumbs",
            "kv thumbs:rw",
        ] {
            let remedy = remedy(refused);
            let (_, line) = remedy.split_once(": ").unwrap();
            let table = toml::Value::Table(line.parse().unwrap());
            let allowed = read("grants", &table, Side::Policy).unwrap();
            assert_eq!(all(&allowed), [refused], "{remedy}");
        }
        assert!(remedy("secrets KEY").contains("KEY@HOST"));
    }
}
