//! Brings slots that must learn what their partitions have promised to voting (PROTOCOL §8): those of a drive that has lost
//! its state (it was emptied, replaced or put back from an older copy, and has an incarnation above 0), and those that the
//! drive has taken over from another one (`crate::moves`).
//!
//! Owns one task per drive, its pace, and what is told of its progress. Never decides when a slot may vote (the
//! protocol's machine, `common::protocol::join`, does), never takes a slot, and never rebuilds a shard: what is missing is
//! marked as such.
//!
//! 1. The cluster must know the drive in this incarnation; until then nobody addresses it.
//! 2. LOST: every partition's record is raised by an epoch that marks the slot JOINING; then the slot itself adopts that epoch.
//!    Before that it takes part in nothing, so that nothing of the time before its loss gets in.
//! 3. LOST, a chunk of partitions at a time: copy the registers of one voter each; raise their records once more; have R0
//!    voters each adopt that epoch and tell what has changed since; vote, durably.
//! 4. MOVED: the record has named this drive since it took the slot, which it did as JOINING. M of the slots as they
//!    were, the drive before among them, adopt that epoch and tell all that they have; vote, durably. A drive that has lost
//!    its state before the slot's data had all come begins with step 2, and needs M of the others: the drive before may still
//!    serve callers with old maps, and knows nothing of what this one has promised.
//!
//! **Pace.** Marking a few slots is a step, each page of what they learn another one, their cut-over a third: requests would
//! feel more at a time. These steps do not wait behind shards that are rebuilt: votes come first.
//!
//! **Consistency.** The record says VOTER from the last epoch on, the slot does not answer as one before its own record
//! does: what counts is the answer, so that callers with a new map lose nothing but a question. A record that names
//! another drive for the slot is left as it is.
//! **Crash consistency.** What is durable is each slot's role. A start takes up every slot that does not vote yet, from
//! copying on; the epoch of a lost one rises once more.
//! **Retries.** A partition of which too few other slots vote and answer waits, without its epoch rising again, and
//! the log and the status say so; the others go on.
//! **Cancellation.** The stop ends the task at once.

mod pages;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coffer_common::cluster::{Cluster, ClusterMap, change_partitions};
use coffer_common::coordination::CoordinatorError;
use coffer_common::layout::{PartitionRecord, SlotRole};
use coffer_common::node::{DriveJoin, NodeError};
use coffer_common::protocol::join::Cause;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::protocol::register::Role;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{Epoch, Incarnation, NodeId, PartitionId, SlotIndex};
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;

use self::pages::Pages;
use self::slot::{JoiningSlot, Sources};
use crate::node::StorageNode;
use crate::pace::{Pace, Urgency};
use crate::store::DriveStore;

/// Partitions of a drive that are copied at the same time, so that one question and one sync serve many. More would be
/// cheaper, and felt by requests.
const TOGETHER: usize = 50;
/// Before what could not be done is tried again, and between two looks at the map.
const PAUSE: Duration = Duration::from_secs(1);
/// The same while slots move: one that has been taken and does not vote yet is missed by its partition.
const SHORT_PAUSE: Duration = Duration::from_millis(50);
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

/// A drive whose slots are to vote.
struct JoiningDrive {
    store: Arc<DriveStore>,
    node: NodeId,
    cluster: Cluster,
    pace: Pace,
    sources: Sources,
    pages: Pages,
}

/// Starts on every open drive of the node; ends with `shutdown`, which waits for it.
pub fn start(node: &StorageNode, cluster: &Cluster, shutdown: &Shutdown) {
    for store in node.drives() {
        let drive = JoiningDrive {
            store: Arc::clone(store),
            node: node.id().clone(),
            cluster: cluster.clone(),
            pace: node.pace().clone(),
            sources: Sources::default(),
            pages: Pages::default(),
        };
        shutdown.spawn_until_told(async move { drive.run().await });
    }
}

