//! The wire form of an envelope against its golden samples: what was written once is read for ever.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use stem_core::envelope::wire::{WireError, decode, encode};
use stem_core::envelope::{Envelope, Payload, Priority};
use stem_core::id::{QueueName, TaskId, TaskName, UniqueKey};
use stem_core::retry::RetryPolicy;
use stem_core::time::Timestamp;

fn minimal() -> Envelope {
    let id = TaskId::new("0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f").unwrap();
    Envelope::new(
        id,
        TaskName::new("word-count").unwrap(),
        QueueName::new("default").unwrap(),
        Payload::json(r#"{"text":"one two"}"#),
        Timestamp::from_unix_millis(1_767_225_600_123),
    )
}

fn full() -> Envelope {
    let root = TaskId::new("0198c5d2-7c1e-7b3a-9f00-000000000001").unwrap();
    Envelope {
        payload: Payload {
            media_type: "image/png".to_owned(),
            bytes: b"\x89PNG\r\n\n\0\xff".to_vec(),
        },
        not_before: Some(Timestamp::from_unix_millis(1_767_225_601_000)),
        expires_at: Some(Timestamp::from_unix_millis(1_767_229_200_000)),
        priority: Priority::new(9).unwrap(),
        retry: RetryPolicy { max_retries: 7, base_ms: 500, factor: 3, cap_ms: 60_000 },
        timeout: Some(Duration::from_millis(90_500)),
        unique_key: Some(UniqueKey::new("report:2026-01-01").unwrap()),
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        parent_id: Some(root.clone()),
        root_id: root,
        headers: BTreeMap::from([
            ("note".to_owned(), "café".to_owned()),
            ("tenant".to_owned(), "blue".to_owned()),
        ]),
        ..minimal()
    }
}

#[test]
fn the_golden_envelopes_are_written_and_read_to_the_byte() {
    for (envelope, golden) in [
        (minimal(), &include_bytes!("golden/envelope.minimal.bin")[..]),
        (full(), &include_bytes!("golden/envelope.full.bin")[..]),
    ] {
        let written = encode(&envelope);
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(golden));
        assert_eq!(written, golden);
        assert_eq!(decode(golden).unwrap(), envelope);
    }
}

#[test]
fn a_sealed_envelope_is_the_same_one_and_is_written_again_as_it_came() {
    for golden in [
        &include_bytes!("golden/envelope.sealed-hmac.bin")[..],
        &include_bytes!("golden/envelope.sealed-ed25519.bin")[..],
    ] {
        let envelope = decode(golden).unwrap();
        assert_eq!(Envelope { seal: None, ..envelope.clone() }, minimal());
        let sealed = envelope.seal.as_ref().unwrap();
        assert_eq!((sealed.seal().key.as_str(), sealed.seal().scope.as_str()), ("shop", "default"));
        assert_eq!(sealed.body(&envelope.payload), encode(&minimal()));
        assert!(sealed.is_of(&envelope) && !sealed.is_of(&full()));
        assert_eq!(encode(&envelope), golden);
        // A producer of its own may write the same header otherwise; what was signed stays what it was.
        let text = String::from_utf8(golden.to_vec()).unwrap();
        let spaced = text.replace("\"priority\":5", " \"priority\" : 5");
        assert_eq!(encode(&decode(spaced.as_bytes()).unwrap()), spaced.as_bytes());
        let id = envelope.id.as_str();
        let rooted = text.replace("\"priority\"", &format!("\"rootId\":\"{id}\",\"priority\""));
        let rooted = decode(rooted.as_bytes()).unwrap();
        assert!(rooted.seal.as_ref().unwrap().is_of(&rooted), "it is its own root, and says so");
        for wrong in [
            text.replace("\"for\":\"task\"", "\"for\":\"command\""),
            text.replace("\"sig\"", " \"sig\""),
            text.replacen("\"v\":1", "\"v\":2", 1),
            text.split_once('\n').unwrap().0.to_owned(),
        ] {
            assert!(matches!(decode(wrong.as_bytes()), Err(WireError::Malformed(_))), "{wrong}");
        }
    }
}

#[test]
fn what_is_not_an_envelope_is_told_from_a_newer_one() {
    let text = String::from_utf8(encode(&minimal())).unwrap();
    let malformed = |bytes: &[u8]| matches!(decode(bytes), Err(WireError::Malformed(_)));
    for wrong in [
        String::new(),
        "\n".to_owned(),
        "{}\n{}".to_owned(),
        text.trim_end_matches('}').to_owned(),
        format!("{text} "),
        text.replace("\"v\":1", "\"v\":0"),
        text.replace("\"v\":1", "\"v\":1,\"v\":1"),
        text.replace("\"priority\":5", "\"priority\":10"),
        text.replace("\"priority\":5", "\"priority\":5,\"surprise\":1"),
        text.replace("word-count", "word count"),
        text.replace("word-count", "../etc/passwd"),
        text.replace("\"maxRetries\":3", "\"maxRetries\":4294967295"),
        text.replace("{\"text\":\"one two\"}", "{\"text\":\"one two\"]"),
        text.replace("\"v\":1", "\"v\":1e400"),
        text.replace("\"priority\":5", "\"priority\":NaN"),
        text.replace("\"priority\":5", "\"priority\":-1"),
        text.replace("\"enqueuedAt\":1", "\"enqueuedAt\":-1"),
        text.replace("\"enqueuedAt\":1", "\"enqueuedAt\":9999"),
        text.replace("\"priority\"", "\"notBefore\":-1,\"priority\""),
        text.replace("\"name\":\"word-count\",", ""),
        text.replace("word-count", "word-count\\u0000"),
        text.replace("word-count", &"w".repeat(129)),
    ] {
        assert!(malformed(wrong.as_bytes()), "{wrong}");
    }
    assert!(malformed(&[text.as_bytes(), b"\xff"].concat()));
    assert!(malformed(&text.replace("word-count", "word\u{fffd}").into_bytes()));
    assert_eq!(decode(text.replace("\"v\":1", "\"v\":3").as_bytes()), Err(WireError::Version(3)));
    assert_eq!(decode(b"{\"v\":9,\"new\":true}\n"), Err(WireError::Version(9)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_changed_byte_is_refused_or_reads_as_a_valid_envelope(at: proptest::sample::Index, to: u8) {
        let mut bytes = encode(&full());
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(envelope) = decode(&bytes) {
            prop_assert!(envelope.check().is_ok());
        }
    }
}
