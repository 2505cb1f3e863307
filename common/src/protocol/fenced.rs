//! A write under the register's lock (PROTOCOL §6): conditional PUT, DELETE and COPY, Complete and Abort of an upload,
//! changes of a version's mutable metadata, contended plain writes; and, with a condition that is never true, a read
//! that has been refused too often.
//!
//! Owns the order of steps and what may be concluded at each. Never takes the lock itself, never touches a byte.
//!
//! 1. Optionally a read, which may answer early: the condition is clearly false and the version is decided (6.1).
//! 2. PREPARE, if the version has shards: W slots.
//! 3. The lock; its fence F goes to all slots, M must promise it. Refused by a higher fence: the lock again, 3 times.
//! 4. The condition is decided on the highest version among those M. True: COMMIT under `(F, 1, op)` on W slots.
//! 5. False: RELEASE if the version is decided; else it is re-stamped as `(F, 0, op)` on M first, because the answer
//!    reveals it.
//!
//! Consistency: a version that is not below `(F, 0)` among those M is not to be built upon: the lock again. The fence is
//! for one register only (§8 hand-over and §7 floors carry fences from register to register). Of one op only one COMMIT with one tag is ever sent. In a newer epoch the same one is sent again and
//! its answers are counted afresh; not if a purge came in between, because what it superseded may be forgotten by then, or
//! its own shards may have been taken for orphans.
//! Cancellation: `give_up` is truthful at any time; a fence that is left behind is settled by the next reader.

use crate::types::{Epoch, Fence, OpId, SlotIndex, SlotSet, Tag};

use super::action::{Action, Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer};
use super::flaw::Flaw;
use super::message::{SlotReply, SlotRequest, Version};
use super::quorum::Geometry;
use super::round::{Answer, Progress, Round};
use super::tally::{Current, Tally};

/// How often a duel of locks is fought before the op ends.
const LOCK_TRIES: u8 = 3;

/// Why an op could not be carried through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Too few slots answered.
    NoQuorum,
    /// Too few slots have room; all others answered.
    Full,
    /// Another op's fence refuses it.
    Fenced,
    /// The coordinator gives no lock.
    NoLock,
    /// Slots know a newer epoch than any map that can be had, or a purge came in between.
    StaleMap,
    /// Slots know a newer bucket record, of this revision: re-read it.
    BucketChanged(u64),
    /// The caller gave up: deadline, cancellation.
    GaveUp,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Committed on W slots: acknowledge it.
    Committed {
        /// The version.
        version: Version,
        /// Its tag.
        tag: Tag,
        /// The slots that acknowledged.
        acknowledged: SlotSet,
    },
    /// The condition is false on this version (`None`: nothing was ever here, or it was dropped). No effect.
    Rejected(Option<Current>),
    /// No COMMIT was sent, and none will be: no effect.
    NotCommitted(Trouble),
    /// A COMMIT was sent and not acknowledged by enough slots: it may or may not take effect.
    Unknown(Trouble),
}

/// What a condition says of the decided current version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds; commit this version. Its op must be the one the machine was made for.
    Commit(Version),
    /// It does not hold.
    Reject,
}

/// A condition, and the version that is made if it holds. Tombstones and absent versions are conditions' to judge.
/// May be asked more than once; each answer stands for itself.
pub trait Decide {
    /// Judges the current version.
    fn decide(&mut self, current: Option<&Current>) -> Verdict;
}

