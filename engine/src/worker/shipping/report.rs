//! What became of each release that should serve, for `inspect`.

use serde_json::{Value, json};
use stem_core::release::{AtHand, Release, Served};

use super::{Follower, Job};

impl Follower {
    /// Says for `inspect` what became of each release that should serve.
    pub(super) fn report(&self) {
        let rows = {
            let routes = self.shared.routes();
            let row = |served: &Served, release: &Release| {
                let job = Job::Serve(release.name.clone(), release.version, release.pushed_at);
                let mut at_hand =
                    routes.pushed().get(&release.name).into_iter().flat_map(AtHand::builds);
                let (state, problem) = if self.shadowed.contains(&release.name) {
                    ("shadowed", Some("the worker has a handler of its own for this name"))
                } else if !routes.classes().serve(&release.name) {
                    ("other-class", Some("its trust class is none of this worker's"))
                } else if routes.recalled().contains(&release.digest) {
                    ("recalled", None)
                } else if at_hand.any(|(version, ..)| version == release.version) {
                    let trial = served.assignment.version != release.version;
                    (if trial { "canary" } else { "serving" }, None)
                } else if let Some(failing) = self.failing.get(&job) {
                    (failing.trouble.code(), Some(failing.trouble.problem()))
                } else {
                    ("loading", None)
                };
                let mut row = json!({
                    "task": release.name, "version": release.version, "digest": release.digest, "state": state,
                });
                if let Some(problem) = problem {
                    row["problem"] = json!(problem);
                }
                row
            };
            let served = self.catalogue.served.iter();
            served
                .flat_map(|served| served.releases.iter().map(move |release| (served, release)))
                .map(|(served, release)| row(served, release))
                .collect::<Vec<Value>>()
        };
        self.shared.set_releases(rows);
    }
}
