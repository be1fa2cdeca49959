//! [`ModuleStore`]: bytes by digest, releases by version, what serves, and what goes.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::modules::{Assigned, LOOSE_TTL, MODULE_BYTES, Pushed, Removed};
use stem_core::backend::{ErrorClass, ModuleStore};
use stem_core::id::Digest;
use stem_core::release::{
    Assignment, Canary, MANIFEST_BYTES, Percent, Push, PushId, RELEASES, Release, Rollout,
    SIGNATURES, Signature, WORD_BYTES,
};
use tokio::time::Instant;

use crate::ModuleHarness;
use crate::fixture::*;

crate::cases! { ($) modules_suite modules for ModuleHarness:
    bytes_come_back_by_their_digest_from_every_connection,
    bytes_that_were_never_stored_are_not_there,
    storing_again_does_no_harm_and_puts_right_what_lies_there,
    the_largest_module_is_taken_and_a_larger_refused,
    a_push_without_its_bytes_says_so_and_changes_nothing,
    a_release_comes_back_as_it_was_pushed,
    versions_count_up_within_each_name,
    pushing_the_newest_again_makes_no_release,
    a_push_that_is_sent_again_changes_nothing_that_was_decided_since,
    what_served_before_is_told_in_its_order,
    a_rollout_says_what_serves,
    an_assignment_needs_what_its_caller_saw,
    an_assignment_that_holds_already_is_done,
    an_assignment_to_what_there_is_not_changes_nothing,
    a_name_can_be_served_by_nothing,
    of_many_assigners_one_wins,
    of_many_pushers_each_gets_a_version,
    of_many_that_push_the_same_one_release_is_made,
    of_removing_and_assigning_one_is_refused,
    what_serves_is_not_removed,
    a_version_is_never_given_out_again,
    bytes_go_with_their_last_release,
    bytes_that_nobody_pushes_go_after_their_time,
    bytes_that_were_stored_again_keep_their_time,
    of_too_many_releases_the_oldest_that_serves_nothing_goes,
    a_name_that_nobody_knows_has_nothing,
    the_catalogue_is_of_one_moment,
    the_revision_grows_with_each_change_and_with_nothing_else,
    waiting_wakes_up_on_a_change_from_a_second_connection,
    waiting_for_what_is_no_more_returns_at_once,
    many_names_come_in_order,
    what_is_too_large_is_refused,
}

pub(crate) type Store = Arc<dyn ModuleStore>;

/// Any digest; stores count on their callers.
fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn push_of(job: &str, n: u8) -> Push {
    Push {
        id: PushId::fresh(),
        name: name(job),
        digest: digest(n),
        size: 1,
        manifest: "name = \"job\"\n".to_owned(),
        pushed_by: None,
        signatures: Vec::new(),
    }
}

async fn pushed(b: &Store, push: &Push, rollout: Rollout) -> Release {
    match b.push(push, rollout).await.unwrap() {
        Pushed::Release(release) => release,
        Pushed::NoSuchModule => panic!("the bytes of {push:?} are not there"),
    }
}

/// Stores bytes that are nothing but this number, and pushes them.
pub(crate) async fn release(b: &Store, job: &str, n: u8, rollout: Rollout) -> Release {
    b.put(&digest(n), &[n]).await.unwrap();
    pushed(b, &push_of(job, n), rollout).await
}

fn canary(percent: u8) -> Rollout {
    Rollout::Canary(Percent::new(percent).unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "as the trait takes it")]
fn whole(version: u32) -> Option<Assignment> {
    Some(Assignment { version, canary: None })
}

async fn assigned(b: &Store, job: &str) -> Option<Assignment> {
    b.history(&name(job)).await.unwrap().unwrap().assignment
}

/// The version that serves, and the canary's.
async fn serving(b: &Store, job: &str) -> Option<(u32, Option<u32>)> {
    let assignment = assigned(b, job).await?;
    Some((assignment.version, assignment.canary.map(|canary| canary.version)))
}

/// Newest first.
async fn versions(b: &Store, job: &str) -> Vec<u32> {
    let history = b.history(&name(job)).await.unwrap();
    history.map(|it| it.releases.iter().map(|it| it.version).collect()).unwrap_or_default()
}

async fn revision(b: &Store) -> u64 {
    b.catalogue().await.unwrap().revision
}

