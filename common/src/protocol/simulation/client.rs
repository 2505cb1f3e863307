//! One simulated operation: the real client machine, and what it is waiting for.

use bytes::Bytes;

use super::super::action::{Action, Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer, relay};
use super::super::fenced::{Decide, FencedWriter, Verdict, WriteOutcome};
use super::super::message::{SlotReply, Version, VersionKind};
use super::super::quorum::Geometry;
use super::super::reader::{ReadOutcome, Reader};
use super::super::settler::Settler;
use super::super::tally::Current;
use super::super::writer::{Make, PlainWriter};
use super::world::Record;
use crate::linearizability::{Call, Return};
use crate::types::{Fence, OpId, SlotIndex, SlotSet};

/// How an operation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    /// It returned this.
    Returned(Return),
    /// It told that it had no effect.
    NoEffect,
}

/// The value that a version stands for: the number of the op that wrote it, 0 for none and for tombstones.
pub(super) fn value_of(current: Option<&Version>) -> u32 {
    match current {
        Some(version) if version.kind == VersionKind::Data => version.op.session as u32,
        Some(_) | None => 0,
    }
}

/// The version that op number `op` writes. `seen` travels in its metadata.
pub(super) fn version(op: OpId, k: u8, seen: u8) -> Version {
    static SEEN: [u8; 32] = {
        let mut seen = [0; 32];
        let mut at = 0;
        while at < 32 {
            seen[at] = at as u8;
            at += 1;
        }
        seen
    };
    let at = usize::from(seen);
    Version {
        op,
        kind: if k == 0 { VersionKind::Tombstone } else { VersionKind::Data },
        k,
        shard_len_bytes: u64::from(k > 0),
        block_len_bytes: 4096,
        null_version: true,
        metadata: Bytes::from_static(&SEEN[at..=at]),
    }
}

/// What a simulated writer commits, and on which condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Intent {
    call: Call,
    op: OpId,
    k: u8,
}

impl Make for Intent {
    fn make(&mut self, _: Option<&Current>) -> Version {
        version(self.op, self.k, 0)
    }
}

impl Decide for Intent {
    fn decide(&mut self, current: Option<&Current>) -> Verdict {
        let seen = value_of(current.map(|current| &current.version));
        match self.call {
            Call::Replace(old, _) if old != seen => Verdict::Reject,
            Call::Read | Call::Write(_) | Call::Replace(..) | Call::Swap(_) => {
                Verdict::Commit(version(self.op, self.k, seen as u8))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Driven {
    Plain(PlainWriter<Intent>),
    Fenced(FencedWriter<Intent>),
    Read(Reader),
    Settle(Settler),
}

/// The operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) call: Call,
    pub(super) op: OpId,
    /// Whether PREPARE brings shards.
    pub(super) has_shards: bool,
    /// The bucket's record as its gateway knows it.
    pub(super) record: Record,
    driven: Driven,
    /// Timers of the current round.
    pub(super) timers: Vec<Timer>,
    pub(super) round: RoundNumber,
    pub(super) wants_lock: bool,
    pub(super) wants_map: bool,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) ended: Option<Ended>,
}

/// What kind of machine carries a call out, and its random choices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choices {
    /// Data shards of the version.
    pub(super) k: u8,
    /// A conditional write looks first.
    pub(super) reads_first: bool,
    /// A read asks these first.
    pub(super) first: SlotSet,
    /// A read is a settler's.
    pub(super) settles: bool,
    /// The bucket's record as its gateway knows it.
    pub(super) record: Record,
}

impl Client {
    pub(super) fn new(call: Call, number: u64, geometry: Geometry, map: MapEpochs, choices: Choices) -> Self {
        let op = OpId { session: number, counter: 0 };
        let k = if matches!(call, Call::Write(0) | Call::Replace(_, 0)) { 0 } else { choices.k };
        let intent = Intent { call, op, k };
        let driven = match call {
            Call::Write(_) => Driven::Plain(PlainWriter::new(geometry, map, op, k, intent)),
            Call::Replace(..) | Call::Swap(_) => {
                let shards = (k > 0).then_some(k);
                Driven::Fenced(FencedWriter::new(geometry, map, op, shards, choices.reads_first, intent))
            }
            Call::Read if choices.settles => Driven::Settle(Settler::new(geometry, map, op)),
            Call::Read => Driven::Read(Reader::new(geometry, map, op, choices.first, false)),
        };
        Self {
            call,
            op,
            has_shards: k > 0,
            record: choices.record,
            driven,
            timers: Vec::new(),
            round: 0,
            wants_lock: false,
            wants_map: false,
            begin: 0,
            end: 0,
            ended: None,
        }
    }

