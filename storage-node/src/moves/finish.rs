//! Saying that a slot is whole: its record then names no drive before.

use std::collections::HashSet;

use coffer_common::cluster::{ClusterMap, RAISES_AT_ONCE, change_partitions};
use coffer_common::layout::{PartitionRecord, SlotRole};
use coffer_common::types::PartitionId;
use metrics::counter;

use super::{MoveError, Mover};

impl Mover {
    /// Finishes what votes here and lacks nothing.
    pub(super) async fn finish(&self, map: &ClusterMap) -> Result<(), MoveError> {
        let mut slots = self.under_way(map);
        slots.retain(|(partition, _)| self.store.votes(*partition));
        if slots.is_empty() {
            return Ok(());
        }
        // Asked after the votes: all that was handed over is known by then.
        let lacking: Option<HashSet<PartitionId>> = self.store.lacking_partitions();
        slots.retain(|(partition, _)| lacking.as_ref().is_some_and(|lacking| !lacking.contains(partition)));
        for slots in slots.chunks(RAISES_AT_ONCE) {
            let finish = |at: usize, record: &mut PartitionRecord| {
                let slot = &mut record.slots[usize::from(slots[at].1.0)];
                let ours = slot.drive == Some(self.store.id()) && slot.role == SlotRole::Voter;
                ours && slot.source.take().is_some()
            };
            let partitions: Vec<PartitionId> = slots.iter().map(|(partition, _)| *partition).collect();
            let (coordinator, n) = (self.cluster.coordinator(), map.layout.n());
            let changed = change_partitions(&*coordinator, n, &partitions, None, &finish).await?;
            let finished = changed.iter().filter(|changed| changed.changed).count();
            counter!("coffer_moves_finished_slots_total").increment(finished as u64);
        }
        Ok(())
    }
}