async fn bytes(b: &Store, n: u8) -> Option<Vec<u8>> {
    b.get(&digest(n)).await.unwrap()
}

async fn bytes_come_back_by_their_digest_from_every_connection(h: &dyn ModuleHarness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let large: Vec<u8> = (0..1_500_007_u32).flat_map(u32::to_le_bytes).collect();
    let every: Vec<u8> = (0..=255).collect();
    for (n, content) in [(1, &large[..]), (2, &every[..]), (3, b"")] {
        b.put(&digest(n), content).await.unwrap();
        assert!(bytes(&other, n).await.unwrap() == content, "{n}");
        assert!(bytes(&b, n).await.unwrap() == content, "{n}");
    }
}

async fn bytes_that_were_never_stored_are_not_there(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    assert_eq!(bytes(&b, 1).await, None);
    b.put(&digest(1), b"x").await.unwrap();
    assert_eq!(bytes(&b, 2).await, None);
}

async fn storing_again_does_no_harm_and_puts_right_what_lies_there(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    let (wrong, right) = (vec![1; 3 << 20], vec![2; 1 << 20]);
    for content in [&wrong, &wrong, &right, &right] {
        b.put(&digest(1), content).await.unwrap();
        assert!(bytes(&h.connect().await, 1).await.unwrap() == *content);
    }
    pushed(&b, &push_of("job", 1), Rollout::Whole).await;
    b.put(&digest(1), &wrong).await.unwrap();
    b.put(&digest(1), &right).await.unwrap();
    assert!(bytes(&b, 1).await.unwrap() == right);
}

async fn the_largest_module_is_taken_and_a_larger_refused(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    let mut content = vec![0xa5; MODULE_BYTES];
    content[MODULE_BYTES - 1] = 1;
    b.put(&digest(1), &content).await.unwrap();
    assert!(bytes(&h.connect().await, 1).await.unwrap() == content);
    content.push(0);
    let error = b.put(&digest(2), &content).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");
    assert_eq!(bytes(&b, 2).await, None);
}

async fn a_push_without_its_bytes_says_so_and_changes_nothing(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    let before = (b.catalogue().await.unwrap(), versions(&b, "job").await);
    for job in ["job", "other"] {
        let push = push_of(job, 2);
        assert_eq!(b.push(&push, Rollout::Whole).await.unwrap(), Pushed::NoSuchModule);
    }
    assert_eq!((b.catalogue().await.unwrap(), versions(&b, "job").await), before);
    assert_eq!(b.history(&name("other")).await.unwrap(), None);
    assert_eq!(release(&b, "job", 2, Rollout::Whole).await.version, 2, "no version was used up");
}

async fn a_release_comes_back_as_it_was_pushed(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    b.put(&digest(1), b"x").await.unwrap();
    let signature = |n: u8| Signature { key: format!("key{n}="), signature: "a/b+c=".to_owned() };
    let push = Push {
        size: 1_234_567,
        manifest: "# \0 ä \"quoted\" \\ 🌱\n{stem}/\r\n".to_owned(),
        pushed_by: Some("ci \"main\"".to_owned()),
        signatures: vec![signature(1), signature(2)],
        ..push_of("some.job:x", 1)
    };
    let release = pushed(&b, &push, Rollout::Whole).await;
    let expected = Release {
        name: push.name.clone(),
        version: 1,
        digest: push.digest,
        size: push.size,
        manifest: push.manifest.clone(),
        pushed_at: h.now(),
        pushed_by: push.pushed_by.clone(),
        signatures: push.signatures.clone(),
        push: Some(push.id),
    };
    assert_eq!(release, expected);
    let other = h.connect().await;
    let history = other.history(&push.name).await.unwrap().unwrap();
    assert_eq!((history.assignment, &history.releases[..]), (whole(1), &[expected.clone()][..]));
    let served = other.catalogue().await.unwrap().served;
    assert_eq!(served.len(), 1);
    assert_eq!((served[0].assignment, &served[0].releases), (whole(1).unwrap(), &vec![expected]));
}

async fn versions_count_up_within_each_name(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    for n in 1..=4 {
        assert_eq!(release(&b, "a", n, Rollout::Whole).await.version, u32::from(n));
    }
    assert_eq!(release(&b, "b", 4, Rollout::Whole).await.version, 1);
    assert_eq!(versions(&b, "a").await, [4, 3, 2, 1]);
    assert_eq!(versions(&b, "b").await, [1]);
}

