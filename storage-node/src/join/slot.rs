//! One slot on its way to its vote: the protocol's machine, and what carries out its actions.

use std::collections::HashMap;

use coffer_common::cluster::{SlotSource, SlotTarget};
use coffer_common::node::{HandOverRequest, NodeError, SlotAddress};
use coffer_common::protocol::join::{Action, Cause, Event, Join};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{DriveId, Epoch, Incarnation, PartitionId, SlotIndex, SlotSet};
use parking_lot::Mutex;

use super::JoiningDrive;
use crate::pace::Urgency;
use crate::store::DriveStore;

/// A voter's drive, as long as it keeps its state.
type Source = (DriveId, Incarnation);

/// How far the bucket revisions of each voter's drive have been taken over; they are the same for all partitions.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<Source, u64>>);

/// Whether the drive that a slot has left knows all that the slot has promised. Not if this drive has voted as the slot and lost
/// its state since: then it has an incarnation of its own, and has not begun to take the slot since it was opened.
fn former_counts(incarnation: Incarnation, takes: u64) -> bool {
    incarnation == Incarnation(0) || takes > 0
}

/// The slot.
#[derive(Clone, Debug)]
pub(super) struct JoiningSlot {
    partition: PartitionId,
    slot: SlotIndex,
    cause: Cause,
    machine: Join,
    /// What the machine waits for.
    action: Action,
    /// Voters that have handed over under the epoch of the cut-over.
    handed_over: SlotSet,
    /// How far each voter's registers have been taken over.
    positions: HashMap<Source, u64>,
    /// How often the drive had begun to take a slot of the partition.
    takes: u64,
    /// Whether the drive that it has left may stand for it.
    former_counts: bool,
    /// It votes, or is not the drive's any more.
    over: bool,
}

impl JoiningSlot {
    pub(super) fn new(
        geometry: Geometry,
        (partition, slot): (PartitionId, SlotIndex),
        cause: Cause,
        store: &DriveStore,
    ) -> Self {
        let takes = store.takes(partition);
        let former_counts = cause == Cause::Moved && former_counts(store.incarnation(), takes);
        let (machine, action) = Join::start(geometry, slot, cause);
        let (handed_over, positions) = (SlotSet::default(), HashMap::new());
        Self {
            partition,
            slot,
            cause,
            machine,
            action,
            handed_over,
            positions,
            takes,
            former_counts,
            over: false,
        }
    }

    /// Whether another drive had the slot before.
    pub(super) fn is_moved(&self) -> bool {
        self.cause == Cause::Moved
    }

    pub(super) fn place(&self) -> (PartitionId, SlotIndex) {
        (self.partition, self.slot)
    }

    /// Whether the drive has not begun to take a slot of the partition since: what was handed over before that is gone.
    pub(super) fn counts(&self, store: &DriveStore) -> bool {
        self.takes == store.takes(self.partition)
    }

    pub(super) fn has_learned(&self) -> bool {
        self.action == Action::Publish
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The slot is another drive's.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    pub(super) fn published(&mut self, epoch: Epoch) {
        self.step(Event::Published(epoch));
    }

    fn step(&mut self, event: Event) {
        if let Some(action) = self.machine.step(event) {
            self.action = action;
        }
    }

    /// Copies the registers of the first voter that answers, if that is what is to be done.
    pub(super) async fn learn(&mut self, drive: &JoiningDrive) {
        let Action::Learn(others) = self.action else { return };
        let epoch = drive.store.partition(self.partition).epoch;
        for voter in self.in_turn(others, drive) {
            match self.copy((voter.slot, epoch), Some(Urgency::Prompt), drive).await {
                Ok(_) => return self.step(Event::Learned),
                Err(error) => self.silent(voter.slot, &error),
            }
        }
    }

    /// Has voters adopt the new epoch and tell what is new, until enough have, if that is what is to be done; then votes. The
    /// caller has a turn for it.
    pub(super) async fn cut_over(&mut self, drive: &JoiningDrive) {
        let (epoch, others) = match self.action {
            Action::CutOver(epoch, _) => (epoch, self.others(drive)),
            Action::Vote(epoch) => return self.vote(epoch, drive).await,
            Action::Learn(_) | Action::Publish | Action::Retire => return,
        };
        for voter in self.in_turn(others, drive) {
            match self.copy((voter.slot, epoch), None, drive).await {
                Ok(adopted) => {
                    self.handed_over.insert(voter.slot);
                    self.step(Event::HandedOver(voter.slot, adopted));
                }
                Err(error) => self.silent(voter.slot, &error),
            }
            if let Action::Vote(epoch) = self.action {
                return self.vote(epoch, drive).await;
            }
        }
    }

