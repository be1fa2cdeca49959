//! Modules: compiled, linked, checked; shared by all attempts.

use std::fmt;

use serde::{Deserialize, Serialize};
use stem_core::id::Digest;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre as ComponentPre};
use wasmtime::{Engine, ExternType, InstancePre as CorePre, ValType};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::admission::NotAdmitted;
use crate::compile::CompileError;
use crate::host::abi::IsolatePre;
use crate::host::{ComponentState, CoreState};

/// The three ways to be a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// A component that exports `stem:task/handler`.
    Component,
    /// A WASI command: a component that exports `wasi:cli/run`, or a core module that exports `_start`.
    Command,
    /// A core module that exports `stem_run`.
    Raw,
}

impl ModuleKind {
    /// The word used in manifests and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Command => "command",
            Self::Raw => "raw",
        }
    }
}

/// What a failure without further words means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Try again, as the policy says.
    #[default]
    Retry,
    /// Give up.
    Fail,
}

/// Why a module is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Before anything was compiled.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// By the compiler.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It imports what the sandbox does not have.
    #[error("the module imports what no worker offers: {}", shown(.0))]
    UnknownImports(Vec<String>),
    /// It exports none of what makes a module a task.
    #[error(
        "the module is not a task: it exports {found}, and none of stem:task/handler@0.1.0 (component), wasi:cli/run (command), \
         _start (command) or stem_run (raw)"
    )]
    NotATask {
        /// What it does export, for the message.
        found: String,
    },
    /// Names fit and types do not, or the pool's bounds do not hold it.
    #[error("the module cannot be linked: {0}")]
    Link(String),
}

/// Longest list of a module's names in a message, in bytes.
const SHOWN_BYTES: usize = 2_000;

/// Names that a module has chosen, for people.
fn shown(names: &[String]) -> String {
    stem_core::text::printable(&names.join(", "), SHOWN_BYTES)
}

/// A module's outline: what it needs and gives, which is also its honest list of capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Interfaces (component) or functions (core) it imports, sorted.
    pub imports: Vec<String>,
    /// What it exports, sorted.
    pub exports: Vec<String>,
    /// Those of the imports that no worker offers.
    pub unknown: Vec<String>,
}

pub(crate) enum Linked {
    Task(IsolatePre<ComponentState>),
    Command(CommandPre<ComponentState>),
    CoreCommand(CorePre<CoreState>),
    Raw(CorePre<CoreState>),
}

impl Linked {
    /// The compiled code, as the engine would load it.
    pub(crate) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Self::Task(pre) => pre.instance_pre().component().serialize(),
            Self::Command(pre) => pre.instance_pre().component().serialize(),
            Self::CoreCommand(pre) | Self::Raw(pre) => pre.module().serialize(),
        }
    }
}

