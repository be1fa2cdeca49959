//! `stem keys …`

mod change;
mod list;

use stem_engine::signing::KeyFiles;

use super::Context;
use crate::args::{KeyFileArgs, Keys};
use crate::error::{CliError, Outcome};
use crate::settings::Settings;

pub(super) fn run(context: &Context, command: Keys) -> Outcome {
    match command {
        Keys::New(args) => change::new(context, &args),
        Keys::Rotate(args) => change::rotate(context, &args),
        Keys::Retire(args) => change::retire(context, &args),
        Keys::List { files, json } => list::run(context, &files, json),
    }
}

/// The files that are meant: those of the flags, else those of the settings.
fn files(context: &Context, args: &KeyFileArgs) -> Result<(Settings, KeyFiles), CliError> {
    let settings = context.settings(|_| {})?;
    let set = settings.signing.files();
    let files = KeyFiles {
        public: args.public.clone().or(set.public),
        private: args.private.clone().or(set.private),
        shared: args.shared.clone().or(set.shared),
        ..set
    };
    if files.is_any() {
        return Ok((settings, files));
    }
    Err(CliError::usage(
        "no file of keys is set",
        "name them: --public FILE and --private FILE, or --shared FILE, or the settings signing-public-keys, signing-private-keys and signing-keys",
    ))
}
