//! [`Buckets`]: versions, conditions, times, bounds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::buckets::{Buckets, Changed, Entry, KEY_BYTES, VALUE_BYTES, When};
use stem_core::backend::{BackendError, ErrorClass};

use crate::Harness;

crate::cases! { ($) buckets_suite buckets:
    a_value_is_read_back_by_every_connection,
    a_value_that_was_never_written_is_not_there,
    buckets_and_keys_are_kept_apart,
    each_write_has_a_larger_version,
    a_write_if_absent_writes_once,
    a_write_of_a_version_needs_that_version,
    a_removal_of_a_version_needs_that_version,
    a_removal_of_nothing_says_so,
    a_removed_value_comes_back_with_a_larger_version,
    a_value_ends_with_its_time,
    a_value_whose_time_is_over_is_absent_to_conditions,
    a_value_that_has_ended_comes_back_with_a_larger_version,
    each_write_begins_the_time_anew,
    of_many_that_write_one_version_one_wins,
    of_many_that_write_an_absent_value_one_wins,
    counting_together_loses_nothing,
    versions_are_unique_while_values_come_and_go,
    the_largest_value_and_the_longest_key_are_taken,
    what_is_too_large_or_has_no_name_is_refused,
    any_bytes_and_any_text_are_kept,
    many_values_that_ended_make_way,
}

const MINUTE: Duration = Duration::from_mins(1);

async fn connect(h: &dyn Harness) -> Arc<dyn Buckets> {
    h.connect().await.buckets
}

/// Writes in any case; answers the version that is there then, which a write that was made twice has raised.
async fn write(b: &Arc<dyn Buckets>, key: &str, value: &[u8], ttl: Option<Duration>) -> u64 {
    match b.write("b", key, value, When::Always, ttl).await.unwrap() {
        Changed::Done(version) => version,
        other => panic!("{other:?}"),
    }
}

async fn read(b: &Arc<dyn Buckets>, key: &str) -> Option<Entry> {
    b.read("b", key).await.unwrap()
}

async fn write_if(b: &Arc<dyn Buckets>, key: &str, value: &[u8], when: When) -> Changed {
    b.write("b", key, value, when, None).await.unwrap()
}

async fn remove(b: &Arc<dyn Buckets>, key: &str, when: When) -> Changed {
    b.remove("b", key, when).await.unwrap()
}

fn done(changed: Changed) -> u64 {
    let Changed::Done(version) = changed else { panic!("{changed:?}") };
    version
}

fn entry(value: &[u8], version: u64) -> Entry {
    Entry { value: value.to_vec(), version }
}

async fn a_value_is_read_back_by_every_connection(h: &dyn Harness) {
    let (b, other) = (connect(h).await, connect(h).await);
    let version = write(&b, "k", b"one", None).await;
    assert_eq!(read(&other, "k").await, Some(entry(b"one", version)));
    assert_eq!(read(&b, "k").await, Some(entry(b"one", version)));
}

async fn a_value_that_was_never_written_is_not_there(h: &dyn Harness) {
    let b = connect(h).await;
    assert_eq!(read(&b, "k").await, None);
    assert_eq!(b.read("nobody", "k").await.unwrap(), None);
}

async fn buckets_and_keys_are_kept_apart(h: &dyn Harness) {
    let b = connect(h).await;
    for (bucket, key) in [("b", "k"), ("b", "k/x"), ("b:k", "x"), ("B", "k"), ("b", "K")] {
        assert_eq!(b.read(bucket, key).await.unwrap(), None, "{bucket} {key}");
        let value = format!("{bucket} {key}").into_bytes();
        done(b.write(bucket, key, &value, When::Absent, None).await.unwrap());
    }
    for (bucket, key) in [("b", "k"), ("b", "k/x"), ("b:k", "x"), ("B", "k"), ("b", "K")] {
        let found = b.read(bucket, key).await.unwrap().unwrap();
        assert_eq!(found.value, format!("{bucket} {key}").into_bytes());
    }
    done(remove(&b, "k", When::Always).await);
    assert!(b.read("B", "k").await.unwrap().is_some());
}

async fn each_write_has_a_larger_version(h: &dyn Harness) {
    let b = connect(h).await;
    let mut last = 0;
    for n in 0..10_u8 {
        let version = write(&b, "k", &[n], None).await;
        assert!(version > last);
        assert_eq!(read(&b, "k").await, Some(entry(&[n], version)));
        last = version;
    }
}

async fn a_write_if_absent_writes_once(h: &dyn Harness) {
    let b = connect(h).await;
    let version = done(write_if(&b, "k", b"one", When::Absent).await);
    assert_eq!(write_if(&b, "k", b"two", When::Absent).await, Changed::Conflict);
    assert_eq!(read(&b, "k").await, Some(entry(b"one", version)));
}

