//! Taking slots: the promises of an earlier time go, then the record names this drive.

use coffer_common::cluster::{ClusterMap, LAYOUT_TARGET_KEY, change_partitions};
use coffer_common::coordination::{Change, Expected, Write};
use coffer_common::layout::{Layout, PartitionRecord, SlotRecord, SlotRole};
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::NodeError;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{Epoch, PartitionId, SlotIndex};
use futures_util::future::try_join_all;
use metrics::counter;

use super::{MoveError, Mover};
use crate::pace::Urgency;

/// Slots of a drive that are on their way at the same time.
const MOST_UNDER_WAY: usize = 64;
/// Slots that are taken at once: while they are cut over their partitions have to do without them.
const BATCH: usize = 16;

impl Mover {
    /// Takes some of the slots that the target has on this drive.
    pub(super) async fn take(&self, map: &ClusterMap) -> Result<(), MoveError> {
        let (drive, coordinator) = (self.store.id(), self.cluster.coordinator());
        let room = MOST_UNDER_WAY.saturating_sub(self.under_way(map).len()).min(BATCH);
        if room == 0 || !self.cluster.has_room(&self.node, &drive) || self.is_cutting_over(map) {
            return Ok(());
        }
        let _turn = self.pace.turn(Urgency::Patient).await;
        let Some(entry) = coordinator.get(LAYOUT_TARGET_KEY).await? else { return Ok(()) };
        let target = Layout::decode(&entry.value)?;
        let (key, expected) = (entry.key, Expected::Revision(entry.revision));
        let in_force = Write { key, expected, change: Change::Check };
        let wanted = (0..PARTITION_COUNT).map(PartitionId);
        let wanted = wanted.filter_map(|partition| Some((partition, target.slot_on(partition, drive)?)));
        let wanted = wanted.filter(|place| self.may_take(map, *place)).take(room);
        let begin = async |(partition, slot)| {
            let epoch = map.epochs(partition).epoch;
            let begun = self.store.begin_to_take((partition, slot), Epoch(epoch.0 + 1)).await?;
            Ok::<_, NodeError>(begun.then_some((partition, slot, epoch)))
        };
        // One that is not begun was taken since, and the map is an old one.
        let slots: Vec<_> = try_join_all(wanted.map(begin)).await?.into_iter().flatten().collect();
        if slots.is_empty() {
            return Ok(());
        }
        let take = |at: usize, record: &mut PartitionRecord| {
            let (partition, slot, epoch) = slots[at];
            if record.epoch != epoch || !self.is_free(map, record, (partition, slot)) {
                return false;
            }
            let source = Some(map.holder(record, partition, slot));
            // A shard that was prepared at a drive which the slot then left counts for its write, and may be lost to it. Of one
            // write that is one shard at most: those that began before the last change end here.
            record.sweep_epoch = record.sweep_epoch.max(record.epoch.0);
            record.slots[usize::from(slot.0)] =
                SlotRecord { role: SlotRole::Voter, drive: Some(drive), source };
            true
        };
        let partitions: Vec<PartitionId> = slots.iter().map(|(partition, ..)| *partition).collect();
        let n = map.layout.n();
        let changed = change_partitions(&*coordinator, n, &partitions, Some(&in_force), &take).await;
        // Also if that is not known: the records may have changed all the same.
        self.cluster.refresh().await;
        let taken = changed?.iter().filter(|changed| changed.changed).count();
        counter!("coffer_moves_taken_slots_total").increment(taken as u64);
        Ok(())
    }

    /// Whether slots that were taken do not vote yet: no more are taken until they do.
    fn is_cutting_over(&self, map: &ClusterMap) -> bool {
        let votes = |partition| self.store.votes(partition);
        self.under_way(map).into_iter().any(|(partition, _)| !votes(partition))
    }

    /// Whether a slot is worth taking by the map: it is elsewhere, could be taken, and enough slots answer.
    fn may_take(&self, map: &ClusterMap, (partition, slot): (PartitionId, SlotIndex)) -> bool {
        let record = map.record(partition);
        if !self.is_free(map, &record, (partition, slot)) {
            return false;
        }
        // The others, and the drive that has it now.
        let givers = map.targets(partition).into_iter().filter(|target| target.voter);
        let alive = givers.filter(|target| self.cluster.alive(&target.node, &target.address.drive));
        alive.count() >= Geometry::new(map.layout.n()).m()
    }

    /// Whether the record lets this drive take the slot: the drive holds none of the partition, and no slot is on its way,
    /// unless it is this one, from here.
    fn is_free(
        &self,
        map: &ClusterMap,
        record: &PartitionRecord,
        (partition, slot): (PartitionId, SlotIndex),
    ) -> bool {
        let drive = self.store.id();
        record.slots.iter().zip(0_u8..).all(|(held, index)| {
            let returns = index == slot.0 && held.source == Some(drive);
            let settled = !held.is_under_way() || returns;
            settled && map.holder(record, partition, SlotIndex(index)) != drive
        })
    }
}
