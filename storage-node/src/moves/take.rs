//! Taking slots: the promises of an earlier time go, then the record names this drive.

use std::cell::LazyCell;
use std::collections::HashMap;

use coffer_common::cluster::{ClusterMap, LAYOUT_TARGET_KEY, change_partitions};
use coffer_common::coordination::{Change, Expected, Write};
use coffer_common::layout::{Layout, PartitionRecord, SlotRecord, SlotRole};
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::{DriveInfo, NodeError};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{DriveId, Epoch, PartitionId, SlotIndex};
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
        let begin = async |(partition, slot)| {
            let epoch = map.epochs(partition).epoch;
            let begun = self.store.begin_to_take((partition, slot), Epoch(epoch.0 + 1)).await?;
            Ok::<_, NodeError>(begun.then_some((partition, slot, epoch)))
        };
        let wanted = self.worth_taking(map, &target, room).into_iter();
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

    /// Slots that the target has on this drive and that are worth taking by the map, at most so many.
    fn worth_taking(&self, map: &ClusterMap, target: &Layout, room: usize) -> Vec<(PartitionId, SlotIndex)> {
        let drive = self.store.id();
        let told = LazyCell::new(|| self.told());
        let worth = |place: &(PartitionId, SlotIndex)| {
            let let_go = map.source_of(place.0, place.1).is_some_and(|source| source != drive);
            self.may_take(map, *place) && (!let_go || self.can_do_without(map, *place, &told))
        };
        let wanted = (0..PARTITION_COUNT).map(PartitionId);
        let wanted = wanted.filter_map(|partition| Some((partition, target.slot_on(partition, drive)?)));
        wanted.filter(worth).take(room).collect()
    }

    /// Whether a slot could be taken by the map, and enough slots answer.
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

    /// What the drives of nodes that answer told of themselves last.
    fn told(&self) -> HashMap<DriveId, DriveInfo> {
        let nodes = self.cluster.nodes().into_iter().filter(|node| node.alive);
        let drives = nodes.filter_map(|node| node.info).flat_map(|info| info.drives);
        drives.map(|drive| (drive.id, drive)).collect()
    }

    /// Whether the partition's other slots are known to have enough of every object.
    fn can_do_without(
        &self,
        map: &ClusterMap,
        (partition, slot): (PartitionId, SlotIndex),
        told: &HashMap<DriveId, DriveInfo>,
    ) -> bool {
        let others = map.targets(partition).into_iter().filter(|other| other.voter && other.slot != slot);
        let alive = others.filter(|other| self.cluster.alive(&other.node, &other.address.drive));
        let known = alive.filter_map(|other| {
            let told = told.get(&other.address.drive)?;
            (told.incarnation == other.address.incarnation).then_some(told)
        });
        suffice(&known.collect::<Vec<_>>(), partition, Geometry::new(map.layout.n()))
    }

    /// Whether the record lets this drive take the slot.
    fn is_free(
        &self,
        map: &ClusterMap,
        record: &PartitionRecord,
        (partition, slot): (PartitionId, SlotIndex),
    ) -> bool {
        let holder = |slot| map.holder(record, partition, slot);
        let answers = |drive: DriveId| self.cluster.alive(&map.node_of(drive), &drive);
        is_free(record, (slot, self.store.id()), holder, answers)
    }
}

/// Whether a record lets a drive take a slot: the drive holds none of the partition, and no slot is on its way, unless it is this
/// one, and it comes from here or its drive does not answer. Whether that is so is a guess: a wrong one costs data that is copied
/// anew, and no promise (see `super`).
fn is_free(
    record: &PartitionRecord,
    (wanted, drive): (SlotIndex, DriveId),
    holder: impl Fn(SlotIndex) -> DriveId,
    answers: impl Fn(DriveId) -> bool,
) -> bool {
    record.slots.iter().zip(0_u8..).all(|(held, index)| {
        let here = holder(SlotIndex(index));
        let given_up = || held.source == Some(drive) || !answers(here);
        (!held.is_under_way() || index == wanted.0 && given_up()) && here != drive
    })
}

