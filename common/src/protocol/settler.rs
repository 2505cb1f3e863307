//! Settles a register that a slot has held COMMITTED but not STABLE for too long (PROTOCOL §3.5): its writer died, or
//! its STABLE was lost.
//!
//! A settler is a strict read of all slots that always tells STABLE: of the version it found STABLE or at M slots, or
//! of the one it wrote back to M. A slot's own answer is one among the others. Never decides what may be freed.

use crate::types::{Fence, OpId, SlotIndex};

use super::action::{Actions, Lost, Machine, MapEpochs, NoLock, RoundNumber, Timer};
use super::message::SlotReply;
use super::quorum::Geometry;
use super::reader::{ReadOutcome, Reader};

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settler {
    reader: Reader,
}

impl Settler {
    /// Settles a register; `op` names the settler, should it need the lock.
    pub fn new(geometry: Geometry, map: MapEpochs, op: OpId) -> Self {
        let mut reader = Reader::new(geometry, map, op, geometry.all(), false);
        reader.announces = true;
        Self { reader }
    }
}

impl Machine for Settler {
    type Outcome = ReadOutcome;

    fn start(&mut self) -> Actions<ReadOutcome> {
        self.reader.start()
    }

    fn on_reply(
        &mut self,
        round: RoundNumber,
        slot: SlotIndex,
        reply: Result<SlotReply, Lost>,
    ) -> Actions<ReadOutcome> {
        self.reader.on_reply(round, slot, reply)
    }

    fn on_timer(&mut self, timer: Timer) -> Actions<ReadOutcome> {
        self.reader.on_timer(timer)
    }

    fn on_lock(&mut self, lock: Result<Fence, NoLock>) -> Actions<ReadOutcome> {
        self.reader.on_lock(lock)
    }

    fn on_map(&mut self, map: MapEpochs) -> Actions<ReadOutcome> {
        self.reader.on_map(map)
    }

    fn give_up(&mut self) -> Actions<ReadOutcome> {
        self.reader.give_up()
    }
}
