//! One broadcast of a client machine and the answers it has got.
//!
//! Owns the bookkeeping that all machines share: which round is current, who has answered what, when to send again,
//! and when the rest need not be waited for. Never decides what an answer means for a version; [`super::tally`] and
//! the machines do. Answers of an earlier round, and so of an earlier epoch, are dropped here and nowhere else.
//!
//! Retries: a round is sent again to those that are silent or lost when its `Resend` timer fires, and sooner when
//! losses alone have made the quorum impossible; after [`RESENDS`] times what is silent counts as lost.

use crate::types::{Epoch, SlotIndex, SlotSet, Tag};

use super::action::{Action, Actions, Lost, MapEpochs, RoundNumber, Timer, TimerKind};
use super::fenced::Trouble;
use super::flaw::Flaw;
use super::message::{Refusal, RegisterView, SlotReply, SlotRequest, Version};
use super::quorum::Geometry;

/// How often a round is sent again.
const RESENDS: u8 = 2;

/// What one slot has said in the current round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "most answers are views, and there are at most 16 of them")]
pub(super) enum Answer {
    NotAsked,
    Waiting,
    Lost,
    View(RegisterView),
    Committed,
    WrongEpoch,
    /// Refused by a fence or by its exclusivity.
    Fenced,
    /// An answer that counts for nothing: the slot has no vote, is full, knows a newer bucket record.
    Void,
}

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More answers may come.
    Waiting,
    /// As many good answers as are needed.
    Enough,
    /// Fences make that number impossible.
    Fenced,
    /// Slots know a newer epoch, and without them that number is impossible.
    WrongEpoch,
    /// Losses make that number impossible.
    Lost,
}

/// The current round of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Round {
    pub(super) geometry: Geometry,
    pub(super) map: MapEpochs,
    number: RoundNumber,
    answers: Vec<Answer>,
    /// What to send again; `None` for PREPARE, whose streams cannot be repeated.
    request: Option<SlotRequest>,
    /// The rest need not be waited for any more.
    hurry: bool,
    hurry_set: bool,
    retry_set: bool,
    resends: u8,
    refreshing: bool,
    bucket_changed: Option<u64>,
    /// Whether a slot has refused data for want of room.
    full: bool,
}

impl Round {
    pub(super) fn new(geometry: Geometry, map: MapEpochs) -> Self {
        Self {
            geometry,
            map,
            number: 0,
            answers: vec![Answer::NotAsked; geometry.n()],
            request: None,
            hurry: false,
            hurry_set: false,
            retry_set: false,
            resends: 0,
            refreshing: false,
            bucket_changed: None,
            full: false,
        }
    }

    fn reset(&mut self) {
        self.number += 1;
        self.answers.fill(Answer::NotAsked);
        self.request = None;
        (self.hurry, self.hurry_set, self.retry_set) = (false, false, false);
        self.resends = 0;
        self.refreshing = false;
    }

    /// Ends the round without beginning another.
    pub(super) fn close(&mut self) {
        self.reset();
    }

    /// Begins a round of PREPAREs.
    pub(super) fn prepare<O>(&mut self, out: &mut Actions<O>) {
        self.reset();
        self.answers.fill(Answer::Waiting);
        let slots = self.geometry.all();
        out.push(Action::Prepare { round: self.number, epoch: self.map.epoch, slots });
    }

    /// Begins a round that sends the request to these slots.
    pub(super) fn send<O>(&mut self, slots: SlotSet, request: SlotRequest, out: &mut Actions<O>) {
        self.reset();
        self.request = Some(request);
        self.ask(slots, out);
        self.set_timer(TimerKind::Resend, out);
    }

    /// Sends the current round's request to further slots.
    pub(super) fn ask<O>(&mut self, slots: SlotSet, out: &mut Actions<O>) {
        for slot in slots.iter() {
            self.answers[usize::from(slot.0)] = Answer::Waiting;
        }
        if let Some(request) = self.request.clone()
            && !slots.is_empty()
        {
            out.push(Action::Send { round: self.number, epoch: self.map.epoch, slots, request });
        }
    }

