//! Which grants a module's imports need, and what becomes of them.

use serde_json::{Value, json};
use stem_core::grants::Grants;
use stem_engine::manifest::HandlerManifest;
use stem_engine::policy::Resolved;
use stem_engine::policy::words::{self, KINDS};

/// Interfaces and functions, without versions, and the kinds of grants behind them. What is optional is imported by
/// programs that never use it, since their language's library does: it answers that there is nothing.
const NEEDS: [(&str, &[&str], bool); 18] = [
    ("stem:task/children", &["children"], false),
    ("stem:task/kv", &["kv"], false),
    ("stem:task/config", &["config"], false),
    ("stem:task/secrets", &["secrets"], false),
    ("stem0.children_enqueue", &["children"], false),
    ("stem0.kv_get", &["kv"], false),
    ("stem0.kv_put", &["kv"], false),
    ("stem0.kv_remove", &["kv"], false),
    ("stem0.config_get", &["config"], false),
    ("stem0.secret_placeholder", &["secrets"], false),
    ("stem0.secret_reveal", &["secrets"], false),
    ("wasi:http/outgoing-handler", &["http"], false),
    ("wasi:filesystem/preopens", &["scratch", "inputs"], true),
    ("wasi:cli/environment", &["env", "config"], true),
    ("wasi_snapshot_preview1.fd_prestat_get", &["scratch", "inputs"], true),
    ("wasi_snapshot_preview1.path_open", &["scratch", "inputs"], true),
    ("wasi_snapshot_preview1.environ_get", &["env", "config"], true),
    ("wasi_snapshot_preview1.environ_sizes_get", &["env", "config"], true),
];

/// One kind of grant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Need {
    kind: &'static str,
    /// What the manifest asks for.
    asked: Vec<String>,
    /// What is left of that.
    allowed: Vec<String>,
    /// Imports that can do nothing, or less, without it.
    needed_by: Vec<String>,
    /// Whether one of those does nothing else.
    required: bool,
}

/// Every kind that is asked for or needed, in a fixed order.
pub(super) fn of(imports: &[String], asked: &Grants, allowed: &Grants) -> Vec<Need> {
    KINDS
        .into_iter()
        .map(|kind| {
            let (mut needed_by, mut required) = (Vec::new(), false);
            for import in imports {
                let name = import.split_once('@').map_or(import.as_str(), |(name, _)| name);
                let behind =
                    NEEDS.iter().find(|(known, kinds, _)| *known == name && kinds.contains(&kind));
                if let Some((_, _, optional)) = behind {
                    needed_by.push(import.clone());
                    required |= !optional;
                }
            }
            let (asked, allowed) = (words::of_kind(asked, kind), words::of_kind(allowed, kind));
            Need { kind, asked, allowed, needed_by, required }
        })
        .filter(|need| !need.asked.is_empty() || !need.needed_by.is_empty())
        .collect()
}

/// What a module will miss, and what it asks for without a use.
pub(super) fn warnings(
    manifest: &HandlerManifest,
    needs: &[Need],
    resolved: &Resolved,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for need in needs {
        let kind = need.kind;
        if need.required && need.asked.is_empty() {
            let example = match kind {
                "http" => "http = [{ hosts = [\"api.example.org\"] }]",
                "kv" => "kv = [\"BUCKET:rw\"]",
                "children" => "children = [\"NAME\"]",
                "secrets" => "secrets = [\"NAME@HOST\"]",
                _ => "config = [\"NAME\"]",
            };
            warnings.push(format!(
                "imports {} and asks for no grants.{kind}: every request will be denied; to ask write {example} into [handlers.{:?}.grants] of stem.toml",
                need.needed_by.join(", "),
                manifest.name.as_str()
            ));
        }
        if need.needed_by.is_empty() {
            warnings.push(format!(
                "asks for grants.{kind} and imports nothing that uses it; leave it out of stem.toml"
            ));
        }
    }
    warnings.extend(resolved.refused.iter().map(ToString::to_string));
    warnings
}

impl Need {
    pub(super) fn document(&self) -> Value {
        json!({
            "grant": self.kind,
            "asked": self.asked,
            "allowed": self.allowed,
            "neededBy": self.needed_by,
        })
    }

