//! Changes of the layout that operators have asked for and not applied yet. Pure, but for [`LayoutState`], which reads and
//! writes them.
//!
//! ```text
//! layout-staged    StagedChanges (JSON): what was asked for, drive by drive
//! layout-target    Layout (binary): where the slots are to go; present while moves are under way
//! layout-removed   drives that were taken out, which come back only by their names
//! ```
//!
//! 1. `add`, `remove` and `set` ([`StagedChanges::edit`]) find drives by what people call them and note what is to be.
//! 2. [`propose`] makes the layout that this gives, with as few moves as the slots' present places allow.
//! 3. [`LayoutPlan`] compares it with what is.
//! 4. [`nearly_full`] proposes what to ask for when drives run out of room.
//! 5. [`LayoutState::make_target`] makes it the target, if nobody has changed anything since it was read.
//! 6. [`LayoutState::forget`] drops what is known of a node that is gone and that no layout needs.
//!
//! Each change gives the staged layout a new version, which no other change ever had: who applies a version applies what was
//! planned under it.

mod drives;
mod forget;
mod plan;
mod progress;
mod room;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ClusterMap;
use crate::layout::{Layout, LayoutDrive, LayoutError};
use crate::protocol::quorum::Geometry;
use crate::types::{DriveId, NodeId};

pub use drives::{KnownDrive, SkipReason, Skipped, known_drives};
pub use forget::ForgetRefusal;
pub use plan::{DrivePlan, LayoutPlan, Share, Traffic};
pub use progress::MoveProgress;
pub use room::{NearlyFull, nearly_full};
pub use state::{LayoutState, LayoutStateError};

/// The key of what is staged.
pub const LAYOUT_STAGED_KEY: &str = "layout-staged";

/// What operators have asked for and not applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedChanges {
    /// The version of the layout that this gives. It rises with each change, also with the one that drops all.
    pub version: u64,
    /// What is to become of each drive that changes.
    pub drives: BTreeMap<DriveId, DriveChange>,
}

/// What is to become of a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriveChange {
    /// It holds no slot any more.
    Remove,
    /// It is part of the layout, with this place and size.
    Place(Placement),
}

/// Where a drive is and how much of the load it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The node that owns it.
    pub node: NodeId,
    /// What fails together above the node.
    pub zone: String,
    /// Its share of the load, in bytes.
    pub capacity_bytes: u64,
}

impl From<&LayoutDrive> for Placement {
    fn from(drive: &LayoutDrive) -> Self {
        let LayoutDrive { id: _, node, zone, capacity_bytes } = drive.clone();
        Self { node, zone, capacity_bytes }
    }
}

/// One request of an operator. Drives are named as `DRIVE-ID`, `NODE`, `PATH` or `NODE:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutEdit {
    /// Take these drives in; if none are named, all that have registered, are there, are not part of the layout and were not
    /// taken out of it.
    Add(Vec<String>),
    /// Take these out.
    Remove(Vec<String>),
    /// Change these.
    Set {
        /// The drives.
        drives: Vec<String>,
        /// Their share of the load, in bytes each.
        capacity_bytes: Option<u64>,
        /// What fails together above their node.
        zone: Option<String>,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EditError {
    /// No drive or node has this name.
    #[error("no node, drive or path is called `{0}`; `coffer node list` and `coffer layout show` name them")]
    NotFound(String),
    /// Several nodes have a drive at this path.
    #[error("`{name}` is a path of several nodes: say which, for example `{example}`")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// One that would be clear.
        example: String,
    },
    /// It must have been started once by its node.
    #[error("drive {0} has not been formatted yet: start its node, then try again")]
    Fresh(DriveId),
    /// Nothing to change.
    #[error(
        "drive {0} is not part of the layout, so that there is nothing to {1}; `coffer layout add {0}` takes it in"
    )]
    NotPlaced(DriveId, &'static str),
    /// The request says what is already so.
    #[error("that changes nothing: {0}")]
    Nothing(String),
    /// The drives that would be left are too few.
    #[error(
        "that cannot work: every partition has its {n} slots on {n} different drives, and {left} with a capacity would be \
         left. Add drives first (`coffer layout add`), then remove; a drive that is broken is replaced instead: start its \
         node with `--replace PATH`"
    )]
    TooFewDrives {
        /// Slots of a partition.
        n: u8,
        /// Drives that would be left.
        left: usize,
    },
    /// Too few other slots know what the one that moves has promised.
    #[error(
        "that cannot work: partitions have {0} slots, and one of them can move only while a quorum of the others votes, which \
         takes 3 slots or more. Make a cluster of more drives, and copy the data"
    )]
    TooNarrow(u8),
    /// No layout for another reason.
    #[error("no layout for these drives: {0}")]
    Layout(LayoutError),
}

