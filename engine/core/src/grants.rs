//! What an isolate may reach beside its own memory: everything is denied that no grant names.
//!
//! A manifest asks, the worker's policy caps: [`Grants::capped_by`] is what is left, and says what was refused.
//! Pure data and matching; the sandbox acts on it.

use std::fmt;
use std::time::Duration;

use crate::id::TaskName;

/// Default bound on the bytes written to a scratch directory.
pub const SCRATCH_BYTES: u64 = 256 << 20;
/// Default bound on the files and directories made in one.
pub const SCRATCH_FILES: u64 = 10_000;

/// Everything a handler may be granted. Empty is the default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// An empty directory of its own, `/scratch`, removed after the attempt.
    pub scratch: Option<Scratch>,
    /// Read-only directories by the names that the worker's policy gives them; seen as `/inputs/NAME`.
    pub inputs: Vec<String>,
    /// Variables of the worker's own environment.
    pub env: Vec<String>,
    /// Settings by name, with values from the worker's policy.
    pub config: Vec<String>,
    /// Secrets by name, with values from the worker's policy.
    pub secrets: Vec<SecretGrant>,
    /// Outgoing HTTP.
    pub http: Vec<HttpGrant>,
    /// Tasks it may enqueue.
    pub children: Vec<NamePattern>,
    /// Buckets of small values.
    pub kv: Vec<BucketGrant>,
}

impl Grants {
    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What a policy leaves of what is asked, and what it refuses: each as a word and its object, for instance
    /// `http api.example.org`. Numbers are lowered to the policy's without a word; whole grants are refused by name.
    pub fn capped_by(&self, policy: &Self) -> (Self, Vec<String>) {
        let mut refused = Vec::new();
        let scratch = match (self.scratch, policy.scratch) {
            (Some(asked), Some(cap)) => Some(Scratch {
                bytes: asked.bytes.min(cap.bytes),
                files: asked.files.min(cap.files),
            }),
            (Some(_), None) => {
                refused.push("scratch".to_owned());
                None
            }
            (None, _) => None,
        };
        let mut names = |what: &str, asked: &[String], allowed: &[String]| -> Vec<String> {
            let is_allowed =
                |name: &String| allowed.contains(name) || allowed.iter().any(|name| name == ANY);
            refused.extend(
                asked.iter().filter(|name| !is_allowed(name)).map(|name| format!("{what} {name}")),
            );
            asked.iter().filter(|name| is_allowed(name)).cloned().collect()
        };
        let inputs = names("inputs", &self.inputs, &policy.inputs);
        let env = names("env", &self.env, &policy.env);
        let config = names("config", &self.config, &policy.config);
        let secrets = self
            .secrets
            .iter()
            .filter_map(|asked| asked.capped_by(&policy.secrets, &mut refused))
            .collect();
        let http = self
            .http
            .iter()
            .flat_map(|asked| asked.capped_by(&policy.http, &mut refused))
            .collect();
        let (children, no_children): (Vec<_>, Vec<_>) = self
            .children
            .iter()
            .cloned()
            .partition(|asked| policy.children.iter().any(|allowed| allowed.covers(asked)));
        refused.extend(no_children.iter().map(|name| format!("children {}", name.as_str())));
        let kv =
            self.kv.iter().filter_map(|asked| asked.capped_by(&policy.kv, &mut refused)).collect();
        (Self { scratch, inputs, env, config, secrets, http, children, kv }, refused)
    }
}

/// In a policy's list of names: every one.
pub const ANY: &str = "*";

impl SecretGrant {
    fn capped_by(&self, policy: &[Self], refused: &mut Vec<String>) -> Option<Self> {
        let Some(cap) = policy.iter().find(|cap| cap.name == self.name) else {
            refused.push(format!("secrets {}", self.name));
            return None;
        };
        let allowed = |host: &&HostPattern| cap.hosts.iter().any(|cap| cap.covers(host));
        refused.extend(
            self.hosts
                .iter()
                .filter(|host| !allowed(host))
                .map(|host| format!("secrets {}@{host}", self.name)),
        );
        if self.reveal && !cap.reveal {
            refused.push(format!("secrets {} reveal", self.name));
        }
        let hosts: Vec<_> = self.hosts.iter().filter(allowed).cloned().collect();
        let reveal = self.reveal && cap.reveal;
        // With which nothing may be done, it need not be there.
        let useful = reveal || !hosts.is_empty();
        useful.then(|| Self { name: self.name.clone(), hosts, reveal })
    }
}

