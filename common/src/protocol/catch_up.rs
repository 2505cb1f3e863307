//! What a slot that lacks something takes over from others, and what others owe it (PROTOCOL §3.5, §3.6).
//!
//! Owns: which versions are worth having at all, which slots are owed one, what is recorded of what a peer tells, and
//! whether a missing shard is to be rebuilt. Never reads a shard, never lowers anything, never deletes.
//!
//! 1. A peer tells the versions that it holds STABLE and that a slot has not acknowledged ([`owed_to`]).
//! 2. The slot records them without their shards ([`learn`]), which makes the shards missing there, and tells STABLE with
//!    itself among those that acknowledged: nothing is owed any more.
//! 3. Of each missing shard it asks R0 slots, itself included, whether the version is still wanted ([`CatchUp`]), rebuilds
//!    the shard from k others, and installs it ([`install`]).
//!
//! Only STABLE versions are taken over. What is COMMITTED somewhere is being settled, and owed once it is STABLE. A slot
//! takes a peer's word for STABLE, because that is never taken back; it is told, and recorded, within one epoch.

use crate::types::{Epoch, Fence, OpId, RegisterKind, SlotIndex, SlotSet, Tag};

use super::action::{Action, Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer};
use super::fenced::Trouble;
use super::message::{Refusal, SlotReply, SlotRequest, SlotVersion, Version, VersionState};
use super::quorum::Geometry;
use super::register::Register;
use super::round::{Answer, Progress, Round};
use super::slot::{Caller, Served, Slot};

/// The versions that are not superseded: the current one and those that are kept below it.
pub fn retained(register: &Register, kind: RegisterKind) -> impl Iterator<Item = &SlotVersion> {
    let superseded: Vec<OpId> = register.freeable(kind).map(|held| held.version.op).collect();
    register.versions.iter().filter(move |held| !superseded.contains(&held.version.op))
}

/// The slots among `all` that are not known to hold some retained version that is STABLE here.
pub fn owed(register: &Register, kind: RegisterKind, all: SlotSet) -> SlotSet {
    let lacks = |held: &SlotVersion| all.0 & !held.acknowledged.0;
    if register.versions.iter().all(|held| held.state != VersionState::Stable || lacks(held) == 0) {
        return SlotSet::default();
    }
    let stable = retained(register, kind).filter(|held| held.state == VersionState::Stable);
    SlotSet(stable.map(lacks).fold(0, |owed, lacks| owed | lacks))
}

/// The versions that are owed to a slot, ascending by tag.
pub fn owed_to(
    register: &Register,
    kind: RegisterKind,
    slot: SlotIndex,
) -> impl Iterator<Item = &SlotVersion> {
    let stable = retained(register, kind).filter(|held| held.state == VersionState::Stable);
    stable.filter(move |held| !held.acknowledged.contains(slot))
}

/// The newest retained version whose shard should be here and is not.
pub fn missing(register: &Register, kind: RegisterKind) -> Option<&SlotVersion> {
    if register.versions.iter().all(|held| held.shard_present) {
        return None;
    }
    retained(register, kind).filter(|held| !held.shard_present).last()
}

/// What is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The version.
    pub version: Version,
    /// Its tag.
    pub tag: Tag,
    /// Whether the source held it STABLE.
    pub source_stable: bool,
}

/// Serves an INSTALL; `has_shard` tells whether its shard is durable here.
pub fn install(slot: Slot<'_>, caller: Caller, install: &Install, has_shard: bool) -> Served {
    let Slot { partition, register, .. } = slot;
    let partition_changed = match partition.admit(caller.epoch) {
        Ok(changed) => changed,
        Err(refusal) => return refused(refusal),
    };
    let Install { version, tag, source_stable } = install;
    let state = if *source_stable { VersionState::Stable } else { VersionState::Learned };
    let register_changed = register.install(partition, (version, *tag, state), has_shard);
    Served { reply: SlotReply::Done, partition_changed, register_changed }
}

/// Records what a peer holds STABLE, without shards.
pub fn learn(slot: Slot<'_>, caller: Caller, told: &[SlotVersion]) -> Served {
    let Slot { partition, register, .. } = slot;
    let partition_changed = match partition.admit(caller.epoch) {
        Ok(changed) => changed,
        Err(refusal) => return refused(refusal),
    };
    let mut register_changed = false;
    for held in told.iter().filter(|held| held.state == VersionState::Stable) {
        let version = (&held.version, held.tag, VersionState::Stable);
        register_changed |= register.install(partition, version, false);
        register_changed |= register.know_acknowledged((held.version.op, held.tag), held.acknowledged);
    }
    Served { reply: SlotReply::Done, partition_changed, register_changed }
}

fn refused(refusal: Refusal) -> Served {
    Served { reply: SlotReply::Refused(refusal), partition_changed: false, register_changed: false }
}

/// Which of the versions that a peer told are recorded here as STABLE: the peers may be told so.
pub fn confirmed<'a>(
    register: &'a Register,
    told: &'a [SlotVersion],
) -> impl Iterator<Item = &'a SlotVersion> {
    let holds = |told: &SlotVersion| {
        let same = |held: &&SlotVersion| held.version.op == told.version.op && held.tag == told.tag;
        register.versions.iter().find(same).is_some_and(|held| held.state == VersionState::Stable)
    };
    told.iter().filter(move |told| holds(told))
}

