//! How many partitions can be written and read with the slots that answer now.

use coffer_common::cluster::Cluster;
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{NodeId, PartitionId};
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
    /// As of now; `without` is taken as down.
    pub(super) fn of(cluster: &Cluster, without: Option<&NodeId>) -> Self {
        let map = cluster.map();
        let n = map.layout.n();
        let slots = (0..PARTITION_COUNT).map(PartitionId).map(|partition| {
            let targets = map.targets(partition);
            let voters = || targets.iter().filter(|t| t.voter && Some(&t.node) != without);
            (
                voters().filter(|t| cluster.alive(&t.node, &t.address.drive)).count(),
                voters().filter(|t| cluster.has_room(&t.node, &t.address.drive)).count(),
            )
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
