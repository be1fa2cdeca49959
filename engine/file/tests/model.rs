//! Any sequence of changes, by two stores that are opened anew now and then, against a model.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use stem_conformance::ManualClock;
use stem_core::backend::RevokeStore;
use stem_core::revoke::{EXPIRY_GRACE, RevocationChange, RevokeRequest, Version};
use stem_core::time::{Clock, Timestamp};
use stem_file::FileStore;
use support::*;

#[derive(Clone, Debug)]
enum Step {
    Revoke { tasks: Vec<u8>, minutes: Option<u8> },
    ByHand { task: u8 },
    Undo { task: u8 },
    Prune,
    Reopen,
    Wait { minutes: u16 },
    List { back: u8, limit: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (proptest::collection::vec(0u8..8, 1..4), proptest::option::of(1u8..60))
            .prop_map(|(tasks, minutes)| Step::Revoke { tasks, minutes }),
        1 => (0u8..8).prop_map(|task| Step::ByHand { task }),
        3 => (0u8..8).prop_map(|task| Step::Undo { task }),
        2 => Just(Step::Prune),
        1 => Just(Step::Reopen),
        2 => (1u16..2_000).prop_map(|minutes| Step::Wait { minutes }),
        3 => (0u8..20, 1u8..10).prop_map(|(back, limit)| Step::List { back, limit }),
    ]
}

/// What the file should say of a task.
#[derive(Clone, Debug)]
struct Row {
    version: Version,
    /// When it was undone, or until when it holds.
    undone_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

impl Row {
    fn in_force(&self, now: Timestamp) -> bool {
        self.undone_at.is_none() && self.expires_at.is_none_or(|at| at.after(EXPIRY_GRACE) > now)
    }

    fn forgettable(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at.after(EXPIRY_GRACE) <= now)
            || self.undone_at.is_some_and(|at| now.since(at) >= Duration::from_hours(24))
    }
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<u8, Row>,
    last: Version,
}

impl Model {
    fn given(&mut self, version: Version) {
        assert!(version > self.last, "{version:?} was given out after {:?}", self.last);
        self.last = version;
    }

    fn after(&self, after: Version, limit: usize, now: Timestamp) -> Vec<(u8, Version, bool)> {
        let shown =
            self.rows.iter().filter(|(_, row)| row.undone_at.is_some() || row.in_force(now));
        let mut shown: Vec<_> =
            shown.map(|(task, row)| (*task, row.version, row.undone_at.is_some())).collect();
        shown.retain(|(_, version, _)| *version > after);
        shown.sort_by_key(|(_, version, _)| *version);
        shown.truncate(limit);
        shown
    }
}

async fn check(store: &FileStore, model: &Model, after: Version, limit: usize, now: Timestamp) {
    let changes = store.since(&space(), after, limit).await.unwrap();
    let found: Vec<_> = changes
        .iter()
        .map(|change| {
            let task = change.task().as_str()[1..].parse().unwrap();
            (task, change.version(), matches!(change, RevocationChange::Undone { .. }))
        })
        .collect();
    assert_eq!(found, model.after(after, limit, now));
}

async fn run(steps: Vec<Step>) {
    let (_directory, path) = place();
    let clock = ManualClock::new();
    let open = || with(&path, clock.clone(), Duration::from_secs(5));
    let mut stores: [Arc<FileStore>; 2] = [open(), open()];
    let mut model = Model::default();
    for (n, step) in steps.into_iter().enumerate() {
        let store = Arc::clone(&stores[n % 2]);
        let now = clock.now();
        let id = |number: u8| task(&format!("t{number}"));
        match step {
            Step::Revoke { tasks, minutes } => {
                let expires_at =
                    minutes.map(|minutes| now.after(Duration::from_mins(minutes.into())));
                let request = RevokeRequest { expires_at, ..RevokeRequest::default() };
                let batch: Vec<_> = tasks.iter().map(|t| (id(*t), request.clone())).collect();
                let stored = store.revoke(&space(), &batch).await.unwrap();
                for (task, stored) in tasks.into_iter().zip(stored) {
                    model.given(stored.version);
                    let row = Row { version: stored.version, undone_at: None, expires_at };
                    model.rows.insert(task, row);
                }
            }
            Step::ByHand { task } => {
                // Through the store first, so that the file is there.
                check(&store, &model, Version(0), 100, now).await;
                let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                writeln!(file, "{{\"namespace\":\"n\",\"taskId\":\"t{task}\"}}").unwrap();
                model.given(Version(model.last.0 + 1));
                let row = Row { version: model.last, undone_at: None, expires_at: None };
                model.rows.insert(task, row);
            }
            Step::Undo { task } => {
                let undone = store.undo(&space(), &id(task)).await.unwrap();
                let row = model.rows.get(&task).filter(|row| row.in_force(now));
                assert_eq!(undone.is_some(), row.is_some());
                if let Some(version) = undone {
                    model.given(version);
                    let row = Row { version, undone_at: Some(now), expires_at: None };
                    model.rows.insert(task, row);
                }
            }
            Step::Prune => {
                let before = model.rows.len();
                model.rows.retain(|_, row| !row.forgettable(now));
                let gone = (before - model.rows.len()) as u64;
                assert_eq!(store.prune(&space()).await.unwrap(), gone);
            }
            Step::Reopen => stores[n % 2] = open(),
            Step::Wait { minutes } => clock.advance(Duration::from_mins(minutes.into())),
            Step::List { back, limit } => {
                let after = Version(model.last.0.saturating_sub(back.into()));
                check(&store, &model, after, limit.into(), now).await;
            }
        }
    }
    for store in stores.iter().chain([&open()]) {
        check(store, &model, Version(0), 100, clock.now()).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]
    #[test]
    fn any_sequence_of_changes_equals_the_model(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
