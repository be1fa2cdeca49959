//! `stem module …`

mod check;

use super::Context;
use crate::args::Module;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, command: Module) -> Outcome {
    match command {
        Module::Check { file, json } => check::run(context, &file, json).await,
    }
}
