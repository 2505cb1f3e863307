//! What must hold in every state; the names are those of the invariants in the protocol's list.

use std::collections::VecDeque;

use super::super::super::action::{Action, Lost};
use super::super::super::message::VersionState;
use super::super::super::register::Register;
use super::super::client::{Client, Ended};
use super::{Space, State};
use crate::linearizability::{Call, Operation, Return, is_linearizable};
use crate::types::{Fence, SlotIndex, SlotSet, Tag};

/// The number of a read at rest: beyond every operation's.
const AT_REST: u64 = 20;

impl Space {
    /// Notes what does not hold after a step.
    pub(super) fn judge(&self, before: &State, state: &mut State) {
        let ended = |state: &State| state.clients.iter().flatten().filter(|c| c.ended.is_some()).count();
        let returned = ended(before) < ended(state);
        let found = if self.lacks_shards(state) {
            Some("a commit has fewer than W prepared shards")
        } else if shares_fence(state) {
            Some("two ops have committed under one fence")
        } else if has_two_tags(state) {
            Some("an op has two tags")
        } else if is_stuck(state) {
            Some("an operation does not end")
        } else if returned && self.forgets_a_read(before, state) {
            Some("a value that was read is on fewer than M slots")
        } else if returned && !is_linearizable(&history(state)) {
            Some("not linearizable")
        } else if state.active().next().is_none() && !self.rests_well(state) {
            Some("not linearizable at rest")
        } else {
            None
        };
        state.breach = state.breach.or(found);
    }

    /// I2: a committed tag has W prepared shards.
    fn lacks_shards(&self, state: &State) -> bool {
        let mut versions = state.slots.iter().flat_map(|(_, register)| &register.versions);
        versions.any(|held| {
            let op = held.version.op;
            let holds = |register: &Register| {
                register.prepared.contains(&op)
                    || register.versions.iter().any(|v| v.version.op == op && v.shard_present)
            };
            let holders = state.slots.iter().filter(|(_, register)| holds(register)).count();
            held.version.has_shards() && holders < self.geometry.write_quorum(held.version.k)
        })
    }

    /// I7: what a read has returned is current, or superseded, on M slots.
    fn forgets_a_read(&self, before: &State, state: &State) -> bool {
        let mut reads = before.clients.iter().zip(&state.clients).filter_map(|(before, now)| {
            let now = now.as_ref().filter(|now| now.call == Call::Read)?;
            match (before.as_ref()?.ended, now.ended) {
                (None, Some(Ended::Returned(Return::Value(value)))) if value > 0 => Some(u64::from(value)),
                _ => None,
            }
        });
        reads.any(|value| {
            let all = state.slots.iter().flat_map(|(_, register)| &register.versions);
            let tag = all.filter(|v| v.version.op.session == value).map(|v| v.tag).min().unwrap_or_default();
            let holds = |register: &Register| {
                register.current().is_some_and(|v| v.tag >= tag && v.state >= VersionState::Committed)
            };
            state.slots.iter().filter(|(_, register)| holds(register)).count() < self.geometry.m()
        })
    }

    /// Once all has ended, a strict read of any R0 slots or more fits what was returned, if it is decided.
    fn rests_well(&self, state: &State) -> bool {
        let r0 = self.geometry.r0();
        let subsets = (1..=self.geometry.all().0).map(SlotSet).filter(|up| up.len() >= r0);
        subsets.into_iter().all(|up| {
            let Some(value) = self.read_at_rest(state, up) else { return true };
            let mut history = history(state);
            let (begin, end) = (2 * state.now + 2, 2 * state.now + 3);
            history.push(Operation { call: Call::Read, returned: Return::Value(value), begin, end });
            is_linearizable(&history)
        })
    }

    /// What a strict read finds while only these slots are up.
    fn read_at_rest(&self, state: &State, up: SlotSet) -> Option<u32> {
        let mut state = State { flying: Vec::new(), ..state.clone() };
        let mut client = self.client(Call::Read, AT_REST);
        let mut todo = VecDeque::from(client.start());
        for _ in 0..200 {
            match todo.pop_front() {
                Some(Action::Send { round, slots, request, .. }) => {
                    for SlotIndex(slot) in slots.iter() {
                        let lost = !up.contains(SlotIndex(slot));
                        let reply = if lost { Err(Lost) } else { Ok(self.serve(&mut state, slot, &request)) };
                        todo.extend(client.reply(round, SlotIndex(slot), reply));
                    }
                }
                Some(Action::Done(Ended::Returned(Return::Value(value)))) => return Some(value),
                Some(Action::Done(_)) => return None,
                Some(_) => {}
                None if client.wants_lock => {
                    state.revision += 1;
                    todo.extend(client.lock(Ok(Fence { generation: 0, revision: state.revision })));
                }
                None if !client.timers.is_empty() => todo.extend(client.fire(0)),
                None => return None,
            }
        }
        None
    }
}

/// What has been returned so far; what has not is unknown.
fn history(state: &State) -> Vec<Operation> {
    let one = |client: &Client| {
        let Client { call, begin, end, .. } = *client;
        let returned = match client.ended {
            Some(Ended::Returned(returned)) => returned,
            Some(Ended::NoEffect) => return None,
            None if call == Call::Read => return None,
            None => Return::Unknown,
        };
        Some(Operation { call, returned, begin, end })
    };
    state.clients.iter().flatten().filter_map(one).collect()
}

/// Every tag with its op, slot by slot.
fn tags(state: &State) -> impl Iterator<Item = (Tag, u64)> + Clone {
    let versions = state.slots.iter().flat_map(|(_, register)| &register.versions);
    versions.map(|v| (v.tag, v.version.op.session))
}

/// I5: under one fence at most one op commits as its owner.
fn shares_fence(state: &State) -> bool {
    let first = |(tag, _): &(Tag, u64)| tag.fence > Fence::default() && tag.seq == 1;
    tags(state).filter(first).any(|(tag, op)| {
        tags(state).filter(first).any(|(other, another)| other.fence == tag.fence && another != op)
    })
}

/// I6: an op has one tag, re-stamps excepted.
fn has_two_tags(state: &State) -> bool {
    let own = |(tag, op): &(Tag, u64)| tag.writer.session == *op;
    let mut all = tags(state).filter(own);
    all.any(|(tag, op)| tags(state).filter(own).any(|(other, another)| another == op && other != tag))
}

/// I14, I19: an operation waits for something that will come.
fn is_stuck(state: &State) -> bool {
    let waits = |(at, client): (u8, &Client)| {
        state.awaits(at) || client.wants_lock || client.wants_map || !client.timers.is_empty()
    };
    !state.active().all(waits)
}
