//! `stem config …`

mod show;

use super::Context;
use crate::args::Config;
use crate::error::Outcome;

pub(super) use show::{document, text};

pub(super) fn run(context: &Context, command: Config) -> Outcome {
    match command {
        Config::Show { namespace, timeout, json } => {
            show::run(context, namespace.namespace, timeout, json)
        }
    }
}
