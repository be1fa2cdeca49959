//! Rows of releases to the core's types. What somebody else wrote into a row hides no other.

use stem_core::id::TaskName;
use stem_core::release::{Assignment, Catalogue, Head, Release, Served, Shelf};

use crate::codec::{from_json, small, unsigned};
use crate::fault::Fault;

/// A name's row, and the JSON of its releases in any order. A release that cannot be read is left out; an error is what
/// is wrong with the row.
pub(crate) fn read(
    row: Option<(i64, Option<String>)>,
    releases: &[String],
) -> Result<Shelf, Fault> {
    let (last, head) = row.unwrap_or_default();
    let releases: Vec<Release> =
        releases.iter().filter_map(|release| from_json(release).ok()).collect();
    let head: Option<Head> = head.map(|head| from_json(&head)).transpose()?;
    Ok(Shelf::of(small(last), head, releases))
}

/// A row of the catalogue: the revision; and a name, its assignment and one of its releases, unless nothing serves
/// anything.
pub(crate) type ServedRow = (i64, Option<String>, Option<String>, Option<String>);

/// Rows that are sorted by name.
pub(crate) fn catalogue(rows: Vec<ServedRow>) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for (revision, name, assignment, release) in rows {
        catalogue.revision = unsigned(revision);
        let (Some(name), Some(assignment)) = (name, assignment) else { continue };
        let Ok(name) = TaskName::new(name) else { continue };
        match served(&name, &assignment, release.as_deref()) {
            None if catalogue.unreadable.last() == Some(&name) => {}
            None => catalogue.unreadable.push(name),
            Some((assignment, release)) => match catalogue.served.last_mut() {
                Some(served) if served.releases.iter().any(|it| it.name == release.name) => {
                    served.releases.push(release);
                }
                _ => catalogue.served.push(Served { assignment, releases: vec![release] }),
            },
        }
    }
    // Half of what serves a name is not what serves it.
    let Catalogue { served, unreadable, .. } = &mut catalogue;
    served.retain(|served| served.releases.iter().all(|it| !unreadable.contains(&it.name)));
    for served in served {
        // The one that serves every other task comes first.
        let first = served.assignment.version;
        served.releases.sort_by_key(|release| release.version != first);
    }
    catalogue
}

/// What a row says, if all of it can be read and is of this name.
fn served(
    name: &TaskName,
    assignment: &str,
    release: Option<&str>,
) -> Option<(Assignment, Release)> {
    let release: Release = from_json(release?).ok()?;
    let assignment = from_json(assignment).ok()?;
    (release.name == *name).then_some((assignment, release))
}