async fn pushing_the_newest_again_makes_no_release(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    let first = release(&b, "job", 1, Rollout::Whole).await;
    let before = revision(&b).await;
    h.advance(Duration::from_mins(1));
    let again = Push { pushed_by: Some("another".to_owned()), ..push_of("job", 1) };
    assert_eq!(pushed(&h.connect().await, &again, Rollout::Whole).await, first);
    assert_eq!((versions(&b, "job").await, revision(&b).await), (vec![1], before));
    let signature = Signature { key: "k".to_owned(), signature: "s".to_owned() };
    for (version, push) in [
        (2, Push { manifest: "other".to_owned(), ..push_of("job", 1) }),
        (3, push_of("job", 1)),
        (4, Push { signatures: vec![signature], ..push_of("job", 1) }),
    ] {
        assert_eq!(pushed(&b, &push, Rollout::Whole).await.version, version);
    }
    assert_eq!(serving(&b, "job").await, Some((4, None)));
}

async fn a_push_that_is_sent_again_changes_nothing_that_was_decided_since(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    b.put(&digest(2), &[2]).await.unwrap();
    let push = push_of("job", 2);
    let made = pushed(&b, &push, Rollout::Whole).await;
    // Its answer did not come, and others go on.
    release(&b, "job", 3, Rollout::Whole).await;
    let before = revision(&b).await;
    assert_eq!(pushed(&h.connect().await, &push, Rollout::Whole).await, made);
    assert_eq!(serving(&b, "job").await, Some((3, None)));
    assert_eq!((versions(&b, "job").await, revision(&b).await), (vec![3, 2, 1], before));
    // Also where nobody pushed, but somebody went back.
    b.put(&digest(4), &[4]).await.unwrap();
    let push = push_of("job", 4);
    assert_eq!(pushed(&b, &push, canary(10)).await.version, 4);
    let seen = assigned(&b, "job").await;
    assert_eq!(b.assign(&name("job"), seen, whole(1)).await.unwrap(), Assigned::Done);
    assert_eq!(pushed(&h.connect().await, &push, canary(10)).await.version, 4);
    assert_eq!(serving(&b, "job").await, Some((1, None)));
}

async fn what_served_before_is_told_in_its_order(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    let before = async || h.connect().await.history(&name("job")).await.unwrap().unwrap().before;
    release(&b, "job", 1, Rollout::Whole).await;
    release(&b, "job", 2, Rollout::Held).await;
    release(&b, "job", 3, canary(10)).await;
    assert_eq!(before().await, [0; 0]);
    release(&b, "job", 4, Rollout::Whole).await;
    release(&b, "job", 5, Rollout::Whole).await;
    assert_eq!(before().await, [1, 4]);
    assert_eq!(b.remove(&name("job"), 4).await.unwrap(), Removed::Done);
    assert_eq!(before().await, [1], "nobody can go back to what is gone");
    assert_eq!(b.assign(&name("job"), whole(5), whole(2)).await.unwrap(), Assigned::Done);
    assert_eq!(before().await, [1, 5]);
    assert_eq!(b.assign(&name("job"), whole(2), whole(1)).await.unwrap(), Assigned::Done);
    assert_eq!(before().await, [0; 0]);
    assert_eq!(b.catalogue().await.unwrap().served[0].assignment, whole(1).unwrap());
}

async fn a_rollout_says_what_serves(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Held).await;
    assert_eq!(serving(&b, "job").await, None);
    assert_eq!(b.catalogue().await.unwrap().served, []);
    release(&b, "job", 2, canary(10)).await;
    assert_eq!(serving(&b, "job").await, Some((2, None)));
    release(&b, "job", 3, canary(20)).await;
    let on_trial = Canary { version: 3, percent: Percent::new(20).unwrap() };
    assert_eq!(assigned(&b, "job").await, Some(Assignment { version: 2, canary: Some(on_trial) }));
    let served = b.catalogue().await.unwrap().served.remove(0);
    assert_eq!(served.releases.iter().map(|it| it.version).collect::<Vec<_>>(), [2, 3]);
    // The newest again, with another rollout.
    release(&b, "job", 3, canary(30)).await;
    assert_eq!(assigned(&b, "job").await.unwrap().canary.unwrap().percent.get(), 30);
    release(&b, "job", 4, Rollout::Held).await;
    assert_eq!(serving(&b, "job").await, Some((2, Some(3))));
    release(&b, "job", 5, Rollout::Whole).await;
    assert_eq!(serving(&b, "job").await, Some((5, None)));
    assert_eq!(versions(&b, "job").await, [5, 4, 3, 2, 1]);
}

