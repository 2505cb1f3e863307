//! A strict read of a register (PROTOCOL §5).
//!
//! Owns the decision which version is current. Never reads a shard: the outcome says which slots hold them.
//!
//! 1. Ask the slots named first; the rest too as soon as those are slow, lost or not enough to decide.
//! 2. R0 views, and the highest version is STABLE somewhere, or COMMITTED at M, or there is none: that is the answer.
//! 3. Else COMMIT that version again, until M have accepted it: that is the answer.
//! 4. Refused by a fence: from 1; after 3 times settle it under the lock, as a fenced op whose condition never holds.

use crate::types::{Fence, OpId, SlotIndex, SlotSet};

use super::action::{Action, Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer, relay};
use super::fenced::{Decide, FencedWriter, Trouble, Verdict, WriteOutcome};
use super::flaw::Flaw;
use super::message::{SlotReply, SlotRequest};
use super::quorum::Geometry;
use super::round::{Answer, Progress, Round};
use super::tally::{Current, Tally};

/// How often a refused write-back leads to a new query before the lock is taken.
const QUERIES: u8 = 3;

/// What a read has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// This version is current (a tombstone is told as such); `None`: nothing was ever here, or it was dropped.
    Decided(Option<Current>),
    /// No answer can be given: 503, never 404.
    Unavailable(Trouble),
}

/// The condition of a read that needs the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Never;