/// Whether these slots of a partition make up every object of it. If the drive that a slot was on its way to is lost, the one
/// before it may have the only shard of the slot, and is let go.
fn suffice(others: &[&DriveInfo], partition: PartitionId, geometry: Geometry) -> bool {
    let widths: Vec<u8> = others.iter().filter_map(|drive| drive.most_data_shards).collect();
    let is_whole = |drive: &&&DriveInfo| drive.join.waiting == 0 && !drive.lacking.maybe(partition);
    let whole = others.iter().filter(is_whole).count();
    // Every version is known to M slots, this one perhaps among them: of M others one knows how wide it is.
    widths.len() >= geometry.m() && widths.into_iter().all(|width| usize::from(width) <= whole)
}

#[cfg(test)]
mod tests {
    use coffer_common::node::{DriveJoin, DriveState, Lacking, Partitions};
    use coffer_common::types::Incarnation;

    use super::*;

    const OURS: DriveId = DriveId(9);

    /// Four slots on drives 0 to 3, one of them in this state.
    fn record(slot: usize, role: SlotRole, source: Option<DriveId>) -> PartitionRecord {
        let mut record = PartitionRecord::new(4);
        for (held, drive) in record.slots.iter_mut().zip(0..) {
            held.drive = Some(DriveId(drive));
        }
        (record.slots[slot].role, record.slots[slot].source) = (role, source);
        record
    }

    /// Whether slot 0 is free for our drive, while these drives answer.
    fn free(record: &PartitionRecord, alive: &[u128]) -> bool {
        let holder = |slot: SlotIndex| record.slots[usize::from(slot.0)].drive.unwrap();
        is_free(record, (SlotIndex(0), OURS), holder, |drive| alive.contains(&drive.0))
    }

    #[test]
    fn a_slot_on_its_way_is_free_once_the_drive_it_goes_to_does_not_answer() {
        let (voter, joining, before) = (SlotRole::Voter, SlotRole::Joining, Some(DriveId(7)));
        assert!(free(&record(0, voter, None), &[0, 1, 2, 3]));
        for (role, source) in [(voter, before), (joining, before), (joining, None)] {
            assert!(!free(&record(0, role, source), &[0]), "{role:?} {source:?}: it may still come there");
            assert!(free(&record(0, role, source), &[1, 2, 3, 7]), "{role:?} {source:?}");
            assert!(!free(&record(1, role, source), &[]), "{role:?} {source:?}: another slot is on its way");
        }
    }

    #[test]
    fn a_slot_on_its_way_from_here_is_free_and_none_of_a_partition_that_the_drive_has_a_slot_of() {
        let back = record(0, SlotRole::Voter, Some(OURS));
        assert!(free(&back, &[0, 1, 2, 3]));
        let mut held = back;
        held.slots[2].drive = Some(OURS);
        assert!(!free(&held, &[0, 1, 2, 3]) && !free(&held, &[]));
    }

    #[test]
    fn the_drive_before_is_let_go_only_where_the_others_have_all_objects() {
        let here = PartitionId(5);
        let drive = |lacking: Lacking, most_data_shards| DriveInfo {
            lacking,
            most_data_shards,
            ..DriveInfo::unknown(DriveId(1), Incarnation(0), String::new(), DriveState::Online)
        };
        let lacks = |at| Lacking::In(Partitions::from_iter([PartitionId(at)]));
        let whole = || drive(lacks(6), Some(2));
        let told = |drives: &[DriveInfo]| suffice(&drives.iter().collect::<Vec<_>>(), here, Geometry::new(4));
        assert!(told(&[whole(), whole(), whole()]));
        assert!(told(&[whole(), whole(), drive(lacks(5), Some(2))]), "two make what is two wide");
        assert!(!told(&[whole(), whole(), drive(lacks(5), Some(3))]));
        assert!(!told(&[whole(), drive(lacks(5), Some(2)), drive(Lacking::Unknown, Some(2))]));
        assert!(!told(&[whole(), whole()]), "a third may know of wider ones");
        assert!(!told(&[whole(), whole(), drive(Lacking::nothing(), None)]), "it has not looked yet");
        let joins = DriveInfo { join: DriveJoin { partitions: 9, waiting: 1 }, ..whole() };
        assert!(!told(&[whole(), joins.clone(), joins]));
    }
}
