//! Many records: how long it takes to read them all, and that what is read is what was written.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::time::{Duration, Instant};

use stem_core::backend::RevokeStore;
use stem_core::revoke::{RevokeRequest, Version};
use support::*;

const RECORDS: usize = 20_000;
/// As a worker reads.
const CHUNK: usize = 10_000;

#[tokio::test]
async fn twenty_thousand_records_are_read_in_chunks() {
    let (_directory, path) = place();
    let writer = store(&path);
    let started = Instant::now();
    for start in (0..RECORDS).step_by(CHUNK) {
        let batch: Vec<_> = (start..start + CHUNK)
            .map(|n| (task(&format!("0192f0c5-7e1a-7b3c-9d2e-{n:012}")), RevokeRequest::default()))
            .collect();
        writer.revoke(&space(), &batch).await.unwrap();
    }
    let written = started.elapsed();
    let reader = store(&path);
    let started = Instant::now();
    let (mut after, mut count) = (Version(0), 0);
    loop {
        let chunk = reader.since(&space(), after, CHUNK).await.unwrap();
        let Some(last) = chunk.last() else { break };
        assert!(chunk.is_sorted_by(|one, next| one.version() < next.version()));
        after = last.version();
        count += chunk.len();
    }
    let read = started.elapsed();
    let bytes = content(&path).len();
    println!("{RECORDS} records, {bytes} bytes: written in {written:?}, read in {read:?}");
    assert_eq!(count, RECORDS);
    // Nothing new is found without reading anything again.
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(reader.since(&space(), after, CHUNK).await.unwrap(), []);
    }
    let looked = started.elapsed();
    assert!(looked < read * 10 + Duration::from_secs(2), "{looked:?} for 100 looks");
}
