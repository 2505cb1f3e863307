//! Purges what no slot needs any more and nothing newer replaces (PROTOCOL §7): tombstones that stand alone at all n slots,
//! and orphans, the shards of writes that never came to a commit.
//!
//! Owns one task per drive and its pace. Never decides that anything may go (the protocol's machine, `common::protocol::purge`,
//! does), and never purges a partition of which a slot is away, does not vote, or is on its way.
//!
//! 1. Once in a period each partition has its turn, led by one of its slots, another one each time: what only that slot holds is
//!    found by its own drive.
//! 2. LOOK: the drive's candidates are shown to all n slots.
//! 3. PUBLISH: what all of them would let go raises the partition's epoch, those of several partitions in one transaction.
//! 4. ADOPT: all n slots adopt it and look again. 5. DROP: each slot drops what is left, if that epoch is still its own.
//!
//! **Consistency.** Nothing rests on the clock, the map that is followed, or on who leads: they say what is worth trying. The
//! record must not have changed since the map that was looked at, so that the slots that adopt are those that have been asked.
//! **Crash consistency.** Nothing is kept; what was not dropped is found again.
//! **Retries.** What cannot be done now waits for its next turn. **Cancellation.** The stop ends the task at once.

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{Changed, Cluster, ClusterMap, SlotTarget, change_partitions};
use coffer_common::coordination::CoordinatorError;
use coffer_common::layout::{PartitionRecord, SlotRole};
use coffer_common::node::{NodeError, PurgeRequest, PurgeStep, SlotAddress};
use coffer_common::protocol::purge::{Action, Candidate, Evidence, Purge};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use coffer_common::types::{Epoch, NodeId, PartitionId, RegisterKey, SlotIndex};
use futures_util::future::join_all;
use metrics::counter;

use crate::node::StorageNode;
use crate::store::DriveStore;