impl JoiningDrive {
    async fn run(&self) {
        let mut waiting: Vec<JoiningSlot> = Vec::new();
        let (mut looked_at, mut reminded): (Option<Arc<ClusterMap>>, Option<Instant>) = (None, None);
        loop {
            let map = self.cluster.map();
            let changed = looked_at.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &map));
            let taken_again = waiting.iter().any(|slot| !slot.counts(&self.store));
            if self.is_known(&map) && (changed || taken_again) {
                self.gather(&map, &mut waiting);
                looked_at = Some(Arc::clone(&map));
            }
            if waiting.is_empty() {
                reminded = None;
            } else {
                let failure = self.round(&mut waiting).await.err();
                if waiting.is_empty() {
                    tracing::debug!(drive = %self.store.id(), "all of its slots vote; shards that are missing are marked");
                } else if reminded.get_or_insert_with(Instant::now).elapsed() >= REMIND {
                    reminded = Some(Instant::now());
                    let failure = failure.map(|error| error.to_string()).unwrap_or_default();
                    tracing::warn!(
                        drive = %self.store.id(), partitions = waiting.len(), failure,
                        "slots wait until enough others of their partitions vote and answer"
                    );
                }
            }
            let moves = map.target.is_some() || waiting.iter().any(JoiningSlot::is_moved);
            tokio::time::sleep(if moves { SHORT_PAUSE } else { PAUSE }).await;
        }
    }

    /// Whether callers address this incarnation of the drive on this node.
    fn is_known(&self, map: &ClusterMap) -> bool {
        map.locate(self.store.id()) == Some((&self.node, self.store.incarnation()))
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(self.cluster.map().layout.n())
    }

    /// Keeps of `waiting` what the drive still holds, and adds what it holds without a vote.
    fn gather(&self, map: &ClusterMap, waiting: &mut Vec<JoiningSlot>) {
        let held = map.slots_on(self.store.id());
        waiting.retain(|slot| held.contains(&slot.place()) && slot.counts(&self.store));
        let geometry = Geometry::new(map.layout.n());
        for (partition, slot) in &held {
            if self.store.partition(*partition).role == Role::Voter
                || waiting.iter().any(|waiting| waiting.place().0 == *partition)
            {
                continue;
            }
            let moves = map.record(*partition).slots[usize::from(slot.0)].source.is_some();
            let cause = if moves { Cause::Moved } else { Cause::Lost };
            waiting.push(JoiningSlot::new(geometry, (*partition, *slot), cause, &self.store));
        }
        self.tell(held.len(), waiting);
    }

    fn tell(&self, slots: usize, waiting: &[JoiningSlot]) {
        if self.store.incarnation() > Incarnation(0) {
            let waiting = waiting.iter().filter(|slot| !slot.is_moved()).count();
            self.store.tell_joining(DriveJoin { partitions: slots as u32, waiting: waiting as u32 });
        }
    }

    /// Takes every slot as far as it goes now; those that vote, or are another drive's by now, are removed.
    async fn round(&self, waiting: &mut Vec<JoiningSlot>) -> Result<(), JoinError> {
        let slots = self.cluster.map().slots_on(self.store.id()).len();
        let done = self.advance(slots, waiting).await;
        waiting.retain(|slot| !slot.is_over());
        self.tell(slots, waiting);
        done
    }

    async fn advance(&self, slots: usize, waiting: &mut Vec<JoiningSlot>) -> Result<(), JoinError> {
        let is_out = |slot: &&mut JoiningSlot| self.store.partition(slot.place().0).role == Role::Out;
        let mut unmarked: Vec<&mut JoiningSlot> = waiting.iter_mut().filter(is_out).collect();
        for chunk in unmarked.chunks_mut(TOGETHER) {
            let _turn = self.pace.turn(Urgency::Prompt).await;
            self.mark(chunk).await?;
        }
        waiting.retain(|slot| !slot.is_over());
        for from in (0..waiting.len()).step_by(TOGETHER) {
            let to = (from + TOGETHER).min(waiting.len());
            let chunk = &mut waiting[from..to];
            let learn = |slot| JoiningSlot::learn(slot, self);
            stream::iter(chunk.iter_mut()).for_each_concurrent(TOGETHER, learn).await;
            let turn = self.pace.turn(Urgency::Prompt).await;
            self.publish(chunk).await?;
            let cut_over = |slot| JoiningSlot::cut_over(slot, self);
            stream::iter(chunk.iter_mut()).for_each_concurrent(TOGETHER, cut_over).await;
            drop(turn);
            let left: Vec<_> = waiting.iter().filter(|slot| !slot.is_over()).cloned().collect();
            self.tell(slots, &left);
        }
        Ok(())
    }

    /// The map calls these slots JOINING, and they are.
    async fn mark(&self, chunk: &mut [&mut JoiningSlot]) -> Result<(), JoinError> {
        let places: Vec<_> = chunk.iter().map(|slot| slot.place()).collect();
        let joining = |_: usize, record: &mut PartitionRecord, slot: SlotIndex| {
            record.slots[usize::from(slot.0)].role = SlotRole::Joining;
            true
        };
        let epochs = self.raise(&places, &joining).await?;
        let mut begun = Vec::new();
        for (slot, epoch) in chunk.iter_mut().zip(epochs) {
            match epoch {
                Some(epoch) => begun.push(self.store.begin_to_join(slot.place().0, epoch)),
                None => slot.give_up(),
            }
        }
        try_join_all(begun).await?;
        Ok(())
    }

    /// Raises the epoch of those that have learned; that of a slot that was taken rose when it was.
    async fn publish(&self, chunk: &mut [JoiningSlot]) -> Result<(), JoinError> {
        let mut learned: Vec<_> = chunk.iter_mut().filter(|slot| slot.has_learned()).collect();
        let places: Vec<_> = learned.iter().map(|slot| slot.place()).collect();
        let moved: Vec<bool> = learned.iter().map(|slot| slot.is_moved()).collect();
        let votes = |at: usize, record: &mut PartitionRecord, slot: SlotIndex| {
            let role = &mut record.slots[usize::from(slot.0)].role;
            let before = std::mem::replace(role, SlotRole::Voter);
            before != SlotRole::Voter || !moved[at]
        };
        let epochs = self.raise(&places, &votes).await?;
        for (slot, epoch) in learned.iter_mut().zip(epochs) {
            match epoch {
                Some(epoch) => slot.published(epoch),
                None => slot.give_up(),
            }
        }
        Ok(())
    }

    /// Changes the records of slots that the drive holds, and says their epochs; `None` for one that it does not hold.
    async fn raise(
        &self,
        places: &[(PartitionId, SlotIndex)],
        change: &(dyn Fn(usize, &mut PartitionRecord, SlotIndex) -> bool + Send + Sync),
    ) -> Result<Vec<Option<Epoch>>, CoordinatorError> {
        let (map, drive) = (self.cluster.map(), self.store.id());
        let partitions: Vec<PartitionId> = places.iter().map(|(partition, _)| *partition).collect();
        let ours: Vec<AtomicBool> = places.iter().map(|_| AtomicBool::new(false)).collect();
        let held = |at: usize, record: &mut PartitionRecord| {
            let (partition, slot) = places[at];
            let holds = map.holder(record, partition, slot) == drive;
            ours[at].store(holds, Ordering::Relaxed);
            holds && change(at, record, slot)
        };
        let n = map.layout.n();
        let changed = change_partitions(&*self.cluster.coordinator(), n, &partitions, None, &held).await?;
        let epochs = changed.into_iter().zip(&ours);
        Ok(epochs.map(|(changed, ours)| ours.load(Ordering::Relaxed).then_some(changed.epoch)).collect())
    }
}
