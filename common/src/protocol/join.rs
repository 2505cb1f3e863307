//! A slot that must learn what its partition has promised before it may vote (PROTOCOL §8): its drive has lost its
//! state, or another drive takes the slot over.
//!
//! Owns the order of the steps, and how many voters must have handed over. Never copies a register itself: what a voter
//! tells is taken over with `BucketState::adopt` and `Register::hand_over`. A node drives it for
//! drives that have lost their state (`storage-node/src/join`), the simulation for all causes.
//!
//! ```text
//! LOST     Learn (registers, in bulk) -> Publish -> CutOver: R0 voters adopt the epoch and hand over -> Vote
//! MOVED    Publish -> CutOver: M of the slots as they were, because the old drive may still serve old callers -> Vote
//! RETIRED  Retire (the old drive refuses everything for good, its exact state is here) -> Publish -> Vote
//! ```
//!
//! The slots as they were are the other voters and the old drive: if that one adopts the epoch and tells what it has, it counts
//! like any other (as the slot's own index), and if it is gone M others do. Any quorum that an old caller may have met has
//! met one of them before it adopted.
//!
//! Crash consistency: nothing here is kept. A slot that restarts before `Vote` is durable begins anew; what it has
//! recorded is never more than some voter has told, and does no harm. Of one partition several slots may be LOST at a
//! time, as long as R0 vote; MOVED and RETIRED only one, which begins while no other is under way. Others may be LOST then. The
//! slot that is under way may move on before it votes, back or to a third drive: the drive that it leaves then tells nothing, so
//! that M others do, which meet every quorum of it and of those before.

use crate::types::{Epoch, SlotIndex, SlotSet};

use super::quorum::Geometry;

/// Why a slot has to learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its drive has lost its state: emptied, replaced, rolled back. The map marks it JOINING.
    Lost,
    /// It moves from a drive that may still be alive, whether or not it can be reached.
    Moved,
    /// It moves from a drive that can be reached, and gives its exact state.
    Retired,
}

/// What the driver of the machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Copy the registers of one of these voters; they count for nothing yet.
    Learn(SlotSet),
    /// Have the old drive refuse everything for good, durably, and take its exact state.
    Retire,
    /// Raise the partition's epoch in the map.
    Publish,
    /// Have each of these adopt the epoch, and then tell floor, bucket revisions and registers. A moved slot itself stands
    /// for its old drive.
    CutOver(Epoch, SlotSet),
    /// Vote, under this epoch; durable before anything is answered.
    Vote(Epoch),
}

/// What the driver tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A voter's registers are recorded here.
    Learned,
    /// The old drive's state is here, and it serves nobody any more.
    Retired,
    /// The map has this epoch.
    Published(Epoch),
    /// A voter (the slot itself: the old drive) has adopted this epoch, and all that it told after that is recorded here.
    HandedOver(SlotIndex, Epoch),
    /// The slot did not answer, or is no voter.
    Silent(SlotIndex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Learning,
    Retiring,
    Publishing,
    CuttingOver { epoch: Epoch, from: SlotSet },
    Voting,
}

/// The machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Join {
    geometry: Geometry,
    slot: SlotIndex,
    cause: Cause,
    stage: Stage,
}

impl Join {
    /// A slot begins; the action comes first.
    pub fn start(geometry: Geometry, slot: SlotIndex, cause: Cause) -> (Self, Action) {
        let join = |stage| Self { geometry, slot, cause, stage };
        match cause {
            Cause::Lost => {
                let join = join(Stage::Learning);
                (join, Action::Learn(join.others()))
            }
            Cause::Moved => (join(Stage::Publishing), Action::Publish),
            Cause::Retired => (join(Stage::Retiring), Action::Retire),
        }
    }

    fn others(self) -> SlotSet {
        SlotSet(self.geometry.all().0 & !(1 << self.slot.0))
    }

    /// Who may hand over. The slot itself stands for the drive that it moves away from.
    fn givers(self) -> SlotSet {
        if self.cause == Cause::Moved { self.geometry.all() } else { self.others() }
    }

    /// Voters that must hand over.
    fn need(self) -> usize {
        match self.cause {
            Cause::Lost => self.geometry.join_quorum(),
            Cause::Moved => self.geometry.move_quorum(),
            Cause::Retired => 0,
        }
    }

