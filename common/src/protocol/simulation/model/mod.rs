//! Every schedule of a few operations on one key, for a model checker: the same machines and the same slots as in the random
//! schedules, with all orders of delivery, and at most so many losses, duplicates, crashes and restarts.
//!
//! Owns states, steps and what must hold in each state. Never searches: `checker` in tests and in the example
//! `protocol_model` does. What is left out to keep the space small, and why that hides nothing of interest:
//!
//! - A notice (STABLE, RELEASE, ABANDON) reaches all slots at one moment, or none; who misses it alone, as after a loss, is
//!   the random schedules' matter.
//! - A request is sent again only when nothing of its round is under way; duplicates have their own budget.
//! - An exclusive fence is waited for only while nobody else has anything under way: waiting longer changes nothing.
//! - Replies that nobody waits for, and queries whose answer nobody wants, are dropped.
//! - Epochs, floors and buckets do not change.

#[cfg(test)]
mod checker;
mod invariants;
mod setups;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use bytes::Bytes;

use super::super::action::{Action, Lost, MapEpochs, RoundNumber, TimerKind};
use super::super::message::{SlotReply, SlotRequest};
use super::super::quorum::Geometry;
use super::super::register::{PartitionState, Register};
use super::super::slot::{BucketState, Caller, Slot, serve};
use super::broken::{Broken, Case};
use super::client::{Choices, Client, Ended};
use super::world::Record;
use crate::linearizability::Call;
use crate::types::{Fence, SlotIndex, SlotSet};

pub use setups::{NOTICED, SETUPS};

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Messages that are lost.
    pub losses: u8,
    /// Requests that arrive twice.
    pub duplicates: u8,
    /// Clients that die.
    pub crashes: u8,
    /// Slots that restart: all that is under way to and from them is lost.
    pub restarts: u8,
}

/// A small configuration.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its name on the command line.
    pub name: &'static str,
    /// Slots.
    pub n: u8,
    /// The operations; each begins at any moment.
    pub calls: &'static [Call],
    /// What may go wrong.
    pub budget: Budget,
    /// Whether STABLE is told at all.
    pub stable: bool,
}

/// A message under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Message {
    Request { slot: u8, client: u8, round: RoundNumber, request: SlotRequest },
    Reply { slot: u8, client: u8, round: RoundNumber, reply: Result<SlotReply, Lost> },
    Notice { request: SlotRequest },
}

type SlotState = (PartitionState, Register);

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    slots: Vec<SlotState>,
    /// By call; `None` before it begins.
    clients: Vec<Option<Client>>,
    /// Messages under way in the order of their hashes: two states with the same messages are the same.
    flying: Vec<(u64, Message)>,
    dead: u8,
    revision: u64,
    /// Rises when an operation begins after another has returned, so that only what real time tells is kept.
    now: u64,
    returned: bool,
    left: Budget,
    /// What does not hold.
    breach: Option<&'static str>,
}

/// One thing that may happen next; messages are named by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The operation begins.
    Begin(u8),
    /// The message arrives.
    Deliver(u8),
    /// The request arrives, and once more later.
    Duplicate(u8),
    /// The message is lost.
    Lose(u8),
    /// A timer of the operation fires.
    Fire(u8, u8),
    /// The operation gets the lock, whoever else has it.
    Lock(u8),
    /// The operation's gateway dies.
    Crash(u8),
    /// The slot restarts.
    Restart(u8),
}

/// All states of a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    setup: Setup,
    geometry: Geometry,
    broken: Option<Broken>,
}

impl Space {
    /// The states of a configuration, with a rule broken or none.
    pub fn new(setup: Setup, case: Option<&Case>) -> Self {
        let mut geometry = Geometry::new(setup.n);
        if let Some(Broken::Client(flaw)) = case.map(|case| case.broken) {
            geometry = geometry.with_flaw(flaw);
        }
        Self { setup, geometry, broken: case.map(|case| case.broken) }
    }

    /// The first state: the first operation has begun.
    pub fn initial(&self) -> State {
        let state = State {
            slots: vec![SlotState::default(); self.geometry.n()],
            clients: vec![None; self.setup.calls.len()],
            flying: Vec::new(),
            dead: 0,
            revision: 0,
            now: 0,
            returned: false,
            left: self.setup.budget,
            breach: None,
        };
        self.take(&state, Step::Begin(0))
    }

