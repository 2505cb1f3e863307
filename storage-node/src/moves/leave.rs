//! Leaving: a drive whose slot has gone elsewhere takes part in nothing any more, and drops what it has of the partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::ClusterMap;
use coffer_common::layout::Layout;
use coffer_common::protocol::register::Role;
use coffer_common::types::PartitionId;
use metrics::counter;
use tokio::time::Instant;

use super::{MoveError, Mover};
use crate::pace::Urgency;

/// How long what was left is kept: reads that began at this drive end.
const GRACE: Duration = Duration::from_secs(60);
/// Between two looks at what the drive has of partitions that it does not hold.
const LOOK: Duration = Duration::from_secs(5);

/// The partitions that the drive has left, and since when this process knows.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    since: BTreeMap<PartitionId, Instant>,
    looked: Option<Instant>,
    /// The map of the last complete look.
    map: Option<Arc<ClusterMap>>,
}

impl Leaving {
    /// Whether there may be something to do: the map has changed, or a grace runs.
    fn is_due(&self, map: &Arc<ClusterMap>) -> bool {
        let rested = self.looked.is_none_or(|at| at.elapsed() >= LOOK);
        let seen = self.map.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, map));
        rested && !(seen && self.since.is_empty())
    }
}

impl Mover {
    /// Leaves what the drive holds no more, and drops what it has left long enough ago.
    pub(super) async fn leave(&self, map: &Arc<ClusterMap>, leaving: &mut Leaving) -> Result<(), MoveError> {
        if !leaving.is_due(map) {
            return Ok(());
        }
        leaving.looked = Some(Instant::now());
        let mut used = self.store.used_partitions().await?;
        used.retain(|partition| self.is_gone(map, *partition));
        leaving.since.retain(|partition, _| used.contains(partition));
        if used.is_empty() {
            leaving.map = Some(Arc::clone(map));
            return Ok(());
        }
        let confirmed = self.cluster.confirmed().await?;
        used.retain(|partition| self.is_gone(&confirmed, *partition));
        for partition in used {
            let since = match leaving.since.get(&partition) {
                Some(since) => *since,
                None => {
                    self.store.leave(partition).await?;
                    let now = Instant::now();
                    *leaving.since.entry(partition).or_insert(now)
                }
            };
            let returns = |target: &Layout| target.slot_on(partition, self.store.id()).is_some();
            if since.elapsed() >= GRACE && !confirmed.target.as_ref().is_some_and(returns) {
                self.drop_all(partition).await?;
                leaving.since.remove(&partition);
            }
        }
        leaving.map = Some(Arc::clone(map));
        Ok(())
    }

    /// Whether the map names this drive nowhere in the partition, and is not older than what the drive has adopted.
    fn is_gone(&self, map: &ClusterMap, partition: PartitionId) -> bool {
        let (record, state) = (map.record(partition), self.store.partition(partition));
        let named = record.slots.iter().any(|slot| slot.source == Some(self.store.id()));
        // A slot that was to be taken has adopted the epoch that this would have had.
        let known = record.epoch.0 + u64::from(state.role == Role::Joining);
        !named && map.slot_on(partition, self.store.id()).is_none() && state.epoch.0 <= known
    }

    async fn drop_all(&self, partition: PartitionId) -> Result<(), MoveError> {
        let (mut after, mut registers) = (0, 0);
        loop {
            let _turn = self.pace.turn(Urgency::Patient).await;
            let Some((last, dropped)) = self.store.drop_piece(partition, after, None).await? else { break };
            (after, registers) = (last, registers + dropped);
        }
        tracing::debug!(drive = %self.store.id(), partition = partition.0, registers, "left for good");
        counter!("coffer_moves_left_partitions_total").increment(1);
        counter!("coffer_moves_dropped_registers_total").increment(registers);
        Ok(())
    }
}
