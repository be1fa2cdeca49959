//! `stem0.kv_get`, `kv_put`, `kv_remove`.

use std::time::Duration;

use stem_core::backend::buckets::When;
use stem_host_abi::{limits, raw};
use wasmtime::Linker;

use super::super::kv::Place;
use super::{CoreState, End, Here, answer, bytes, ended, ended_long, owned};

/// Where bucket and key stand in the guest's memory.
type Place4 = (i32, i32, i32, i32);

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        raw::MODULE,
        raw::KV_GET,
        |mut here: Here<'_>,
         (bucket, bucket_len, key, key_len, to, capacity, version): (
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
        )| {
            let place = (bucket, bucket_len, key, key_len);
            Box::new(async move { ended(get(&mut here, place, (to, capacity), version).await) })
        },
    )?;
    linker.func_wrap_async(
        raw::MODULE,
        raw::KV_PUT,
        |mut here: Here<'_>,
         (bucket, bucket_len, key, key_len, from, len, when, version, ttl): (
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i64,
            i64,
        )| {
            let place = (bucket, bucket_len, key, key_len);
            Box::new(async move {
                ended_long(put(&mut here, place, (from, len), (when, version), ttl).await)
            })
        },
    )?;
    linker.func_wrap_async(
        raw::MODULE,
        raw::KV_REMOVE,
        |mut here: Here<'_>,
         (bucket, bucket_len, key, key_len, when, version): (i32, i32, i32, i32, i32, i64)| {
            let place = (bucket, bucket_len, key, key_len);
            Box::new(async move { ended(remove(&mut here, place, (when, version)).await) })
        },
    )?;
    Ok(())
}

async fn get(
    here: &mut Here<'_>,
    at: Place4,
    (to, capacity): (i32, i32),
    version_at: i32,
) -> Result<i32, End> {
    here.data_mut().attempt.enter()?;
    let place = place(here, at)?;
    let entry = here.data_mut().attempt.read_value(place).await??;
    let entry = entry.ok_or(End::Code(raw::ERR_NOT_FOUND))?;
    answer(here, &entry.version.to_le_bytes(), version_at, 8)?;
    answer(here, &entry.value, to, capacity)
}

async fn put(
    here: &mut Here<'_>,
    at: Place4,
    (from, len): (i32, i32),
    condition: (i32, i64),
    ttl: i64,
) -> Result<i64, End> {
    here.data_mut().attempt.enter()?;
    let place = place(here, at)?;
    let value = bytes(here, from, len, limits::KV_VALUE_BYTES)?;
    let when = when(condition)?;
    let ttl = u64::try_from(ttl).map_err(|_| End::Code(raw::ERR_INVALID))?;
    let ttl = Some(ttl).filter(|ttl| *ttl > 0).map(Duration::from_millis);
    let version = here.data_mut().attempt.write_value(place, value, when, ttl).await??;
    Ok(i64::try_from(version).unwrap_or(i64::MAX))
}

async fn remove(here: &mut Here<'_>, at: Place4, condition: (i32, i64)) -> Result<i32, End> {
    here.data_mut().attempt.enter()?;
    let place = place(here, at)?;
    here.data_mut().attempt.remove_value(place, when(condition)?).await??;
    Ok(0)
}

fn place(here: &mut Here<'_>, (bucket, bucket_len, key, key_len): Place4) -> Result<Place, End> {
    Ok(Place {
        bucket: owned(here, bucket, bucket_len, limits::KV_BUCKET_BYTES)?,
        key: owned(here, key, key_len, limits::KV_KEY_BYTES)?,
    })
}

fn when((when, version): (i32, i64)) -> Result<When, End> {
    match (when, u64::try_from(version)) {
        (raw::KV_ALWAYS, _) => Ok(When::Always),
        (raw::KV_IF_ABSENT, _) => Ok(When::Absent),
        (raw::KV_IF_VERSION, Ok(version)) => Ok(When::Version(version)),
        _ => Err(End::Code(raw::ERR_INVALID)),
    }
}
