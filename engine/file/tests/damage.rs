//! Files that were cut, flipped, repaired.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::convert::identity;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use stem_core::backend::{BackendError, ErrorClass, RevokeStore};
use stem_core::revoke::RevocationChange;
use support::*;

/// What a reader makes of what the store lists: the true one leaves it as it is.
type Reader = fn(Vec<RevocationChange>) -> Vec<RevocationChange>;

/// A file that is cut, and who reads it then.
struct Cuts {
    made: Vec<RevocationChange>,
    whole: Vec<u8>,
    log: Log,
    reader: Reader,
}

impl Cuts {
    async fn of(count: usize, reader: Reader) -> Self {
        let (_directory, path) = place();
        let log = Log::start();
        Self { made: made(&path, count).await, whole: content(&path), log, reader }
    }

    /// Cuts the file at `first` and after every `step` bytes more. Each time all that its whole lines say is listed,
    /// nothing else is left in it, and what a writer had begun is told of.
    async fn check(&self, first: usize, step: usize) -> Result<(), String> {
        let Self { made, whole, log, reader } = self;
        let mut ends = vec![0];
        for line in lines(whole) {
            ends.push(ends[ends.len() - 1] + line.len());
        }
        let after: Vec<_> = (0..ends.len()).map(|count| in_force(&made[..count])).collect();
        let (_directory, path) = place();
        for cut in (first..=whole.len()).step_by(step) {
            fs::write(&path, &whole[..cut]).unwrap();
            // A record is complete with its last brace.
            let count = ends.partition_point(|end| end.saturating_sub(1) <= cut) - 1;
            let found = reader(listed(&store(&path)).await.map_err(|error| error.to_string())?);
            if found != after[count] {
                let (there, all) = (found.len(), after[count].len());
                return Err(format!("lists {there} of {all} changes after a cut at {cut}"));
            }
            if content(&path) != whole[..ends[count]] {
                return Err(format!("is not mended after a cut at {cut}"));
            }
            let told = log.about(&path).len();
            if told != usize::from(!ends.contains(&cut)) {
                return Err(format!("told {told} times of a cut at {cut}"));
            }
        }
        Ok(())
    }
}

/// The cuts are independent of each other, so both of a small machine's cores may take some.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_cut_at_any_byte_keeps_every_complete_record_and_is_mended() {
    let cuts = Arc::new(Cuts::of(200, identity).await);
    assert_eq!((cuts.made.len(), in_force(&cuts.made).len()), (220, 200));
    let started = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let cuts = Arc::clone(&cuts);
        workers.spawn(async move { cuts.check(worker, 4).await });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap().unwrap();
    }
    println!("{} cuts in {:?}", cuts.whole.len() + 1, started.elapsed());
}

/// What a cut shows of a reader of a small file.
async fn found_by_cuts(reader: Reader) -> String {
    let found = Cuts::of(20, reader).await.check(0, 1).await.unwrap_err();
    println!("{found}");
    found
}

#[tokio::test]
async fn a_planted_reader_that_drops_its_last_change_is_found() {
    let found = found_by_cuts(|mut changes| {
        changes.pop();
        changes
    });
    assert!(found.await.contains("lists 0 of 1 changes"));
    stem_services::count("plants", 1);
}

/// In a list that is long enough for its end to be complete all the same.
#[tokio::test]
async fn a_planted_reader_that_drops_its_first_change_is_found() {
    let found = found_by_cuts(|mut changes| {
        if changes.len() > 10 {
            changes.remove(0);
        }
        changes
    });
    assert!(found.await.contains("lists 10 of 11 changes"));
    stem_services::count("plants", 1);
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

/// What became of the bits that were flipped, one at a time.
#[derive(Default)]
struct Flips {
    found: usize,
    /// Without any effect.
    harmless: usize,
    /// What a reader must not do.
    wrong: Vec<String>,
}

/// Flips every bit of the last record with its end, then so many anywhere. Whoever reads then lists what is good, or
/// says what cannot be read, and leaves it as it is.
async fn flips(
    whole: &[u8],
    good: &[RevocationChange],
    count: usize,
    read: impl AsyncFn(&Path) -> Result<Vec<RevocationChange>, BackendError>,
) -> Flips {
    let (_directory, path) = place();
    let mut dice = Dice(0x5eed_0f5e_ed00);
    let mut flips = Flips::default();
    let last = whole.len() - lines(whole).last().unwrap().len();
    let everywhere = (0..count).map(|_| (dice.below(whole.len()), dice.below(8)));
    let in_the_last = (last..whole.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
    for (byte, bit) in in_the_last.chain(everywhere) {
        let mut flipped = whole.to_vec();
        flipped[byte] ^= 1 << bit;
        fs::write(&path, &flipped).unwrap();
        let wrong = match read(&path).await {
            Ok(listed) => {
                flips.harmless += 1;
                (listed != good).then(|| "made another record".to_owned())
            }
            Err(error) => {
                flips.found += 1;
                let line = whole[..byte].split(|byte| *byte == b'\n').count();
                let right = error.class() == ErrorClass::Corrupt
                    && line_of(&error) == line
                    && error.to_string().contains("stem revokes repair");
                (!right).then(|| format!("of line {line} is said to be: {error}"))
            }
        };
        let left = content(&path) == flipped;
        let wrong = wrong.or((!left).then(|| "is not left as it is".to_owned()));
        flips.wrong.extend(wrong.map(|wrong| format!("bit {bit} of byte {byte} {wrong}")));
    }
    flips
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_named_by_line() {
    const FLIPS: usize = 20_000;
    let (_directory, path) = place();
    let good = file_of(&path, 40).await;
    let Flips { found, harmless, wrong } =
        flips(&content(&path), &good, FLIPS, async |path| listed(&store(path)).await).await;
    println!("{found} flips found, {harmless} without effect");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found >= FLIPS);
}

/// Persons may write such a file, so the true reader does not mind.
#[tokio::test]
async fn a_planted_file_without_checksums_is_found() {
    let (_directory, path) = place();
    let good = file_of(&path, 20).await;
    let mut unsealed = Vec::new();
    for line in lines(&content(&path)) {
        let text = str::from_utf8(line).unwrap();
        let (record, _) = text.rsplit_once(",\"crc\":\"").unwrap();
        writeln!(unsealed, "{record}}}").unwrap();
    }
    fs::write(&path, &unsealed).unwrap();
    let read = async |path: &Path| listed(&store(path)).await;
    assert_eq!(read(&path).await.unwrap(), good);
    let wrong = flips(&unsealed, &good, 500, read).await.wrong;
    let made = wrong.iter().filter(|wrong| wrong.contains("made another record")).count();
    println!("{made} other records");
    assert!(made > 10, "{wrong:#?}");
    stem_services::count("plants", 1);
}

#[tokio::test]
async fn a_planted_reader_that_goes_on_without_what_is_damaged_is_found() {
    let (_directory, path) = place();
    let good = file_of(&path, 20).await;
    let repairs = async |path: &Path| {
        let store = store(path);
        if let Some(aside) = store.repair().await?.path_of_set_aside {
            fs::remove_file(aside).unwrap();
        }
        listed(&store).await
    };
    let flips = flips(&content(&path), &good, 100, repairs).await;
    assert_eq!(flips.found, 0);
    let made = flips.wrong.iter().filter(|wrong| wrong.contains("made another record")).count();
    println!("{made} lists without a record");
    assert!(made > 100, "{:#?}", flips.wrong);
    stem_services::count("plants", 1);
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