impl<F: FnMut(Option<&Current>) -> Verdict> Decide for F {
    fn decide(&mut self, current: Option<&Current>) -> Verdict {
        self(current)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Reading,
    Preparing,
    Locking,
    Fencing,
    /// The op's own version is being committed.
    Committing(Version, Tag),
    /// The version that the condition failed on is being re-stamped.
    Restamping(Current),
    Done,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FencedWriter<D> {
    round: Round,
    op: OpId,
    decide: D,
    stage: Stage,
    /// Data shards that PREPARE spreads; `None` if there is nothing to prepare.
    shards: Option<u8>,
    reads_first: bool,
    fence: Fence,
    lock_tries: u8,
    /// The epoch in which the sent COMMIT was decided.
    decided_in: MapEpochs,
    /// The epoch that PREPARE named, if shards of the op may be prepared somewhere.
    prepared_in: Option<Epoch>,
    /// Whether to hear the slots that are not needed too before the condition is decided (the settler's work).
    pub(super) hears_all: bool,
}

type Out = Actions<WriteOutcome>;

impl<D: Decide> FencedWriter<D> {
    /// A write of `op`. `shards`: the k of the version that is prepared first; `None` if it has no shards.
    /// `reads_first`: whether to look before preparing, so that a false condition is answered early.
    pub fn new(
        geometry: Geometry,
        map: MapEpochs,
        op: OpId,
        shards: Option<u8>,
        reads_first: bool,
        decide: D,
    ) -> Self {
        Self {
            round: Round::new(geometry, map),
            op,
            decide,
            stage: Stage::Reading,
            shards,
            reads_first,
            fence: Fence::default(),
            lock_tries: 0,
            decided_in: map,
            prepared_in: None,
            hears_all: false,
        }
    }

    /// Goes on where another machine of the same op has come to its end without a COMMIT.
    pub(super) fn resume(round: Round, op: OpId, prepared_in: Option<Epoch>, decide: D) -> Self {
        let (geometry, map) = (round.geometry, round.map);
        Self { round, prepared_in, ..Self::new(geometry, map, op, None, false, decide) }
    }

    fn prepare(&mut self, out: &mut Out) {
        match self.shards {
            Some(_) => {
                self.stage = Stage::Preparing;
                self.prepared_in = Some(self.round.map.epoch);
                self.round.prepare(out);
            }
            None => self.lock(out),
        }
    }

    fn lock(&mut self, out: &mut Out) {
        self.stage = Stage::Locking;
        self.round.close();
        out.push(Action::TakeLock);
    }

    fn raise_fence(&mut self, out: &mut Out) {
        self.stage = Stage::Fencing;
        let request = SlotRequest::Fence { fence: self.fence, op: self.op };
        self.round.send(self.round.geometry.all(), request, out);
    }

    fn advance(&mut self, out: &mut Out) {
        match &self.stage {
            Stage::Reading => self.advance_reading(out),
            Stage::Preparing => self.advance_preparing(out),
            Stage::Fencing => self.advance_fencing(out),
            Stage::Committing(version, _) => {
                let need = self.round.geometry.write_quorum(version.k);
                self.advance_commit(need, out);
            }
            Stage::Restamping(_) => self.advance_commit(self.round.geometry.m(), out),
            Stage::Locking | Stage::Done => {}
        }
    }

    fn advance_reading(&mut self, out: &mut Out) {
        let need = self.round.geometry.read_quorum();
        match self.round.progress(need, |a| matches!(a, Answer::View(_)), out) {
            Progress::Enough => {
                let tally = Tally::of(self.round.answers());
                let current = tally.current();
                if tally.decided(self.round.geometry)
                    && self.decide.decide(current.as_ref()) == Verdict::Reject
                {
                    self.end(WriteOutcome::Rejected(current), out);
                } else {
                    self.prepare(out);
                }
            }
            Progress::Waiting => {}
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced | Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn advance_preparing(&mut self, out: &mut Out) {
        let need = self.round.geometry.write_quorum(self.shards.unwrap_or(0));
        // A slot that knows a newer epoch has made the shard durable all the same.
        match self.round.progress(need, Answer::is_prepared, out) {
            Progress::Enough => {
                if !self.round.lingers(out) {
                    self.lock(out);
                }
            }
            Progress::Waiting => {}
            Progress::Fenced | Progress::WrongEpoch | Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn advance_fencing(&mut self, out: &mut Out) {
        let need = self.round.geometry.fence_quorum();
        match self.round.progress(need, |a| matches!(a, Answer::View(_)), out) {
            Progress::Enough => {
                if !(self.hears_all && self.round.lingers(out)) {
                    self.judge(out);
                }
            }
            Progress::Waiting => {}
            Progress::WrongEpoch => self.round.refresh(out),
            Progress::Fenced => self.outdone(out),
            Progress::Lost => self.fail(Trouble::NoQuorum, out),
        }
    }

    /// The fence is no longer, or never was, the highest: another lock, another fence.
    fn outdone(&mut self, out: &mut Out) {
        if self.lock_tries < LOCK_TRIES {
            self.lock_tries += 1;
            self.release(out);
            self.lock(out);
        } else {
            self.fail(Trouble::Fenced, out);
        }
    }

    fn judge(&mut self, out: &mut Out) {
        let tally = Tally::of(self.round.answers());
        // A version at or above this fence would not be superseded by what is committed under it. Slots that keep rule
        // 3.4 never show one, unless other registers' floors have carried this very fence.
        let outdone = tally.top.is_some_and(|top| top.tag.fence >= self.fence);
        if outdone && !self.round.geometry.breaks(Flaw::BuildsAboveFence) {
            self.outdone(out);
            return;
        }
        let current = tally.current();
        let decided = tally.decided(self.round.geometry) || self.round.geometry.breaks(Flaw::NoRestamp);
        self.decided_in = self.round.map;
        match (self.decide.decide(current.as_ref()), current) {
            (Verdict::Commit(version), _) => {
                assert_eq!(version.op, self.op, "a machine commits its own op");
                let tag = Tag { fence: self.fence, seq: 1, writer: self.op };
                self.stage = Stage::Committing(version, tag);
                self.send_commit(out);
            }
            (Verdict::Reject, Some(current)) if !decided => {
                let tag = Tag { fence: self.fence, seq: 0, writer: self.op };
                self.stage = Stage::Restamping(Current { tag, ..current });
                self.send_commit(out);
            }
            (Verdict::Reject, current) => {
                self.release(out);
                self.end(WriteOutcome::Rejected(current), out);
            }
        }
    }

    fn send_commit(&mut self, out: &mut Out) {
        let (version, tag) = match &self.stage {
            Stage::Committing(version, tag) => (version.clone(), *tag),
            Stage::Restamping(current) => (current.version.clone(), current.tag),
            Stage::Reading | Stage::Preparing | Stage::Locking | Stage::Fencing | Stage::Done => return,
        };
        self.round.commit_again(SlotRequest::Commit { version, tag }, out);
    }

    fn advance_commit(&mut self, need: usize, out: &mut Out) {
        let progress = self.round.progress(need, |a| *a == Answer::Committed, out);
        match (progress, &self.stage) {
            (Progress::Enough, Stage::Committing(..)) => {
                if !self.round.lingers(out) {
                    self.committed(out);
                }
            }
            (Progress::Enough, _) => self.committed(out),
            (Progress::Waiting, _) => {}
            (Progress::WrongEpoch, _) => self.round.refresh(out),
            (Progress::Fenced, _) => self.fail(Trouble::Fenced, out),
            (Progress::Lost, _) => self.fail(Trouble::NoQuorum, out),
        }
    }

    fn committed(&mut self, out: &mut Out) {
        let acknowledged = self.round.which(|a| *a == Answer::Committed);
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Committing(version, tag) => {
                self.round.tell_stable(&version, tag, acknowledged, out);
                out.push(Action::Done(WriteOutcome::Committed { version, tag, acknowledged }));
            }
            Stage::Restamping(current) => {
                self.round.tell_stable(&current.version, current.tag, acknowledged, out);
                self.end(WriteOutcome::Rejected(Some(current)), out);
            }
            Stage::Reading | Stage::Preparing | Stage::Locking | Stage::Fencing | Stage::Done => {}
        }
    }

    fn release(&self, out: &mut Out) {
        self.round.notify(SlotRequest::Release { fence: self.fence }, out);
    }

    fn fail(&mut self, trouble: Trouble, out: &mut Out) {
        let trouble = self.round.explain(trouble);
        match self.stage {
            Stage::Committing(..) => self.end(WriteOutcome::Unknown(trouble), out),
            Stage::Fencing | Stage::Restamping(_) => {
                self.release(out);
                self.end(WriteOutcome::NotCommitted(trouble), out);
            }
            Stage::Reading | Stage::Preparing | Stage::Locking => {
                self.end(WriteOutcome::NotCommitted(trouble), out);
            }
            Stage::Done => {}
        }
    }

    fn end(&mut self, outcome: WriteOutcome, out: &mut Out) {
        self.stage = Stage::Done;
        let without_effect = matches!(outcome, WriteOutcome::Rejected(_) | WriteOutcome::NotCommitted(_));
        if self.prepared_in.is_some() && without_effect {
            self.round.notify(SlotRequest::Abandon { op: self.op }, out);
        }
        out.push(Action::Done(outcome));
    }

    /// After a newer map: once a COMMIT is out, the same one goes out again, unless a purge came in between.
    fn again(&mut self, out: &mut Out) {
        let purged = self.round.map.purge > self.decided_in.epoch
            && !self.round.geometry.breaks(Flaw::ResendsOverPurge);
        let swept = self.prepared_in.is_some_and(|epoch| self.round.is_swept_since(epoch));
        match self.stage {
            Stage::Fencing | Stage::Committing(..) if swept => self.fail(Trouble::StaleMap, out),
            Stage::Reading => self.query(out),
            Stage::Fencing => self.raise_fence(out),
            Stage::Committing(..) | Stage::Restamping(_) if purged => self.fail(Trouble::StaleMap, out),
            Stage::Committing(..) | Stage::Restamping(_) => self.send_commit(out),
            Stage::Preparing | Stage::Locking | Stage::Done => {}
        }
    }

    fn query(&mut self, out: &mut Out) {
        self.stage = Stage::Reading;
        self.round.send(self.round.geometry.all(), SlotRequest::Query { inline_data: false }, out);
    }
}

impl<D: Decide> Machine for FencedWriter<D> {
    type Outcome = WriteOutcome;

    fn start(&mut self) -> Out {
        let mut out = Vec::new();
        if self.reads_first {
            self.query(&mut out);
        } else {
            self.prepare(&mut out);
        }
        out
    }

    fn on_reply(&mut self, round: RoundNumber, slot: SlotIndex, reply: Result<SlotReply, Lost>) -> Out {
        let mut out = Vec::new();
        if self.round.accept(round, slot, reply) {
            self.advance(&mut out);
        }
        out
    }

    fn on_timer(&mut self, timer: Timer) -> Out {
        let mut out = Vec::new();
        if self.stage != Stage::Done && self.round.timer(timer, &mut out) {
            self.advance(&mut out);
        }
        out
    }

    fn on_lock(&mut self, lock: Result<Fence, NoLock>) -> Out {
        let mut out = Vec::new();
        match lock {
            _ if self.stage != Stage::Locking => {}
            Ok(fence) => {
                self.fence = fence;
                self.raise_fence(&mut out);
            }
            Err(NoLock) => self.fail(Trouble::NoLock, &mut out),
        }
        out
    }

    fn on_map(&mut self, map: MapEpochs) -> Out {
        let mut out = Vec::new();
        match self.round.take_map(map) {
            Some(true) => self.again(&mut out),
            Some(false) => self.fail(Trouble::StaleMap, &mut out),
            None => {}
        }
        out
    }

    fn give_up(&mut self) -> Out {
        let mut out = Vec::new();
        if let Stage::Committing(version, _) = &self.stage {
            let need = self.round.geometry.write_quorum(version.k);
            if self.round.which(|a| *a == Answer::Committed).len() >= need {
                self.committed(&mut out);
                return out;
            }
        }
        self.fail(Trouble::GaveUp, &mut out);
        out
    }
}
