//! When something may be purged, that is, removed although nothing newer has taken its place (PROTOCOL §7): tombstones, and
//! orphans, the shards of writes that were refused or whose gateway died.
//!
//! Owns: what a slot tells of a candidate ([`Evidence`]), the verdict on what all slots have told ([`may_purge`]), and the
//! order of the steps ([`Purge`]). Never touches a shard; what is committed is never purged, readable or not.
//!
//! ```text
//! Look (all n) -> Publish (the map has a higher epoch) -> Adopt (all n; look again) -> Drop (each slot by itself)
//! ```
//!
//! 1. **Look.** Worth an epoch only if all n slots, voters of one epoch, say what would allow the purge.
//! 2. **Publish, Adopt.** The epoch is the fence: once all n have adopted it, whatever was sent under an older one is
//!    refused everywhere. A machine that comes back for the newer map ends if it sees a purge that concerns it: a COMMIT
//!    whose tag is older than a purge of tombstones, a write whose PREPARE is older than a purge of orphans
//!    (`MapEpochs::purge`, `MapEpochs::sweep`). So nobody who is paused, however long, brings anything back.
//! 3. **Look again**, in that epoch: what was committed before some slot adopted it shows now.
//! 4. **Drop.** A slot drops only what was a candidate in the first look, and only in that very epoch. A tombstone leaves its
//!    tag in the partition's floor.
//!
//! An orphan must have been seen before the epoch was raised: then its PREPARE named an older one, and its writer ends. The
//! time that it has waited (the grace that whoever purges asks for) spares writes that are slow; nothing is unsafe without it, so no clock and
//! no session decides. **Races.** Two purges of a partition raise two epochs; the slots refuse the drops of the older.
//! **Crash consistency.** Nothing is kept. A purge that ends anywhere has dropped only what may be dropped, and the next one
//! finds the rest: a slot without a version says so, which forbids nothing.

use crate::types::{Epoch, OpId, SlotIndex, Tag};

use super::flaw::Flaw;
use super::message::VersionState;
use super::quorum::Geometry;
use super::register::{PartitionState, Register, Role};

/// What is to be purged of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Candidate {
    /// The tombstone of this tag.
    Tombstone(Tag),
    /// The shards of an op that is only prepared.
    Orphan(OpId),
}

/// What one slot holds of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Held {
    /// No such op; for a tombstone, no version at all, and nobody holds the fence alone.
    Nothing = 1,
    /// The op is prepared, for less than the grace.
    Prepared = 2,
    /// The op is prepared, and has been for longer than the grace.
    Waited = 3,
    /// The tombstone is STABLE, nothing else is in the register, and nobody holds its fence alone.
    Alone = 4,
    /// Anything else: the op is a version here, whatever its state; the tombstone is not STABLE, not alone, fenced.
    Other = 5,
}

/// What one slot says of a candidate, and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// Its role.
    pub role: Role,
    /// The partition's epoch there.
    pub epoch: Epoch,
    /// The epoch of the last purge that it has adopted.
    pub purge_epoch: Epoch,
    /// What it holds.
    pub held: Held,
}

impl Evidence {
    /// What a slot says. `waited`: whether the op has been prepared for the grace.
    pub fn of(partition: &PartitionState, register: &Register, candidate: Candidate, waited: bool) -> Self {
        let held = match candidate {
            Candidate::Tombstone(tag) if register.floor_to_drop(tag).is_some() => Held::Alone,
            Candidate::Tombstone(_) if register.versions.is_empty() && register.exclusive.is_none() => {
                Held::Nothing
            }
            Candidate::Orphan(op) if register.versions.iter().any(|held| held.version.op == op) => {
                Held::Other
            }
            Candidate::Orphan(op) => match register.prepared.contains(&op) {
                true if waited => Held::Waited,
                true => Held::Prepared,
                false => Held::Nothing,
            },
            Candidate::Tombstone(_) => Held::Other,
        };
        let PartitionState { epoch, purge_epoch, role, .. } = *partition;
        Self { role, epoch, purge_epoch, held }
    }
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may go.
    Purge,
    /// A slot has not answered.
    Silent,
    /// A slot is no voter.
    NotVoter,
    /// The slots are not in the epoch, or have not adopted it for a purge.
    OtherEpoch,
    /// A slot holds what must stay.
    Held,
    /// There is nothing to purge.
    Nothing,
}

/// Whether a candidate may be purged on what the slots say, by slot. Before the epoch is raised (`adopted` is `None`) all
/// must be in one epoch; after that, in the one that was raised for this purge.
pub fn may_purge(
    geometry: Geometry,
    candidate: Candidate,
    adopted: Option<Epoch>,
    evidence: &[Option<Evidence>],
) -> Verdict {
    let told: Vec<Evidence> = evidence.iter().flatten().copied().collect();
    let asked = adopted.map_or(geometry.n(), |_| geometry.purge_adopters());
    if evidence.len() != geometry.n() || told.len() < asked {
        return Verdict::Silent;
    }
    if told.iter().any(|slot| slot.role != Role::Voter) {
        return Verdict::NotVoter;
    }
    let current = |slot: &Evidence| match adopted {
        None => slot.epoch == told[0].epoch,
        Some(epoch) => (slot.epoch, slot.purge_epoch) == (epoch, epoch),
    };
    if !geometry.breaks(Flaw::PurgesWithoutEpoch) && !told.iter().all(current) {
        return Verdict::OtherEpoch;
    }
    let forbids = |slot: &&Evidence| match candidate {
        Candidate::Tombstone(_) => !matches!(slot.held, Held::Nothing | Held::Alone),
        Candidate::Orphan(_) => !matches!(slot.held, Held::Nothing | Held::Waited),
    };
    let tolerated = usize::from(geometry.breaks(Flaw::PurgesOnTooFew));
    if told.iter().filter(forbids).count() > tolerated {
        return Verdict::Held;
    }
    let here = told.iter().any(|slot| matches!(slot.held, Held::Alone | Held::Waited));
    if here { Verdict::Purge } else { Verdict::Nothing }
}