/// Partitions whose epochs are raised in one transaction.
const GROUP: usize = 32;
/// How long a slot may take for a step.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Why a group of partitions is not purged now.
#[derive(Debug, thiserror::Error)]
enum PurgeError {
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// One drive's part.
struct Purger {
    store: Arc<DriveStore>,
    node: NodeId,
    cluster: Cluster,
    period: Duration,
}

/// A partition's purge.
struct Purging {
    partition: PartitionId,
    /// The epoch of the map that was looked at.
    epoch: Epoch,
    targets: Vec<SlotTarget>,
    machine: Purge<RegisterKey>,
}

/// Starts on every open drive of the node; ends with `shutdown`, which waits for it. `period`: how often a partition has its
/// turn, and how long an op must have been prepared to count as an orphan; zero for never.
pub fn start(node: &StorageNode, cluster: &Cluster, period: Duration, shutdown: &Shutdown) {
    if period.is_zero() {
        return;
    }
    for store in node.drives() {
        let (node, cluster) = (node.id().clone(), cluster.clone());
        let purger = Purger { store: Arc::clone(store), node, cluster, period };
        shutdown.spawn_until_told(async move { purger.run().await });
    }
}

/// The slot that leads the purge of a partition in a pass.
fn leader(partition: PartitionId, pass: u64, n: u8) -> SlotIndex {
    SlotIndex(((u64::from(partition.0) + pass) % u64::from(n.max(1))) as u8)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Purger {
    async fn run(&self) {
        let period_ms = millis(self.period).max(1);
        loop {
            // Passes are told apart by the clock, so that all slots know whose turn it is, more or less.
            let now_ms = UnixMillis::now().0;
            tokio::time::sleep(Duration::from_millis(period_ms - now_ms % period_ms)).await;
            self.pass(UnixMillis::now().0 / period_ms).await;
        }
    }

    /// All partitions whose turn it is, within half of the period if they need no longer.
    async fn pass(&self, pass: u64) {
        let map = self.cluster.map();
        if map.locate(self.store.id()) != Some((&self.node, self.store.incarnation())) {
            return;
        }
        let n = map.layout.n();
        let mut led = map.slots_on(self.store.id());
        led.retain(|(partition, slot)| leader(*partition, pass, n) == *slot);
        let groups = led.len().div_ceil(GROUP).max(1);
        for group in led.chunks(GROUP) {
            if let Err(error) = self.purge(group).await {
                tracing::debug!(drive = %self.store.id(), %error, "a purge waits for its next turn");
            }
            tokio::time::sleep(self.period / 2 / groups as u32).await;
        }
    }

    async fn purge(&self, slots: &[(PartitionId, SlotIndex)]) -> Result<(), PurgeError> {
        let map = self.cluster.map();
        let mut purging = Vec::new();
        for (partition, _) in slots.iter().filter(|(partition, _)| self.is_at_rest(&map, *partition)) {
            let candidates = self.store.purgeable(*partition, millis(self.period)).await?;
            if !candidates.is_empty() {
                purging.push(Purging {
                    partition: *partition,
                    epoch: map.epochs(*partition).epoch,
                    targets: map.targets(*partition),
                    machine: Purge::new(Geometry::new(map.layout.n()), candidates),
                });
            }
        }
        join_all(purging.iter_mut().map(|purging| self.ask(purging, PurgeStep::Look))).await;
        self.publish(map.layout.n(), &mut purging).await?;
        join_all(purging.iter_mut().map(|purging| self.ask(purging, PurgeStep::Adopt))).await;
        purging.retain(|purging| matches!(purging.machine.action(), Action::Drop(_)));
        join_all(purging.iter_mut().map(|purging| self.ask(purging, PurgeStep::Drop))).await;
        for Purging { partition, machine, .. } in &purging {
            let orphan = |(_, candidate): &&(_, Candidate)| matches!(candidate, Candidate::Orphan(_));
            let orphans = machine.candidates().iter().filter(orphan).count();
            let tombstones = machine.candidates().len() - orphans;
            tracing::debug!(partition = partition.0, tombstones, orphans, "purged");
        }
        Ok(())
    }

    /// Whether all slots of a partition vote, where they are to stay, and answer, as far as is known.
    fn is_at_rest(&self, map: &ClusterMap, partition: PartitionId) -> bool {
        let alive = |target: &SlotTarget| self.cluster.alive(&target.node, &target.address.drive);
        is_settled(&map.record(partition)) && map.targets(partition).iter().all(alive)
    }

    /// Raises the epochs of those that all slots would let go of something; the others end here.
    async fn publish(&self, n: u8, purging: &mut Vec<Purging>) -> Result<(), PurgeError> {
        purging.retain(|purging| matches!(purging.machine.action(), Action::Publish { .. }));
        let partitions: Vec<PartitionId> = purging.iter().map(|purging| purging.partition).collect();
        let change = |at: usize, record: &mut PartitionRecord| {
            let Action::Publish { tombstones, orphans } = purging[at].machine.action() else { return false };
            if record.epoch != purging[at].epoch || !is_settled(record) {
                return false;
            }
            let next = record.epoch.0 + 1;
            record.purge_epoch = if tombstones { next } else { record.purge_epoch };
            record.sweep_epoch = if orphans { next } else { record.sweep_epoch };
            true
        };
        let changed = change_partitions(&*self.cluster.coordinator(), n, &partitions, None, &change).await?;
        let mut changed = changed.into_iter();
        purging.retain_mut(|purging| match changed.next() {
            Some(Changed { epoch, changed: true }) => {
                purging.machine.published(epoch);
                true
            }
            _ => false,
        });
        if !purging.is_empty() {
            counter!("coffer_purge_epochs_total").increment(purging.len() as u64);
            self.cluster.refresh().await;
        }
        Ok(())
    }

    /// Takes all slots of a partition through a step; those that do not answer leave the machine where it is.
    async fn ask(&self, purging: &mut Purging, step: PurgeStep) {
        let epoch = match purging.machine.action() {
            Action::Adopt(epoch) | Action::Drop(epoch) => epoch,
            Action::Look | Action::Publish { .. } | Action::Done => purging.epoch,
        };
        let candidates = purging.machine.candidates();
        let told = join_all(purging.targets.iter().map(|target| {
            let address = SlotAddress { epoch, ..target.address };
            let grace_ms = millis(self.period);
            let request = PurgeRequest { address, step, candidates: candidates.to_vec(), grace_ms };
            async move { (target.slot, self.step(&target.node, request).await) }
        }));
        for (slot, told) in told.await {
            match told {
                Ok(evidence) => purging.machine.answered(slot, evidence),
                Err(error) => {
                    tracing::debug!(partition = purging.partition.0, slot = slot.0, %error, "a slot is silent in a purge");
                }
            }
        }
    }

    async fn step(&self, node: &NodeId, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError> {
        let client = self.cluster.reach(node)?;
        let asked = tokio::time::timeout(STEP_LIMIT, client.purge(request)).await;
        asked.unwrap_or_else(|_| Err(NodeError::Timeout { node: node.to_string() }))
    }
}

/// Whether every slot votes, and none is on its way.
fn is_settled(record: &PartitionRecord) -> bool {
    record.slots.iter().all(|slot| slot.role == SlotRole::Voter && slot.source.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_leads_once_in_n_passes() {
        for (partition, n) in [(0, 1), (7, 4), (4095, 16)] {
            let mut leaders: Vec<u8> =
                (100..100 + u64::from(n)).map(|pass| leader(PartitionId(partition), pass, n).0).collect();
            leaders.sort_unstable();
            assert_eq!(leaders, (0..n).collect::<Vec<_>>());
        }
    }
}
