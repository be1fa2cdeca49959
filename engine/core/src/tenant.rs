//! [`Tenant`]: on whose behalf a task is done, as its producer says it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The header of an envelope that names its tenant.
pub const HEADER: &str = "tenant";
/// Longest name of a tenant, in bytes.
pub const TENANT_BYTES: usize = 64;
/// How the tenant of tasks that name none is written. In the order of bytes no name comes before it.
const UNNAMED: &str = "-";

/// On whose behalf a task is done. As true as its producer is honest, and a producer is held to it only by a signature
/// over the task.
///
/// The order is that of the bytes, the unnamed one first; brokers and workers go around it in turns, so all of them must
/// keep to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Option<Arc<str>>);

impl Tenant {
    /// The one of all tasks that name none.
    pub const UNNAMED: Self = Self(None);

    /// A named one: 1 to [`TENANT_BYTES`] of `A-Z a-z 0-9 . _ : -`, the first a letter or a digit.
    pub fn new(name: &str) -> Result<Self, String> {
        if is_name(name) {
            return Ok(Self(Some(name.into())));
        }
        let given: String = name.chars().take(TENANT_BYTES).collect();
        Err(format!(
            "tenant {given:?} is not valid: use 1 to {TENANT_BYTES} of the characters A-Z a-z 0-9 . _ : - and begin with a letter or a digit"
        ))
    }

    /// As brokers keep it: a name, or `-`. Anything else is the unnamed one.
    pub fn stored(text: &str) -> Self {
        Self(is_name(text).then(|| text.into()))
    }

    /// The one that an envelope's headers name. A value that is no name, or none, is the unnamed one, so every task has one.
    pub fn of(headers: &BTreeMap<String, String>) -> Self {
        headers.get(HEADER).map_or(Self::UNNAMED, |name| Self::stored(name))
    }

    /// The name, or `-`.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(UNNAMED)
    }

    /// Whether it is the one of tasks that name none.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Tenant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    first && text.len() <= TENANT_BYTES && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_a_tenant_and_only_a_name_is_one() {
        let of = |value: Option<&str>| {
            let headers = value.map(|value| (HEADER.to_owned(), value.to_owned()));
            Tenant::of(&headers.into_iter().collect())
        };
        let longest = "a".repeat(TENANT_BYTES);
        for name in ["acme", "9", "a.b_c:d-e", &longest] {
            assert_eq!(of(Some(name)).as_str(), name);
            assert_eq!(Tenant::new(name), Ok(of(Some(name))));
        }
        let longer = "a".repeat(TENANT_BYTES + 1);
        for other in ["", "-", "a b", "a\tb", ".a", "_a", "é", &longer] {
            assert!(of(Some(other)).is_unnamed(), "{other:?}");
            Tenant::new(other).unwrap_err();
        }
        assert_eq!(of(None), Tenant::UNNAMED);
        // As the bytes of what is written.
        assert!(Tenant::UNNAMED < of(Some("0")) && Tenant::UNNAMED.as_str() < "0");
    }
}