    async fn vote(&mut self, epoch: Epoch, drive: &JoiningDrive) {
        match drive.store.vote(self.partition, epoch, self.takes).await {
            Ok(()) => self.over = true,
            Err(error) => tracing::debug!(partition = self.partition.0, %error, "the vote was not recorded"),
        }
    }

    /// Those that have not handed over yet; the slot itself stands for the drive that it has left, if that counts.
    fn others(&self, drive: &JoiningDrive) -> SlotSet {
        let own = if self.former_counts { 0 } else { 1 << self.slot.0 };
        SlotSet(drive.geometry().all().0 & !(self.handed_over.0 | own))
    }

    fn silent(&mut self, voter: SlotIndex, error: &NodeError) {
        tracing::debug!(partition = self.partition.0, slot = voter.0, %error, "a slot hands nothing over");
        self.step(Event::Silent(voter));
    }

    /// The voters among these slots that are expected to answer, another one first for each partition. The others have
    /// their turn when they are back: with thousands of partitions nobody waits for what is known to be away.
    fn in_turn(&self, slots: SlotSet, drive: &JoiningDrive) -> Vec<SlotTarget> {
        let mut targets = self.givers(drive);
        targets.retain(|target| {
            let alive = drive.cluster.alive(&target.node, &target.address.drive);
            alive && target.voter && slots.contains(target.slot)
        });
        if !targets.is_empty() {
            let first = usize::from(self.partition.0) % targets.len();
            targets.rotate_left(first);
        }
        targets
    }

    /// The partition's slots, with the drive that this one has left in its place.
    fn givers(&self, drive: &JoiningDrive) -> Vec<SlotTarget> {
        let mut targets = drive.cluster.map().targets(self.partition);
        if let Some(own) = targets.iter_mut().find(|target| target.slot == self.slot)
            && let Some(SlotSource { drive, incarnation, node }) = own.source.take()
        {
            (own.address.drive, own.address.incarnation, own.node) = (drive, incarnation, node);
        }
        targets
    }

    /// Takes over what a voter has to tell from where it was left, and says which epoch the voter has adopted.
    async fn copy(
        &mut self,
        (voter, epoch): (SlotIndex, Epoch),
        urgency: Option<Urgency>,
        drive: &JoiningDrive,
    ) -> Result<Epoch, NodeError> {
        let gone = || NodeError::Invalid("it votes no more".to_owned());
        let mut targets = self.givers(drive).into_iter();
        let target = targets.find(|target| target.slot == voter && target.voter).ok_or_else(gone)?;
        let client = drive.cluster.reach(&target.node)?;
        let source = (target.address.drive, target.address.incarnation);
        let own = SlotAddress {
            drive: drive.store.id(),
            incarnation: drive.store.incarnation(),
            slot: self.slot,
            ..target.address
        };
        loop {
            let request = HandOverRequest {
                address: SlotAddress { epoch, ..target.address },
                after: self.positions.get(&source).copied().unwrap_or_default(),
                buckets_after: drive.sources.0.lock().get(&source).copied().unwrap_or_default(),
            };
            let asked = drive.pages.ask((&target.node, &client), request, (&drive.pace, urgency));
            let told = asked.await;
            drive.cluster.report(&target.node, told.as_ref().map(drop));
            let page = told?;
            drive.store.take_over(&own, &page).await?;
            self.positions.insert(source, page.position);
            if page.complete {
                let mut known = drive.sources.0.lock();
                let position = known.entry(source).or_default();
                *position = page.buckets_position.max(*position);
                return Ok(page.epoch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drive_before_does_not_stand_for_a_slot_that_may_have_voted_here_and_been_lost() {
        assert!(former_counts(Incarnation(0), 0) && former_counts(Incarnation(0), 1));
        assert!(former_counts(Incarnation(2), 1), "it was taken by the drive as it is");
        assert!(!former_counts(Incarnation(1), 0));
    }
}