impl BucketGrant {
    fn capped_by(&self, policy: &[Self], refused: &mut Vec<String>) -> Option<Self> {
        // What is said of a bucket by its name is said in place of what is said of all.
        let of = |bucket: &str| policy.iter().find(|cap| cap.bucket == bucket);
        let Some(cap) = of(&self.bucket).or_else(|| of(ANY)) else {
            refused.push(format!("kv {}", self.bucket));
            return None;
        };
        if self.write && !cap.write {
            refused.push(format!("kv {}:rw", self.bucket));
        }
        Some(Self { bucket: self.bucket.clone(), write: self.write && cap.write })
    }
}

impl HttpGrant {
    /// One grant for each host that the policy covers, with the smaller of every bound. The first entry that covers it
    /// counts; where an earlier one is for some of the hosts that are meant, that one counts too, so that asking for
    /// `*.example.org` is no way around what is said of `db.example.org`.
    fn capped_by(&self, policy: &[Self], refused: &mut Vec<String>) -> Vec<Self> {
        let mut left = Vec::new();
        for host in &self.hosts {
            let covers = |cap: &Self| cap.hosts.iter().any(|cap| cap.covers(host));
            let Some(first) = policy.iter().position(covers) else {
                refused.push(format!("http {host}"));
                continue;
            };
            let concerns = |cap: &&Self| cap.hosts.iter().any(|cap| cap.overlaps(host));
            let all = Self { hosts: vec![host.clone()], ..self.clone() };
            let granted = policy[..=first].iter().filter(concerns).fold(all, Self::within);
            let not = |word: &str| format!("http {word} {host}");
            let no_methods = self.methods.iter().filter(|it| !granted.methods.contains(it));
            refused.extend(no_methods.map(|method| not(method)));
            if granted.methods.is_empty() {
                continue;
            }
            refused.extend((self.plain && !granted.plain).then(|| not("plain")));
            refused.extend((self.private && !granted.private).then(|| not("private")));
            left.push(granted);
        }
        left
    }

    /// The smaller of every bound.
    fn within(self, cap: &Self) -> Self {
        let methods = self.methods.into_iter().filter(|method| cap.methods.contains(method));
        Self {
            hosts: self.hosts,
            methods: methods.collect(),
            plain: self.plain && cap.plain,
            private: self.private && cap.private,
            requests: self.requests.min(cap.requests),
            bytes: self.bytes.min(cap.bytes),
            timeout: self.timeout.min(cap.timeout),
        }
    }
}

/// Bounds on a scratch directory. Both count what is ever written and made in an attempt: removing gives nothing back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Bytes written.
    pub bytes: u64,
    /// Files, directories and links made.
    pub files: u64,
}

impl Scratch {
    /// What `scratch = true` means.
    pub const DEFAULT: Self = Self { bytes: SCRATCH_BYTES, files: SCRATCH_FILES };
}

/// One secret and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretGrant {
    /// Its name.
    pub name: String,
    /// Hosts to which a placeholder for it is replaced in outgoing headers.
    pub hosts: Vec<HostPattern>,
    /// Whether the guest may read the secret itself.
    pub reveal: bool,
}

/// Outgoing HTTP to some hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    /// Where to.
    pub hosts: Vec<HostPattern>,
    /// Methods in upper case; [`HTTP_METHODS`] where none are named.
    pub methods: Vec<String>,
    /// Also without TLS.
    pub plain: bool,
    /// Also to addresses that are not public, when a name resolves to one. A host that is written as an address needs no
    /// further word.
    pub private: bool,
    /// Most requests of one attempt.
    pub requests: u32,
    /// Most bytes sent and received by one attempt, bodies only.
    pub bytes: u64,
    /// Longest time of one request, from its start to the last byte of its answer.
    pub timeout: Duration,
}

/// The methods of a grant that names none.
pub const HTTP_METHODS: [&str; 2] = ["GET", "HEAD"];
/// Most requests of one attempt, unless the grant says otherwise.
pub const HTTP_REQUESTS: u32 = 64;
/// Most bytes of bodies, both ways, unless the grant says otherwise.
pub const HTTP_BYTES: u64 = 16 << 20;
/// Longest request, unless the grant says otherwise.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// A host, and a port if one is named: `api.example.org`, `*.example.org:8443`, `127.0.0.1:8080`, `[::1]:80`.
/// `*` stands for exactly one label, so never for a dot; addresses match only when they are spelled out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    host: String,
    port: Option<u16>,
}