impl From<LayoutError> for EditError {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::TooFewDrives { n, drives } => Self::TooFewDrives { n, left: drives },
            other => Self::Layout(other),
        }
    }
}

impl StagedChanges {
    /// The changes with one request more, and the drives that it leaves out. Does not raise the version. `live` are the nodes
    /// whose lease is held.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn edit(
        &self,
        map: &ClusterMap,
        live: &BTreeSet<NodeId>,
        edit: &LayoutEdit,
    ) -> Result<(Self, Vec<Skipped>), EditError> {
        let known = known_drives(map);
        let mut next = self.clone();
        let (skipped, nothing) = match edit {
            LayoutEdit::Add(names) if names.is_empty() => (
                next.add_all(&known, live),
                "every drive that could be added is part of the layout or staged",
            ),
            LayoutEdit::Add(names) => {
                (next.add(&known, live, names)?, "they are part of the layout or staged")
            }
            LayoutEdit::Remove(names) => {
                let (found, left_out) = drives::find_all(&known, names, |drive| self.holds(drive))?;
                for drive in found {
                    next.remove(drive)?;
                }
                (not_placed(&left_out), "they are to be removed already")
            }
            LayoutEdit::Set { drives, capacity_bytes, zone } => {
                let stays = |drive: &KnownDrive| self.drives.get(&drive.id) != Some(&DriveChange::Remove);
                let (found, left_out) =
                    drives::find_all(&known, drives, |drive| self.holds(drive) && stays(drive))?;
                for drive in found {
                    next.set(drive, *capacity_bytes, zone.as_deref())?;
                }
                (not_placed(&left_out), "it is so already")
            }
        };
        if next == *self {
            let left_out: Vec<String> = skipped.iter().map(Skipped::to_string).collect();
            let left_out = left_out.join(", ");
            let left_out = if left_out.is_empty() { left_out } else { format!("; left out: {left_out}") };
            return Err(EditError::Nothing(format!("{nothing}{left_out}")));
        }
        Ok((next, skipped))
    }

    /// Whether a drive is part of the layout, or staged.
    fn holds(&self, drive: &KnownDrive) -> bool {
        drive.placed.is_some() || self.drives.contains_key(&drive.id)
    }

    fn add_all(&mut self, known: &[KnownDrive], live: &BTreeSet<NodeId>) -> Vec<Skipped> {
        let mut skipped = Vec::new();
        for drive in known.iter().filter(|drive| drive.placed.is_none()) {
            let obstacle = || drive.obstacle(live);
            let why = drive.removed.then_some(SkipReason::Removed).or_else(obstacle);
            match (why, self.drives.contains_key(&drive.id)) {
                (_, true) => {}
                (Some(why), false) => skipped.push(drive.skipped(why)),
                (None, false) => {
                    self.drives.insert(drive.id, DriveChange::Place(drive.registered.clone()));
                }
            }
        }
        skipped
    }

    fn add(
        &mut self,
        known: &[KnownDrive],
        live: &BTreeSet<NodeId>,
        names: &[String],
    ) -> Result<Vec<Skipped>, EditError> {
        let could = |drive: &KnownDrive| self.holds(drive) || !(drive.absent || drive.fresh);
        let (found, left_out) = drives::find_all(known, names, could)?;
        for drive in found {
            if drive.fresh {
                return Err(EditError::Fresh(drive.id));
            }
            match (&drive.placed, self.drives.get(&drive.id)) {
                // It stays after all.
                (Some(_), Some(DriveChange::Remove)) => drop(self.drives.remove(&drive.id)),
                (Some(placed), None) if placed.node == drive.registered.node => {}
                (Some(placed), None) => {
                    let placement = Placement { node: drive.registered.node.clone(), ..placed.clone() };
                    self.drives.insert(drive.id, DriveChange::Place(placement));
                }
                (_, Some(DriveChange::Place(_))) => {}
                (None, _) => {
                    self.drives.insert(drive.id, DriveChange::Place(drive.registered.clone()));
                }
            }
        }
        Ok(left_out.iter().filter_map(|drive| Some(drive.skipped(drive.obstacle(live)?))).collect())
    }

    fn remove(&mut self, drive: &KnownDrive) -> Result<(), EditError> {
        if drive.placed.is_some() {
            self.drives.insert(drive.id, DriveChange::Remove);
        } else if self.drives.remove(&drive.id).is_none() {
            return Err(EditError::NotPlaced(drive.id, "remove"));
        }
        Ok(())
    }

    fn set(
        &mut self,
        drive: &KnownDrive,
        capacity: Option<u64>,
        zone: Option<&str>,
    ) -> Result<(), EditError> {
        let present = match (self.drives.get(&drive.id), &drive.placed) {
            (Some(DriveChange::Place(staged)), _) => staged.clone(),
            (None, Some(placed)) => placed.clone(),
            (Some(DriveChange::Remove), _) | (None, None) => {
                return Err(EditError::NotPlaced(drive.id, "set"));
            }
        };
        let wanted = Placement {
            node: present.node,
            zone: zone.map_or(present.zone, str::to_owned),
            capacity_bytes: capacity.unwrap_or(present.capacity_bytes),
        };
        if drive.placed.as_ref() == Some(&wanted) {
            self.drives.remove(&drive.id);
        } else {
            self.drives.insert(drive.id, DriveChange::Place(wanted));
        }
        Ok(())
    }

    /// The drive table that these changes make of another.
    pub fn apply_to(&self, table: &[LayoutDrive]) -> Vec<LayoutDrive> {
        let kept = table.iter().filter(|drive| !self.drives.contains_key(&drive.id)).cloned();
        let placed = self.drives.iter().filter_map(|(id, change)| match change {
            DriveChange::Remove => None,
            DriveChange::Place(Placement { node, zone, capacity_bytes }) => Some(LayoutDrive {
                id: *id,
                node: node.clone(),
                zone: zone.clone(),
                capacity_bytes: *capacity_bytes,
            }),
        });
        kept.chain(placed).collect()
    }
}

fn not_placed(drives: &[&KnownDrive]) -> Vec<Skipped> {
    drives.iter().map(|drive| drive.skipped(SkipReason::NotPlaced)).collect()
}

/// The drives that the slots are on when all that was applied is done.
pub fn drive_table(map: &ClusterMap) -> &[LayoutDrive] {
    map.target.as_ref().unwrap_or(&map.layout).drives()
}

/// The layout that the staged changes give, with as few moves as possible from where the slots are now.
///
/// # Errors
/// [`EditError`] if there is none for these drives.
pub fn propose(map: &ClusterMap, staged: &StagedChanges) -> Result<Layout, EditError> {
    let (drives, now) = (staged.apply_to(drive_table(map)), map.present_layout());
    let layout = Layout::assign(drives, now.n(), Some(&now))?;
    let geometry = Geometry::new(now.n());
    if geometry.n() - 1 < geometry.m() && !layout.moves_from(&now).is_empty() {
        return Err(EditError::TooNarrow(now.n()));
    }
    Ok(layout.at_version(staged.version))
}
