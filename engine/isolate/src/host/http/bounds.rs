//! What a request may hold while a guest still makes it. The library's own bounds are for one trusted guest: without
//! these, an attempt of 16 MiB could put gigabytes into the worker's memory, and that without any grant.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{HostOutgoingRequest as _, Method};
use wasmtime_wasi_http::p2::types::HostOutgoingRequest;

use crate::host::ComponentState;

/// Names and values of one set of headers, with what the worker needs to keep them. Servers take less.
pub(super) const FIELD_BYTES: usize = 16 << 10;
/// Bytes of a body that are taken at once. Two such pieces wait at most for the network.
pub(super) const PIECE_BYTES: usize = 16 << 10;
/// Longest path with its query.
const PATH_BYTES: usize = 16 << 10;
/// Longest host with its port. Names have at most 253 bytes.
const AUTHORITY_BYTES: usize = 512;
/// Longest method. Grants name none that is longer than 32.
const METHOD_BYTES: usize = 64;

type Request = Resource<HostOutgoingRequest>;
type Set = wasmtime::Result<(Result<(), ()>,)>;

/// Puts bounded functions in the place of those that take texts of any length. The linker allows it.
pub(crate) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, ComponentState>,
         (request, authority): (Request, Option<String>)|
         -> Set {
            if authority.as_ref().is_some_and(|text| text.len() > AUTHORITY_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(request, authority)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: StoreContextMut<'_, ComponentState>,
         (request, path): (Request, Option<String>)|
         -> Set {
            if path.as_ref().is_some_and(|text| text.len() > PATH_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_path_with_query(request, path)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, ComponentState>,
         (request, method): (Request, Method)|
         -> Set {
            if matches!(&method, Method::Other(text) if text.len() > METHOD_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(request, method)?,))
        },
    )
}
