//! `stem0.config_get`, `secret_placeholder`, `secret_reveal`.

use stem_host_abi::{limits, raw};
use wasmtime::Linker;

use super::{CoreState, End, Here, answer, ended, owned};

/// What is asked for by its name.
#[derive(Clone, Copy, Debug)]
enum Named {
    Setting,
    Placeholder,
    Secret,
}

/// Where the guest's name stands, and the buffer for what it stands for.
type Pointers = (i32, i32, i32, i32);

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    for (name, what) in [
        (raw::CONFIG_GET, Named::Setting),
        (raw::SECRET_PLACEHOLDER, Named::Placeholder),
        (raw::SECRET_REVEAL, Named::Secret),
    ] {
        linker.func_wrap(
            raw::MODULE,
            name,
            move |mut here: Here<'_>, from: i32, len: i32, to: i32, capacity: i32| {
                ended(get(&mut here, what, (from, len, to, capacity)))
            },
        )?;
    }
    Ok(())
}

fn get(here: &mut Here<'_>, what: Named, (from, len, to, capacity): Pointers) -> Result<i32, End> {
    here.data_mut().attempt.enter()?;
    let name = owned(here, from, len, limits::SETTING_NAME_BYTES)?;
    let attempt = &mut here.data_mut().attempt;
    let found = match what {
        Named::Setting => {
            let setting = attempt.setting(&name)?.ok_or(End::Code(raw::ERR_NOT_FOUND))?;
            setting.as_bytes().to_vec()
        }
        Named::Placeholder => attempt.placeholder(&name)?.into_bytes(),
        Named::Secret => attempt.reveal(&name)?,
    };
    answer(here, &found, to, capacity)
}
