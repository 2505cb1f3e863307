//! A plain write (PROTOCOL §4): PUT, DELETE, UploadPart; no lock and no coordinator unless a key is contended.
//!
//! Owns the choice of the tag. Never touches a byte: the driver owns the shards that `Prepare` spreads.
//!
//! 1. PREPARE to all slots, W must make it durable. Their answers are the query that the tag rests on.
//! 2. Somebody holds the key's fence alone: back off and ask again; after about a second go on under the lock.
//! 3. COMMIT to all, W must accept it; then a short wait for the rest, STABLE, done.
//!
//! Consistency: answers of two epochs are never added up. After the first COMMIT the op is never tagged anew: refused
//! or unanswered, its outcome is unknown. In a newer epoch the same COMMIT goes out again and is counted afresh; not if
//! a purge came in between, because the tombstone that superseded it may have been dropped by then. Nor does a write go on
//! whose shards were prepared before orphaned ones were purged: its own may have been taken for orphans.

use crate::types::{Epoch, Fence, OpId, SlotIndex, SlotSet, Tag};

use super::action::{Action, Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer, TimerKind};
use super::fenced::{Decide, FencedWriter, Trouble, Verdict, WriteOutcome};
use super::flaw::Flaw;
use super::message::{SlotReply, SlotRequest, Version};
use super::quorum::Geometry;
use super::round::{Answer, Progress, Round};
use super::tally::{Current, Tally};

/// How often an exclusive fence is waited for before the lock is taken.
const BACKOFFS: u8 = 5;

/// Makes the version to commit from the highest version seen, which need not be decided: good for keeping
/// `Last-Modified` monotone, not for conditions.
pub trait Make {
    /// The version; its op and k must be those the machine was made for.
    fn make(&mut self, seen: Option<&Current>) -> Version;
}

impl<F: FnMut(Option<&Current>) -> Version> Make for F {
    fn make(&mut self, seen: Option<&Current>) -> Version {
        self(seen)
    }
}

/// A plain write that goes on under the lock has no condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Always<M>(M);