    /// Sends something to all slots without a round.
    pub(super) fn notify<O>(&self, request: SlotRequest, out: &mut Actions<O>) {
        out.push(Action::Notify { epoch: self.map.epoch, slots: self.geometry.all(), request });
    }

    /// Has all slots told that the version is STABLE.
    pub(super) fn tell_stable<O>(
        &self,
        version: &Version,
        tag: Tag,
        acknowledged: SlotSet,
        out: &mut Actions<O>,
    ) {
        let (epoch, version) = (self.map.epoch, version.clone());
        out.push(Action::Stable { epoch, version, tag, acknowledged });
    }

    pub(super) fn set_timer<O>(&self, kind: TimerKind, out: &mut Actions<O>) {
        out.push(Action::SetTimer(Timer { round: self.number, kind }));
    }

    /// Asks for a newer map; answers to what was sent under the old one no longer count.
    pub(super) fn refresh<O>(&mut self, out: &mut Actions<O>) {
        let kept = self.which(|answer| *answer == Answer::Committed);
        self.reset();
        if self.geometry.breaks(Flaw::AddsUpEpochs) {
            self.keep(kept);
        }
        self.refreshing = true;
        out.push(Action::RefreshMap(self.map.epoch));
    }

    /// Sends the same COMMIT again in a new epoch, and counts afresh.
    pub(super) fn commit_again<O>(&mut self, request: SlotRequest, out: &mut Actions<O>) {
        let kept = self.which(|answer| *answer == Answer::Committed);
        self.send(self.geometry.all(), request, out);
        if self.geometry.breaks(Flaw::AddsUpEpochs) {
            self.keep(kept);
        }
    }

    /// Whether shards that were prepared in this epoch may have been purged as orphans since, as far as the map tells.
    pub(super) fn is_swept_since(&self, prepared_in: Epoch) -> bool {
        self.map.sweep > prepared_in && !self.geometry.breaks(Flaw::CommitsOverSweep)
    }

    fn keep(&mut self, committed: SlotSet) {
        for slot in committed.iter() {
            self.answers[usize::from(slot.0)] = Answer::Committed;
        }
    }

    /// Takes the map that was asked for; says whether it was asked for and is newer.
    pub(super) fn take_map(&mut self, map: MapEpochs) -> Option<bool> {
        let asked = std::mem::take(&mut self.refreshing);
        let newer = map.epoch > self.map.epoch;
        if newer {
            self.map = map;
        }
        asked.then_some(newer)
    }

    /// Records a reply; says whether it belongs to this round.
    pub(super) fn accept(
        &mut self,
        round: RoundNumber,
        slot: SlotIndex,
        reply: Result<SlotReply, Lost>,
    ) -> bool {
        let Some(answer) = self.answers.get_mut(usize::from(slot.0)) else { return false };
        if round != self.number || matches!(answer, Answer::NotAsked | Answer::Committed | Answer::View(_)) {
            return false;
        }
        *answer = match reply {
            Ok(SlotReply::View(view, _)) => Answer::View(view),
            Ok(SlotReply::Committed { .. }) => Answer::Committed,
            Ok(SlotReply::Refused(Refusal::WrongEpoch(_))) => Answer::WrongEpoch,
            Ok(SlotReply::Refused(Refusal::Fenced(_) | Refusal::Exclusive(..))) => Answer::Fenced,
            Ok(SlotReply::Refused(Refusal::BucketChanged(revision))) => {
                self.bucket_changed = self.bucket_changed.max(Some(revision));
                Answer::Void
            }
            Ok(SlotReply::Refused(Refusal::Full)) => {
                self.full = true;
                Answer::Void
            }
            Ok(SlotReply::Refused(Refusal::NotVoter) | SlotReply::Done) => Answer::Void,
            Err(Lost) => Answer::Lost,
        };
        true
    }

