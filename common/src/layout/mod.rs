//! The layout: which drive holds which slot of which partition.
//!
//! Owns: the slot table and its assignment, the stripe width and the parity of a storage class, what may
//! fail under a layout, and the binary forms that the coordinator and the drives keep. Never: I/O, who is
//! alive, when a move happens (a record per partition says how far it is).
//!
//! 1. [`stripe_width`] chooses n when the cluster is made; it then stays.
//! 2. [`Layout::assign`] makes a layout from the drives and, if there is one, the layout before: `limits` says
//!    how many slots of a partition one node or zone may hold, `quota` how many slots each drive gets,
//!    `assign` places them with as few moves as it can.
//! 3. [`Layout::tolerance`] says what may fail, and warns where the drives do not allow better.
//! 4. [`Layout::encode`] is what is stored; [`PartitionRecord`] is the small part that changes often.
//!
//! A version of an object records n and slot *indices*, so a slot keeps its index for life: a move replaces
//! the drive at an index, never shifts its neighbours.

use std::collections::HashMap;

use crate::limits::{MAX_SLOTS, PARTITION_COUNT};
use crate::types::{DriveId, NodeId, PartitionId, SlotIndex};

mod assign;
mod class;
mod codec;
mod durability;
mod limits;
mod quota;
mod record;
#[cfg(test)]
mod tests;
mod tolerance;

pub use class::{InvalidParity, ParitySettings, Split, StorageClass, stripe_width};
pub use codec::DecodeLayoutError;
pub use durability::{DriveReliability, HOURS_PER_YEAR, nines};
pub use record::{PartitionRecord, SlotRecord, SlotRole};
pub use tolerance::Tolerance;

/// Longest name of a node or zone, in bytes: that of a DNS name.
const MAX_NAME_BYTES: usize = 253;

/// A drive as the layout sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutDrive {
    /// Its id.
    pub id: DriveId,
    /// The node that owns it.
    pub node: NodeId,
    /// What fails together above the node: rack, room, site. Equal for all where nobody said so.
    pub zone: String,
    /// Its share of the load, in bytes; a drive of 0 bytes gets no slot.
    pub capacity_bytes: u64,
}

/// Which drive holds which slot. Made by [`Layout::assign`] or [`Layout::decode`] only, so a layout in hand is
/// well-formed: n distinct drives of the table for every partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    version: u64,
    n: u8,
    drives: Vec<LayoutDrive>,
    slots: Vec<u16>,
}

/// Why there is no layout for these drives.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// n is not in 1..=16.
    #[error("a stripe of `{0}` slots is not possible: 1 to {MAX_SLOTS}")]
    Width(u8),
    /// A partition needs n distinct drives.
    #[error("`{n}` drives with capacity are needed, there are `{drives}`")]
    TooFewDrives {
        /// Slots of a partition.
        n: u8,
        /// Drives with a capacity above 0.
        drives: usize,
    },
    /// Slot numbers are 16 bits wide.
    #[error("`{0}` drives are more than a layout can name")]
    TooManyDrives(usize),
    /// The same drive twice.
    #[error("drive `{0}` is listed twice")]
    DuplicateDrive(DriveId),
    /// The stored form has room for short names only.
    #[error("the name of node `{0}` or of its zone is longer than {MAX_NAME_BYTES} bytes")]
    LongName(NodeId),
    /// The stripe width is fixed when the cluster is made.
    #[error("the layout before has `{previous}` slots a partition, not `{wanted}`")]
    WidthChanged {
        /// The width of the layout before.
        previous: u8,
        /// The width asked for.
        wanted: u8,
    },
}

/// A slot whose drive differs between two layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotMove {
    /// The partition.
    pub partition: PartitionId,
    /// The slot.
    pub slot: SlotIndex,
    /// The drive before.
    pub from: DriveId,
    /// The drive after.
    pub to: DriveId,
}

impl Layout {
    /// Assigns the slots of all partitions to drives, with as few differences from `previous` as the rest allows:
    /// distinct drives for a partition; spread over zones and nodes; load by capacity. Deterministic, and
    /// independent of the order of `drives`. 1,000 drives take well under ten seconds.
    ///
    /// # Errors
    /// Any [`LayoutError`].
    pub fn assign(drives: Vec<LayoutDrive>, n: u8, previous: Option<&Self>) -> Result<Self, LayoutError> {
        if n == 0 || usize::from(n) > MAX_SLOTS {
            return Err(LayoutError::Width(n));
        }
        if let Some(previous) = previous.filter(|previous| previous.n != n) {
            return Err(LayoutError::WidthChanged { previous: previous.n, wanted: n });
        }
        let with_capacity = drives.iter().filter(|drive| drive.capacity_bytes > 0).count();
        if with_capacity < usize::from(n) {
            return Err(LayoutError::TooFewDrives { n, drives: with_capacity });
        }
        if drives.len() > usize::from(u16::MAX) {
            return Err(LayoutError::TooManyDrives(drives.len()));
        }
        let long = |drive: &&LayoutDrive| drive.node.0.len().max(drive.zone.len()) > MAX_NAME_BYTES;
        if let Some(drive) = drives.iter().find(long) {
            return Err(LayoutError::LongName(drive.node.clone()));
        }
        let drives = in_table_order(drives, previous)?;
        let slots = assign::assign(&drives, n, previous);
        let version = previous.map_or(1, |previous| previous.version + 1);
        Ok(Self { version, n, drives, slots })
    }