async fn an_assignment_needs_what_its_caller_saw(h: &dyn ModuleHarness) {
    let (b, other) = (h.connect().await, h.connect().await);
    for n in 1..=3 {
        release(&b, "job", n, Rollout::Whole).await;
    }
    let job = name("job");
    assert_eq!(b.assign(&job, whole(3), whole(1)).await.unwrap(), Assigned::Done);
    assert_eq!(assigned(&other, "job").await, whole(1));
    for stale in [whole(3), None] {
        assert_eq!(other.assign(&job, stale, whole(2)).await.unwrap(), Assigned::Conflict);
    }
    let percent = Percent::new(5).unwrap();
    let trial = Some(Assignment { version: 1, canary: Some(Canary { version: 2, percent }) });
    assert_eq!(b.assign(&job, whole(1), trial).await.unwrap(), Assigned::Done);
    assert_eq!(b.assign(&job, whole(1), whole(2)).await.unwrap(), Assigned::Conflict);
    assert_eq!(assigned(&other, "job").await, trial);
}

async fn an_assignment_that_holds_already_is_done(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    release(&b, "job", 2, Rollout::Whole).await;
    assert_eq!(b.assign(&name("job"), whole(2), whole(1)).await.unwrap(), Assigned::Done);
    let before = revision(&b).await;
    // Whoever did not hear the answer asks again.
    assert_eq!(b.assign(&name("job"), whole(2), whole(1)).await.unwrap(), Assigned::Done);
    assert_eq!(b.assign(&name("nobody"), None, None).await.unwrap(), Assigned::Done);
    assert_eq!(revision(&b).await, before);
}

async fn an_assignment_to_what_there_is_not_changes_nothing(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    let percent = Percent::new(5).unwrap();
    let trial = Some(Assignment { version: 1, canary: Some(Canary { version: 2, percent }) });
    for wanted in [whole(2), whole(0), trial] {
        let answer = b.assign(&name("job"), whole(1), wanted).await.unwrap();
        assert_eq!(answer, Assigned::NoSuchVersion);
    }
    assert_eq!(b.assign(&name("nobody"), None, whole(1)).await.unwrap(), Assigned::NoSuchVersion);
    assert_eq!(assigned(&b, "job").await, whole(1));
    assert_eq!(b.history(&name("nobody")).await.unwrap(), None);
}

async fn a_name_can_be_served_by_nothing(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    release(&b, "other", 1, Rollout::Whole).await;
    assert_eq!(b.assign(&name("job"), whole(1), None).await.unwrap(), Assigned::Done);
    assert_eq!((assigned(&b, "job").await, versions(&b, "job").await), (None, vec![1]));
    let served = b.catalogue().await.unwrap().served;
    assert_eq!(served.len(), 1);
    assert_eq!(served[0].releases[0].name, name("other"));
    assert_eq!(b.assign(&name("job"), None, whole(1)).await.unwrap(), Assigned::Done);
    assert_eq!(b.catalogue().await.unwrap().served.len(), 2);
}

async fn of_many_assigners_one_wins(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    for n in 1..=9 {
        release(&b, "job", n, Rollout::Held).await;
    }
    let mut seen = None;
    for _ in 0..3 {
        let mut racers = Vec::new();
        for version in (1..=9).filter(|version| whole(*version) != seen) {
            let b = h.connect().await;
            racers.push(tokio::spawn(async move {
                let answer = b.assign(&name("job"), seen, whole(version)).await.unwrap();
                (version, answer)
            }));
        }
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                (version, Assigned::Done) => winners.push(version),
                (_, answer) => assert_eq!(answer, Assigned::Conflict),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        seen = whole(winners[0]);
        assert_eq!(assigned(&b, "job").await, seen);
    }
}