    /// All that may happen next.
    pub fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        if state.breach.is_some() {
            return;
        }
        steps.extend((0..).zip(&state.clients).filter(|(_, c)| c.is_none()).map(|(at, _)| Step::Begin(at)));
        let mut last = None;
        for (at, (hash, message)) in (0..).zip(&state.flying) {
            if last.replace(*hash) == Some(*hash) {
                continue;
            }
            steps.push(Step::Deliver(at));
            if state.left.losses > 0 && !matches!(message, Message::Reply { reply: Err(Lost), .. }) {
                steps.push(Step::Lose(at));
            }
            if state.left.duplicates > 0 && matches!(message, Message::Request { .. }) {
                steps.push(Step::Duplicate(at));
            }
        }
        if state.left.restarts > 0 {
            let busy = |slot: &u8| state.flying.iter().any(|(_, message)| message.slot() == Some(*slot));
            steps.extend((0..self.setup.n).filter(busy).map(Step::Restart));
        }
        for (at, client) in state.active() {
            if client.wants_lock {
                steps.push(Step::Lock(at));
            }
            let fires = |(_, timer): &(u8, &super::super::action::Timer)| match timer.kind {
                TimerKind::Hurry => true,
                TimerKind::Resend | TimerKind::Retry => !state.awaits(at),
                TimerKind::Backoff(_) => state.active().all(|(other, _)| !state.awaits(other)),
            };
            steps.extend((0..).zip(&client.timers).filter(fires).map(|(timer, _)| Step::Fire(at, timer)));
            if state.left.crashes > 0 {
                steps.push(Step::Crash(at));
            }
        }
    }

    /// The state after a step.
    pub fn take(&self, before: &State, step: Step) -> State {
        let mut state = before.clone();
        match step {
            Step::Begin(at) => self.begin(&mut state, at),
            Step::Deliver(at) => {
                let (_, message) = state.flying.remove(usize::from(at));
                self.deliver(&mut state, message);
            }
            Step::Duplicate(at) => {
                state.left.duplicates -= 1;
                let (_, message) = state.flying[usize::from(at)].clone();
                self.deliver(&mut state, message);
            }
            Step::Lose(at) => {
                state.left.losses -= 1;
                let (_, message) = state.flying.remove(usize::from(at));
                state.lose(message);
            }
            Step::Fire(at, timer) => self.tell(&mut state, at, |client| client.fire(usize::from(timer))),
            Step::Lock(at) => {
                state.revision += 1;
                let fence = Fence { generation: 0, revision: state.revision };
                self.tell(&mut state, at, |client| client.lock(Ok(fence)));
            }
            Step::Crash(at) => {
                state.left.crashes -= 1;
                state.dead |= 1 << at;
            }
            Step::Restart(slot) => {
                state.left.restarts -= 1;
                let flying = std::mem::take(&mut state.flying);
                let (lost, kept) = flying.into_iter().partition(|(_, m)| m.slot() == Some(slot));
                state.flying = kept;
                let lost: Vec<_> = lost;
                lost.into_iter().for_each(|(_, message)| state.lose(message));
            }
        }
        state.prune();
        self.judge(before, &mut state);
        state
    }

    /// What does not hold in this state, if anything.
    pub fn breach(state: &State) -> Option<&'static str> {
        state.breach
    }

    fn begin(&self, state: &mut State, at: u8) {
        let call = self.setup.calls[usize::from(at)];
        if std::mem::take(&mut state.returned) {
            state.now += 1;
        }
        let mut client = self.client(call, u64::from(at) + 1);
        client.begin = 2 * state.now;
        state.clients[usize::from(at)] = Some(client);
        self.tell(state, at, Client::start);
    }

    fn client(&self, call: Call, number: u64) -> Client {
        let k = (self.setup.n / 2).max(1);
        let (first, record) = (self.geometry.all(), Record::default());
        let choices = Choices { k, reads_first: false, first, settles: false, record };
        Client::new(call, number, self.geometry, MapEpochs::default(), choices)
    }

    /// An operation takes an event, and what it asks for is sent.
    fn tell(&self, state: &mut State, at: u8, event: impl FnOnce(&mut Client) -> Vec<Action<Ended>>) {
        let Some(client) = &mut state.clients[usize::from(at)] else { return };
        let actions = event(client);
        let op = client.op;
        for action in actions {
            match action {
                Action::Prepare { round, slots, .. } => {
                    let request = SlotRequest::Prepare { op, shard: Bytes::from_static(b"s") };
                    state.send(at, round, slots, &request);
                }
                Action::Send { round, slots, request, .. } => state.send(at, round, slots, &request),
                Action::Notify { request, .. } => state.fly(Message::Notice { request }),
                Action::Stable { version, tag, acknowledged, .. } if self.setup.stable => {
                    state
                        .fly(Message::Notice { request: SlotRequest::Stable { version, tag, acknowledged } });
                }
                Action::Done(_) => {
                    state.returned = true;
                    if let Some(client) = &mut state.clients[usize::from(at)] {
                        client.end = 2 * state.now + 1;
                        client.timers.clear();
                    }
                }
                Action::Stable { .. } | Action::SetTimer(_) | Action::TakeLock | Action::RefreshMap(_) => {}
            }
        }
    }

    fn deliver(&self, state: &mut State, message: Message) {
        match message {
            Message::Request { slot, client, round, request } => {
                let reply = self.serve(state, slot, &request);
                state.fly(Message::Reply { slot, client, round, reply: Ok(reply) });
            }
            Message::Reply { slot, client, round, reply } => {
                self.tell(state, client, |client| client.reply(round, SlotIndex(slot), reply));
            }
            Message::Notice { request } => {
                for slot in 0..self.setup.n {
                    self.serve(state, slot, &request);
                }
            }
        }
    }

    /// The real slot serves a request; what a slot promised may not be taken back.
    fn serve(&self, state: &mut State, slot: u8, request: &SlotRequest) -> SlotReply {
        let (partition, register) = &mut state.slots[usize::from(slot)];
        let (fence, current) = (register.fence, register.current().map(|v| v.tag));
        if let (SlotRequest::Commit { .. }, Some(Broken::NoFenceCheck)) = (request, self.broken) {
            (register.fence, register.exclusive) = (Fence::default(), None);
        }
        let met = Slot { partition, bucket: BucketState::default(), register };
        let reply = serve(met, Caller::default(), request).reply;
        match self.broken {
            Some(Broken::NoExclusivity) => register.exclusive = None,
            Some(Broken::NoFenceCheck) => register.fence = register.fence.max(fence),
            _ => {}
        }
        if register.fence < fence || register.current().map(|v| v.tag) < current {
            state.breach = Some("a promise went back");
        }
        if let (SlotRequest::Commit { tag, .. }, SlotReply::Committed { .. }) = (request, &reply)
            && tag.fence < fence
        {
            state.breach = Some("a commit below the fence was accepted");
        }
        reply
    }
}

