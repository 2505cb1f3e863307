//! What the views of one round say together: the highest committed version, and whether it is decided (PROTOCOL §5).

use crate::types::{Fence, OpId, SlotIndex, SlotSet, Tag};

use super::message::{SlotVersion, Version, VersionState};
use super::quorum::Geometry;
use super::round::Answer;

/// The version that a read or a condition rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Current {
    /// The version; a tombstone is told as such.
    pub version: Version,
    /// Its tag.
    pub tag: Tag,
    /// The answering slots that hold it as current, with its verified shard.
    pub holders: SlotSet,
    /// The answering slots that hold it as current, and not its shard.
    pub lacking: SlotSet,
}

/// The views of one round, added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally<'a> {
    /// Slots that gave a view.
    pub(super) views: usize,
    /// The version with the highest tag.
    pub(super) top: Option<&'a SlotVersion>,
    /// Who holds it COMMITTED or STABLE; LEARNED has no vote.
    pub(super) agreeing: SlotSet,
    /// Who holds it with its shard.
    pub(super) holders: SlotSet,
    /// Who holds it without.
    pub(super) lacking: SlotSet,
    /// Whether somebody knows it as STABLE.
    pub(super) stable: bool,
    /// The highest fence promised.
    pub(super) fence: Fence,
    /// Who holds that fence alone, if some slot says so.
    pub(super) exclusive: Option<OpId>,
    /// The highest tag that a writer must go beyond.
    pub(super) learn: Tag,
}

impl<'a> Tally<'a> {
    pub(super) fn of(answers: &'a [Answer]) -> Self {
        let mut tally = Self::default();
        for (slot, answer) in answers.iter().enumerate() {
            let Answer::View(view) = answer else { continue };
            tally.views += 1;
            if view.fence > tally.fence {
                (tally.fence, tally.exclusive) = (view.fence, None);
            }
            if let Some((fence, op)) = view.exclusive
                && fence == tally.fence
            {
                tally.exclusive = Some(op);
            }
            tally.learn = tally.learn.max(view.learn);
            if let Some(current) = &view.current {
                tally.add(SlotIndex(slot as u8), current);
            }
        }
        tally
    }

    fn add(&mut self, slot: SlotIndex, current: &'a SlotVersion) {
        if self.top.is_none_or(|top| current.tag > top.tag) {
            self.top = Some(current);
            self.agreeing = SlotSet::default();
            (self.holders, self.lacking) = (SlotSet::default(), SlotSet::default());
            self.stable = false;
        }
        if self.top.is_some_and(|top| current.tag == top.tag) {
            if current.state >= VersionState::Committed {
                self.agreeing.insert(slot);
            }
            let place = if current.shard_present { &mut self.holders } else { &mut self.lacking };
            place.insert(slot);
            self.stable |= current.state == VersionState::Stable;
        }
    }

    /// Rules 5.1 and 5.2; "nothing" counts as STABLE. The caller has made sure that there are R0 views.
    pub(super) fn decided(&self, geometry: Geometry) -> bool {
        self.top.is_none() || self.stable || self.agreeing.len() >= geometry.commit_evidence()
    }

    /// The highest version, owned.
    pub(super) fn current(&self) -> Option<Current> {
        self.top.map(|top| Current {
            version: top.version.clone(),
            tag: top.tag,
            holders: self.holders,
            lacking: self.lacking,
        })
    }
}
