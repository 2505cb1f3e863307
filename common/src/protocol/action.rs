//! What client machines ask of their driver, and what the driver tells them.
//!
//! A machine is driven like this:
//! 1. `start()`; carry out the actions it returns.
//! 2. Every reply (or its loss) to a `Send` or `Prepare` goes to `on_reply` with that action's round; every timer that
//!    fires to `on_timer`; the lock to `on_lock`; a newer map to `on_map`. Each returns more actions.
//! 3. `Done` is the last action. What arrives later is ignored.
//!
//! The driver owns bytes, clocks, connections and deadlines: it sends each slot its own shard, keeps inline shards out
//! of replies, and calls `give_up` when the request's deadline passes or its client goes away.

use std::time::Duration;

use crate::limits::COMMIT_LINGER;
use crate::types::{Epoch, Fence, SlotIndex, SlotSet, Tag};

use super::message::{SlotReply, SlotRequest, Version};

/// The number of one broadcast of one machine; replies and timers name the broadcast they belong to.
pub type RoundNumber = u32;

/// A partition's epochs as the gateway's map knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MapEpochs {
    /// Named by every request.
    pub epoch: Epoch,
    /// The epoch of the last purge of tombstones; never above `epoch`.
    pub purge: Epoch,
    /// Writes that prepared their shards before this epoch do not go on: orphaned shards were purged, or slots moved one after
    /// the other; never above `epoch`.
    pub sweep: Epoch,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<O> {
    /// Send PREPARE with its own shard (or none, for versions without shards) to each of these slots. A stalled stream
    /// may be given up as lost once enough others have answered.
    Prepare {
        /// The round to give the replies to.
        round: RoundNumber,
        /// The epoch to address the slots with.
        epoch: Epoch,
        /// The slots.
        slots: SlotSet,
    },
    /// Send a request to each of these slots.
    Send {
        /// The round to give the replies to.
        round: RoundNumber,
        /// The epoch to address the slots with.
        epoch: Epoch,
        /// The slots.
        slots: SlotSet,
        /// The request.
        request: SlotRequest,
    },
    /// Send a request to each of these slots; nobody waits for the replies.
    Notify {
        /// The epoch to address the slots with.
        epoch: Epoch,
        /// The slots.
        slots: SlotSet,
        /// The request.
        request: SlotRequest,
    },
    /// Tell all slots, lazily and batched, that the version is STABLE, under this epoch and no newer one: a purge may come
    /// in between, and a late STABLE would bring back what it dropped. Refused or lost, a settler makes up for it.
    Stable {
        /// The epoch to address the slots with.
        epoch: Epoch,
        /// The version.
        version: Version,
        /// Its tag.
        tag: Tag,
        /// The slots that acknowledged its commit.
        acknowledged: SlotSet,
    },
    /// Call `on_timer` after [`Timer::delay`].
    SetTimer(Timer),
    /// Take the register's lock (a lock held so far is given up first), then call `on_lock`. Each grant is for this machine
    /// and this register alone: a fence is never shared between registers.
    TakeLock,
    /// Get a map whose epoch for this partition is newer than this, then call `on_map`.
    RefreshMap(Epoch),
    /// The machine has ended. A lock still held is to be given up.
    Done(O),
}

/// What a machine returns: carry them out in this order.
pub type Actions<O> = Vec<Action<O>>;

/// A timer of one round; one that is no longer of use is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timer {
    /// The round it belongs to.
    pub round: RoundNumber,
    /// What it is for.
    pub kind: TimerKind,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// Enough slots have answered; how long to wait for the rest.
    Hurry,
    /// How long until a request is sent again to the slots that have not answered.
    Resend,
    /// Too many replies were lost; how long until those slots are asked again.
    Retry,
    /// Somebody holds the key's fence alone; how long to wait before asking again for the nth time.
    Backoff(u8),
}

impl Timer {
    /// How long to wait, at most: whoever runs the machine may know that less is usual for [`TimerKind::Hurry`].
    pub fn delay(self) -> Duration {
        match self.kind {
            TimerKind::Hurry => COMMIT_LINGER,
            TimerKind::Resend => Duration::from_secs(2),
            TimerKind::Retry => Duration::from_millis(200),
            // 30 + 60 + 120 + 240 + 480 ms: about EXCLUSIVE_PATIENCE in all.
            TimerKind::Backoff(nth) => Duration::from_millis(30 << nth.min(4)),
        }
    }
}

/// No reply came, and none will: the connection broke, the deadline passed, the node is down, the drive gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lost;

/// The coordinator gave no lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLock;

/// A client machine of the commit protocol.
pub trait Machine {
    /// What it ends with.
    type Outcome;

    /// Begins; called once.
    fn start(&mut self) -> Actions<Self::Outcome>;

    /// Takes one slot's reply to a round.
    fn on_reply(
        &mut self,
        round: RoundNumber,
        slot: SlotIndex,
        reply: Result<SlotReply, Lost>,
    ) -> Actions<Self::Outcome>;

    /// Takes a timer that has fired.
    fn on_timer(&mut self, timer: Timer) -> Actions<Self::Outcome>;

    /// Takes the answer to [`Action::TakeLock`].
    fn on_lock(&mut self, lock: Result<Fence, NoLock>) -> Actions<Self::Outcome>;

    /// Takes the answer to [`Action::RefreshMap`]. A map that is not newer ends the machine: it cannot go on.
    fn on_map(&mut self, map: MapEpochs) -> Actions<Self::Outcome>;

    /// Ends the machine now, with what can be said truthfully.
    fn give_up(&mut self) -> Actions<Self::Outcome>;
}

/// Renames what a machine inside another ends with.
pub(super) fn relay<A, B>(actions: Actions<A>, outcome: impl Fn(A) -> B) -> Actions<B> {
    let one = |action| match action {
        Action::Prepare { round, epoch, slots } => Action::Prepare { round, epoch, slots },
        Action::Send { round, epoch, slots, request } => Action::Send { round, epoch, slots, request },
        Action::Notify { epoch, slots, request } => Action::Notify { epoch, slots, request },
        Action::Stable { epoch, version, tag, acknowledged } => {
            Action::Stable { epoch, version, tag, acknowledged }
        }
        Action::SetTimer(timer) => Action::SetTimer(timer),
        Action::TakeLock => Action::TakeLock,
        Action::RefreshMap(epoch) => Action::RefreshMap(epoch),
        Action::Done(done) => Action::Done(outcome(done)),
    };
    actions.into_iter().map(one).collect()
}