    /// The same slots under another version.
    pub fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// Counts the changes: the first layout of a cluster is 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Slots of a partition.
    pub fn n(&self) -> u8 {
        self.n
    }

    /// The drive table.
    pub fn drives(&self) -> &[LayoutDrive] {
        &self.drives
    }

    /// The drives of a partition's slots, by slot index, as places in [`Layout::drives`].
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn slots_of(&self, partition: PartitionId) -> &[u16] {
        let n = usize::from(self.n);
        &self.slots[usize::from(partition.0) * n..][..n]
    }

    /// The drives of a partition's slots, by slot index.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn drives_of(&self, partition: PartitionId) -> impl Iterator<Item = &LayoutDrive> {
        self.slots_of(partition).iter().map(|&drive| &self.drives[usize::from(drive)])
    }

    /// The slot that a drive holds in a partition, if any.
    pub fn slot_on(&self, partition: PartitionId, drive: DriveId) -> Option<SlotIndex> {
        let index = self.drives_of(partition).position(|candidate| candidate.id == drive)?;
        Some(SlotIndex(index as u8))
    }

    /// All slots that a drive holds, by partition.
    pub fn slots_on(&self, drive: DriveId) -> Vec<(PartitionId, SlotIndex)> {
        partitions().filter_map(|p| self.slot_on(p, drive).map(|slot| (p, slot))).collect()
    }

    /// The same table with some slots on other drives; `describe` tells of a drive that the table does not have yet.
    pub(crate) fn with_slots(
        &self,
        moved: impl Iterator<Item = (PartitionId, SlotIndex, DriveId)>,
        describe: impl Fn(DriveId) -> LayoutDrive,
    ) -> Self {
        let mut layout = self.clone();
        let mut places: HashMap<DriveId, u16> = self.drives.iter().map(|drive| drive.id).zip(0..).collect();
        for (partition, slot, drive) in moved {
            let place = *places.entry(drive).or_insert_with(|| {
                layout.drives.push(describe(drive));
                (layout.drives.len() - 1) as u16
            });
            layout.slots[usize::from(partition.0) * usize::from(self.n) + usize::from(slot.0)] = place;
        }
        layout
    }

    /// Slots held by each drive of the table.
    pub fn loads(&self) -> Vec<u32> {
        let mut loads = vec![0; self.drives.len()];
        for &drive in &self.slots {
            loads[usize::from(drive)] += 1;
        }
        loads
    }

    /// The slots whose drive differs from the layout before, by partition; of equal n.
    pub fn moves_from(&self, previous: &Self) -> Vec<SlotMove> {
        let drive_pairs =
            |partition| previous.drives_of(partition).zip(self.drives_of(partition)).enumerate();
        partitions()
            .flat_map(|partition| drive_pairs(partition).map(move |(slot, pair)| (partition, slot, pair)))
            .filter(|(_, _, (before, after))| before.id != after.id)
            .map(|(partition, slot, (before, after))| SlotMove {
                partition,
                slot: SlotIndex(slot as u8),
                from: before.id,
                to: after.id,
            })
            .collect()
    }
}

/// All partitions.
fn partitions() -> impl Iterator<Item = PartitionId> {
    (0..PARTITION_COUNT).map(PartitionId)
}

/// Drives that the layout before knew keep their order, so that what is equal stays equal; new ones follow by
/// (zone, node, id).
fn in_table_order(
    mut drives: Vec<LayoutDrive>,
    previous: Option<&Layout>,
) -> Result<Vec<LayoutDrive>, LayoutError> {
    let known: HashMap<DriveId, usize> =
        previous.into_iter().flat_map(|p| p.drives.iter().enumerate()).map(|(i, d)| (d.id, i)).collect();
    let rank = |drive: &LayoutDrive| known.get(&drive.id).copied().unwrap_or(usize::MAX);
    drives.sort_by(|a, b| {
        rank(a).cmp(&rank(b)).then_with(|| (&a.zone, &a.node, a.id).cmp(&(&b.zone, &b.node, b.id)))
    });
    let mut seen = std::collections::HashSet::new();
    match drives.iter().find(|drive| !seen.insert(drive.id)) {
        Some(twice) => Err(LayoutError::DuplicateDrive(twice.id)),
        None => Ok(drives),
    }
}