    /// Takes an event; one that is out of place changes nothing.
    pub fn step(&mut self, event: Event) -> Option<Action> {
        match (self.stage, event) {
            (Stage::Learning, Event::Learned) | (Stage::Retiring, Event::Retired) => {
                self.stage = Stage::Publishing;
                Some(Action::Publish)
            }
            (Stage::Learning, Event::Silent(_)) => Some(Action::Learn(self.others())),
            (Stage::Retiring, Event::Silent(_)) => Some(Action::Retire),
            (Stage::Publishing, Event::Published(epoch)) if self.need() == 0 => {
                self.stage = Stage::Voting;
                Some(Action::Vote(epoch))
            }
            (Stage::Publishing, Event::Published(epoch)) => {
                self.stage = Stage::CuttingOver { epoch, from: SlotSet::default() };
                Some(Action::CutOver(epoch, self.givers()))
            }
            (Stage::CuttingOver { epoch, mut from }, Event::HandedOver(voter, adopted)) => {
                if adopted < epoch || !self.givers().contains(voter) {
                    return None;
                }
                from.insert(voter);
                if from.len() < self.need() {
                    self.stage = Stage::CuttingOver { epoch, from };
                    return None;
                }
                self.stage = Stage::Voting;
                Some(Action::Vote(epoch))
            }
            (Stage::CuttingOver { epoch, from }, Event::Silent(voter)) if !from.contains(voter) => {
                Some(Action::CutOver(epoch, SlotSet(1 << voter.0)))
            }
            (Stage::Learning | Stage::Retiring | Stage::Publishing, _)
            | (Stage::CuttingOver { .. } | Stage::Voting, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotIndex = SlotIndex(0);

    fn start(cause: Cause) -> (Join, Action) {
        Join::start(Geometry::new(4), SLOT, cause)
    }

    fn handed_over(join: &mut Join, voter: u8, epoch: u64) -> Option<Action> {
        join.step(Event::HandedOver(SlotIndex(voter), Epoch(epoch)))
    }

    #[test]
    fn a_slot_that_lost_its_state_votes_after_r0_others_have_adopted_the_cut_over() {
        let (mut join, first) = start(Cause::Lost);
        assert_eq!(first, Action::Learn(SlotSet(0b1110)));
        assert_eq!(join.step(Event::Published(Epoch(3))), None);
        assert_eq!(join.step(Event::Silent(SlotIndex(2))), Some(first));
        assert_eq!(join.step(Event::Learned), Some(Action::Publish));
        assert_eq!(join.step(Event::Published(Epoch(3))), Some(Action::CutOver(Epoch(3), SlotSet(0b1110))));
        assert_eq!(handed_over(&mut join, 1, 3), None);
        // Itself, the same voter again, and one that has not adopted the epoch.
        assert_eq!(
            [(0, 3), (1, 3), (2, 2)].map(|(voter, epoch)| handed_over(&mut join, voter, epoch)),
            [None; 3]
        );
        let again = join.step(Event::Silent(SlotIndex(2)));
        assert_eq!(again, Some(Action::CutOver(Epoch(3), SlotSet(0b0100))));
        assert_eq!(handed_over(&mut join, 2, 4), Some(Action::Vote(Epoch(3))));
        assert_eq!(handed_over(&mut join, 3, 4), None);
    }

    #[test]
    fn a_moved_slot_needs_a_majority_of_the_slots_as_they_were() {
        for last in [0, 3] {
            let (mut join, first) = start(Cause::Moved);
            assert_eq!(first, Action::Publish);
            let all = Action::CutOver(Epoch(1), SlotSet(0b1111));
            assert_eq!(join.step(Event::Published(Epoch(1))), Some(all));
            assert_eq!([1, 2, 1].map(|voter| handed_over(&mut join, voter, 1)), [None; 3]);
            assert_eq!(handed_over(&mut join, last, 0), None, "it has not adopted the epoch");
            assert_eq!(handed_over(&mut join, last, 1), Some(Action::Vote(Epoch(1))), "slot {last}");
        }
    }

    #[test]
    fn a_slot_whose_old_drive_has_retired_votes_with_its_exact_state() {
        let (mut join, first) = start(Cause::Retired);
        assert_eq!((first, join.step(Event::Silent(SLOT))), (Action::Retire, Some(Action::Retire)));
        assert_eq!(join.step(Event::Retired), Some(Action::Publish));
        assert_eq!(join.step(Event::Published(Epoch(1))), Some(Action::Vote(Epoch(1))));
    }
}