    /// For people: what is asked, what of it is not given, and for whom.
    pub(super) fn text(&self) -> String {
        let what = if self.asked.is_empty() {
            "not asked for".to_owned()
        } else if self.asked == self.allowed {
            self.asked.join(", ")
        } else if self.allowed.is_empty() {
            format!("{}: refused", self.asked.join(", "))
        } else {
            format!("{}: only {}", self.asked.join(", "), self.allowed.join(", "))
        };
        let by = if self.needed_by.is_empty() {
            String::new()
        } else {
            format!(" (for {})", self.needed_by.join(", "))
        };
        format!("{}: {what}{by}", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use stem_core::grants::BucketGrant;
    use stem_core::id::TaskName;
    use stem_core::limits::Limits;
    use stem_engine::policy::{Origin, Policy};

    use super::*;

    fn needs(imports: &[&str], grants: &Grants, origin: Origin) -> (Vec<Need>, Vec<String>) {
        let mut manifest = HandlerManifest::plain(TaskName::new("x").unwrap(), "x.wasm".to_owned());
        manifest.grants = grants.clone();
        let resolved = Policy::none().resolve(&manifest, origin, &Limits::DEFAULT);
        let imports: Vec<_> = imports.iter().map(|&import| import.to_owned()).collect();
        let needs = of(&imports, grants, &resolved.granted.grants);
        let warnings = warnings(&manifest, &needs, &resolved);
        (needs, warnings)
    }

    #[test]
    fn what_is_needed_and_not_asked_for_is_a_warning() {
        let imports = [
            "stem:task/kv@0.1.0",
            "wasi:http/outgoing-handler@0.2.4",
            "wasi:cli/environment@0.2.6",
        ];
        let grants = Grants {
            kv: vec![BucketGrant { bucket: "thumbs".to_owned(), write: true }],
            ..Grants::default()
        };
        let (found, warnings) = needs(&imports, &grants, Origin::Local);
        let kinds: Vec<_> = found.iter().map(|need| need.kind).collect();
        assert_eq!(kinds, ["env", "config", "http", "kv"]);
        let kv = &found[3];
        assert_eq!(
            (kv.asked.join(""), kv.allowed.join("")),
            ("thumbs:rw".into(), "thumbs:rw".into())
        );
        assert_eq!(kv.text(), "kv: thumbs:rw (for stem:task/kv@0.1.0)");
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.contains("every request will be denied"), "{warning}");
        assert!(warning.starts_with("imports wasi:http/outgoing-handler@0.2.4 and"), "{warning}");
    }

    #[test]
    fn what_is_asked_for_and_of_no_use_or_refused_is_a_warning() {
        let grants = Grants { env: vec!["LANG".to_owned()], ..Grants::default() };
        let (found, warnings) = needs(&["stem:task/log@0.1.0"], &grants, Origin::Pushed);
        assert_eq!(found[0].text(), "env: LANG: refused");
        assert!(warnings[0].contains("imports nothing that uses it"), "{warnings:?}");
        assert!(warnings[1].contains("env = [\"LANG\"]"), "{warnings:?}");
    }

    #[test]
    fn every_function_of_core_modules_that_asks_for_a_grant_is_known() {
        // These reach nothing beside the attempt itself.
        let own = [
            "input_len",
            "input_read",
            "output_write",
            "fail",
            "heartbeat",
            "stop_notice",
            "extend_lease",
            "progress",
            "log",
            "sleep",
            "time_left",
            "info",
            "checkpoint_load",
            "checkpoint_save",
        ];
        for function in stem_host_abi::raw::FUNCTIONS {
            let name = format!("{}.{function}", stem_host_abi::raw::MODULE);
            let known = NEEDS.iter().any(|(known, ..)| *known == name);
            assert_eq!(known, !own.contains(&function), "{name}");
        }
    }

    #[test]
    fn a_program_that_never_looks_is_not_warned_of() {
        let imports =
            ["wasi_snapshot_preview1.environ_get", "wasi_snapshot_preview1.fd_prestat_get"];
        let (found, warnings) = needs(&imports, &Grants::default(), Origin::Local);
        assert!(found.len() == 4 && warnings.is_empty(), "{found:?} {warnings:?}");
        assert_eq!(found[0].text(), format!("scratch: not asked for (for {})", imports[1]));
    }
}