async fn a_write_of_a_version_needs_that_version(h: &dyn Harness) {
    let b = connect(h).await;
    assert_eq!(write_if(&b, "k", b"x", When::Version(1)).await, Changed::Conflict);
    assert_eq!(read(&b, "k").await, None, "a condition makes nothing");
    let first = write(&b, "k", b"one", None).await;
    let second = done(write_if(&b, "k", b"two", When::Version(first)).await);
    for stale in [first, second + 1, 0] {
        assert_eq!(write_if(&b, "k", b"x", When::Version(stale)).await, Changed::Conflict);
    }
    assert_eq!(read(&b, "k").await, Some(entry(b"two", second)));
}

async fn a_removal_of_a_version_needs_that_version(h: &dyn Harness) {
    let b = connect(h).await;
    let first = write(&b, "k", b"one", None).await;
    let second = write(&b, "k", b"two", None).await;
    assert_eq!(remove(&b, "k", When::Version(first)).await, Changed::Conflict);
    assert_eq!(remove(&b, "k", When::Absent).await, Changed::Conflict);
    assert_eq!(read(&b, "k").await, Some(entry(b"two", second)));
    assert_eq!(remove(&b, "k", When::Version(second)).await, Changed::Done(second));
    assert_eq!(read(&b, "k").await, None);
}

async fn a_removal_of_nothing_says_so(h: &dyn Harness) {
    let b = connect(h).await;
    for when in [When::Always, When::Absent, When::Version(1)] {
        assert_eq!(remove(&b, "k", when).await, Changed::Absent);
    }
    write(&b, "k", b"x", None).await;
    done(remove(&b, "k", When::Always).await);
    assert_eq!(remove(&b, "k", When::Always).await, Changed::Absent);
}

async fn a_removed_value_comes_back_with_a_larger_version(h: &dyn Harness) {
    let b = connect(h).await;
    let first = write(&b, "k", b"one", None).await;
    done(remove(&b, "k", When::Always).await);
    let second = done(write_if(&connect(h).await, "k", b"two", When::Absent).await);
    assert!(second > first);
    assert_eq!(write_if(&b, "k", b"x", When::Version(first)).await, Changed::Conflict);
}

async fn a_value_ends_with_its_time(h: &dyn Harness) {
    let b = connect(h).await;
    write(&b, "k", b"x", Some(MINUTE)).await;
    write(&b, "stays", b"x", None).await;
    h.advance(MINUTE.saturating_sub(Duration::from_secs(1)));
    assert!(read(&b, "k").await.is_some());
    h.advance(Duration::from_secs(1));
    assert_eq!(read(&b, "k").await, None);
    h.advance(Duration::from_hours(24 * 365));
    assert!(read(&b, "stays").await.is_some());
}

async fn a_value_whose_time_is_over_is_absent_to_conditions(h: &dyn Harness) {
    let b = connect(h).await;
    let mut versions = Vec::new();
    for key in ["a", "b", "c"] {
        versions.push(write(&b, key, b"x", Some(MINUTE)).await);
    }
    h.advance(MINUTE);
    assert_eq!(remove(&b, "a", When::Version(versions[0])).await, Changed::Absent);
    assert_eq!(write_if(&b, "b", b"y", When::Version(versions[1])).await, Changed::Conflict);
    assert_eq!(read(&b, "b").await, None);
    done(write_if(&b, "c", b"y", When::Absent).await);
    h.advance(MINUTE);
    assert_eq!(read(&b, "c").await.unwrap().value, b"y");
}

async fn a_value_that_has_ended_comes_back_with_a_larger_version(h: &dyn Harness) {
    let b = connect(h).await;
    let mut last = 0;
    for _ in 0..5 {
        let version = write(&b, "k", b"x", Some(MINUTE)).await;
        assert!(version > last);
        last = version;
        h.advance(MINUTE);
        // Other writes may take away what has ended.
        write(&b, "other", b"x", Some(MINUTE)).await;
    }
}

async fn each_write_begins_the_time_anew(h: &dyn Harness) {
    let b = connect(h).await;
    write(&b, "k", b"one", Some(MINUTE)).await;
    h.advance(MINUTE / 2);
    let version = write(&b, "k", b"two", Some(MINUTE)).await;
    h.advance(MINUTE / 2);
    assert_eq!(read(&b, "k").await, Some(entry(b"two", version)));
    done(write_if(&b, "k", b"three", When::Version(version)).await);
    h.advance(MINUTE);
    assert_eq!(read(&b, "k").await.unwrap().value, b"three", "without a time it stays");
}

/// Many at once, each over a connection of its own; answers how many were done.
async fn race(h: &dyn Harness, when: When) -> usize {
    let mut writers = Vec::new();
    for n in 0..8_u8 {
        let b = connect(h).await;
        writers.push(tokio::spawn(async move { write_if(&b, "k", &[n], when).await }));
    }
    let mut won = 0;
    for writer in writers {
        won += usize::from(matches!(writer.await.unwrap(), Changed::Done(_)));
    }
    won
}

