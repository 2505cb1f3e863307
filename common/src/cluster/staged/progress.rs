//! How many slots are still on their way.

use serde::Serialize;

use crate::cluster::ClusterMap;
use crate::layout::{Layout, SlotRole};
use crate::limits::PARTITION_COUNT;
use crate::types::{PartitionId, SlotIndex};

/// How far the moves to a new layout are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MoveProgress {
    /// The version that they lead to.
    pub version: u64,
    /// Slots that have to move, those that have moved among them.
    pub total: usize,
    /// Those that vote at their place and need nothing of the drive before.
    pub moved: usize,
    /// Those that are on their way: they do not vote yet at their place, or lack shards there.
    pub under_way: usize,
    /// Those that have not begun to move.
    pub waiting: usize,
}

impl MoveProgress {
    /// As the map has it; `None` if no moves are under way. A slot that has moved back looks like one that has never moved:
    /// those are counted only if it is known with how many the moves began.
    pub fn of(map: &ClusterMap) -> Option<Self> {
        let mut progress = Self::towards(map, map.target.as_ref()?);
        if let Some(begun) = map.moves_begun() {
            progress.total = begun.slots.max(progress.left());
            progress.moved = progress.total - progress.left();
        }
        Some(progress)
    }

    /// Slots that are not there yet.
    pub fn left(&self) -> usize {
        self.under_way + self.waiting
    }

    /// Compares the map with a target, whatever is known of how the moves began.
    pub(super) fn towards(map: &ClusterMap, target: &Layout) -> Self {
        let mut progress = Self { version: target.version(), total: 0, moved: 0, under_way: 0, waiting: 0 };
        for partition in (0..PARTITION_COUNT).map(PartitionId) {
            let record = map.partitions.get(partition);
            for (index, (base, wanted)) in
                map.layout.drives_of(partition).zip(target.drives_of(partition)).enumerate()
            {
                let now = map.drive_of(partition, SlotIndex(index as u8));
                let slot = record.and_then(|record| record.slots.get(index)).copied().unwrap_or_default();
                let on_its_way = slot.source.is_some() || (now != base.id && slot.role != SlotRole::Voter);
                if base.id == wanted.id && now == wanted.id && !on_its_way {
                    continue;
                }
                progress.total += 1;
                match (on_its_way, now == wanted.id) {
                    (true, _) => progress.under_way += 1,
                    (false, true) => progress.moved += 1,
                    (false, false) => progress.waiting += 1,
                }
            }
        }
        progress
    }
}
