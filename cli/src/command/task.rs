//! `stem task …`

mod arguments;
mod build;
mod enqueue;
mod list;
mod local;
mod new;
mod result;
mod run;
mod show;
mod wait;

use std::sync::Arc;

use stem_core::id::TaskId;
use stem_engine::{Client, SystemClock};

use super::Context;
use crate::args::Task;
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::project;
use crate::settings::Settings;

pub(super) async fn run(context: &Context, command: Task) -> Outcome {
    match command {
        Task::Enqueue(args) => enqueue::run(context, *args).await,
        Task::Show { id, json } => show::run(context, &id, json).await,
        Task::Wait { id, timeout, json } => wait::run(context, &id, timeout, json).await,
        Task::List { state, queue, name, limit, json } => {
            let filter = stem_core::backend::result::RecordFilter {
                state,
                queue,
                name,
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
            };
            list::run(context, filter, json).await
        }
        Task::Result { id, output, json } => {
            result::run(context, &id, output.as_deref(), json).await
        }
        Task::New { name, lang, json } => new::run(&name, lang, json),
        Task::Build { folder, json } => build::build(folder, json).await,
        Task::Test { folder, json } => build::test(folder, json).await,
        Task::Run { module, policy, input, name, json } => {
            // First what costs the least, and is wrong the most often.
            let payload = run::payload(&input)?;
            let found = project::found(module.as_deref(), name.as_ref())?;
            run::run(context, found, policy, payload, json).await
        }
    }
}

async fn client(settings: &Settings) -> Result<Client, CliError> {
    Ok(Client::new(connect::connect(settings).await?, Arc::new(SystemClock)))
}

fn unknown(task: &TaskId) -> CliError {
    CliError::nothing(
        format!("there is no task {task}"),
        "`stem task list` shows the newest; records of tasks that ended are kept for 7 days, those of purged ones not at all",
    )
}