impl Decide for Never {
    fn decide(&mut self, _: Option<&Current>) -> Verdict {
        Verdict::Reject
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Asking,
    WritingBack(Current),
    Locked(Box<FencedWriter<Never>>),
    Done,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reader {
    round: Round,
    /// Names the read, should it need the lock.
    op: OpId,
    first: SlotSet,
    inline_data: bool,
    /// Whether to hear all slots, and to tell STABLE of a version that was found decided (the settler's work).
    pub(super) announces: bool,
    refusals: u8,
    stage: Stage,
}

type Out = Actions<ReadOutcome>;

impl Reader {
    /// A read named `op` that first asks the slots `first` (R0 or more, and k of them for data), with their inline
    /// shards if `inline_data`.
    pub fn new(geometry: Geometry, map: MapEpochs, op: OpId, first: SlotSet, inline_data: bool) -> Self {
        let round = Round::new(geometry, map);
        Self { round, op, first, inline_data, announces: false, refusals: 0, stage: Stage::Asking }
    }

    fn ask(&mut self, slots: SlotSet, out: &mut Out) {
        self.stage = Stage::Asking;
        self.round.send(slots, SlotRequest::Query { inline_data: self.inline_data }, out);
        if slots != self.round.geometry.all() {
            self.round.hedge(out);
        }
    }

    fn advance(&mut self, out: &mut Out) {
        match self.stage {
            Stage::Asking => self.advance_asking(out),
            Stage::WritingBack(_) => self.advance_writing_back(out),
            Stage::Locked(_) | Stage::Done => {}
        }
    }

    fn advance_asking(&mut self, out: &mut Out) {
        let need = self.round.geometry.read_quorum();
        match self.round.progress(need, |a| matches!(a, Answer::View(_)), out) {
            Progress::Enough => self.judge(out),
            Progress::Waiting => self.widen(out),
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced | Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    /// Asks the other slots too, once the first ones have not been enough.
    fn widen(&mut self, out: &mut Out) {
        if self.round.hurried() || self.round.which(|a| *a == Answer::Waiting).is_empty() {
            let rest = self.round.which(|a| *a == Answer::NotAsked);
            self.round.ask(rest, out);
        }
    }

    fn judge(&mut self, out: &mut Out) {
        let tally = Tally::of(self.round.answers());
        let agreeing = tally.agreeing;
        let current = tally.current();
        if tally.decided(self.round.geometry) || self.round.geometry.breaks(Flaw::NoWriteBack) {
            // A settler waits for the rest: its own slot, with what is to be settled, may be among them.
            if self.announces && self.round.lingers(out) {
                return;
            }
            if self.announces
                && let Some(current) = &current
            {
                self.round.tell_stable(&current.version, current.tag, agreeing, out);
            }
            self.end(ReadOutcome::Decided(current), out);
            return;
        }
        let rest = self.round.which(|a| *a == Answer::NotAsked);
        self.round.ask(rest, out);
        if !self.round.lingers(out)
            && let Some(current) = current
        {
            let request = SlotRequest::Commit { version: current.version.clone(), tag: current.tag };
            self.stage = Stage::WritingBack(current);
            self.round.send(self.round.geometry.all(), request, out);
        }
    }

    fn advance_writing_back(&mut self, out: &mut Out) {
        let need = self.round.geometry.m();
        match self.round.progress(need, |a| *a == Answer::Committed, out) {
            Progress::Enough => {
                let acknowledged = self.round.which(|a| *a == Answer::Committed);
                if let Stage::WritingBack(current) = std::mem::replace(&mut self.stage, Stage::Done) {
                    self.round.tell_stable(&current.version, current.tag, acknowledged, out);
                    self.end(ReadOutcome::Decided(Some(current)), out);
                }
            }
            Progress::Waiting => {}
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced if self.refusals < QUERIES => {
                self.refusals += 1;
                self.ask(self.round.geometry.all(), out);
            }
            Progress::Fenced => self.lock(out),
            Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn lock(&mut self, out: &mut Out) {
        let mut locked = FencedWriter::resume(self.round.clone(), self.op, None, Never);
        locked.hears_all = self.announces;
        out.append(&mut relay(locked.start(), concluded));
        self.stage = Stage::Locked(Box::new(locked));
    }

    fn fail(&mut self, trouble: Trouble, out: &mut Out) {
        if !matches!(self.stage, Stage::Done) {
            let trouble = self.round.explain(trouble);
            self.end(ReadOutcome::Unavailable(trouble), out);
        }
    }

    fn end(&mut self, outcome: ReadOutcome, out: &mut Out) {
        self.stage = Stage::Done;
        out.push(Action::Done(outcome));
    }

    /// Hands the event to the locked stage, if that is where the read is.
    fn locked(
        &mut self,
        event: impl FnOnce(&mut FencedWriter<Never>) -> Actions<WriteOutcome>,
    ) -> Option<Out> {
        match &mut self.stage {
            Stage::Locked(locked) => Some(relay(event(locked), concluded)),
            Stage::Asking | Stage::WritingBack(_) | Stage::Done => None,
        }
    }
}

/// What the locked stage has found out, as a read tells it.
fn concluded(outcome: WriteOutcome) -> ReadOutcome {
    match outcome {
        WriteOutcome::Rejected(current) => ReadOutcome::Decided(current),
        WriteOutcome::NotCommitted(trouble) | WriteOutcome::Unknown(trouble) => {
            ReadOutcome::Unavailable(trouble)
        }
        WriteOutcome::Committed { .. } => ReadOutcome::Unavailable(Trouble::NoQuorum),
    }
}

impl Machine for Reader {
    type Outcome = ReadOutcome;

    fn start(&mut self) -> Out {
        let mut out = Vec::new();
        self.ask(self.first, &mut out);
        out
    }

    fn on_reply(&mut self, round: RoundNumber, slot: SlotIndex, reply: Result<SlotReply, Lost>) -> Out {
        if let Stage::Locked(locked) = &mut self.stage {
            return relay(locked.on_reply(round, slot, reply), concluded);
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
        if !matches!(self.stage, Stage::Done) && self.round.timer(timer, &mut out) {
            self.advance(&mut out);
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
            // What was being written back is asked for again: only answers within one epoch decide.
            Some(true) => self.ask(self.round.geometry.all(), &mut out),
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
        self.fail(Trouble::GaveUp, &mut out);
        out
    }
}
