//! Nodes that are gone for good.
//!
//! What is known of a node tells an old copy of one of its drives, and an empty folder in the place of one, for what they are.
//! Neither matters for a drive that no slot is on or goes to: before it takes one, it drops what it had promised. So the records
//! of a node may go when no layout names any of its drives and nothing is copied from them. If it starts afterwards it
//! registers as a new node does, whether or not the cluster began with it.

use super::state::{check, delete, put_removed};
use super::{DriveChange, KnownDrive, LAYOUT_STAGED_KEY, LayoutState, LayoutStateError, known_drives};
use crate::cluster::record::{LAYOUT_KEY, LAYOUT_TARGET_KEY};
use crate::cluster::{live_key, node_key, progress_key};
use crate::coordination::{Coordinator, CoordinatorError, Expected};
use crate::layout::Layout;
use crate::types::NodeId;

/// Why a node is not forgotten.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ForgetRefusal {
    /// Nobody knows it.
    #[error("no node is called `{0}`; `coffer node list` names them")]
    Unknown(NodeId),
    /// It is not gone.
    #[error("node {0} is running, or was until a few seconds ago: stop it for good, then try again")]
    Live(NodeId),
    /// It has slots, or gets some.
    #[error(
        "drive {drive} {why}: `coffer node drain {node}`, `coffer layout plan`, `apply`, and when `coffer layout show` says that \
         all is done, try again"
    )]
    Needed {
        /// The node.
        node: NodeId,
        /// One of its drives, as `NODE:PATH`.
        drive: String,
        /// What for.
        why: &'static str,
    },
    /// It is staged to get slots.
    #[error("drive {drive} is staged to get slots: `coffer layout remove {drive}` takes that back")]
    Staged {
        /// The drive, as `NODE:PATH`.
        drive: String,
    },
    /// Something has changed since it was looked at.
    #[error(
        "the node has started, or somebody has changed the layout, at this moment; nothing was done: look again"
    )]
    Changed,
}

impl LayoutState {
    /// Whether a node may be forgotten.
    ///
    /// # Errors
    /// [`ForgetRefusal`].
    pub fn may_forget(&self, node: &NodeId) -> Result<(), ForgetRefusal> {
        if !self.nodes.contains_key(node) {
            return Err(ForgetRefusal::Unknown(node.clone()));
        }
        if self.live.contains(node) {
            return Err(ForgetRefusal::Live(node.clone()));
        }
        let known = known_drives(&self.map);
        for drive in known.iter().filter(|drive| drive.registered.node == *node) {
            if let Some(why) = self.need(drive) {
                return Err(ForgetRefusal::Needed { node: node.clone(), drive: drive.place(), why });
            }
            if let Some(DriveChange::Place(_)) = self.staged.drives.get(&drive.id) {
                return Err(ForgetRefusal::Staged { drive: drive.place() });
            }
        }
        Ok(())
    }

    /// What a drive is needed for.
    fn need(&self, drive: &KnownDrive) -> Option<&'static str> {
        let map = &self.map;
        let names = |layout: &Layout| layout.drives().iter().any(|placed| placed.id == drive.id);
        let mut records = map.partitions.iter();
        if !map.slots_on(drive.id).is_empty() {
            Some("holds slots")
        } else if records.any(|(_, record)| record.slots.iter().any(|slot| slot.source == Some(drive.id))) {
            Some("is what slots that have moved are copied from")
        } else if map.target.as_ref().is_some_and(names) {
            Some("is part of the layout that the slots move to")
        } else if names(&map.layout) {
            Some("is part of the layout")
        } else {
            None
        }
    }

    /// Drops what is known of a node that may be forgotten.
    ///
    /// # Errors
    /// [`LayoutStateError::Forget`] if it may not, or anything has changed since this state was read: then nothing was done.
    pub async fn forget(&self, node: &NodeId, coordinator: &dyn Coordinator) -> Result<(), LayoutStateError> {
        self.may_forget(node)?;
        let progress = coordinator.get(&progress_key(node)).await?;
        let progress = progress.map_or(Expected::Absent, |entry| Expected::Revision(entry.revision));
        let record = self.nodes.get(node).copied().unwrap_or(Expected::Absent);
        let mut removed = self.map.removed.clone();
        removed.retain(|drive| self.map.locate(*drive).is_some_and(|(owner, _)| owner != node));
        // Slots are taken under the condition that a target is in force: while these three stay, none comes to the node.
        let writes = vec![
            check(LAYOUT_KEY, self.layout),
            check(LAYOUT_TARGET_KEY, self.target),
            check(LAYOUT_STAGED_KEY, self.stored),
            check(&live_key(node), Expected::Absent),
            delete(&node_key(node), record),
            delete(&progress_key(node), progress),
            put_removed(&removed),
        ];
        match coordinator.transaction(writes).await {
            Ok(_) => Ok(()),
            Err(CoordinatorError::Conflict { .. }) => Err(ForgetRefusal::Changed.into()),
            Err(error) => Err(error.into()),
        }
    }
}