impl HostPattern {
    /// Reads a pattern; the error completes "…is not a host: ".
    pub fn new(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            // A bare IPv6 address has colons and no port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (
                    host,
                    Some(port.ok_or_else(|| "the port is not a number in 1 to 65535".to_owned())?),
                )
            }
            _ => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some(address) = bare.or(host.contains(':').then_some(host)) {
            let address: core::net::Ipv6Addr =
                address.parse().map_err(|_| "it is not an IPv6 address".to_owned())?;
            return Ok(Self { host: address.to_string(), port });
        }
        let host = host.to_ascii_lowercase();
        let label = |label: &str| {
            label == "*"
                || (!label.is_empty()
                    && label.len() <= 63
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return Err(
                "use labels of letters, digits and -, with * for one whole label".to_owned()
            );
        }
        let labels = host.split('.').count();
        if host.split('.').skip(labels.saturating_sub(2)).any(|label| label == "*") {
            return Err(
                "* cannot stand for a top-level domain or for what is right below one".to_owned()
            );
        }
        // An address must be written in the one way that leaves no doubt.
        let last = host.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) && host.parse::<core::net::Ipv4Addr>().is_err()
        {
            return Err("an address is four numbers in 0 to 255 without leading zeros".to_owned());
        }
        Ok(Self { host, port })
    }

    /// Whether a host, without brackets, and the port that a request goes to are meant.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let mut ours = self.host.split('.');
        let host = host.to_ascii_lowercase();
        let mut theirs = host.split('.');
        if self.port.is_some_and(|ours| ours != port) {
            return false;
        }
        let address = host.parse::<core::net::IpAddr>().is_ok();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some("*"), Some(label)) if !label.is_empty() && !address => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// Whether everything that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let ports = self.port.is_none() || self.port == other.port;
        let (mut ours, mut theirs) = (self.host.split('.'), other.host.split('.'));
        let address = other.host.parse::<core::net::IpAddr>().is_ok();
        ports
            && loop {
                match (ours.next(), theirs.next()) {
                    (None, None) => break true,
                    (Some("*"), Some(_)) if !address => {}
                    (Some(a), Some(b)) if a == b => {}
                    _ => break false,
                }
            }
    }

    /// Whether there is something that both mean.
    fn overlaps(&self, other: &Self) -> bool {
        let ports = self.port.is_none() || other.port.is_none() || self.port == other.port;
        let (mut ours, mut theirs) = (self.host.split('.'), other.host.split('.'));
        let address = self.is_address() || other.is_address();
        ports
            && loop {
                match (ours.next(), theirs.next()) {
                    (None, None) => break true,
                    (Some(a), Some(b)) if a == b || !address && (a == "*" || b == "*") => {}
                    _ => break false,
                }
            }
    }

    /// Whether it is spelled out as an address.
    pub fn is_address(&self) -> bool {
        self.host.parse::<core::net::IpAddr>().is_ok()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = self.host.contains(':');
        match (v6, self.port) {
            (false, None) => f.write_str(&self.host),
            (true, None) => write!(f, "[{}]", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
        }
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Task names: one name, or a beginning followed by `*` for any rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern(String);

impl NamePattern {
    /// Reads a pattern; the error completes "…is not a pattern of task names: ".
    pub fn new(text: &str) -> Result<Self, String> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        // Whatever can begin a name can be one, but for the empty beginning.
        if text != "*" {
            TaskName::new(stem).map_err(|error| error.to_string())?;
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether a task of this name is meant.
    pub fn matches(&self, name: &TaskName) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => name.as_str().starts_with(stem),
            None => name.as_str() == self.0,
        }
    }

    /// Whether everything that `other` means is meant by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => other.0.strip_suffix('*').unwrap_or(&other.0).starts_with(stem),
            None => *self == *other,
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A bucket of small values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketGrant {
    /// Which; `*` in a policy stands for every bucket.
    pub bucket: String,
    /// Also to write.
    pub write: bool,
}

impl BucketGrant {
    /// As it is written: `thumbs` or `thumbs:rw`.
    pub fn written(&self) -> String {
        if self.write { format!("{}:rw", self.bucket) } else { self.bucket.clone() }
    }
}

#[cfg(test)]
mod tests;