impl Message {
    fn slot(&self) -> Option<u8> {
        match self {
            Self::Request { slot, .. } | Self::Reply { slot, .. } => Some(*slot),
            Self::Notice { .. } => None,
        }
    }
}

impl State {
    /// Operations that are under way.
    fn active(&self) -> impl Iterator<Item = (u8, &Client)> {
        let alive = |(at, client): &(u8, &Client)| client.ended.is_none() && self.dead >> at & 1 == 0;
        (0..).zip(&self.clients).filter_map(|(at, client)| Some((at, client.as_ref()?))).filter(alive)
    }

    /// Whether anything of the operation's present round is under way.
    fn awaits(&self, at: u8) -> bool {
        let present = self.clients[usize::from(at)].as_ref().map(|client| client.round);
        self.flying.iter().any(|(_, message)| match message {
            Message::Request { client, round, .. } | Message::Reply { client, round, .. } => {
                *client == at && Some(*round) == present
            }
            Message::Notice { .. } => false,
        })
    }

    fn send(&mut self, client: u8, round: RoundNumber, slots: SlotSet, request: &SlotRequest) {
        for SlotIndex(slot) in slots.iter() {
            let request = request.clone();
            self.fly(Message::Request { slot, client, round, request });
        }
    }

    fn fly(&mut self, message: Message) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&message);
        let at = self.flying.partition_point(|(other, _)| *other < hash);
        self.flying.insert(at, (hash, message));
    }

    /// The sender of a PREPARE, whose stream breaks, is told of the loss; others wait until they send again.
    fn lose(&mut self, message: Message) {
        let (Message::Request { slot, client, round, .. } | Message::Reply { slot, client, round, .. }) =
            message
        else {
            return;
        };
        let waits = |client: &Client| client.timers.iter().any(|timer| timer.kind == TimerKind::Resend);
        if !self.clients[usize::from(client)].as_ref().is_some_and(waits) {
            self.fly(Message::Reply { slot, client, round, reply: Err(Lost) });
        }
    }

    /// Drops what changes nothing when it arrives.
    fn prune(&mut self) {
        let flying = std::mem::take(&mut self.flying);
        let present: Vec<Option<RoundNumber>> = (0..)
            .zip(&self.clients)
            .map(|(at, client)| {
                let client = client.as_ref().filter(|c| c.ended.is_none() && self.dead >> at & 1_u8 == 0);
                client.map(|client| client.round)
            })
            .collect();
        let matters = |message: &Message| match message {
            Message::Request { client, round, request: SlotRequest::Query { .. }, .. }
            | Message::Reply { client, round, .. } => present[usize::from(*client)] == Some(*round),
            Message::Request { .. } | Message::Notice { .. } => true,
        };
        self.flying = flying.into_iter().filter(|(_, message)| matters(message)).collect();
    }
}
