//! The layout and what is staged, as the coordinator has them now.
//!
//! Consistency: a change is conditional on the layout, the target and the staged changes being those that were read, so that
//! of two operators one is told to look again. Partition records may go on changing meanwhile: they say where slots are, the
//! target only where they are to go. Retries: [`LayoutStateError::Changed`] means that nothing was written; after
//! [`LayoutStateError::Coordinator`] that is unknown. Crash consistency: each change is one transaction.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    DriveChange, EditError, ForgetRefusal, LAYOUT_STAGED_KEY, LayoutEdit, MoveProgress, Skipped,
    StagedChanges, propose,
};
use crate::cluster::record::{
    LAYOUT_KEY, LAYOUT_MOVES_KEY, LAYOUT_REMOVED_KEY, LAYOUT_TARGET_KEY, LIVE_PREFIX, MovesBegun,
    NODES_PREFIX, PREFIXES,
};
use crate::cluster::{ClusterMap, MapError};
use crate::coordination::{Change, Coordinator, CoordinatorError, Entry, Expected, Write};
use crate::layout::{Layout, LayoutDrive};
use crate::limits::PARTITION_COUNT;
use crate::time::UnixMillis;
use crate::types::{DriveId, NodeId, PartitionId};

/// The layout cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LayoutStateError {
    /// Nothing is there.
    #[error("there is no cluster of this name in this etcd yet: its nodes have not all registered")]
    NoCluster,
    /// An entry cannot be read.
    #[error(transparent)]
    Map(#[from] MapError),
    /// What is staged cannot be read.
    #[error("`{LAYOUT_STAGED_KEY}` in the coordinator is not readable: {0}")]
    Staged(String),
    /// The request is refused.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Somebody else was faster.
    #[error(
        "somebody else changed the layout at this moment; nothing was done: look at it again with `coffer layout plan`"
    )]
    Changed,
    /// Another version is planned than the one that was asked for.
    #[error(
        "version {asked} is not what is planned: that is version {planned}. Somebody has staged or applied something since: \
         look at it with `coffer layout plan`"
    )]
    OtherVersion {
        /// The version asked for.
        asked: u64,
        /// The version that the staged changes give.
        planned: u64,
    },
    /// There is nothing to apply or take back.
    #[error("{0}")]
    Nothing(&'static str),
    /// The node is not to be forgotten.
    #[error(transparent)]
    Forget(#[from] ForgetRefusal),
    /// The coordinator did not do it; the outcome may be unknown.
    #[error(transparent)]
    Coordinator(CoordinatorError),
}

impl From<CoordinatorError> for LayoutStateError {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::Conflict { .. } => Self::Changed,
            other => Self::Coordinator(other),
        }
    }
}

/// The layout, where it leads and what is staged, as of one moment.
#[derive(Clone, Debug)]
pub struct LayoutState {
    /// Everything that is in force.
    pub map: ClusterMap,
    /// What is staged; without changes if nothing is.
    pub staged: StagedChanges,
    /// The nodes whose lease is held.
    pub live: BTreeSet<NodeId>,
    /// The nodes' records.
    pub(super) nodes: BTreeMap<NodeId, Expected>,
    pub(super) layout: Expected,
    pub(super) target: Expected,
    pub(super) stored: Expected,
}

impl LayoutState {
    /// Reads it.
    ///
    /// # Errors
    /// [`LayoutStateError`].
    pub async fn read(coordinator: &dyn Coordinator) -> Result<Self, LayoutStateError> {
        let mut entries = Vec::new();
        for prefix in PREFIXES {
            entries.extend(coordinator.list(prefix).await?.entries);
        }
        let find = |key: &str| entries.iter().find(|entry| entry.key == key);
        let expected = |key: &str| {
            find(key).map_or(Expected::Absent, |entry: &Entry| Expected::Revision(entry.revision))
        };
        let staged = match find(LAYOUT_STAGED_KEY) {
            Some(entry) => serde_json::from_slice(&entry.value)
                .map_err(|error| LayoutStateError::Staged(error.to_string()))?,
            None => StagedChanges::default(),
        };
        let live = entries.iter().filter_map(|entry| entry.key.strip_prefix(LIVE_PREFIX));
        let node = |entry: &Entry| {
            let id = NodeId(entry.key.strip_prefix(NODES_PREFIX)?.to_owned());
            Some((id, Expected::Revision(entry.revision)))
        };
        Ok(Self {
            nodes: entries.iter().filter_map(node).collect(),
            live: live.map(|id| NodeId(id.to_owned())).collect(),
            layout: expected(LAYOUT_KEY),
            target: expected(LAYOUT_TARGET_KEY),
            stored: expected(LAYOUT_STAGED_KEY),
            staged,
            map: ClusterMap::from_entries(entries.iter())?.ok_or(LayoutStateError::NoCluster)?,
        })
    }

    /// Whether anything is staged.
    pub fn is_staged(&self) -> bool {
        !self.staged.drives.is_empty()
    }

    /// A version that nothing had before.
    fn next_version(&self) -> u64 {
        let target = self.map.target.as_ref().map_or(0, Layout::version);
        self.map.layout.version().max(target).max(self.staged.version) + 1
    }

    /// The state after a request, the layout that it leads to, and the drives that were left out. Writes nothing.
    ///
    /// # Errors
    /// [`LayoutStateError::Edit`].
    pub fn edited(&self, edit: &LayoutEdit) -> Result<(Self, Layout, Vec<Skipped>), LayoutStateError> {
        let (staged, skipped) = self.staged.edit(&self.map, &self.live, edit)?;
        let next = Self { staged: StagedChanges { version: self.next_version(), ..staged }, ..self.clone() };
        let layout = propose(&next.map, &next.staged)?;
        Ok((next, layout, skipped))
    }

