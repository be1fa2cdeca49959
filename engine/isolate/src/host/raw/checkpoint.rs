//! `stem0.checkpoint_load`, `checkpoint_save`.

use stem_host_abi::{limits, raw};
use wasmtime::Linker;

use super::{CoreState, End, Here, answer, bytes, ended};

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        raw::MODULE,
        raw::CHECKPOINT_LOAD,
        |mut here: Here<'_>, (to, capacity): (i32, i32)| {
            Box::new(async move { ended(load(&mut here, to, capacity).await) })
        },
    )?;
    linker.func_wrap_async(
        raw::MODULE,
        raw::CHECKPOINT_SAVE,
        |mut here: Here<'_>, (from, len): (i32, i32)| {
            Box::new(async move { ended(save(&mut here, from, len).await) })
        },
    )?;
    Ok(())
}

async fn load(here: &mut Here<'_>, to: i32, capacity: i32) -> Result<i32, End> {
    here.data_mut().attempt.enter()?;
    let state = here.data_mut().attempt.load_checkpoint().await??;
    answer(here, &state.ok_or(End::Code(raw::ERR_NOT_FOUND))?, to, capacity)
}

async fn save(here: &mut Here<'_>, from: i32, len: i32) -> Result<i32, End> {
    here.data_mut().attempt.enter()?;
    let state = bytes(here, from, len, limits::CHECKPOINT_BYTES)?;
    here.data_mut().attempt.save_checkpoint(state).await??;
    Ok(0)
}
