//! Copies of cluster state as drives keep them: whole, or whole with the changes since.
//!
//! A drive's copy is always the complete state at its newest revision: a change names the revision that it follows, and is
//! added to a copy at that revision and to no other. A drive whose copy is another one needs a whole copy.

use bytes::Bytes;

/// The kinds of cluster state that drives keep a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum SnapshotKind {
    /// The layout and the partition records.
    Layout = 1,
    /// The bucket records.
    Buckets = 2,
    /// The state of the embedded coordinator (standalone only).
    Coordinator = 3,
    /// Users and policies.
    Identity = 4,
}

/// A copy of cluster state: drives keep the one with the highest (generation, revision).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is.
    pub kind: SnapshotKind,
    /// The cluster generation.
    pub generation: u32,
    /// The coordinator's revision.
    pub revision: u64,
    /// The encoded state.
    pub data: Bytes,
}

/// What makes the copy at one revision the copy at the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChange {
    /// What it is a change of.
    pub kind: SnapshotKind,
    /// The revision of the copy that it changes.
    pub previous: u64,
    /// The cluster generation after it.
    pub generation: u32,
    /// The coordinator's revision after it.
    pub revision: u64,
    /// The encoded change.
    pub data: Bytes,
}

/// How a change goes with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It follows it.
    Next,
    /// The copy has it, or is newer.
    Known,
    /// The copy is not the one that it changes.
    Gap,
}

impl SnapshotChange {
    /// How it goes with a copy whose newest (generation, revision) is this; `None` if there is no copy.
    pub fn fit(&self, newest: Option<(u32, u64)>) -> Fit {
        match newest {
            Some(newest) if newest >= (self.generation, self.revision) => Fit::Known,
            Some((_, revision)) if revision == self.previous => Fit::Next,
            Some(_) | None => Fit::Gap,
        }
    }
}

/// A change is missing between others.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the copy ends at revision {found}, and the change to {revision} follows {previous}")]
pub struct BrokenLog {
    /// The revision up to which it is complete.
    pub found: u64,
    /// The revision that the next change follows.
    pub previous: u64,
    /// The revision after that change.
    pub revision: u64,
}

/// A whole copy and the changes since, each of which follows the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotLog {
    whole: Snapshot,
    changes: Vec<SnapshotChange>,
}

impl From<Snapshot> for SnapshotLog {
    fn from(whole: Snapshot) -> Self {
        Self { whole, changes: Vec::new() }
    }
}

impl SnapshotLog {
    /// Joins what was read.
    ///
    /// # Errors
    /// [`BrokenLog`] if a change does not follow the one before.
    pub fn new(whole: Snapshot, changes: Vec<SnapshotChange>) -> Result<Self, BrokenLog> {
        let mut log = Self::from(whole);
        for change in changes {
            let (found, previous, revision) = (log.newest().1, change.previous, change.revision);
            if log.push(change) != Fit::Next {
                return Err(BrokenLog { found, previous, revision });
            }
        }
        Ok(log)
    }

    /// Adds a change, if it follows.
    pub fn push(&mut self, change: SnapshotChange) -> Fit {
        let fit = change.fit(Some(self.newest()));
        if fit == Fit::Next {
            self.changes.push(change);
        }
        fit
    }

    /// The (generation, revision) that it makes.
    pub fn newest(&self) -> (u32, u64) {
        let whole = (self.whole.generation, self.whole.revision);
        self.changes.last().map_or(whole, |change| (change.generation, change.revision))
    }

    /// The whole copy.
    pub fn whole(&self) -> &Snapshot {
        &self.whole
    }

    /// What has changed since, in order.
    pub fn changes(&self) -> &[SnapshotChange] {
        &self.changes
    }

    /// The whole copy alone.
    pub fn into_whole(self) -> Snapshot {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(previous: u64, revision: u64) -> SnapshotChange {
        let data = Bytes::new();
        SnapshotChange { kind: SnapshotKind::Coordinator, previous, generation: 1, revision, data }
    }

    #[test]
    fn a_change_follows_one_copy_and_no_other() {
        let next = change(7, 9);
        assert_eq!(next.fit(Some((1, 7))), Fit::Next);
        for known in [(1, 9), (1, 10), (2, 3)] {
            assert_eq!(next.fit(Some(known)), Fit::Known, "{known:?}");
        }
        for gap in [None, Some((1, 6)), Some((1, 8)), Some((0, 0))] {
            assert_eq!(next.fit(gap), Fit::Gap, "{gap:?}");
        }
    }

    #[test]
    fn a_log_with_a_missing_or_a_foreign_change_is_broken() {
        let whole =
            Snapshot { kind: SnapshotKind::Coordinator, generation: 1, revision: 5, data: Bytes::new() };
        let log = SnapshotLog::new(whole.clone(), vec![change(5, 6), change(6, 9)]).unwrap();
        assert_eq!((log.newest(), log.changes().len()), ((1, 9), 2));
        let broken = [
            vec![change(6, 7)],
            vec![change(5, 6), change(7, 9)],
            vec![change(5, 6), change(5, 9)],
            vec![change(4, 5)],
            vec![change(5, 6), change(5, 6)],
        ];
        for changes in broken {
            assert!(SnapshotLog::new(whole.clone(), changes.clone()).is_err(), "{changes:?}");
        }
    }
}
