//! What a careless sandbox would let a guest do outside, done here: the checks of `paths` find each of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::guest::Script;
use super::paths::{assert_outside, attempts, look, outside};
use super::{Yard, input};
use crate::bench::block_on;
use crate::planted::found;

/// What it is, and how it is done to the directory `outside`.
type Deed = (&'static str, fn(&Path));

const DEEDS: [Deed; 9] = [
    ("read", |outside| drop(fs::read(outside.join("secret")).unwrap())),
    ("write", |outside| {
        let mut file = fs::File::options().write(true).open(outside.join("secret")).unwrap();
        file.write_all(b"some").unwrap();
    }),
    ("truncate", |outside| {
        fs::File::options().write(true).truncate(true).open(outside.join("dir/inner")).unwrap();
    }),
    ("list", |outside| assert_eq!(fs::read_dir(outside.join("dir")).unwrap().count(), 1)),
    ("link", |outside| fs::hard_link(outside.join("secret"), outside.join("../stolen")).unwrap()),
    ("create", |outside| fs::write(outside.join("new"), "").unwrap()),
    ("create below", |outside| fs::write(outside.join("empty/new"), "").unwrap()),
    ("remove", |outside| fs::remove_file(outside.join("dir/inner")).unwrap()),
    ("open to everybody", |outside| {
        fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o777)).unwrap();
    }),
];

#[test]
fn a_planted_deed_outside_is_seen_whatever_it_is() {
    for (what, deed) in DEEDS {
        let dir = tempfile::tempdir().unwrap();
        outside(dir.path());
        let before = look(dir.path());
        assert_eq!(look(dir.path()), before, "its own look changes nothing");
        deed(&dir.path().join("outside"));
        println!("{what}: {}", found(|| assert_eq!(look(dir.path()), before)));
    }
    stem_services::count("plants", u64::try_from(DEEDS.len()).unwrap());
}

#[test]
fn a_planted_grant_that_is_one_directory_too_wide_is_found() {
    block_on(async {
        let yard = Yard::new().await;
        outside(yard.dir.path());
        for guest in &yard.guests {
            for (path, finding) in
                [("outside/secret", "has read it"), ("outside/empty", "succeeded")]
            {
                let cases = [path.to_owned()];
                let script = attempts(Script::default(), &cases);
                let answers = yard.run(guest, &script, input(yard.dir.path().to_owned())).await;
                let said = found(|| assert_outside(&cases, &answers, "too wide"));
                assert!(said.contains(path) && said.contains(finding), "{path}: {said}");
            }
        }
    });
    stem_services::count("plants", 2);
}