/// What is to be done about a missing shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The version is wanted: rebuild its shard, and install it under this epoch.
    Rebuild {
        /// The epoch that the answers were given in.
        epoch: Epoch,
        /// Whether some slot holds the version STABLE.
        stable: bool,
        /// The slots that say they hold their shard; others may as well, if the version is not the current one.
        holders: SlotSet,
    },
    /// This version has replaced it: record that one instead, and the old one can be freed.
    Superseded(Epoch, SlotVersion),
    /// It cannot be told now.
    Unavailable(Trouble),
}

/// Asks the other slots about a version whose shard is missing here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CatchUp {
    round: Round,
    kind: RegisterKind,
    own: SlotIndex,
    first: SlotSet,
    version: Version,
    tag: Tag,
    done: bool,
}

type Out = Actions<Verdict>;

impl CatchUp {
    /// The slot `own` lacks its shard of this version; `first` are the slots to ask first, `own` not among them.
    pub fn new(
        (geometry, map): (Geometry, MapEpochs),
        kind: RegisterKind,
        (own, first): (SlotIndex, SlotSet),
        (version, tag): (Version, Tag),
    ) -> Self {
        Self { round: Round::new(geometry, map), kind, own, first, version, tag, done: false }
    }

    /// How many other slots are asked: with this one R0, and as many as make the version that may hold shards.
    pub fn need(geometry: Geometry, k: u8) -> usize {
        (geometry.r0() - 1).max(usize::from(k)).max(1)
    }

    fn others(&self) -> SlotSet {
        SlotSet(self.round.geometry.all().0 & !(1 << self.own.0))
    }

    fn ask(&mut self, slots: SlotSet, out: &mut Out) {
        self.round.send(slots, SlotRequest::Query { inline_data: true }, out);
        if slots != self.others() {
            self.round.hedge(out);
        }
    }

    fn advance(&mut self, out: &mut Out) {
        let need = Self::need(self.round.geometry, self.version.k);
        match self.round.progress(need, |answer| matches!(answer, Answer::View(_)), out) {
            Progress::Enough => self.end(self.judge(), out),
            Progress::Waiting => {
                if self.round.hurried() || self.round.which(|answer| *answer == Answer::Waiting).is_empty() {
                    let rest = self.round.which(|answer| *answer == Answer::NotAsked).0 & self.others().0;
                    self.round.ask(SlotSet(rest), out);
                }
            }
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced | Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn judge(&self) -> Verdict {
        let epoch = self.round.map.epoch;
        let views = self.round.answers().iter().zip(0_u8..).filter_map(|(answer, slot)| match answer {
            Answer::View(view) => view.current.as_ref().map(|current| (SlotIndex(slot), current)),
            _ => None,
        });
        let (mut stable, mut holders) = (false, SlotSet::default());
        let mut newer: Option<&SlotVersion> = None;
        for (slot, current) in views {
            if current.version.op == self.version.op {
                stable |= current.state == VersionState::Stable && current.tag == self.tag;
                if current.shard_present {
                    holders.insert(slot);
                }
            } else if self.is_replaced_by(current) && newer.is_none_or(|newer| current.tag > newer.tag) {
                newer = Some(current);
            }
        }
        match newer {
            Some(newer) => Verdict::Superseded(epoch, newer.clone()),
            None => Verdict::Rebuild { epoch, stable, holders },
        }
    }

    /// The rule of [`Register::freeable`], for a version that is not here yet.
    fn is_replaced_by(&self, current: &SlotVersion) -> bool {
        let replaces = current.version.null_version && current.state == VersionState::Stable;
        let replaceable = self.version.null_version || self.kind == RegisterKind::Part;
        replaces && replaceable && current.tag > self.tag
    }

    fn fail(&mut self, trouble: Trouble, out: &mut Out) {
        self.end(Verdict::Unavailable(self.round.explain(trouble)), out);
    }

    fn end(&mut self, verdict: Verdict, out: &mut Out) {
        if !std::mem::replace(&mut self.done, true) {
            out.push(Action::Done(verdict));
        }
    }
}

impl Machine for CatchUp {
    type Outcome = Verdict;

    fn start(&mut self) -> Out {
        let mut out = Vec::new();
        self.ask(self.first, &mut out);
        self.advance(&mut out);
        out
    }

    fn on_reply(&mut self, round: RoundNumber, slot: SlotIndex, reply: Result<SlotReply, Lost>) -> Out {
        let mut out = Vec::new();
        if !self.done && self.round.accept(round, slot, reply) {
            self.advance(&mut out);
        }
        out
    }

    fn on_timer(&mut self, timer: Timer) -> Out {
        let mut out = Vec::new();
        if !self.done && self.round.timer(timer, &mut out) {
            self.advance(&mut out);
        }
        out
    }

    fn on_lock(&mut self, _: Result<Fence, NoLock>) -> Out {
        Vec::new()
    }

    fn on_map(&mut self, map: MapEpochs) -> Out {
        let mut out = Vec::new();
        match self.round.take_map(map) {
            _ if self.done => {}
            Some(true) => self.ask(self.others(), &mut out),
            Some(false) => self.fail(Trouble::StaleMap, &mut out),
            None => {}
        }
        out
    }

    fn give_up(&mut self) -> Out {
        let mut out = Vec::new();
        self.fail(Trouble::GaveUp, &mut out);
        out
    }
}

#[cfg(test)]
mod tests;
