//! Files that were cut, flipped, repaired.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use stem_core::backend::{ErrorClass, RevokeStore};
use stem_core::revoke::Version;
use support::*;

/// The cuts are independent of each other, so both of a small machine's cores may take some.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_cut_at_any_byte_keeps_every_complete_record_and_is_mended() {
    let log = Log::start();
    let (_directory, path) = place();
    file_of(&path, 200).await;
    let whole = content(&path);
    // What is listed after each number of lines, from files that end where a line does.
    let mut ends = vec![0];
    let mut after = vec![Vec::new()];
    let (_other, complete) = place();
    for line in lines(&whole) {
        ends.push(ends[ends.len() - 1] + line.len());
        fs::write(&complete, &whole[..ends[ends.len() - 1]]).unwrap();
        after.push(listed(&store(&complete)).await.unwrap());
    }
    assert_eq!((after.len(), after[ends.len() - 1].len()), (221, 200));
    let started = Instant::now();
    let (whole, ends, after) = (&*whole.leak(), &*ends.leak(), &*after.leak());
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let log = log.clone();
        workers.spawn(async move {
            let (_directory, path) = place();
            for cut in (worker..=whole.len()).step_by(4) {
                fs::write(&path, &whole[..cut]).unwrap();
                // A record is complete with its last brace.
                let count = ends.partition_point(|end| end.saturating_sub(1) <= cut) - 1;
                // The end of the list; that nothing before it is lost, the file itself shows below.
                let expected = &after[count][after[count].len().saturating_sub(4)..];
                let from = Version(expected.first().map_or(0, |first| first.version().0 - 1));
                let found = store(&path).since(&space(), from, usize::MAX).await.unwrap();
                assert_eq!(found, expected, "cut at {cut}");
                assert_eq!(content(&path), whole[..ends[count]], "mended after a cut at {cut}");
                let told = log.about(&path).len();
                assert_eq!(told, usize::from(!ends.contains(&cut)), "told of a cut at {cut}");
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    println!("{} cuts in {:?}", whole.len() + 1, started.elapsed());
}

#[tokio::test]
async fn a_writer_mends_what_it_appends_to() {
    let log = Log::start();
    let (_directory, path) = place();
    let store = store(&path);
    revoke(&store, "a").await.unwrap();
    let mut torn = content(&path);
    torn.extend_from_slice(b"{\"v\":1,\"namespace\":\"n\",\"taskId\":\"to");
    fs::write(&path, &torn).unwrap();
    // It may still be somebody's editor, so whoever only reads leaves it.
    assert_eq!(tasks(&store).await.unwrap(), ["a"]);
    assert_eq!(content(&path), torn);
    revoke(&store, "b").await.unwrap();
    assert_eq!(tasks(&store).await.unwrap(), ["a", "b"]);
    let told = log.about(&path);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("taskId") && told[0].contains("cut short"), "{told:?}");
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_named_by_line() {
    const FLIPS: usize = 6_000;
    let (_directory, path) = place();
    let good = file_of(&path, 40).await;
    let whole = content(&path);
    let mut dice = Dice(0x5eed_0f5e_ed00);
    let (mut found, mut harmless) = (0, 0);
    // Every bit of the last record with its end, then anywhere.
    let last = whole.len() - lines(&whole).last().unwrap().len();
    let everywhere = (0..FLIPS).map(|_| (dice.below(whole.len()), dice.below(8)));
    let in_the_last = (last..whole.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
    for (byte, bit) in in_the_last.chain(everywhere) {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << bit;
        fs::write(&path, &flipped).unwrap();
        match listed(&store(&path)).await {
            Ok(listed) => {
                harmless += 1;
                assert_eq!(listed, good, "bit {bit} of byte {byte} made another record");
            }
            Err(error) => {
                found += 1;
                assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
                let line = whole[..byte].split(|byte| *byte == b'\n').count();
                assert_eq!(line_of(&error), line, "bit {bit} of byte {byte}: {error}");
                assert!(error.to_string().contains("stem revokes repair"), "{error}");
            }
        }
        assert_eq!(content(&path), flipped, "what is damaged is left as it is");
    }
    println!("{found} flips found, {harmless} without effect");
    assert!(found >= FLIPS);
}

#[tokio::test]
async fn damage_that_comes_while_a_store_is_open_is_found_too() {
    let (_directory, path) = place();
    file_of(&path, 50).await;
    let store = store(&path);
    assert_eq!(listed(&store).await.unwrap().len(), 50);
    let mut damaged = content(&path);
    let start: usize = lines(&damaged)[..20].iter().map(|line| line.len()).sum();
    damaged[start + 60] ^= 4;
    fs::write(&path, damaged).unwrap();
    let error = listed(&store).await.unwrap_err();
    assert_eq!((error.class(), line_of(&error)), (ErrorClass::Corrupt, 21), "{error}");
    assert_eq!(revoke(&support::store(&path), "t").await.unwrap_err().class(), ErrorClass::Corrupt);
    // Somebody takes the line out in place, and the file stays longer than what was read of it.
    let mut mended = content(&path);
    mended.drain(start..start + lines(&mended)[20].len());
    fs::write(&path, mended).unwrap();
    let fresh = listed(&support::store(&path)).await.unwrap();
    assert_eq!(listed(&store).await.unwrap(), fresh);
}

#[tokio::test]
async fn a_last_line_of_any_length_without_an_end_is_set_aside() {
    let (_directory, path) = place();
    file_of(&path, 5).await;
    let mut damaged = content(&path);
    let good = damaged.len();
    damaged.extend_from_slice(&vec![0; 300_000]);
    fs::write(&path, &damaged).unwrap();
    let broken = store(&path);
    assert_eq!(listed(&broken).await.unwrap_err().class(), ErrorClass::Corrupt);
    let repaired = broken.repair().await.unwrap();
    assert_eq!(repaired.set_aside, 1);
    assert_eq!(content(&repaired.path_of_set_aside.unwrap()), damaged[good..]);
    assert_eq!(listed(&broken).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_repair_keeps_what_can_be_read_and_sets_the_rest_aside() {
    let (_directory, path) = place();
    let good = file_of(&path, 30).await;
    let mut damaged = content(&path);
    let at = |line: usize, whole: &[u8]| -> usize {
        lines(whole)[..line].iter().map(|line| line.len()).sum()
    };
    for line in [4, 19] {
        let start = at(line, &damaged);
        damaged[start + 60] ^= 4;
    }
    damaged.extend_from_slice(&vec![b'x'; 300_000]);
    damaged.extend_from_slice(b"\n{\"namespace\":\"n\",\"taskId\":\"by-hand\"}\n{\"v\":1,\"names");
    fs::write(&path, &damaged).unwrap();
    let broken = store(&path);
    assert_eq!(listed(&broken).await.unwrap_err().class(), ErrorClass::Corrupt);
    let repaired = broken.repair().await.unwrap();
    println!("{repaired:?}");
    assert_eq!((repaired.kept, repaired.set_aside), (32, 4));
    let aside = repaired.path_of_set_aside.unwrap();
    assert_eq!(fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o600);
    let aside = content(&aside);
    assert_eq!(lines(&aside).len(), 4);
    assert!(aside.len() > 300_000 && aside.ends_with(b"{\"v\":1,\"names"));
    for reader in [&broken, &store(&path)] {
        let found = listed(reader).await.unwrap();
        let lost: Vec<_> = good.iter().filter(|change| !found.contains(change)).collect();
        // t4's line, and t18's: t9's trace stands before it.
        assert_eq!(lost.len(), 2, "{lost:?}");
        assert_eq!(found.len(), 29);
        assert_eq!(found[28].task(), &task("by-hand"));
    }
    // Followers that were ahead of what is left do not take it for an older file.
    let seen = good.last().unwrap().version();
    assert_eq!(broken.since(&space(), seen, 10).await.unwrap().len(), 1);
    let above = revoke(&broken, "new").await.unwrap().version;
    assert!(above > seen);
    assert_eq!(broken.repair().await.unwrap().path_of_set_aside, None);
}

#[tokio::test]
async fn a_repair_that_loses_the_newest_record_leaves_its_readers_where_they_are() {
    let (_directory, path) = place();
    file_of(&path, 5).await;
    let store = store(&path);
    let seen = listed(&store).await.unwrap().last().unwrap().version();
    let mut damaged = content(&path);
    let byte = damaged.len() - 30;
    damaged[byte] ^= 1;
    fs::write(&path, damaged).unwrap();
    assert_eq!(store.repair().await.unwrap().set_aside, 1);
    assert_eq!(store.since(&space(), seen, 10).await.unwrap(), []);
    assert_eq!(listed(&store).await.unwrap().len(), 4);
    assert!(revoke(&store, "new").await.unwrap().version > seen);
}

#[tokio::test]
async fn a_repair_leaves_a_newer_versions_file_alone() {
    let (_directory, path) = place();
    let text = "{\"v\":2,\"namespace\":\"n\",\"taskId\":\"t\",\"shiny\":1}\nrubbish\n";
    fs::write(&path, text).unwrap();
    let error = store(&path).repair().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt);
    assert!(error.to_string().contains("newer version of stem"), "{error}");
    assert_eq!(content(&path), text.as_bytes());
}