async fn of_many_pushers_each_gets_a_version(h: &dyn ModuleHarness) {
    let mut racers = Vec::new();
    for n in 1..=8 {
        let b = h.connect().await;
        racers.push(tokio::spawn(async move { release(&b, "job", n, Rollout::Whole).await }));
    }
    let mut given = Vec::new();
    for racer in racers {
        given.push(racer.await.unwrap().version);
    }
    given.sort_unstable_by_key(|version| std::cmp::Reverse(*version));
    let b = h.connect().await;
    let versions = versions(&b, "job").await;
    assert_eq!(versions, given, "one each, also of those that were made twice");
    assert!(versions.is_sorted_by(|one, next| one > next), "{versions:?}");
    assert_eq!(serving(&b, "job").await, Some((versions[0], None)), "the last one is in force");
}

async fn of_many_that_push_the_same_one_release_is_made(h: &dyn ModuleHarness) {
    let mut racers = Vec::new();
    for _ in 0..8 {
        let b = h.connect().await;
        racers.push(tokio::spawn(async move { release(&b, "job", 1, Rollout::Whole).await }));
    }
    for racer in racers {
        assert_eq!(racer.await.unwrap().version, 1);
    }
    assert_eq!(versions(&h.connect().await, "job").await, [1]);
}

async fn of_removing_and_assigning_one_is_refused(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    for round in 0..5 {
        let old = release(&b, "job", 2 * round + 1, Rollout::Whole).await.version;
        let new = release(&b, "job", 2 * round + 2, Rollout::Whole).await.version;
        let (one, other) = (h.connect().await, h.connect().await);
        let removing = tokio::spawn(async move { one.remove(&name("job"), old).await.unwrap() });
        let assigning = tokio::spawn(async move {
            other.assign(&name("job"), whole(new), whole(old)).await.unwrap()
        });
        match (removing.await.unwrap(), assigning.await.unwrap()) {
            (Removed::Done, Assigned::NoSuchVersion) | (Removed::InUse, Assigned::Done) => {}
            both => panic!("{both:?}"),
        }
        let version = assigned(&b, "job").await.unwrap().version;
        assert!(versions(&b, "job").await.contains(&version));
    }
}

async fn what_serves_is_not_removed(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    release(&b, "job", 2, canary(10)).await;
    release(&b, "job", 3, Rollout::Held).await;
    let before = revision(&b).await;
    for version in [1, 2] {
        assert_eq!(b.remove(&name("job"), version).await.unwrap(), Removed::InUse);
    }
    for (job, version) in [("job", 4), ("job", 0), ("nobody", 1)] {
        assert_eq!(b.remove(&name(job), version).await.unwrap(), Removed::NoSuchVersion);
    }
    assert_eq!(revision(&b).await, before);
    assert_eq!(b.remove(&name("job"), 3).await.unwrap(), Removed::Done);
    assert_eq!(versions(&b, "job").await, [2, 1]);
    assert_eq!(bytes(&b, 1).await, Some(vec![1]));
}

async fn a_version_is_never_given_out_again(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    release(&b, "job", 2, Rollout::Held).await;
    assert_eq!(b.remove(&name("job"), 2).await.unwrap(), Removed::Done);
    assert_eq!(release(&h.connect().await, "job", 2, Rollout::Held).await.version, 3);
    // Also where nothing of the name is left.
    assert_eq!(b.assign(&name("job"), whole(1), None).await.unwrap(), Assigned::Done);
    for version in [1, 3] {
        assert_eq!(b.remove(&name("job"), version).await.unwrap(), Removed::Done);
    }
    assert_eq!(b.history(&name("job")).await.unwrap(), None);
    assert_eq!(release(&h.connect().await, "job", 1, Rollout::Whole).await.version, 4);
}

async fn bytes_go_with_their_last_release(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "a", 1, Rollout::Held).await;
    release(&b, "a", 2, Rollout::Held).await;
    release(&b, "b", 1, Rollout::Held).await;
    let again = Push { manifest: "other".to_owned(), ..push_of("a", 1) };
    assert_eq!(pushed(&b, &again, Rollout::Held).await.version, 3);
    for (job, version, left) in [("a", 1, true), ("b", 1, true), ("a", 3, false)] {
        assert_eq!(b.remove(&name(job), version).await.unwrap(), Removed::Done);
        assert_eq!(bytes(&h.connect().await, 1).await.is_some(), left, "after {job} {version}");
    }
    assert_eq!(bytes(&b, 2).await, Some(vec![2]));
    assert_eq!(b.push(&push_of("a", 1), Rollout::Held).await.unwrap(), Pushed::NoSuchModule);
}

