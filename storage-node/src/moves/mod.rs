//! Moves slots to where the target layout has them (PROTOCOL §8), and lets the drives that they leave go.
//!
//! Owns one task per drive, which takes slots, says when they are whole, and drops what the drive has left; and one per
//! node, which makes a target that is reached the layout. Never decides where a slot is to go (the target does), nor when it
//! may vote (`crate::join`, which carries the cut-over out), and never copies a shard: `crate::heal` does, from the drive
//! before.
//!
//! ```text
//! drive:   OUT, old promises dropped ──► JOINING ──────────────► VOTER ─────────────► whole
//! record:                                 drive = this one,                            source gone
//!          (take)                         source = the one before      (join)          (finish)
//! before:  VOTER, serves old maps and shards ────────────────────────────────────────► OUT ── 60 s ──► dropped (leave)
//! ```
//!
//! 1. `take`: the node that owns the drive which the target names for a slot takes it, if all other slots of the partition
//!    vote and lack nothing of a drive before, and M slots are alive. The condition is on the record, in the transaction that
//!    raises its epoch, together with the target's revision: one slot of a partition changes at a time, and never by a
//!    target that is not in force. A slot on its way from this very drive is taken back without waiting for its data; one on
//!    its way to a drive that does not answer is taken from that drive, if the other slots are known to have all objects.
//! 2. `join`: the slot learns what was promised, and votes. Reads fall back to the drive before for shards; catch-up copies
//!    them from there, or codes them.
//! 3. `finish`: the slot votes and no version lacks its shard: the record names no source any more.
//! 4. `leave`: a drive that neither holds a slot of a partition nor is named as a source there becomes OUT, and after a grace,
//!    in which running reads end, drops what it has of the partition.
//! 5. `conclude`: no slot is elsewhere than the target says, or on its way: the target becomes the layout.
//!
//! **Consistency.** What is decided rests on the coordinator's records as they are at that moment (linearizable reads and
//! conditional writes); the map that is followed only says what is worth trying.
//! **Drives that die while they take slots.** Whether a drive answers is a guess, and the slot is safe if it is wrong: the drive
//! before counts for nothing any more, and this one only if it votes, which it does once M slots, the drive before among
//! them, have told it what they promised. Else M of the other slots tell: these meet every quorum of either drive (M - 1 others
//! at least), and leave neither of them R0 slots of its epoch. What only the drive before has is dropped with it: that is why the
//! others must have enough of it, by what their drives have told.
//! **Crash consistency.** The record and each drive's roles are all there is; whoever starts goes on from there. A drive that
//! was about to take a slot and did not is JOINING in a partition that does not name it, and leaves it.
//! **Deletion.** Only of partitions whose record names the drive nowhere, is not older than what the drive has adopted, and
//! lies in the past by the grace.
//! **Writes under way.** A write may have prepared a shard at a drive that the slot then leaves, and commit elsewhere: that
//! shard is copied if the commit comes before the slot is whole, else coded from the others. So that it is the only one that a
//! write can lose, each take sets the sweep epoch to the epoch before it: writes that began before the last change of the
//! partition do not go on in the new epoch.
//! **Retries.** What cannot be done now is looked at again in the next round. **Cancellation.** The stop ends the tasks at once.

mod conclude;
mod finish;
mod leave;
mod take;

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{Cluster, ClusterMap};
use coffer_common::coordination::CoordinatorError;
use coffer_common::layout::DecodeLayoutError;
use coffer_common::node::NodeError;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{NodeId, PartitionId, SlotIndex};

use self::leave::Leaving;
use crate::node::StorageNode;
use crate::pace::Pace;
use crate::store::DriveStore;

/// Between two rounds while slots move.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks at the map while none do.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the target layout is not readable: {0}")]
    Target(#[from] DecodeLayoutError),
}

/// One drive's slots.
struct Mover {
    store: Arc<DriveStore>,
    node: NodeId,
    cluster: Cluster,
    pace: Pace,
}

/// Starts on every open drive of the node; ends with `shutdown`, which waits for it.
pub fn start(node: &StorageNode, cluster: &Cluster, shutdown: &Shutdown) {
    for store in node.drives() {
        let (store, cluster, pace) = (Arc::clone(store), cluster.clone(), node.pace().clone());
        let mover = Mover { store, node: node.id().clone(), cluster, pace };
        shutdown.spawn_until_told(async move { mover.run().await });
    }
    let cluster = cluster.clone();
    shutdown.spawn_until_told(async move { conclude::run(&cluster).await });
}

impl Mover {
    async fn run(&self) {
        let mut leaving = Leaving::default();
        loop {
            let map = self.cluster.map();
            let known = map.locate(self.store.id()) == Some((&self.node, self.store.incarnation()));
            let moves = known && (map.target.is_some() || !self.under_way(&map).is_empty());
            if moves && let Err(error) = self.round(&map).await {
                tracing::debug!(drive = %self.store.id(), %error, "slots do not move now");
            }
            if known && let Err(error) = self.leave(&map, &mut leaving).await {
                tracing::debug!(drive = %self.store.id(), %error, "what was left is not dropped now");
            }
            tokio::time::sleep(if moves { PAUSE } else { IDLE_PAUSE }).await;
        }
    }

    async fn round(&self, map: &ClusterMap) -> Result<(), MoveError> {
        self.finish(map).await?;
        if map.target.is_some() {
            self.take(map).await?;
        }
        Ok(())
    }

    /// The slots that the drive has taken and that still need the one before.
    fn under_way(&self, map: &ClusterMap) -> Vec<(PartitionId, SlotIndex)> {
        let drive = Some(self.store.id());
        let moving = map.partitions.iter().flat_map(|(partition, record)| {
            let slots = record.slots.iter().zip(0_u8..);
            let ours = slots.filter(move |(slot, _)| slot.source.is_some() && slot.drive == drive);
            ours.map(move |(_, index)| (partition, SlotIndex(index)))
        });
        moving.collect()
    }
}