impl<M: Make> Decide for Always<M> {
    fn decide(&mut self, current: Option<&Current>) -> Verdict {
        Verdict::Commit(self.0.make(current))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage<M> {
    Preparing,
    Asking,
    BackingOff,
    Committing(Version, Tag),
    Locked(Box<FencedWriter<Always<M>>>),
    Done,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlainWriter<M> {
    round: Round,
    op: OpId,
    k: u8,
    /// Gone once it is handed to the locked stage.
    make: Option<M>,
    stage: Stage<M>,
    backoffs: u8,
    /// The epoch that PREPARE named.
    prepared_in: Epoch,
    /// The epoch in which the tag was chosen.
    tagged_in: MapEpochs,
}

type Out = Actions<WriteOutcome>;

impl<M: Make> PlainWriter<M> {
    /// A write of `op` with `k` data shards (0: a tombstone, or metadata only).
    pub fn new(geometry: Geometry, map: MapEpochs, op: OpId, k: u8, make: M) -> Self {
        Self {
            round: Round::new(geometry, map),
            op,
            k,
            make: Some(make),
            stage: Stage::Preparing,
            backoffs: 0,
            prepared_in: map.epoch,
            tagged_in: map,
        }
    }

    fn write_quorum(&self) -> usize {
        self.round.geometry.write_quorum(self.k)
    }

    fn advance(&mut self, out: &mut Out) {
        match self.stage {
            Stage::Preparing => self.advance_preparing(out),
            Stage::Asking => self.advance_asking(out),
            Stage::Committing(..) => self.advance_committing(out),
            Stage::BackingOff | Stage::Locked(_) | Stage::Done => {}
        }
    }

    fn advance_preparing(&mut self, out: &mut Out) {
        let hasty = self.round.geometry.breaks(Flaw::TagsOnTooFew);
        let need = if hasty { self.round.geometry.tag_quorum() } else { self.write_quorum() };
        match self.round.progress(need, Answer::is_prepared, out) {
            Progress::Enough if self.round.lingers(out) => {}
            Progress::Enough => {
                let views = self.round.which(|a| matches!(a, Answer::View(_))).len();
                if views >= self.round.geometry.tag_quorum() {
                    self.choose(out);
                } else {
                    self.stage = Stage::Asking;
                    self.round.refresh(out);
                }
            }
            Progress::Waiting => {}
            Progress::Fenced | Progress::WrongEpoch | Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn ask(&mut self, out: &mut Out) {
        self.stage = Stage::Asking;
        self.round.send(self.round.geometry.all(), SlotRequest::Query { inline_data: false }, out);
    }

    fn advance_asking(&mut self, out: &mut Out) {
        let need = self.round.geometry.tag_quorum();
        match self.round.progress(need, |a| matches!(a, Answer::View(_)), out) {
            Progress::Enough => self.choose(out),
            Progress::Waiting => {}
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced | Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    /// Chooses the tag from this round's views, or steps back from a fence that somebody holds alone.
    fn choose(&mut self, out: &mut Out) {
        let tally = Tally::of(self.round.answers());
        if tally.exclusive.is_some() {
            self.step_back(out);
            return;
        }
        let ignores_floor = self.round.geometry.breaks(Flaw::IgnoresFloor);
        let top = tally.top.map(|top| top.tag).unwrap_or_default();
        let learn = if ignores_floor { top } else { tally.learn };
        let (fence, seq) =
            if tally.fence > learn.fence { (tally.fence, 1) } else { (learn.fence, learn.seq + 1) };
        let tag = Tag { fence, seq, writer: self.op };
        let current = tally.current();
        let Some(make) = &mut self.make else { return };
        let version = make.make(current.as_ref());
        assert!(version.op == self.op && version.k == self.k, "a machine commits what it has prepared");
        self.tagged_in = self.round.map;
        self.stage = Stage::Committing(version, tag);
        self.send_commit(out);
    }

    fn step_back(&mut self, out: &mut Out) {
        self.backoffs += 1;
        if self.backoffs <= BACKOFFS {
            self.stage = Stage::BackingOff;
            self.round.set_timer(TimerKind::Backoff(self.backoffs - 1), out);
        } else if let Some(make) = self.make.take() {
            let round = self.round.clone();
            let prepared_in = (self.k > 0).then_some(self.prepared_in);
            let mut locked = FencedWriter::resume(round, self.op, prepared_in, Always(make));
            out.append(&mut locked.start());
            self.stage = Stage::Locked(Box::new(locked));
        }
    }

    fn send_commit(&mut self, out: &mut Out) {
        if let Stage::Committing(version, tag) = &self.stage {
            let request = SlotRequest::Commit { version: version.clone(), tag: *tag };
            self.round.commit_again(request, out);
            if self.round.geometry.breaks(Flaw::StableTooEarly) {
                self.round.tell_stable(version, *tag, SlotSet::default(), out);
            }
        }
    }

    fn advance_committing(&mut self, out: &mut Out) {
        match self.round.progress(self.write_quorum(), |a| *a == Answer::Committed, out) {
            Progress::Enough if self.round.lingers(out) => {}
            Progress::Enough => self.committed(out),
            Progress::Waiting => {}
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced if self.round.geometry.breaks(Flaw::Retags) => self.ask(out),
            Progress::Fenced => self.fail(Trouble::Fenced, out),
            Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn committed(&mut self, out: &mut Out) {
        let acknowledged = self.round.which(|a| *a == Answer::Committed);
        if let Stage::Committing(version, tag) = std::mem::replace(&mut self.stage, Stage::Done) {
            self.round.tell_stable(&version, tag, acknowledged, out);
            out.push(Action::Done(WriteOutcome::Committed { version, tag, acknowledged }));
        }
    }

    fn fail(&mut self, trouble: Trouble, out: &mut Out) {
        let trouble = self.round.explain(trouble);
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Committing(..) => out.push(Action::Done(WriteOutcome::Unknown(trouble))),
            Stage::Preparing | Stage::Asking | Stage::BackingOff | Stage::Locked(_) => {
                if self.k > 0 {
                    self.round.notify(SlotRequest::Abandon { op: self.op }, out);
                }
                out.push(Action::Done(WriteOutcome::NotCommitted(trouble)));
            }
            Stage::Done => {}
        }
    }

    /// Hands the event to the locked stage, if that is where the op is.
    fn locked(&mut self, event: impl FnOnce(&mut FencedWriter<Always<M>>) -> Out) -> Option<Out> {
        match &mut self.stage {
            Stage::Locked(locked) => Some(event(locked)),
            _ => None,
        }
    }

    fn again(&mut self, out: &mut Out) {
        let purged = self.round.map.purge > self.tagged_in.epoch
            && !self.round.geometry.breaks(Flaw::ResendsOverPurge);
        let swept = self.k > 0 && self.round.is_swept_since(self.prepared_in);
        match self.stage {
            Stage::Asking | Stage::Committing(..) if swept => self.fail(Trouble::StaleMap, out),
            Stage::Asking => self.ask(out),
            Stage::Committing(..) if purged => self.fail(Trouble::StaleMap, out),
            Stage::Committing(..) => self.send_commit(out),
            Stage::Preparing | Stage::BackingOff | Stage::Locked(_) | Stage::Done => {}
        }
    }
}

impl<M: Make> Machine for PlainWriter<M> {
    type Outcome = WriteOutcome;

    fn start(&mut self) -> Out {
        let mut out = Vec::new();
        self.round.prepare(&mut out);
        out
    }

    fn on_reply(&mut self, round: RoundNumber, slot: SlotIndex, reply: Result<SlotReply, Lost>) -> Out {
        if let Stage::Locked(locked) = &mut self.stage {
            return locked.on_reply(round, slot, reply);
        }
        let mut out = Vec::new();
        if self.round.accept(round, slot, reply) {
            self.advance(&mut out);
        }
        out
    }

    fn on_timer(&mut self, timer: Timer) -> Out {
        if let Some(out) = self.locked(|locked| locked.on_timer(timer)) {
            return out;
        }
        let mut out = Vec::new();
        if matches!(self.stage, Stage::Done) || !self.round.timer(timer, &mut out) {
            return out;
        }
        match (&self.stage, timer.kind) {
            (Stage::BackingOff, TimerKind::Backoff(_)) => self.ask(&mut out),
            _ => self.advance(&mut out),
        }
        out
    }

    fn on_lock(&mut self, lock: Result<Fence, NoLock>) -> Out {
        self.locked(|locked| locked.on_lock(lock)).unwrap_or_default()
    }

    fn on_map(&mut self, map: MapEpochs) -> Out {
        if let Some(out) = self.locked(|locked| locked.on_map(map)) {
            return out;
        }
        let mut out = Vec::new();
        match self.round.take_map(map) {
            Some(true) => self.again(&mut out),
            Some(false) => self.fail(Trouble::StaleMap, &mut out),
            None => {}
        }
        out
    }

    fn give_up(&mut self) -> Out {
        if let Some(out) = self.locked(Machine::give_up) {
            return out;
        }
        let mut out = Vec::new();
        let acknowledged = self.round.which(|a| *a == Answer::Committed).len();
        if matches!(self.stage, Stage::Committing(..)) && acknowledged >= self.write_quorum() {
            self.committed(&mut out);
        } else {
            self.fail(Trouble::GaveUp, &mut out);
        }
        out
    }
}
