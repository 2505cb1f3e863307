//! Brings the slots of a drive that has lost its state back to voting (PROTOCOL §8): it was emptied, replaced or put back
//! from an older copy, and has an incarnation above 0.
//!
//! Owns one task per such drive, its pace, and what is told of its progress. Never decides when a slot may vote (the
//! protocol's machine, `common::protocol::join`, does), and never rebuilds a shard: what is missing is marked as such.
//!
//! 1. The cluster must know the drive in this incarnation; until then nobody addresses it.
//! 2. Every partition's record is raised by an epoch that marks the slot JOINING; then the slot itself adopts that epoch.
//!    Before that it takes part in nothing, so that nothing of the time before its loss gets in.
//! 3. A chunk of partitions at a time: copy the registers of one voter each; raise their records once more; have R0
//!    voters each adopt that epoch and tell what has changed since; vote, durably.
//!
//! **Consistency.** The record says VOTER from the second epoch on, the slot does not answer as one before its own record
//! does: what counts is the answer, so that callers with a new map lose nothing but a question.
//! **Crash consistency.** What is durable is each slot's role. A start takes up every slot that does not vote yet, from
//! copying on; the epoch rises once more.
//! **Retries.** A partition of which fewer than R0 other slots vote and answer waits, without its epoch rising again, and
//! the log and the status say so; the others go on.
//! **Cancellation.** The stop ends the task at once.

mod slot;

use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{Cluster, RAISES_AT_ONCE, raise_epochs};
use coffer_common::coordination::CoordinatorError;
use coffer_common::layout::SlotRole;
use coffer_common::node::{DriveJoin, NodeError};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::protocol::register::Role;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{Epoch, Incarnation, NodeId, PartitionId, SlotIndex};
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;

use self::slot::{JoiningSlot, Sources};
use crate::node::StorageNode;
use crate::store::DriveStore;

/// Partitions of a drive that are copied at the same time: few enough for the others to notice little, and enough for
/// one sync to serve several.
const CONCURRENCY: usize = 16;
/// Before what could not be done is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two words about what waits.
const REMIND: Duration = Duration::from_secs(30);

/// Why the task does not get on.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A drive whose slots are to vote again.
struct JoiningDrive {
    store: Arc<DriveStore>,
    node: NodeId,
    cluster: Cluster,
    sources: Sources,
}

/// Starts on every open drive of the node that has lost its state once; ends with `shutdown`, which waits for it.
pub fn start(node: &StorageNode, cluster: &Cluster, shutdown: &Shutdown) {
    for store in node.drives().filter(|store| store.incarnation() > Incarnation(0)) {
        let (store, node, cluster) = (Arc::clone(store), node.id().clone(), cluster.clone());
        let (drive, stop) =
            (JoiningDrive { store, node, cluster, sources: Sources::default() }, shutdown.clone());
        shutdown.spawn(async move {
            tokio::select! {
                biased;
                () = stop.told() => {}
                () = drive.run() => {}
            }
        });
    }
}

impl JoiningDrive {
    async fn run(&self) {
        while !self.is_known() {
            tokio::time::sleep(PAUSE).await;
        }
        let mut waiting = self.waiting();
        if waiting.is_empty() {
            return;
        }
        tracing::info!(drive = %self.store.id(), partitions = waiting.len(), "learning what its slots have promised");
        let mut reminded: Option<Instant> = None;
        while !waiting.is_empty() {
            let failure = self.round(&mut waiting).await.err();
            self.tell(waiting.len());
            if waiting.is_empty() {
                break;
            }
            if reminded.is_none_or(|at| at.elapsed() >= REMIND) {
                reminded = Some(Instant::now());
                let (partitions, needed) = (waiting.len(), self.geometry().r0());
                let failure = failure.map(|error| error.to_string()).unwrap_or_default();
                tracing::warn!(
                    drive = %self.store.id(), partitions, needed, failure,
                    "slots wait until enough others of their partitions vote and answer"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(drive = %self.store.id(), "all of its slots vote; shards that are missing are marked");
    }

    /// Whether callers address this incarnation of the drive on this node.
    fn is_known(&self) -> bool {
        let map = self.cluster.map();
        map.locate(self.store.id()) == Some((&self.node, self.store.incarnation()))
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(self.cluster.map().layout.n())
    }

    /// The slots of the drive that do not vote.
    fn waiting(&self) -> Vec<JoiningSlot> {
        let slots = self.cluster.map().slots_on(self.store.id());
        let lacks_vote = |partition| self.store.partition(partition).role != Role::Voter;
        let waiting = slots.into_iter().filter(|(partition, _)| lacks_vote(*partition));
        let waiting: Vec<_> = waiting.map(|(p, slot)| JoiningSlot::new(self.geometry(), p, slot)).collect();
        self.tell(waiting.len());
        waiting
    }

    fn tell(&self, waiting: usize) {
        let slots = self.cluster.map().slots_on(self.store.id()).len();
        self.store.tell_joining(DriveJoin { partitions: slots as u32, waiting: waiting as u32 });
    }

    /// Takes every slot as far as it goes now; those that vote are removed.
    async fn round(&self, waiting: &mut Vec<JoiningSlot>) -> Result<(), JoinError> {
        let mut unmarked: Vec<(PartitionId, SlotIndex)> = waiting.iter().map(JoiningSlot::place).collect();
        unmarked.retain(|(partition, _)| self.store.partition(*partition).role == Role::Out);
        for places in unmarked.chunks(RAISES_AT_ONCE) {
            self.mark(places).await?;
        }
        let mut left = waiting.len();
        for chunk in waiting.chunks_mut(RAISES_AT_ONCE) {
            let learn = |slot| JoiningSlot::learn(slot, self);
            stream::iter(chunk.iter_mut()).for_each_concurrent(CONCURRENCY, learn).await;
            self.publish(chunk).await?;
            let cut_over = |slot| JoiningSlot::cut_over(slot, self);
            stream::iter(chunk.iter_mut()).for_each_concurrent(CONCURRENCY, cut_over).await;
            left -= chunk.iter().filter(|slot| slot.votes()).count();
            self.tell(left);
        }
        waiting.retain(|slot| !slot.votes());
        Ok(())
    }

    /// The map calls these slots JOINING, and they are.
    async fn mark(&self, places: &[(PartitionId, SlotIndex)]) -> Result<(), JoinError> {
        let epochs = self.raise(places, SlotRole::Joining).await?;
        let begun = places.iter().zip(epochs).map(|((p, _), epoch)| self.store.begin_to_join(*p, epoch));
        try_join_all(begun).await?;
        Ok(())
    }

    /// Raises the epoch of those that have learned.
    async fn publish(&self, chunk: &mut [JoiningSlot]) -> Result<(), JoinError> {
        let mut learned: Vec<_> = chunk.iter_mut().filter(|slot| slot.has_learned()).collect();
        let places: Vec<_> = learned.iter().map(|slot| slot.place()).collect();
        let epochs = self.raise(&places, SlotRole::Voter).await?;
        learned.iter_mut().zip(epochs).for_each(|(slot, epoch)| slot.published(epoch));
        Ok(())
    }

    async fn raise(
        &self,
        places: &[(PartitionId, SlotIndex)],
        role: SlotRole,
    ) -> Result<Vec<Epoch>, CoordinatorError> {
        let n = self.cluster.map().layout.n();
        raise_epochs(&*self.cluster.coordinator(), n, places, role).await
    }
}
