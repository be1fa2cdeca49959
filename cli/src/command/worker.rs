//! `stem worker …`

mod diagnose;
mod healthcheck;
mod inspect;
mod multi;
mod pause;
mod ping;
mod revoke;
mod shutdown;
mod start;
mod stats;
mod status;

pub(super) use self::revoke::store_then_tell;
pub(super) use self::status::Life;

use std::sync::Arc;

use serde_json::Value;
use stem_core::control::Order;
use stem_engine::Backends;
use stem_engine::signing::Keys;

use super::{Context, with_runtime};
use crate::args::{ControlArgs, Worker};
use crate::control::Request;
use crate::error::{CliError, Outcome};
use crate::output::Printer;
use crate::settings::Settings;
use crate::{connect, identity};

pub(super) fn run(context: &Context, command: Worker) -> Outcome {
    match command {
        // It gives up what it does not need before there are threads.
        Worker::Start(args) => start::run(context, *args),
        Worker::Multi(command) => {
            with_runtime(async { tokio::task::block_in_place(|| multi::run(context, command)) })
        }
        Worker::Ping(args) => with_runtime(ping::run(context, args)),
        Worker::Inspect { control, no_revoked } => {
            with_runtime(inspect::run(context, control, no_revoked))
        }
        Worker::Stats(args) => with_runtime(stats::run(context, args)),
        Worker::Revoke(args) => with_runtime(revoke::run(context, args)),
        Worker::Shutdown { control, mode, grace } => {
            with_runtime(shutdown::run(context, control, mode, grace))
        }
        Worker::Pause(args) => with_runtime(pause::pause(context, args)),
        Worker::Resume(args) => with_runtime(pause::resume(context, args)),
        Worker::Status(args) => with_runtime(status::run(context, args)),
        // The quick way: no settings, no threads, no service.
        Worker::Healthcheck(args) if !args.ready => healthcheck::live(&args),
        Worker::Healthcheck(args) => with_runtime(healthcheck::ready(context, args)),
        Worker::Diagnose(args) => with_runtime(diagnose::run(context, args)),
    }
}

/// What every control command needs: services, and a request without its order.
struct Control {
    settings: Settings,
    backends: Backends,
    keys: Arc<Keys>,
    args: ControlArgs,
    printer: Printer,
}

impl Control {
    async fn open(context: &Context, args: ControlArgs) -> Result<Self, CliError> {
        let settings = Self::settings(context, &args)?;
        let keys = settings.signing.open()?;
        let backends = connect::connect(&settings).await?;
        let printer = Printer::new(args.json.json);
        Ok(Self { settings, backends, keys, args, printer })
    }

    fn settings(context: &Context, args: &ControlArgs) -> Result<Settings, CliError> {
        context.settings(|flags| {
            flags.namespace.clone_from(&args.namespace.namespace);
            flags.timeout = args.timeout;
        })
    }

    fn request(&self, order: Order) -> Request {
        Self::request_with(&self.settings, &self.keys, &self.args, order)
    }

    fn request_with(
        settings: &Settings,
        keys: &Arc<Keys>,
        args: &ControlArgs,
        order: Order,
    ) -> Request {
        Request {
            order,
            workers: args.worker.clone(),
            namespace: settings.namespace.value.clone(),
            timeout: settings.control_timeout.value,
            requester: identity::user(),
            keys: Arc::clone(keys),
            send_to_nobody: false,
        }
    }
}

/// A payload's field in a table's cell.
fn cell(payload: &Value, key: &str) -> String {
    match &payload[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => stem_core::text::printable(text, 200),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => {
            let words: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            stem_core::text::printable(&words.join(","), 200)
        }
        other => stem_core::text::printable(&other.to_string(), 200),
    }
}

/// Milliseconds of a payload, for people.
fn span(payload: &Value, key: &str) -> String {
    match payload[key].as_f64() {
        None => "-".to_owned(),
        Some(millis) if millis >= 10_000.0 => format!("{:.0}s", millis / 1e3),
        Some(millis) => format!("{millis:.0}ms"),
    }
}
