//! What a change of the layout means: capacity and slots drive by drive, what moves, what may fail before and after.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{drive_table, known_drives};
use crate::cluster::ClusterMap;
use crate::layout::{Layout, LayoutDrive, SlotMove, Tolerance};
use crate::limits::PARTITION_COUNT;
use crate::types::{DriveId, NodeId};

/// A layout beside the one that it takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayoutPlan {
    /// The version to apply.
    pub version: u64,
    /// The version in force.
    pub from: u64,
    /// Slots of a partition.
    pub n: u8,
    /// All slots.
    pub slots: usize,
    /// Those that change their drive.
    pub moving: usize,
    /// Those that must, given how many each drive holds before and after.
    pub must_move: usize,
    /// The drives, by node and path.
    pub drives: Vec<DrivePlan>,
    /// What may fail before.
    pub before: Tolerance,
    /// What may fail after.
    pub after: Tolerance,
    /// The nodes of which any one stops writes when it is down, after.
    pub critical_nodes: Vec<NodeId>,
    #[serde(skip)]
    moves: Vec<SlotMove>,
}

/// A drive in a [`LayoutPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrivePlan {
    /// Its id.
    pub id: DriveId,
    /// The node that owns it.
    pub node: NodeId,
    /// Where it is mounted; empty if no node has registered it.
    pub path: String,
    /// Its zone and share of the load in bytes, if it is part of the layout before.
    pub before: Option<Share>,
    /// The same after.
    pub after: Option<Share>,
    /// Slots that it is to get.
    pub slots_in: usize,
    /// Slots that it is to give away.
    pub slots_out: usize,
}

/// What a layout says of a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// What fails together above its node.
    pub zone: String,
    /// Its share of the load, in bytes.
    pub capacity_bytes: u64,
    /// The slots that it holds.
    pub slots: u32,
}

/// How much data a plan moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes in all.
    pub bytes: u64,
    /// What the busiest drive reads or writes of them.
    pub busiest_drive_bytes: u64,
    /// Drives that give slots away and told what they hold.
    pub measured_drives: usize,
    /// Drives that give slots away and did not: they are taken to hold as much a slot as the others.
    pub assumed_drives: usize,
}

impl LayoutPlan {
    /// Compares a proposed layout with where the slots are now.
    pub fn new(map: &ClusterMap, proposed: &Layout) -> Self {
        let now = map.present_layout();
        let moves = proposed.moves_from(&now);
        let (held, planned) = (shares(&now, drive_table(map)), shares(proposed, proposed.drives()));
        let mut flows: BTreeMap<DriveId, (usize, usize)> = BTreeMap::new();
        for slot in &moves {
            flows.entry(slot.to).or_default().0 += 1;
            flows.entry(slot.from).or_default().1 += 1;
        }
        let drives = known_drives(map).into_iter().map(|drive| {
            let (slots_in, slots_out) = flows.get(&drive.id).copied().unwrap_or_default();
            let (before, after) = (held.get(&drive.id).cloned(), planned.get(&drive.id).cloned());
            DrivePlan {
                id: drive.id,
                node: drive.registered.node,
                path: drive.path,
                before,
                after,
                slots_in,
                slots_out,
            }
        });
        let drives: Vec<DrivePlan> =
            drives.filter(|drive| drive.before.is_some() || drive.after.is_some()).collect();
        let slots = |share: &Option<Share>| share.as_ref().map_or(0, |share| share.slots);
        let gains =
            drives.iter().map(|drive| slots(&drive.after).saturating_sub(slots(&drive.before)) as usize);
        Self {
            version: proposed.version(),
            from: map.layout.version(),
            n: proposed.n(),
            slots: usize::from(PARTITION_COUNT) * usize::from(proposed.n()),
            moving: moves.len(),
            must_move: gains.sum(),
            before: now.tolerance(),
            after: proposed.tolerance(),
            critical_nodes: critical_nodes(proposed),
            drives,
            moves,
        }
    }

    /// How much data moves, if the drives hold these bytes.
    pub fn traffic(&self, held_bytes: &BTreeMap<DriveId, u64>) -> Traffic {
        let slots_of = |drive: &DrivePlan| drive.before.as_ref().map_or(0, |share| share.slots);
        let told = self.drives.iter().filter(|drive| slots_of(drive) > 0);
        let told: Vec<_> = told.filter_map(|d| Some((held_bytes.get(&d.id)?, slots_of(d)))).collect();
        let (bytes, slots) = told.iter().fold((0, 0), |(b, s), (bytes, slots)| (b + **bytes, s + slots));
        let mean = bytes as f64 / f64::from(slots.max(1));
        let per_slot: BTreeMap<DriveId, f64> = self
            .drives
            .iter()
            .map(|drive| {
                let held = held_bytes.get(&drive.id).filter(|_| slots_of(drive) > 0);
                (drive.id, held.map_or(mean, |held| *held as f64 / f64::from(slots_of(drive))))
            })
            .collect();
        let (mut total, mut reads, mut writes) = (0.0, BTreeMap::new(), BTreeMap::new());
        for slot in &self.moves {
            let bytes = per_slot.get(&slot.from).copied().unwrap_or(mean);
            total += bytes;
            *reads.entry(slot.from).or_insert(0.0) += bytes;
            *writes.entry(slot.to).or_insert(0.0) += bytes;
        }
        let givers: BTreeSet<DriveId> = self.moves.iter().map(|slot| slot.from).collect();
        let measured = givers.iter().filter(|drive| held_bytes.contains_key(drive)).count();
        let busiest = reads.values().chain(writes.values()).copied().fold(0.0, f64::max);
        Traffic {
            bytes: total as u64,
            busiest_drive_bytes: busiest as u64,
            measured_drives: measured,
            assumed_drives: givers.len() - measured,
        }
    }
}

/// The drives that are in `table` or hold a slot.
fn shares(layout: &Layout, table: &[LayoutDrive]) -> BTreeMap<DriveId, Share> {
    let listed: BTreeSet<DriveId> = table.iter().map(|drive| drive.id).collect();
    let held = layout.drives().iter().zip(layout.loads());
    held.filter(|(drive, slots)| *slots > 0 || listed.contains(&drive.id))
        .map(|(drive, slots)| {
            (drive.id, Share { zone: drive.zone.clone(), capacity_bytes: drive.capacity_bytes, slots })
        })
        .collect()
}

/// The nodes that hold more slots of some partition than writes can do without.
fn critical_nodes(layout: &Layout) -> Vec<NodeId> {
    let n = usize::from(layout.n());
    let spare = n - (n / 2 + 1);
    let mut critical = BTreeSet::new();
    for partition in (0..PARTITION_COUNT).map(crate::types::PartitionId) {
        let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for drive in layout.drives_of(partition) {
            *counts.entry(&drive.node).or_default() += 1;
        }
        critical.extend(counts.into_iter().filter(|(_, count)| *count > spare).map(|(node, _)| node.clone()));
    }
    critical.into_iter().collect()
}
