//! How many partitions can be written and read with the slots that answer now, and what is in the way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use coffer_common::cluster::{Cluster, SlotTarget};
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{DriveId, NodeId, PartitionId, SlotIndex};
use serde::Serialize;

/// Counts over all partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quorum {
    /// Partitions.
    pub partitions: usize,
    /// Those with enough slots for writes: slots that answer and are not full.
    pub writable: usize,
    /// Those with enough slots for reads.
    pub readable: usize,
    /// Those with every slot, none of them full.
    pub complete: usize,
    /// Slots that the worst partition can lose before writes to it stop.
    pub spare_for_writes: usize,
    /// Slots that the worst partition can lose before it cannot be read.
    pub spare_for_reads: usize,
}

impl Quorum {
    /// As of now; `without` is taken as down. Whether a node may be taken down is not decided on the word of a drive that has
    /// lost its state: the map may not know yet in which partitions it has to join again.
    pub(super) fn of(cluster: &Cluster, without: Option<&NodeId>) -> Self {
        let map = cluster.map();
        let n = map.layout.n();
        let rejoining = if without.is_some() { rejoining(cluster) } else { BTreeSet::new() };
        let mut drives: HashMap<DriveId, State> = HashMap::new();
        let slots = (0..PARTITION_COUNT).map(PartitionId).map(|partition| {
            let (mut alive, mut with_room) = (0, 0);
            for slot in (0..n).map(SlotIndex).filter(|slot| map.votes(partition, *slot)) {
                let drive = map.drive_of(partition, slot);
                // Asked once for each drive, not for each of its thousands of slots: probes come every second.
                let state = drives.entry(drive).or_insert_with(|| {
                    let node = map.node_of(drive);
                    let counts = !rejoining.contains(&drive) && Some(&node) != without;
                    State {
                        alive: counts && cluster.alive(&node, &drive),
                        with_room: counts && cluster.has_room(&node, &drive),
                    }
                });
                alive += usize::from(state.alive);
                with_room += usize::from(state.with_room);
            }
            (alive, with_room)
        });
        Self::count(n, slots)
    }

    /// From the number of slots that answer, and of those among them that have room, partition by partition.
    fn count(n: u8, slots: impl Iterator<Item = (usize, usize)>) -> Self {
        let geometry = Geometry::new(n);
        let (for_writes, for_reads) = (geometry.m(), geometry.r0());
        let mut quorum =
            Self { spare_for_writes: usize::from(n), spare_for_reads: usize::from(n), ..Self::default() };
        for (alive, with_room) in slots {
            quorum.partitions += 1;
            quorum.writable += usize::from(with_room >= for_writes);
            quorum.readable += usize::from(alive >= for_reads);
            quorum.complete += usize::from(with_room >= usize::from(n));
            quorum.spare_for_writes = quorum.spare_for_writes.min(with_room.saturating_sub(for_writes));
            quorum.spare_for_reads = quorum.spare_for_reads.min(alive.saturating_sub(for_reads));
        }
        quorum
    }

    /// Whether every partition can be written.
    pub(super) fn all_writable(&self) -> bool {
        self.writable == self.partitions
    }
}

/// What a drive's slots count for.
struct State {
    alive: bool,
    with_room: bool,
}

/// A drive whose slots do not take writes, and which partitions need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Obstacle {
    /// The node that has the drive.
    pub node: NodeId,
    /// The drive.
    pub drive: DriveId,
    /// Where it is mounted; empty if no node has registered it.
    pub path: String,
    /// For people: why its slots do not count.
    pub reason: &'static str,
    /// How many partitions have a slot there and too few others.
    pub partitions: usize,
}

/// Drives that have lost their state and do not vote everywhere yet.
fn rejoining(cluster: &Cluster) -> BTreeSet<DriveId> {
    let drives = cluster.nodes().into_iter().filter_map(|node| node.info).flat_map(|info| info.drives);
    drives.filter(|drive| drive.incarnation.0 > 0 && drive.join.waiting > 0).map(|drive| drive.id).collect()
}

/// Why a slot does not count for writes; `None` if it does.
fn why_not(cluster: &Cluster, rejoining: &BTreeSet<DriveId>, target: &SlotTarget) -> Option<&'static str> {
    let drive = &target.address.drive;
    if !target.voter || rejoining.contains(drive) {
        Some("does not vote yet")
    } else if !cluster.alive(&target.node, drive) {
        Some("does not answer")
    } else if !cluster.has_room(&target.node, drive) {
        Some("is full")
    } else {
        None
    }
}

/// What keeps partitions from being written while the node is down.
pub(super) fn obstacles(cluster: &Cluster, without: &NodeId) -> Vec<Obstacle> {
    let map = cluster.map();
    let (needed, rejoining) = (Geometry::new(map.layout.n()).m(), rejoining(cluster));
    let mut found: BTreeMap<(NodeId, DriveId, &'static str), usize> = BTreeMap::new();
    for partition in (0..PARTITION_COUNT).map(PartitionId) {
        let others: Vec<SlotTarget> =
            map.targets(partition).into_iter().filter(|target| target.node != *without).collect();
        let reasons: Vec<_> = others.iter().map(|target| why_not(cluster, &rejoining, target)).collect();
        if reasons.iter().filter(|reason| reason.is_none()).count() >= needed {
            continue;
        }
        for (target, reason) in others.iter().zip(reasons) {
            if let Some(reason) = reason {
                *found.entry((target.node.clone(), target.address.drive, reason)).or_default() += 1;
            }
        }
    }
    let path = |node: &NodeId, id: DriveId| {
        let drive = map.nodes.get(node).and_then(|node| node.drives.iter().find(|drive| drive.id == id));
        drive.map(|drive| drive.path.clone()).unwrap_or_default()
    };
    let obstacle = |((node, drive, reason), partitions): ((NodeId, DriveId, _), _)| Obstacle {
        path: path(&node, drive),
        node,
        drive,
        reason,
        partitions,
    };
    found.into_iter().map(obstacle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_partition_decides_what_may_be_lost() {
        let quorum = Quorum::count(4, [(4, 4), (3, 3), (2, 2), (1, 1)].into_iter());
        let expected = Quorum {
            partitions: 4,
            writable: 2,
            readable: 3,
            complete: 1,
            spare_for_writes: 0,
            spare_for_reads: 0,
        };
        assert_eq!(quorum, expected);
        let quorum = Quorum::count(8, [(8, 8), (8, 7)].into_iter());
        assert_eq!((quorum.spare_for_writes, quorum.spare_for_reads), (2, 4));
        assert!(quorum.all_writable());
        assert!(Quorum::count(1, [(1, 1)].into_iter()).all_writable());
        let full = Quorum::count(4, [(4, 2)].into_iter());
        assert_eq!((full.readable, full.writable, full.complete, full.spare_for_reads), (1, 0, 0, 2));
    }
}
