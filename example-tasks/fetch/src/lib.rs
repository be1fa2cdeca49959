//! The task `fetch`: asks a web server and returns its answer.

mod exchange;
mod url;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stem_guest::{Context, TaskError};

use crate::exchange::{Answer, Failed, Question};

/// The task's arguments.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Args {
    url: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// A header that carries a secret: its name, and the secret's. The worker puts the secret in; this task never has it.
    #[serde(default)]
    secret: Option<SecretHeader>,
    /// Send so many, one after the other; the last answer is the result.
    #[serde(default = "once")]
    times: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretHeader {
    header: String,
    name: String,
}

fn get() -> String {
    "GET".to_owned()
}

fn once() -> u32 {
    1
}

/// The task's result.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetched {
    status: u16,
    /// Where a redirect points; it is not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    bytes: usize,
    body: String,
}

/// The task.
#[stem_guest::task]
pub fn fetch(ctx: &Context, args: Args) -> Result<Fetched, TaskError> {
    let url = url::parse(&args.url).map_err(|problem| TaskError::fatal("invalid-url", problem))?;
    let mut headers: Vec<(String, Vec<u8>)> =
        args.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    if let Some(secret) = &args.secret {
        let placeholder = ctx.secrets().placeholder(&secret.name)?;
        headers.push((secret.header.clone(), placeholder.into_bytes()));
    }
    let mut answer = None;
    for _ in 0..args.times.max(1) {
        let question = Question {
            method: &args.method,
            url: &url,
            headers: &headers,
            body: args.body.as_bytes(),
        };
        answer = Some(exchange::ask(&question).map_err(told)?);
        ctx.heartbeat()?;
    }
    let Some(Answer { status, location, body }) = answer else {
        return Err(TaskError::fatal("nothing-asked", "no request was sent"));
    };
    if status >= 500 {
        return Err(TaskError::retryable("server-error", format!("the server answered {status}")));
    }
    let bytes = body.len();
    Ok(Fetched { status, location, bytes, body: String::from_utf8_lossy(&body).into_owned() })
}

/// What was denied is denied again; everything else may have passed by then.
fn told(failed: Failed) -> TaskError {
    match failed {
        Failed::Denied(code) => TaskError::fatal("denied", code),
        Failed::Other(code) => TaskError::retryable("no-answer", code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stem_guest::testing::TestHost;

    use super::*;

    #[test]
    fn what_is_not_a_url_is_said_at_once() {
        let run = TestHost::new().args(&json!({ "url": "ftp://x" })).run(fetch);
        assert_eq!(run.failure().code(), "invalid-url");
    }

    #[test]
    fn outside_of_a_worker_nobody_is_asked() {
        let run = TestHost::new().args(&json!({ "url": "http://example.org/" })).run(fetch);
        assert_eq!(run.failure().code(), "no-answer");
    }
}