async fn of_many_that_write_one_version_one_wins(h: &dyn Harness) {
    let b = connect(h).await;
    for _ in 0..5 {
        let version = write(&b, "k", b"x", None).await;
        assert_eq!(race(h, When::Version(version)).await, 1);
    }
}

async fn of_many_that_write_an_absent_value_one_wins(h: &dyn Harness) {
    let b = connect(h).await;
    for _ in 0..5 {
        assert_eq!(race(h, When::Absent).await, 1);
        done(remove(&b, "k", When::Always).await);
    }
}

async fn counting_together_loses_nothing(h: &dyn Harness) {
    let mut counters = Vec::new();
    for _ in 0..4 {
        let b = connect(h).await;
        counters.push(tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let (when, count) = match read(&b, "count").await {
                        None => (When::Absent, 0),
                        Some(entry) => (When::Version(entry.version), entry.value[0]),
                    };
                    if let Changed::Done(_) = write_if(&b, "count", &[count + 1], when).await {
                        break;
                    }
                }
            }
        }));
    }
    for counter in counters {
        counter.await.unwrap();
    }
    assert_eq!(read(&connect(h).await, "count").await.unwrap().value, [40]);
}

async fn versions_are_unique_while_values_come_and_go(h: &dyn Harness) {
    let mut writers = Vec::new();
    for _ in 0..4 {
        let b = connect(h).await;
        writers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            for n in 0..10 {
                if n % 3 == 2 {
                    remove(&b, "k", When::Always).await;
                } else {
                    mine.push(write(&b, "k", b"x", None).await);
                }
            }
            assert!(mine.is_sorted(), "{mine:?}");
            mine
        }));
    }
    let mut all = HashSet::new();
    for writer in writers {
        for version in writer.await.unwrap() {
            assert!(all.insert(version), "{version} was given out twice");
        }
    }
}

async fn the_largest_value_and_the_longest_key_are_taken(h: &dyn Harness) {
    let b = connect(h).await;
    let (key, value) = ("k".repeat(KEY_BYTES), vec![0xa5; VALUE_BYTES]);
    let bucket = "b".repeat(stem_core::id::NAME_BYTES);
    let version = done(b.write(&bucket, &key, &value, When::Absent, Some(MINUTE)).await.unwrap());
    assert_eq!(b.read(&bucket, &key).await.unwrap(), Some(entry(&value, version)));
    assert_eq!(b.remove(&bucket, &key, When::Always).await.unwrap(), Changed::Done(version));
}

async fn what_is_too_large_or_has_no_name_is_refused(h: &dyn Harness) {
    let b = connect(h).await;
    let refused = |error: BackendError| assert_eq!(error.class(), ErrorClass::Refused, "{error}");
    let long = "k".repeat(KEY_BYTES + 1);
    for (bucket, key) in [("b", ""), ("b", long.as_str()), ("", "k"), ("a/b", "k"), ("{b}", "k")] {
        refused(b.read(bucket, key).await.unwrap_err());
        refused(b.write(bucket, key, b"x", When::Always, None).await.unwrap_err());
        refused(b.remove(bucket, key, When::Always).await.unwrap_err());
    }
    let large = vec![0; VALUE_BYTES + 1];
    refused(b.write("b", "k", &large, When::Always, None).await.unwrap_err());
    assert_eq!(read(&b, "k").await, None);
}

async fn any_bytes_and_any_text_are_kept(h: &dyn Harness) {
    let b = connect(h).await;
    let every: Vec<u8> = (0..=255).collect();
    for key in ["\0", "a\0b", "ä/{}'\"\\%_*", "\n", " ", "🌱", "-", "null"] {
        assert_eq!(read(&b, key).await, None, "{key:?}");
        let version = write(&b, key, &every, None).await;
        assert_eq!(read(&b, key).await, Some(entry(&every, version)), "{key:?}");
    }
    let version = write(&b, "empty", b"", None).await;
    assert_eq!(read(&b, "empty").await, Some(entry(b"", version)));
    write(&b, "long", b"x", Some(Duration::MAX)).await;
    assert!(read(&b, "long").await.is_some());
    write(&b, "short", b"x", Some(Duration::ZERO)).await;
    assert_eq!(read(&b, "short").await, None);
}

async fn many_values_that_ended_make_way(h: &dyn Harness) {
    let b = connect(h).await;
    for n in 0..100 {
        write(&b, &format!("k{n}"), b"x", Some(MINUTE)).await;
    }
    h.advance(MINUTE);
    for n in 0..100 {
        let version = done(write_if(&b, &format!("k{n}"), b"y", When::Absent).await);
        assert_eq!(read(&b, &format!("k{n}")).await, Some(entry(b"y", version)));
    }
}
