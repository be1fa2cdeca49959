//! Rows of releases to the core's types.

use stem_core::release::{Assignment, Catalogue, Head, Release, Served, Shelf};

use crate::codec::{from_json, small, unsigned};
use crate::fault::Fault;

/// A name's row, and the JSON of its releases in any order.
pub(crate) fn read(
    row: Option<(i64, Option<String>)>,
    releases: &[String],
) -> Result<Shelf, Fault> {
    let (last, head) = row.unwrap_or_default();
    let releases: Vec<Release> =
        releases.iter().map(|release| from_json(release)).collect::<Result<_, _>>()?;
    let head: Option<Head> = head.map(|head| from_json(&head)).transpose()?;
    Ok(Shelf::of(small(last), head, releases))
}

/// A row of the catalogue: the revision; and an assignment with one of its releases, unless nothing serves anything.
pub(crate) type ServedRow = (i64, Option<String>, Option<String>);

/// Rows that are sorted by name.
pub(crate) fn catalogue(rows: Vec<ServedRow>) -> Result<Catalogue, Fault> {
    let mut catalogue = Catalogue::default();
    for (revision, assignment, release) in rows {
        catalogue.revision = unsigned(revision);
        let (Some(assignment), Some(release)) = (assignment, release) else { continue };
        let release: Release = from_json(&release)?;
        match catalogue.served.last_mut() {
            Some(served) if served.releases.iter().any(|it| it.name == release.name) => {
                served.releases.push(release);
            }
            _ => {
                let assignment: Assignment = from_json(&assignment)?;
                catalogue.served.push(Served { assignment, releases: vec![release] });
            }
        }
    }
    for served in &mut catalogue.served {
        // The one that serves every other task comes first.
        let first = served.assignment.version;
        served.releases.sort_by_key(|release| release.version != first);
    }
    Ok(catalogue)
}
