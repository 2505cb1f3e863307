//! Which drive an empty folder takes the place of, and as which incarnation. Without I/O.
//!
//! A drive keeps its id for life: the layout's slots are the id's, whatever hardware is behind it. One that was emptied or
//! replaced begins as the next incarnation, which tells everybody that it has forgotten its promises.

use std::path::{Path, PathBuf};

use coffer_common::types::{DriveId, Incarnation};

use crate::drive::{DriveProbe, KnownPath};

/// What the drive at `path` is to be: the one that was there, or else the only one of the node that is nowhere now and
/// whose path is not used any more. `None` if no drive of `known` is missing there.
pub fn successor(
    path: &Path,
    probes: &[(PathBuf, DriveProbe)],
    known: &[KnownPath],
) -> Option<(DriveId, Incarnation)> {
    let drive = missing_drive(path, probes, known)?;
    let last = known.iter().filter(|known| known.drive == drive).map(|known| known.incarnation).max();
    Some((drive, Incarnation(last.unwrap_or_default().0 + 1)))
}

fn missing_drive(path: &Path, probes: &[(PathBuf, DriveProbe)], known: &[KnownPath]) -> Option<DriveId> {
    let is_here = |drive: DriveId| {
        probes.iter().any(|(_, probe)| matches!(probe, DriveProbe::Ours(identity) if identity.drive == drive))
    };
    let missing: Vec<&KnownPath> = known.iter().filter(|known| !is_here(known.drive)).collect();
    let there = missing.iter().filter(|known| known.path == path).max_by_key(|known| known.incarnation);
    if let Some(known) = there {
        return Some(known.drive);
    }
    let configured =
        |drive| missing.iter().any(|k| k.drive == drive && probes.iter().any(|(path, _)| *path == k.path));
    let mut homeless: Vec<DriveId> =
        missing.iter().map(|known| known.drive).filter(|drive| !configured(*drive)).collect();
    homeless.sort_unstable();
    homeless.dedup();
    match homeless.as_slice() {
        [only] => Some(*only),
        _ => {
            tracing::warn!(path = %path.display(), "no drive of this node is missing there: a new one is made");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(path: &str, drive: u128, incarnation: u32) -> KnownPath {
        KnownPath { path: path.into(), drive: DriveId(drive), incarnation: Incarnation(incarnation) }
    }

    fn fresh(paths: &[&str]) -> Vec<(PathBuf, DriveProbe)> {
        paths.iter().map(|path| (PathBuf::from(path), DriveProbe::Fresh)).collect()
    }

    #[test]
    fn an_empty_folder_is_the_next_incarnation_of_the_drive_that_was_there() {
        let known = [known("/a", 1, 0), known("/b", 2, 0), known("/b", 2, 3)];
        let at = |path: &str, paths: &[&str]| successor(Path::new(path), &fresh(paths), &known);
        assert_eq!(at("/b", &["/a", "/b"]), Some((DriveId(2), Incarnation(4))));
        assert_eq!(at("/a", &["/a", "/b"]), Some((DriveId(1), Incarnation(1))));
        // A new path: the one drive whose own path is not used any more.
        assert_eq!(at("/c", &["/a", "/c"]), Some((DriveId(2), Incarnation(4))));
        assert_eq!(at("/c", &["/c", "/d"]), None, "it may be either");
        assert_eq!(at("/c", &["/a", "/b", "/c"]), None, "one drive more");
    }
}
