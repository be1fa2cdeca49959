//! The wire form of an envelope, which every broker hands to workers as it came.

use stem_core::envelope::wire::{decode, encode};
use stem_core::trace::TraceParent;

use crate::Met;
use crate::told::told;

/// Keys of the header, and values at their bounds.
pub const WORDS: &[&str] = &[
    "{\"v\":1,",
    "{\"v\":2,",
    "\"for\":\"task\",\"in\":\"default\",",
    "\"v\":3",
    "\"notBefore\":0,",
    "\"expiresAt\":1,",
    "\"timeoutMs\":1,",
    "\"uniqueKey\":\"u\",",
    "\"parentId\":\"p\",",
    "\"rootId\":\"r\",",
    "\"depth\":16,",
    "\"module\":\"sha256:",
    "\"headers\":{\"a\":\"b\"},",
    "\"traceParent\":\"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\",",
    "\"priority\":9",
    "\"payloadBytes\":0",
    "application/json",
    "text/plain",
    "module:sha256:",
    "null",
    "\\u0000",
    "\\ud800",
    "}\n",
];

/// The longest that is said of one that is refused: 512 bytes of what it holds, and the words around them.
const TOLD: usize = 600;

/// Whatever is read keeps every bound, and is the same when it is written and read again; a signed one to the byte.
pub fn check(bytes: &[u8]) -> Met {
    let envelope = match decode(bytes) {
        Ok(envelope) => envelope,
        Err(error) => return Met::Refused(told(&error, TOLD)),
    };
    assert_eq!(envelope.check(), Ok(()));
    let written = encode(&envelope);
    assert_eq!(decode(&written).as_ref(), Ok(&envelope), "read again it is another");
    if let Some(sealed) = &envelope.seal {
        assert_eq!(written, bytes, "what was signed is not what is passed on");
        assert!(sealed.is_of(&envelope), "its own header is not the one that was signed");
    }
    for attempt in [1, 2, envelope.retry.max_retries, u32::MAX] {
        let delay = envelope.retry.delay(attempt, bytes.len() as u64);
        assert!(delay.as_millis() <= envelope.retry.cap_ms.into(), "{delay:?} is over the cap");
    }
    let trace = envelope.trace_parent.as_deref().and_then(TraceParent::parse);
    if let Some(trace) = trace {
        assert_eq!(TraceParent::parse(&trace.to_string()), Some(trace));
    }
    let parts = [
        envelope.seal.is_some(),
        envelope.not_before.is_some(),
        envelope.expires_at.is_some(),
        envelope.timeout.is_some(),
        envelope.unique_key.is_some(),
        envelope.trace_parent.is_some(),
        trace.is_some(),
        envelope.family().is_some(),
        envelope.depth > 0,
        envelope.module.is_some(),
        envelope.payload.is_json(),
        envelope.payload.bytes.is_empty(),
        envelope.headers.len() > 1,
    ];
    Met::Read(parts.map(|part| if part { 'x' } else { '-' }).iter().collect())
}
