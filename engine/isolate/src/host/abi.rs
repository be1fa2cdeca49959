//! What the engine generates from the WIT package, and the conversions between its types and ours.

wasmtime::component::bindgen!({
    path: "../../host-abi/wit",
    inline: "
        package stem:isolate;
        world isolate {
            import stem:task/context@0.1.0;
            import stem:task/lifecycle@0.1.0;
            import stem:task/stop-events@0.1.0;
            import stem:task/log@0.1.0;
            import stem:task/checkpoint@0.1.0;
            import stem:task/children@0.1.0;
            import stem:task/kv@0.1.0;
            import stem:task/config@0.1.0;
            import stem:task/secrets@0.1.0;
            export stem:task/handler@0.1.0;
        }
    ",
    world: "stem:isolate/isolate",
    imports: {
        "stem:task/lifecycle@0.1.0.sleep": async | trappable,
        "stem:task/lifecycle@0.1.0.extend-lease": async | trappable,
        "stem:task/checkpoint@0.1.0.load": async | trappable,
        "stem:task/checkpoint@0.1.0.save": async | trappable,
        "stem:task/children@0.1.0.enqueue": async | trappable,
        "stem:task/kv@0.1.0.get": async | trappable,
        "stem:task/kv@0.1.0.put": async | trappable,
        "stem:task/kv@0.1.0.remove": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: { "wasi:io": wasmtime_wasi::p2::bindings::io },
});

use std::time::Duration;

use stem_core::envelope::Payload;
use stem_core::outcome::{Failure, FailureKind, StopNotice};
use stem_host_abi::limits;

pub(crate) use self::stem::task::types;
use crate::host::Refusal;

/// Milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<StopNotice> for types::StopNotice {
    fn from(notice: StopNotice) -> Self {
        Self {
            code: notice.code.to_owned(),
            message: notice.message,
            grace: notice.force_after.map(millis),
        }
    }
}

impl From<Refusal> for types::HostError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unavailable(problem) => Self::Unavailable(problem),
            Refusal::Quota(what) => Self::Quota(what),
            Refusal::Invalid(what) => Self::Invalid(what),
            Refusal::LeaseLost => Self::Conflict,
        }
    }
}

/// Takes a payload from a guest; a media type over its bound or not printable becomes bytes of no known type.
pub(crate) fn payload(payload: types::Payload) -> Payload {
    known(Payload { media_type: payload.media_type, bytes: payload.bytes })
}

/// See [`payload`].
pub(crate) fn known(mut payload: Payload) -> Payload {
    let printable = payload.media_type.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let fits = (1..=stem_core::envelope::MEDIA_TYPE_BYTES).contains(&payload.media_type.len());
    if !(printable && fits) {
        stem_host_abi::OCTET_STREAM.clone_into(&mut payload.media_type);
    }
    payload
}

/// Takes a failure from a guest; detail over its bound is left out, and its size returned.
pub(crate) fn failure(failure: types::Failure) -> (Failure, Option<usize>) {
    let mut told = Failure::new(FailureKind::Error, &failure.code, &failure.message);
    let detail = failure.detail.map(payload);
    let size = detail.as_ref().map_or(0, |detail| detail.bytes.len());
    if size > limits::FAILURE_DETAIL_BYTES {
        return (told, Some(size));
    }
    told.detail = detail;
    (told, None)
}