    /// Writes what is staged.
    ///
    /// # Errors
    /// [`LayoutStateError::Changed`] if anything is not as it was read.
    pub async fn store(&self, coordinator: &dyn Coordinator) -> Result<(), LayoutStateError> {
        let value = serde_json::to_vec(&self.staged).expect("plain data is always JSON");
        let staged = put(LAYOUT_STAGED_KEY, self.stored, value);
        let writes = vec![check(LAYOUT_KEY, self.layout), check(LAYOUT_TARGET_KEY, self.target), staged];
        coordinator.transaction(writes).await?;
        Ok(())
    }

    /// Drops what is staged. Its version is spent: what was planned under it can no longer be applied.
    ///
    /// # Errors
    /// [`LayoutStateError::Nothing`] if nothing is staged; else as [`Self::store`].
    pub async fn unstage(&self, coordinator: &dyn Coordinator) -> Result<(), LayoutStateError> {
        if !self.is_staged() {
            return Err(LayoutStateError::Nothing("nothing is staged"));
        }
        let staged = StagedChanges { version: self.next_version(), ..StagedChanges::default() };
        Self { staged, ..self.clone() }.store(coordinator).await
    }

    /// The layout that `apply` of this version makes the target.
    ///
    /// # Errors
    /// [`LayoutStateError`] if it is not what is planned, or there is no such layout.
    pub fn planned(&self, version: Option<u64>) -> Result<Layout, LayoutStateError> {
        if !self.is_staged() {
            return Err(LayoutStateError::Nothing(
                "nothing is staged: say what is to change with `coffer layout add`, `remove` or `set`",
            ));
        }
        match version {
            Some(asked) if asked != self.staged.version => {
                Err(LayoutStateError::OtherVersion { asked, planned: self.staged.version })
            }
            _ => Ok(propose(&self.map, &self.staged)?),
        }
    }

    /// The layout that takes running moves back: as it was before them. Where moves that came one after the other have given a
    /// drive another slot of a partition than it had, another drive takes its place: no drive ever holds two.
    ///
    /// # Errors
    /// [`LayoutStateError::Nothing`] if no moves are under way.
    pub fn before_moves(&self) -> Result<Layout, LayoutStateError> {
        let Some(target) = &self.map.target else {
            return Err(LayoutStateError::Nothing(
                "nothing is staged and no moves are under way: there is nothing to take back",
            ));
        };
        if target.moves_from(&self.map.layout).is_empty() {
            return Err(LayoutStateError::Nothing("the moves that are under way lead back already"));
        }
        let (before, now) = (&self.map.layout, self.map.present_layout());
        let keeps_its_slot = |partition: PartitionId, (slot, drive): (u8, &LayoutDrive)| {
            now.slot_on(partition, drive.id).is_none_or(|held| held.0 == slot)
        };
        let clear = (0..PARTITION_COUNT).map(PartitionId).all(|partition| {
            (0..).zip(before.drives_of(partition)).all(|held| keeps_its_slot(partition, held))
        });
        let back = if clear {
            before.clone()
        } else {
            Layout::assign(before.drives().to_vec(), before.n(), Some(&now)).map_err(EditError::from)?
        };
        Ok(back.at_version(self.next_version()))
    }

    /// Makes a layout the one that the slots go to, and drops what is staged.
    ///
    /// # Errors
    /// [`LayoutStateError::Changed`] if anything is not as it was read.
    pub async fn make_target(
        &self,
        layout: &Layout,
        coordinator: &dyn Coordinator,
    ) -> Result<(), LayoutStateError> {
        let begun = MovesBegun {
            version: layout.version(),
            slots: MoveProgress::towards(&self.map, layout).left(),
            began_ms: UnixMillis::now().0,
        };
        let begun = serde_json::to_vec(&begun).expect("plain data is always JSON");
        let writes = vec![
            check(LAYOUT_KEY, self.layout),
            put(LAYOUT_TARGET_KEY, self.target, layout.encode()),
            put(LAYOUT_MOVES_KEY, Expected::Any, begun),
            put_removed(&self.removed_before(layout)),
            delete(LAYOUT_STAGED_KEY, self.stored),
        ];
        coordinator.transaction(writes).await?;
        Ok(())
    }

    /// The drives that were taken out on purpose once this layout is the target. One that moves are taken back from was not.
    fn removed_before(&self, target: &Layout) -> BTreeSet<DriveId> {
        let staged = self.staged.drives.iter().filter(|(_, change)| **change == DriveChange::Remove);
        let all = self.map.removed.iter().chain(staged.map(|(id, _)| id)).copied();
        let placed: BTreeSet<DriveId> = target.drives().iter().map(|drive| drive.id).collect();
        all.filter(|id| !placed.contains(id) && self.map.locate(*id).is_some()).collect()
    }
}

/// Only for people: no change is conditional on what it was.
pub(super) fn put_removed(removed: &BTreeSet<DriveId>) -> Write {
    put(LAYOUT_REMOVED_KEY, Expected::Any, serde_json::to_vec(removed).expect("plain data is always JSON"))
}

pub(super) fn check(key: &str, expected: Expected) -> Write {
    Write { key: key.to_owned(), expected, change: Change::Check }
}

pub(super) fn delete(key: &str, expected: Expected) -> Write {
    Write { key: key.to_owned(), expected, change: Change::Delete }
}

fn put(key: &str, expected: Expected, value: Vec<u8>) -> Write {
    Write { key: key.to_owned(), expected, change: Change::Put { value: Bytes::from(value), leased: false } }
}