/// A module that can be started. Cheap to share; dropping the last handle frees its code.
pub struct Module {
    pub(crate) digest: Digest,
    pub(crate) kind: ModuleKind,
    pub(crate) outline: Outline,
    pub(crate) linked: Linked,
    /// Slots of the pool that an isolate takes.
    pub(crate) slots: u32,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("digest", &self.digest)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Module {
    /// The SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How it is run.
    pub fn kind(&self) -> ModuleKind {
        self.kind
    }

    /// What it needs and gives.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }
}

/// Interfaces of ours, without their version.
const TASK_INTERFACES: [&str; 10] = [
    "types",
    "context",
    "lifecycle",
    "stop-events",
    "log",
    "checkpoint",
    "children",
    "kv",
    "config",
    "secrets",
];
/// WASI 0.2 interfaces that a worker links, as package and interface.
const WASI_INTERFACES: [&str; 27] = [
    "io/error",
    "io/poll",
    "io/streams",
    "cli/environment",
    "cli/exit",
    "cli/stdin",
    "cli/stdout",
    "cli/stderr",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "cli/terminal-stderr",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/types",
    "filesystem/preopens",
    "random/random",
    "random/insecure",
    "random/insecure-seed",
    "http/types",
    "http/outgoing-handler",
    "sockets/network",
    "sockets/instance-network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
];
/// The rest of the sockets package.
const WASI_SOCKETS: [&str; 2] = ["sockets/udp-create-socket", "sockets/ip-name-lookup"];
/// The newest WASI 0.2 release whose interfaces are linked.
const WASI_PATCH: u32 = 12;

/// Whether an interface that a component imports is one that every worker links.
fn offered(interface: &str) -> bool {
    let Some((name, version)) = interface.split_once('@') else { return false };
    if let Some(name) = name.strip_prefix("stem:task/") {
        return TASK_INTERFACES.contains(&name)
            && (version == "0.1.0" || version.starts_with("0.1."));
    }
    let Some(name) = name.strip_prefix("wasi:") else { return false };
    let patch = version.strip_prefix("0.2.").and_then(|patch| patch.parse::<u32>().ok());
    (WASI_INTERFACES.contains(&name) || WASI_SOCKETS.contains(&name))
        && patch.is_some_and(|patch| patch <= WASI_PATCH)
}

pub(crate) fn outline_of_component(engine: &Engine, component: &Component) -> Outline {
    let ty = component.component_type();
    let mut imports: Vec<_> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let mut exports: Vec<_> = ty
        .exports(engine)
        .map(|(name, item)| match item.ty {
            ComponentItem::ComponentFunc(_) => format!("{name} (function)"),
            _ => name.to_owned(),
        })
        .collect();
    imports.sort();
    exports.sort();
    let unknown = imports.iter().filter(|name| !offered(name)).cloned().collect();
    Outline { imports, exports, unknown }
}

pub(crate) fn outline_of_core(
    module: &wasmtime::Module,
    known: impl Fn(&str, &str) -> bool,
) -> Outline {
    let mut imports: Vec<_> =
        module.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect();
    let mut exports: Vec<_> = module.exports().map(|export| export.name().to_owned()).collect();
    let unknown = module
        .imports()
        .filter(|import| !known(import.module(), import.name()))
        .map(|import| format!("{}.{}", import.module(), import.name()))
        .collect();
    imports.sort();
    exports.sort();
    Outline { imports, exports, unknown }
}

/// Where a command begins.
pub(crate) const START: &str = "_start";
/// Where a command of ITK-Wasm begins instead: a `main` that returns its exit code and can be called after
/// `_initialize`.
pub(crate) const DELAYED_START: &str = "itk_wasm_delayed_start";
/// Takes that code and flushes what the command has written.
pub(crate) const DELAYED_EXIT: &str = "itk_wasm_delayed_exit";

/// How a core module is run, by what it exports.
pub(crate) fn kind_of_core(module: &wasmtime::Module) -> Option<ModuleKind> {
    let function = |name: &str, results: &[ValType]| match module.get_export(name) {
        Some(ExternType::Func(ty)) => {
            ty.params().len() == 0
                && ty.results().len() == results.len()
                && ty.results().zip(results).all(|(a, b)| a.matches(b))
        }
        _ => false,
    };
    if function(stem_host_abi::raw::EXPORT_RUN, &[ValType::I32]) {
        Some(ModuleKind::Raw)
    } else if function(START, &[]) || function(DELAYED_START, &[ValType::I32]) {
        Some(ModuleKind::Command)
    } else {
        None
    }
}

/// How a component is run, by what it exports.
pub(crate) fn kind_of_component(outline: &Outline) -> Option<ModuleKind> {
    let exports = |prefix: &str| outline.exports.iter().any(|name| name.starts_with(prefix));
    if exports("stem:task/handler@0.1.") {
        Some(ModuleKind::Component)
    } else if exports("wasi:cli/run@0.2.") {
        Some(ModuleKind::Command)
    } else {
        None
    }
}

impl Outline {
    pub(crate) fn not_a_task(&self) -> LoadError {
        let found =
            if self.exports.is_empty() { "nothing".to_owned() } else { shown(&self.exports) };
        LoadError::NotATask { found }
    }
}

/// Instances, kept apart so that a component's exports are looked up once.
pub(crate) fn link_component(
    kind: ModuleKind,
    pre: ComponentPre<ComponentState>,
) -> Result<Linked, LoadError> {
    let refuse = |error: wasmtime::Error| {
        LoadError::Link(stem_core::text::printable(&format!("{error:#}"), 2_000))
    };
    match kind {
        ModuleKind::Component => IsolatePre::new(pre).map(Linked::Task).map_err(refuse),
        ModuleKind::Command => CommandPre::new(pre).map(Linked::Command).map_err(refuse),
        ModuleKind::Raw => Err(LoadError::Link("a component cannot be of kind raw".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::offered;

    #[test]
    fn every_wasi_02_release_up_to_ours_is_offered_and_nothing_else() {
        for good in [
            "stem:task/log@0.1.0",
            "stem:task/kv@0.1.0",
            "wasi:cli/exit@0.2.0",
            "wasi:io/poll@0.2.6",
            "wasi:sockets/tcp@0.2.12",
            "wasi:http/types@0.2.12",
        ] {
            assert!(offered(good), "{good}");
        }
        for bad in [
            "stem:task/blobs@0.1.0",
            "stem:task/log@0.2.0",
            "wasi:http/incoming-handler@0.2.12",
            "wasi:cli/exit@0.3.0",
            "wasi:cli/exit@0.2.13",
            "wasi:io/poll",
            "evil:host/shell@1.0.0",
            "wasi:nn/graph@0.2.0",
        ] {
            assert!(!offered(bad), "{bad}");
        }
    }
}
