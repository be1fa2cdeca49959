//! A file of quotas, from text to [`Rules`].

use std::path::Path;
use std::time::Duration;

use stem_core::id::QueueName;
use stem_core::machine::quota::{Quota, RATE_MOST, Rate, Rules};
use stem_core::tenant::Tenant;
use toml::Value;

use crate::manifest::part::{self, Part};
use crate::policy::trusted;

/// Largest file.
const FILE_BYTES: u64 = 1 << 20;
/// Most tenants that have quotas of their own, and most queues: each is looked at in every claim.
const NAMED: usize = 1_024;
/// Less memory is no quota: hardly any module could start.
const MEMORY_LEAST: u64 = 1 << 20;
/// The name that stands for each tenant that has none of its own.
const EACH: &str = "*";

const KEYS: [&str; 2] = ["tenants", "queues"];
const BOUNDS: [&str; 3] = ["concurrency", "rate", "memory"];

/// Reads a file that only this user or root can write.
pub(super) fn open(path: &Path) -> Result<Rules, String> {
    let of_file = |problem: String| format!("{}: {problem}", path.display());
    let file = trusted::read(path, FILE_BYTES).map_err(of_file)?;
    let text = String::from_utf8(file.bytes).map_err(|_| of_file("it is not UTF-8".to_owned()))?;
    rules(&text).map_err(of_file)
}

fn rules(text: &str) -> Result<Rules, String> {
    let table = part::table(text)?;
    let part = Part::new("", &table, &KEYS)?;
    let mut rules = Rules::default();
    for (at, name, value) in named(&part, "tenants")? {
        let quota = quota(&at, value)?;
        if name == EACH {
            rules.each = quota;
        } else if name == Tenant::UNNAMED.as_str() {
            rules.tenants.insert(Tenant::UNNAMED, quota);
        } else {
            let tenant = Tenant::new(name).map_err(|error| {
                format!("{at}: {error}; \"*\" is each tenant, \"-\" the tasks that name none")
            })?;
            rules.tenants.insert(tenant, quota);
        }
    }
    for (at, name, value) in named(&part, "queues")? {
        let queue = QueueName::new(name).map_err(|error| format!("{at}: {error}"))?;
        rules.queues.insert(queue, quota(&at, value)?);
    }
    Ok(rules)
}

fn named<'a>(part: &Part<'a>, key: &str) -> Result<Vec<(String, &'a str, &'a Value)>, String> {
    let names = part.names(key)?;
    if names.len() > NAMED {
        return Err(format!("{key} names {}; at most {NAMED} may be named", names.len()));
    }
    Ok(names)
}

fn quota(at: &str, value: &Value) -> Result<Quota, String> {
    let part = Part::of(at, value, &BOUNDS)?;
    let concurrency = part.count("concurrency")?;
    let memory_bytes = part.bytes("memory")?;
    if memory_bytes.is_some_and(|bytes| bytes < MEMORY_LEAST) {
        return Err(format!("{} is below 1MiB, so nothing could start", part.place("memory")));
    }
    Ok(Quota {
        concurrency: concurrency.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
        rate: part.text("rate")?.map(|text| rate(&part.place("rate"), text)).transpose()?,
        memory_bytes,
    })
}

/// Reads `50/s`, `300/m`, `1000/h`.
fn rate(at: &str, text: &str) -> Result<Rate, String> {
    let refuse = || {
        format!(
            "{at}: {text:?} is not a rate; write a whole number above 0, and what for: 50/s, 300/m, 1000/h"
        )
    };
    let (number, unit) = text.split_once('/').ok_or_else(refuse)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(refuse()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    match number.parse::<u32>() {
        Ok(0) => Err(refuse()),
        Ok(starts) if starts <= RATE_MOST => Ok(Rate { starts, per: Duration::from_secs(seconds) }),
        _ => Err(format!(
            "{at}: {text:?} is more than {RATE_MOST} starts; leave it out for no bound"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_some_and_queues_have_what_the_file_says() {
        let text = r#"
            [tenants."*"]
            concurrency = 4
            rate = "50/s"
            memory = "512MiB"
            [tenants.acme]
            concurrency = 12
            [tenants."-"]
            rate = "300/m"
            [queues.mail]
            rate = "10/h"
        "#;
        let rules = rules(text).unwrap();
        let per = |starts, seconds| Some(Rate { starts, per: Duration::from_secs(seconds) });
        let each = Quota { concurrency: Some(4), rate: per(50, 1), memory_bytes: Some(512 << 20) };
        assert_eq!(rules.each, each);
        let acme = Tenant::new("acme").unwrap();
        assert_eq!(rules.of(&acme), Quota { concurrency: Some(12), ..each });
        assert_eq!(rules.of(&Tenant::UNNAMED), Quota { rate: per(300, 60), ..each });
        let mail = rules.of_queue(&QueueName::new("mail").unwrap());
        assert_eq!(mail, Quota { rate: per(10, 3_600), ..Quota::default() });
        assert_eq!(super::rules("").unwrap(), Rules::default());
    }

    #[test]
    fn what_is_no_quota_is_said_with_its_place() {
        let refused = |text: &str, word: &str| {
            let error = rules(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        };
        refused("[tenant.a]", "did you mean \"tenants\"?");
        refused("[tenants.a]\nconcurency = 1", "did you mean \"concurrency\"?");
        refused("[tenants.a]\nconcurrency = 0", "tenants.a.concurrency is 0");
        refused("[queues.a]\nconcurrency = \"4\"", "queues.a.concurrency is string");
        refused("[tenants.a]\nmemory = \"0B\"", "tenants.a.memory is below 1MiB");
        refused("[tenants.\"a b\"]", "tenant \"a b\" is not valid");
        refused("[queues.\"a b\"]", "queue name \"a b\" is not valid");
        refused("tenants = 4", "tenants is integer, not a table");
        for rate in ["5", "5/d", "0/s", "/s", "+5/s", "5 /s", "1.5/s"] {
            refused(&format!("[tenants.a]\nrate = \"{rate}\""), "is not a rate");
        }
        refused("[tenants.a]\nrate = \"1000001/s\"", "more than 1000000 starts");
        let many: Vec<_> = (0..=NAMED).map(|number| format!("[tenants.t{number}]")).collect();
        let many = many.join("\n");
        refused(&many, "tenants names 1025; at most 1024");
    }
}