async fn bytes_that_nobody_pushes_go_after_their_time(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    b.put(&digest(9), b"loose").await.unwrap();
    for n in 1..=3 {
        release(&b, "job", n, Rollout::Whole).await;
    }
    h.advance(LOOSE_TTL.saturating_sub(Duration::from_secs(1)));
    assert_eq!(b.remove(&name("job"), 1).await.unwrap(), Removed::Done);
    assert_eq!(bytes(&b, 9).await, Some(b"loose".to_vec()), "somebody may be about to push it");
    h.advance(Duration::from_secs(1));
    assert_eq!(bytes(&b, 9).await, Some(b"loose".to_vec()), "nothing goes by itself");
    assert_eq!(b.remove(&name("job"), 2).await.unwrap(), Removed::Done);
    assert_eq!(bytes(&b, 9).await, None);
    assert_eq!(bytes(&b, 3).await, Some(vec![3]));
}

async fn bytes_that_were_stored_again_keep_their_time(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    for n in 1..=2 {
        b.put(&digest(n), &[n]).await.unwrap();
    }
    h.advance(LOOSE_TTL);
    b.put(&digest(1), &[1]).await.unwrap();
    // A push takes away what is loose, too.
    release(&b, "job", 3, Rollout::Whole).await;
    assert_eq!((bytes(&b, 1).await, bytes(&b, 2).await), (Some(vec![1]), None));
    pushed(&b, &push_of("job", 1), Rollout::Whole).await;
    h.advance(LOOSE_TTL * 2);
    release(&b, "job", 4, Rollout::Whole).await;
    assert_eq!(bytes(&b, 1).await, Some(vec![1]));
}

async fn of_too_many_releases_the_oldest_that_serves_nothing_goes(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 200, Rollout::Whole).await;
    for n in 1..RELEASES {
        release(&b, "job", u8::try_from(n).unwrap(), Rollout::Held).await;
    }
    assert_eq!(versions(&b, "job").await.len(), RELEASES);
    assert_eq!(release(&b, "job", 201, Rollout::Held).await.version, 101);
    let left = versions(&b, "job").await;
    assert_eq!((left.len(), left[RELEASES - 1], left[RELEASES - 2]), (RELEASES, 1, 3));
    assert_eq!((bytes(&b, 1).await, bytes(&b, 2).await), (None, Some(vec![2])));
    assert_eq!(serving(&b, "job").await, Some((1, None)));
}

async fn a_name_that_nobody_knows_has_nothing(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    assert_eq!(b.history(&name("job")).await.unwrap(), None);
    let catalogue = b.catalogue().await.unwrap();
    assert_eq!((catalogue.revision, catalogue.served), (0, Vec::new()));
    assert_eq!(b.remove(&name("job"), 1).await.unwrap(), Removed::NoSuchVersion);
    assert_eq!(b.assign(&name("job"), whole(1), None).await.unwrap(), Assigned::Done);
    assert_eq!(revision(&b).await, 0);
}

/// Two names change places all the time; whoever reads sees no picture between two changes.
async fn the_catalogue_is_of_one_moment(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    for job in ["a", "z"] {
        release(&b, job, 1, Rollout::Whole).await;
    }
    let writer = h.connect().await;
    let writing = tokio::spawn(async move {
        for n in 2..12 {
            for job in ["a", "z"] {
                let release = release(&writer, job, n, Rollout::Whole).await;
                let _ = writer.remove(&name(job), release.version - 1).await.unwrap();
            }
        }
    });
    let mut last = b.catalogue().await.unwrap();
    while !writing.is_finished() {
        tokio::task::yield_now().await;
        let catalogue = b.catalogue().await.unwrap();
        assert!(catalogue.revision >= last.revision);
        if catalogue.revision == last.revision {
            assert_eq!(catalogue, last, "one revision, one picture");
        }
        let versions: Vec<u32> = catalogue.served.iter().map(|it| it.assignment.version).collect();
        let [a, z] = versions[..] else { panic!("{versions:?}") };
        assert!(a == z || a == z + 1, "a goes first, and z follows: {versions:?}");
        for served in &catalogue.served {
            assert_eq!(served.releases.len(), 1);
            assert_eq!(served.releases[0].version, served.assignment.version);
        }
        last = catalogue;
    }
    writing.await.unwrap();
}