    /// Takes a timer; says whether it changed anything.
    pub(super) fn timer<O>(&mut self, timer: Timer, out: &mut Actions<O>) -> bool {
        if timer.round != self.number || self.refreshing {
            return false;
        }
        match timer.kind {
            TimerKind::Hurry => self.hurry = true,
            TimerKind::Resend | TimerKind::Retry => self.resend(out),
            TimerKind::Backoff(_) => {}
        }
        true
    }

    fn resend<O>(&mut self, out: &mut Actions<O>) {
        self.hurry = true;
        self.retry_set = false;
        self.resends = self.resends.saturating_add(1);
        if self.resends > RESENDS || self.request.is_none() {
            for answer in &mut self.answers {
                if *answer == Answer::Waiting {
                    *answer = Answer::Lost;
                }
            }
            return;
        }
        self.ask(self.which(|answer| matches!(answer, Answer::Waiting | Answer::Lost)), out);
        self.set_timer(TimerKind::Resend, out);
    }

    /// How far the round has come towards `need` good answers.
    pub(super) fn progress<O>(
        &mut self,
        need: usize,
        good: impl Fn(&Answer) -> bool,
        out: &mut Actions<O>,
    ) -> Progress {
        let count = |which: &dyn Fn(&Answer) -> bool| self.answers.iter().filter(|a| which(a)).count();
        let have = count(&good);
        if have >= need {
            return Progress::Enough;
        }
        let n = self.geometry.n();
        if count(&|a| *a == Answer::Fenced) > n - need {
            return Progress::Fenced;
        }
        if have + count(&|a| matches!(a, Answer::Waiting | Answer::NotAsked)) >= need && !self.exhausted() {
            return Progress::Waiting;
        }
        if count(&|a| *a == Answer::WrongEpoch) > 0 {
            return Progress::WrongEpoch;
        }
        if self.request.is_some() && self.resends < RESENDS && count(&|a| *a == Answer::Lost) > 0 {
            if !std::mem::replace(&mut self.retry_set, true) {
                self.set_timer(TimerKind::Retry, out);
            }
            return Progress::Waiting;
        }
        Progress::Lost
    }

    /// Whether the round has been sent as often as it will be.
    fn exhausted(&self) -> bool {
        self.resends > RESENDS
    }

    /// Whether to wait for the slots that have not answered although there are enough; sets the `Hurry` timer once.
    pub(super) fn lingers<O>(&mut self, out: &mut Actions<O>) -> bool {
        let waits = !self.hurry && self.answers.contains(&Answer::Waiting);
        if waits && !std::mem::replace(&mut self.hurry_set, true) {
            self.set_timer(TimerKind::Hurry, out);
        }
        waits
    }

    /// Sets the `Hurry` timer although there are not enough answers yet.
    pub(super) fn hedge<O>(&mut self, out: &mut Actions<O>) {
        self.hurry_set = true;
        self.set_timer(TimerKind::Hurry, out);
    }

    /// Whether the rest need not be waited for any more.
    pub(super) fn hurried(&self) -> bool {
        self.hurry
    }

    /// What stands behind a trouble, as far as slots told: a newer bucket record, or drives that are full where no slot
    /// was lost.
    pub(super) fn explain(&self, trouble: Trouble) -> Trouble {
        match (self.bucket_changed, trouble) {
            (Some(revision), _) => Trouble::BucketChanged(revision),
            (None, Trouble::NoQuorum) if self.full && !self.answers.contains(&Answer::Lost) => Trouble::Full,
            (None, trouble) => trouble,
        }
    }

    pub(super) fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// The slots whose answer is such.
    pub(super) fn which(&self, test: impl Fn(&Answer) -> bool) -> SlotSet {
        let mut slots = SlotSet::default();
        for (slot, answer) in self.answers.iter().enumerate() {
            if test(answer) {
                slots.insert(SlotIndex(slot as u8));
            }
        }
        slots
    }
}

impl Answer {
    /// Whether the slot holds the shard that was prepared, and can be counted on: a voter, whatever epoch it knows.
    pub(super) fn is_prepared(&self) -> bool {
        matches!(self, Self::View(_) | Self::WrongEpoch)
    }
}
