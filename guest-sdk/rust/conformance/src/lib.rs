//! The conformance task, as `guest-sdk/CONFORMANCE.md` describes it. Laid over a new project, it is built like any other.

use std::hint::black_box;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use stem_guest::{Binary, Context, Progress, TaskError};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// The task.
#[stem_guest::task]
pub fn conformance(ctx: &Context, payload: Binary) -> Result<Binary, TaskError> {
    if payload.media_type == "application/octet-stream" {
        return Ok(payload);
    }
    let args = Args(serde_json::from_slice(&payload.bytes).map_err(invalid)?);
    let op: String = args.needed("op")?;
    match op.as_str() {
        "echo" => echo(&args),
        "info" => info(ctx),
        "fail" => Err(failure(&args)?),
        "sleep" => {
            let ms: u64 = args.needed("ms")?;
            ctx.sleep(Duration::from_millis(ms))?;
            result(&json!({ "ms": ms }))
        }
        "progress" => progress(ctx, &args),
        "beat" => beat(ctx),
        "allocate" => allocate(&args),
        "spin" => spin(ctx, &args),
        "checkpoint" => checkpoint(ctx, &args),
        other => Err(TaskError::fatal("unknown-op", format!("unknown op {other}"))),
    }
}

/// The object that the task is given.
struct Args(Map<String, Value>);

impl Args {
    fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, TaskError> {
        let value = self.0.get(key).cloned();
        value
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| invalid(format!("{key}: {error}")))
    }

    fn needed<T: DeserializeOwned>(&self, key: &str) -> Result<T, TaskError> {
        self.optional(key)?.ok_or_else(|| invalid(format!("{key} is missing")))
    }
}

fn invalid(error: impl ToString) -> TaskError {
    TaskError::fatal("invalid-arguments", error.to_string())
}

fn result(value: &impl Serialize) -> Result<Binary, TaskError> {
    let bytes = serde_json::to_vec(value).map_err(invalid)?;
    Ok(Binary { media_type: "application/json".to_owned(), bytes })
}

fn echo(args: &Args) -> Result<Binary, TaskError> {
    #[derive(Serialize)]
    struct Echo {
        text: String,
        bytes: usize,
    }
    let text: String = args.needed("text")?;
    result(&Echo { bytes: text.len(), text })
}

fn info(ctx: &Context) -> Result<Binary, TaskError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Info<'a> {
        task_name: &'a str,
        queue: &'a str,
        attempt: u32,
        idempotency_key: &'a str,
    }
    result(&Info {
        task_name: ctx.task_name(),
        queue: ctx.queue(),
        attempt: ctx.attempt(),
        idempotency_key: ctx.idempotency_key(),
    })
}

/// The failure that is asked for.
fn failure(args: &Args) -> Result<TaskError, TaskError> {
    let (kind, code, message): (String, String, String) =
        (args.needed("kind")?, args.needed("code")?, args.needed("message")?);
    match kind.as_str() {
        "retryable" => {
            let failure = TaskError::retryable(code, message);
            Ok(match args.optional("afterMs")? {
                Some(ms) => failure.retry_after(Duration::from_millis(ms)),
                None => failure,
            })
        }
        "fatal" => Ok(TaskError::fatal(code, message)),
        "cancelled" => Ok(TaskError::cancelled(code, message)),
        _ => Err(invalid("kind is not retryable, fatal or cancelled")),
    }
}

fn progress(ctx: &Context, args: &Args) -> Result<Binary, TaskError> {
    let steps: u64 = args.needed("steps")?;
    ctx.heartbeat()?;
    for step in 1..=steps {
        ctx.progress(step as f64 / steps as f64, format!("step {step} of {steps}"))?;
    }
    result(&json!({ "steps": steps }))
}

/// Progress whose fraction cannot be told.
fn say(ctx: &Context, message: &str) -> Result<(), TaskError> {
    let update = Progress { fraction: None, message: Some(message.to_owned()), data: None };
    ctx.publish(&update)?.map_or(Ok(()), |notice| Err(notice.into()))
}

fn beat(ctx: &Context) -> Result<Binary, TaskError> {
    say(ctx, "beating")?;
    loop {
        ctx.heartbeat()?;
    }
}

fn allocate(args: &Args) -> Result<Binary, TaskError> {
    let mib: u64 = args.needed("mib")?;
    let mut blocks = Vec::new();
    for _ in 0..mib {
        let mut block = vec![0_u8; MIB];
        block.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        blocks.push(black_box(block));
    }
    result(&json!({ "mib": mib }))
}

fn spin(ctx: &Context, args: &Args) -> Result<Binary, TaskError> {
    #[derive(Serialize)]
    struct Spun {
        rounds: u64,
        x: u32,
    }
    let step = |x: u32| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let mut x = 1;
    let Some(rounds) = args.optional("rounds")? else {
        say(ctx, "spinning")?;
        loop {
            x = black_box(step(x));
        }
    };
    for _ in 0..rounds {
        x = step(x);
    }
    result(&Spun { rounds, x })
}

fn checkpoint(ctx: &Context, args: &Args) -> Result<Binary, TaskError> {
    #[derive(Serialize)]
    struct Done {
        from: u64,
        steps: u64,
    }
    let (steps, stop_at): (u64, u64) = (args.needed("steps")?, args.needed("stopAt")?);
    let state: Option<Map<String, Value>> = ctx.checkpoint().load()?;
    let from = state.and_then(|state| state.get("step")?.as_u64()).unwrap_or(0);
    for step in from + 1..=steps {
        ctx.checkpoint().save(&json!({ "step": step }))?;
        if from == 0 && step == stop_at {
            let message = format!("stopped at step {step}");
            return Err(TaskError::retryable("interrupted", message));
        }
    }
    result(&Done { from, steps })
}