async fn the_revision_grows_with_each_change_and_with_nothing_else(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    let mut last = revision(&b).await;
    let mut check = async |grown: bool, what: &str| {
        let now = revision(&b).await;
        assert!(if grown { now > last } else { now == last }, "{what}: {last} to {now}");
        last = now;
    };
    b.put(&digest(1), &[1]).await.unwrap();
    check(false, "bytes").await;
    release(&b, "job", 1, Rollout::Whole).await;
    check(true, "a push").await;
    release(&b, "job", 1, Rollout::Whole).await;
    check(false, "the same push").await;
    release(&b, "job", 2, Rollout::Held).await;
    check(true, "a held push").await;
    release(&b, "job", 2, canary(5)).await;
    check(true, "another rollout of it").await;
    b.assign(&name("job"), assigned(&b, "job").await, whole(2)).await.unwrap();
    check(true, "an assignment").await;
    b.assign(&name("job"), whole(1), whole(1)).await.unwrap();
    check(false, "a conflict").await;
    b.remove(&name("job"), 2).await.unwrap();
    check(false, "a removal that was refused").await;
    b.remove(&name("job"), 1).await.unwrap();
    check(true, "a removal").await;
}

async fn waiting_wakes_up_on_a_change_from_a_second_connection(h: &dyn ModuleHarness) {
    let (b, other) = (h.connect().await, h.connect().await);
    release(&other, "job", 1, Rollout::Whole).await;
    let started = Instant::now();
    let waiting = tokio::spawn(async move {
        let mut seen = b.catalogue().await.unwrap();
        while seen.served[0].assignment.version == 1 {
            b.changed(seen.revision, LONG).await.unwrap();
            seen = b.catalogue().await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(60)).await;
    release(&other, "job", 2, Rollout::Whole).await;
    waiting.await.unwrap();
    assert!(started.elapsed() < LONG / 2);
}

async fn waiting_for_what_is_no_more_returns_at_once(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    release(&b, "job", 1, Rollout::Whole).await;
    let seen = revision(&b).await;
    let started = Instant::now();
    for other in [0, seen - 1, seen + 1] {
        h.connect().await.changed(other, LONG).await.unwrap();
    }
    assert!(started.elapsed() < LONG / 2);
    b.changed(seen, Duration::from_millis(20)).await.unwrap();
}

async fn many_names_come_in_order(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    b.put(&digest(1), &[1]).await.unwrap();
    let manifest = "#".repeat(16 << 10);
    let mut names: Vec<String> =
        (0..120).map(|n| format!("{}{n}", ["Job", "a.", "_x"][n % 3])).collect();
    for job in &names {
        let push = Push { manifest: manifest.clone(), ..push_of(job, 1) };
        pushed(&b, &push, Rollout::Whole).await;
    }
    names.sort();
    let served = h.connect().await.catalogue().await.unwrap().served;
    let found: Vec<&str> = served.iter().map(|it| it.releases[0].name.as_str()).collect();
    assert_eq!(found, names);
    assert!(served.iter().all(|it| it.releases.len() == 1 && it.releases[0].manifest == manifest));
}

async fn what_is_too_large_is_refused(h: &dyn ModuleHarness) {
    let b = h.connect().await;
    b.put(&digest(1), &[1]).await.unwrap();
    let signature = |bytes| Signature { key: "k".repeat(bytes), signature: "s".repeat(bytes) };
    let largest = Push {
        manifest: "#".repeat(MANIFEST_BYTES),
        size: MODULE_BYTES as u64,
        pushed_by: Some("p".repeat(WORD_BYTES)),
        signatures: vec![signature(WORD_BYTES); SIGNATURES],
        ..push_of("job", 1)
    };
    for push in [
        Push { manifest: "#".repeat(MANIFEST_BYTES + 1), ..largest.clone() },
        Push { size: MODULE_BYTES as u64 + 1, ..largest.clone() },
        Push { pushed_by: Some("p".repeat(WORD_BYTES + 1)), ..largest.clone() },
        Push { signatures: vec![signature(1); SIGNATURES + 1], ..largest.clone() },
        Push { signatures: vec![signature(WORD_BYTES + 1)], ..largest.clone() },
    ] {
        let error = b.push(&push, Rollout::Whole).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
    }
    assert_eq!(b.history(&name("job")).await.unwrap(), None);
    let release = pushed(&b, &largest, Rollout::Whole).await;
    assert_eq!((release.version, release.manifest.len()), (1, MANIFEST_BYTES));
}