    fn concluded(call: Call) -> impl Fn(WriteOutcome) -> Ended {
        move |outcome| match outcome {
            WriteOutcome::Committed { version, .. } => match call {
                Call::Swap(_) => {
                    Ended::Returned(Return::Value(version.metadata.first().copied().unwrap_or(0).into()))
                }
                Call::Read | Call::Write(_) | Call::Replace(..) => Ended::Returned(Return::Ok),
            },
            WriteOutcome::Rejected(_) => Ended::Returned(Return::Rejected),
            WriteOutcome::NotCommitted(_) => Ended::NoEffect,
            WriteOutcome::Unknown(_) => Ended::Returned(Return::Unknown),
        }
    }

    fn read(outcome: ReadOutcome) -> Ended {
        match outcome {
            ReadOutcome::Decided(current) => {
                Ended::Returned(Return::Value(value_of(current.as_ref().map(|current| &current.version))))
            }
            ReadOutcome::Unavailable(_) => Ended::NoEffect,
        }
    }

    fn on(&mut self, event: Event) -> Actions<Ended> {
        fn feed<M: Machine>(machine: &mut M, event: Event) -> Actions<M::Outcome> {
            match event {
                Event::Start => machine.start(),
                Event::Reply(round, slot, reply) => machine.on_reply(round, slot, reply),
                Event::Timer(timer) => machine.on_timer(timer),
                Event::Lock(lock) => machine.on_lock(lock),
                Event::Map(map) => machine.on_map(map),
                Event::GiveUp => machine.give_up(),
            }
        }
        let actions = match &mut self.driven {
            Driven::Plain(machine) => relay(feed(machine, event), Self::concluded(self.call)),
            Driven::Fenced(machine) => relay(feed(machine, event), Self::concluded(self.call)),
            Driven::Read(machine) => relay(feed(machine, event), Self::read),
            Driven::Settle(machine) => relay(feed(machine, event), Self::read),
        };
        for action in &actions {
            self.note(action);
        }
        actions
    }

    /// Keeps track of what the machine waits for.
    fn note(&mut self, action: &Action<Ended>) {
        match action {
            Action::Prepare { round, .. } | Action::Send { round, .. } => {
                if *round != self.round {
                    self.round = *round;
                    self.timers.clear();
                }
            }
            Action::SetTimer(timer) => self.timers.push(*timer),
            Action::TakeLock => self.wants_lock = true,
            Action::RefreshMap(_) => self.wants_map = true,
            Action::Done(ended) => {
                assert!(self.ended.is_none(), "a machine ends once");
                self.ended = Some(*ended);
            }
            Action::Notify { .. } | Action::Stable { .. } => {}
        }
    }

    /// Whether it is a settler's.
    pub(super) fn settles(&self) -> bool {
        matches!(self.driven, Driven::Settle(_))
    }

    pub(super) fn start(&mut self) -> Actions<Ended> {
        self.on(Event::Start)
    }

    pub(super) fn reply(
        &mut self,
        round: RoundNumber,
        slot: SlotIndex,
        reply: Result<SlotReply, Lost>,
    ) -> Actions<Ended> {
        self.on(Event::Reply(round, slot, reply))
    }

    pub(super) fn fire(&mut self, at: usize) -> Actions<Ended> {
        let timer = self.timers.swap_remove(at);
        self.on(Event::Timer(timer))
    }

    pub(super) fn lock(&mut self, lock: Result<Fence, NoLock>) -> Actions<Ended> {
        self.wants_lock = false;
        self.on(Event::Lock(lock))
    }

    pub(super) fn map(&mut self, map: MapEpochs) -> Actions<Ended> {
        self.wants_map = false;
        self.on(Event::Map(map))
    }

    pub(super) fn give_up(&mut self) -> Actions<Ended> {
        self.on(Event::GiveUp)
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "passed on at once")]
enum Event {
    Start,
    Reply(RoundNumber, SlotIndex, Result<SlotReply, Lost>),
    Timer(Timer),
    Lock(Result<Fence, NoLock>),
    Map(MapEpochs),
    GiveUp,
}