/// What a slot's floor must have risen to before it drops a candidate, or does not because it has none.
pub fn floor_to_drop(register: &Register, candidate: Candidate) -> Option<Tag> {
    match candidate {
        Candidate::Tombstone(tag) => Some(register.floor_to_drop(tag).unwrap_or(tag)),
        Candidate::Orphan(_) => None,
    }
}

/// Drops a candidate at a slot: the last step, after the floor has risen. Returns whether the register changed.
pub fn drop_at(
    partition: &PartitionState,
    register: &mut Register,
    epoch: Epoch,
    candidate: Candidate,
) -> bool {
    let adopted = (partition.role, partition.epoch, partition.purge_epoch) == (Role::Voter, epoch, epoch);
    match candidate {
        _ if !adopted => false,
        Candidate::Tombstone(tag) => register.drop_tombstone(partition, tag),
        Candidate::Orphan(op) => register.abandon(op),
    }
}

/// What the driver of the machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask all slots about the candidates.
    Look,
    /// Raise the partition's epoch in the map, for a purge of these kinds.
    Publish {
        /// Some candidate is a tombstone.
        tombstones: bool,
        /// Some candidate is an orphan.
        orphans: bool,
    },
    /// Have all slots adopt this epoch for a purge, and ask them about the candidates then.
    Adopt(Epoch),
    /// Have each slot drop the candidates, under this epoch. This is the end, whatever comes of it.
    Drop(Epoch),
    /// There is nothing (more) to purge.
    Done,
}

/// The machine. Its candidates become fewer: what is asked and dropped is always what [`Self::candidates`] says then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Purge<K> {
    geometry: Geometry,
    candidates: Vec<(K, Candidate)>,
    /// By slot, in the order of the candidates.
    answers: Vec<Option<Vec<Evidence>>>,
    action: Action,
}

impl<K> Purge<K> {
    /// A purge of these candidates, each with the name of its register. The action is to look.
    pub fn new(geometry: Geometry, candidates: Vec<(K, Candidate)>) -> Self {
        Self { geometry, candidates, answers: vec![None; geometry.n()], action: Action::Look }
    }

    /// What is still to be purged.
    pub fn candidates(&self) -> &[(K, Candidate)] {
        &self.candidates
    }

    /// What is to be done.
    pub fn action(&self) -> Action {
        self.action
    }

    /// What a slot has told of the candidates, in their order, to a look or after it has adopted the epoch.
    pub fn answered(&mut self, slot: SlotIndex, evidence: Vec<Evidence>) {
        let adopted = match self.action {
            Action::Look => None,
            Action::Adopt(epoch) => Some(epoch),
            Action::Publish { .. } | Action::Drop(_) | Action::Done => return,
        };
        if evidence.len() != self.candidates.len() {
            return self.action = Action::Done;
        }
        let Some(answer) = self.answers.get_mut(usize::from(slot.0)) else { return };
        *answer = Some(evidence);
        let need = adopted.map_or(self.geometry.n(), |_| self.geometry.purge_adopters());
        if self.answers.iter().flatten().count() >= need {
            self.judge(adopted);
        }
    }

    fn judge(&mut self, adopted: Option<Epoch>) {
        let answers = std::mem::replace(&mut self.answers, vec![None; self.geometry.n()]);
        let mut at = 0..;
        self.candidates.retain(|(_, candidate)| {
            let at = at.next().unwrap_or_default();
            let evidence: Vec<_> = answers.iter().map(|told| told.as_ref().map(|told| told[at])).collect();
            may_purge(self.geometry, *candidate, adopted, &evidence) == Verdict::Purge
        });
        let any = |orphans| {
            let is = |(_, candidate): &(K, Candidate)| matches!(candidate, Candidate::Orphan(_)) == orphans;
            self.candidates.iter().any(is)
        };
        let epoch = answers.iter().flatten().flatten().map(|told| told.epoch).max().unwrap_or_default();
        self.action = match adopted {
            _ if self.candidates.is_empty() => Action::Done,
            None if self.geometry.breaks(Flaw::PurgesWithoutEpoch) => Action::Drop(epoch),
            None => Action::Publish { tombstones: any(false), orphans: any(true) },
            Some(epoch) => Action::Drop(epoch),
        };
    }

    /// The map has this epoch.
    pub fn published(&mut self, epoch: Epoch) {
        if matches!(self.action, Action::Publish { .. }) {
            self.action = Action::Adopt(epoch);
        }
    }
}

/// Whether a version is a tombstone that is worth asking others about; with its tag.
pub fn tombstone(register: &Register) -> Option<Tag> {
    let current = register.current().filter(|current| current.state == VersionState::Stable)?;
    register.floor_to_drop(current.tag).map(|_| current.tag)
}

#[cfg(test)]
mod tests;
