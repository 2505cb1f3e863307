//! What happens to slots: tombstones dropped (§7), state lost and learned again, slots moved (§8), catch-up (§3.6),
//! freeing. Each process takes one step at a time at one slot, interleaved with everything else. How a slot gets its vote
//! back is the real machine's matter ([`super::super::join`]); here its actions are carried out.

use bytes::Bytes;

use super::super::flaw::Flaw;
use super::super::join::{self, Cause, Event, Join};
use super::super::message::{SlotRequest, VersionState};
use super::super::purge::{self, Action, Candidate, Evidence, Purge};
use super::super::register::Role;
use super::broken::Broken;
use super::scenario::{Scenario, Start};
use super::world::{Envelope, Left, Record, Slot, World, count_learned};
use crate::types::{Epoch, Fence, OpId, SlotIndex, SlotSet, Tag};

/// How often a slot is lost, moved or retired in one schedule.
const LOSSES: u32 = 4;

/// A purge of one register. The real machine decides; its steps are carried out at one slot at a time.
#[derive(Clone, Debug)]
struct Purging {
    machine: Purge<()>,
    /// Slots that have dropped it, or were asked in vain.
    tried: u32,
}

/// A slot that is to get its vote.
#[derive(Clone, Copy, Debug)]
struct Joining {
    slot: usize,
    cause: Cause,
    machine: Join,
    /// What its machine waits for.
    action: join::Action,
}

/// Everything that is going on, and how fast.
#[derive(Debug)]
pub(super) struct Faults {
    scenario: Scenario,
    purge: Option<Purging>,
    joining: Vec<Joining>,
    losses: u32,
    /// Slots that answer rarely.
    pub(super) slow: [bool; 16],
    /// Slows rare events down on wide stripes, where a schedule has more steps.
    scale: usize,
    slow_rate: u32,
    purge_rate: u32,
    loss_rate: u32,
    join_rate: u32,
    /// Tombstones dropped, orphans dropped, slots rejoined or moved.
    pub(super) drops: u64,
    pub(super) sweeps: u64,
    pub(super) joins: u64,
}

impl Faults {
    pub(super) fn new(scenario: Scenario, world: &mut World) -> Self {
        let scale = (world.n() / 4).max(1) * 1000;
        let random = &mut world.random;
        let hurried = scenario.start == Start::Deleted;
        let seeded = scenario.start != Start::Fresh;
        Self {
            scenario,
            purge: None,
            joining: Vec::new(),
            losses: 0,
            slow: [false; 16],
            scale,
            slow_rate: 3 + random.below(10) as u32,
            purge_rate: if hurried { 300 } else { 50 } + random.below(400) as u32,
            loss_rate: random.pick(if seeded { &[10, 30, 60] } else { &[4, 10, 25] }),
            join_rate: random.pick(&[10, 30, 100]),
            drops: 0,
            sweeps: 0,
            joins: 0,
        }
    }

    /// Lets each process perhaps take a step.
    pub(super) fn step(&mut self, world: &mut World) {
        let scenario = self.scenario;
        if !scenario.calm && world.random.odds(self.slow_rate, self.scale) {
            self.toggle_slow(world);
        }
        if world.random.chance(20) {
            let at = world.random.below(world.n());
            world.free(at);
        }
        if !world.late.is_empty() && world.random.chance(10) {
            let envelope = world.late.pop();
            world.network.extend(envelope);
        }
        if scenario.collects {
            if world.random.odds(10, self.scale) {
                raise_floors(world);
            }
            if world.random.chance(self.purge_rate) {
                for _ in 0..=world.random.below(3) {
                    self.purge_step(world);
                }
            }
        }
        if scenario.installs && world.random.chance(60) {
            install(world);
        }
        let loses = scenario.wipes || scenario.moves || scenario.retires;
        if loses && self.losses < LOSSES && world.random.odds(self.loss_rate, self.scale) {
            let slot = world.random.below(world.n());
            self.lose_slot(world, slot);
        }
        if !self.joining.is_empty() && world.random.chance(self.join_rate) {
            let which = world.random.below(self.joining.len());
            self.join_step(world, which);
        }
    }

    /// Whether a process reaches the slot now: slow ones seldom.
    fn reaches(&self, world: &mut World, at: usize) -> bool {
        !self.slow[at] || world.random.chance(30)
    }

    fn toggle_slow(&mut self, world: &mut World) {
        let at = world.random.below(world.n());
        self.slow[at] = !self.slow[at];
        if self.slow.iter().filter(|slow| **slow).count() >= world.geometry.r0() {
            self.slow[at] = false;
        }
    }

    /// What might be purged at this slot.
    fn candidate(&self, world: &mut World, at: usize) -> Option<Candidate> {
        let register = &world.slots[at].register;
        let tombstone = purge::tombstone(register).map(Candidate::Tombstone);
        let prepared: Vec<OpId> = register.prepared.clone();
        if !self.scenario.sweeps || prepared.is_empty() || (tombstone.is_some() && world.random.chance(500)) {
            return tombstone;
        }
        Some(Candidate::Orphan(world.random.pick(&prepared)))
    }

    fn purge_step(&mut self, world: &mut World) {
        let at = world.random.below(world.n());
        let Some(mut purging) = self.purge.take() else {
            let candidate = self.candidate(world, at);
            let machine = |candidate| Purge::new(world.geometry, vec![((), candidate)]);
            self.purge = candidate.map(|candidate| Purging { machine: machine(candidate), tried: 0 });
            return;
        };
        let Some((_, candidate)) = purging.machine.candidates().first().copied() else { return };
        match purging.machine.action() {
            Action::Look | Action::Adopt(_) if !self.reaches(world, at) => {}
            Action::Look => tell(world, at, candidate, &mut purging),
            Action::Adopt(epoch) => {
                world.slots[at].partition.adopt_purge(epoch);
                tell(world, at, candidate, &mut purging);
            }
            Action::Publish { tombstones, orphans } => {
                purging.machine.published(world.raise_for_purge(tombstones, orphans));
            }
            Action::Drop(epoch) => {
                if purging.tried.count_ones() as usize == world.n() || world.random.chance(20) {
                    return;
                }
                if purging.tried >> at & 1 == 0 && self.reaches(world, at) {
                    self.drop_at(world, at, (epoch, candidate));
                    purging.tried |= 1 << at;
                }
            }
            Action::Done => return,
        }
        self.purge = Some(purging);
    }

    fn drop_at(&mut self, world: &mut World, at: usize, (epoch, candidate): (Epoch, Candidate)) {
        let (unfloored, unseen) = (world.is_broken(Broken::NoFloor), world.is_broken(Broken::DropsUnseen));
        let flaws = [Flaw::PurgesWithoutEpoch, Flaw::PurgesPartlyAdopted];
        let without_epoch = flaws.into_iter().any(|flaw| world.is_broken(Broken::Client(flaw)));
        let Slot { partition, register, .. } = &mut world.slots[at];
        let mut state = *partition;
        if let Some(floor) = purge::floor_to_drop(register, candidate) {
            state.floor = state.floor.max(floor);
        }
        if !unfloored && state.role == Role::Voter {
            partition.floor = state.floor;
        }
        if without_epoch {
            (state.epoch, state.purge_epoch) = (epoch, epoch);
        }
        let mut dropped = vec![candidate];
        if unseen {
            dropped.extend(register.prepared.iter().copied().map(Candidate::Orphan));
        }
        dropped.retain(|candidate| purge::drop_at(&state, register, epoch, *candidate));
        for candidate in dropped {
            if world.trace {
                println!("  {} slot{at} drops {candidate:?}", world.now);
            }
            match candidate {
                Candidate::Tombstone(_) => self.drops += 1,
                Candidate::Orphan(op) => {
                    self.sweeps += 1;
                    world.purged(op);
                }
            }
        }
    }

    /// A slot loses its state, or moves to another drive: away from one that can be reached, or that nobody can reach but
    /// that still serves old callers. Two may have lost their state at a time, if R0 still vote.
    pub(super) fn lose_slot(&mut self, world: &mut World, slot: usize) {
        let Scenario { wipes, moves, retires, .. } = self.scenario;
        let cause = match () {
            () if retires => Cause::Retired,
            () if moves && (!wipes || world.random.chance(500)) => Cause::Moved,
            () => Cause::Lost,
        };
        let voters = world.slots.iter().filter(|slot| slot.is_voter()).count();
        let alone = self.joining.is_empty();
        let second = cause == Cause::Lost && voters > world.geometry.r0() && world.random.chance(300);
        // A slot on its way may move on before it votes: back, or to a third drive.
        let back = self.joining.iter().position(|joining| {
            (joining.slot, joining.cause, cause) == (slot, Cause::Moved, Cause::Moved)
                && !world.left[slot].is_empty()
        });
        match back {
            Some(under_way) if world.random.chance(300) => drop(self.joining.swap_remove(under_way)),
            _ if (alone || second && self.joining.len() < 2) && world.slots[slot].is_voter() => {}
            _ => return,
        }
        self.losses += 1;
        if cause == Cause::Lost {
            let epoch = world.raise_epoch();
            drop(fresh_slot(world, slot, epoch));
        }
        if world.trace {
            println!("  {} slot{slot} {cause:?}", world.now);
        }
        let (machine, action) = Join::start(world.geometry, SlotIndex(slot as u8), cause);
        self.joining.push(Joining { slot, cause, machine, action });
        // What comes before the cut-over goes on at once, or takes its time.
        let which = self.joining.len() - 1;
        let steps = if cause != Cause::Lost { 1 } else { 2 * world.random.below(2) };
        for _ in 0..steps {
            self.join_step(world, which);
        }
    }

    /// Carries out what a joining slot's machine waits for, at one other slot.
    fn join_step(&mut self, world: &mut World, which: usize) {
        let Joining { slot, cause, action, .. } = self.joining[which];
        let peer = world.random.below(world.n());
        let reached = |faults: &Self, world: &mut World, slots: SlotSet| {
            let voter = giver(world, peer, slot).is_some_and(|giver| giver.is_voter());
            slots.contains(SlotIndex(peer as u8)) && faults.reaches(world, peer) && voter
        };
        let event = match action {
            join::Action::Learn(slots) if reached(self, world, slots) => {
                // A copy in bulk that was not durable when the slot restarted is as good as none.
                if world.random.chance(300) {
                    hand_over(world, peer, slot);
                }
                Event::Learned
            }
            join::Action::CutOver(epoch, slots) if reached(self, world, slots) => {
                let Some(voter) = giver(world, peer, slot) else { return };
                // One that knows a newer epoch refuses older ones already.
                let _ = voter.partition.admit(epoch);
                let adopted = voter.partition.epoch;
                hand_over(world, peer, slot);
                Event::HandedOver(SlotIndex(peer as u8), adopted)
            }
            join::Action::Learn(_) | join::Action::CutOver(..) => return,
            join::Action::Retire => {
                world.slots[slot].partition.role = Role::Out;
                Event::Retired
            }
            join::Action::Publish => {
                let epoch = world.raise_epoch();
                if cause == Cause::Moved {
                    move_slot(world, slot, epoch);
                }
                Event::Published(epoch)
            }
            join::Action::Vote(epoch) => {
                self.vote(world, which, epoch);
                return;
            }
        };
        let joining = &mut self.joining[which];
        if let Some(next) = joining.machine.step(event) {
            joining.action = next;
            if let join::Action::Vote(epoch) = next
                && cause != Cause::Retired
            {
                self.vote(world, which, epoch);
            }
        }
    }

    fn vote(&mut self, world: &mut World, which: usize, epoch: Epoch) {
        let Joining { slot, cause, .. } = self.joining.swap_remove(which);
        let votes_learned = world.broken == Some(Broken::LearnedVotes) && cause != Cause::Retired;
        let Slot { partition, register, .. } = &mut world.slots[slot];
        partition.role = Role::Voter;
        partition.epoch = partition.epoch.max(epoch);
        if votes_learned {
            count_learned(register);
        }
        self.joins += 1;
    }
}

/// Puts an empty drive, JOINING, in a slot's place; returns what was there.
fn fresh_slot(world: &mut World, slot: usize, epoch: Epoch) -> Slot {
    let mut fresh = Slot::default();
    fresh.partition.epoch = epoch;
    if !world.is_broken(Broken::JoiningVotes) {
        fresh.partition.role = Role::Joining;
    }
    std::mem::replace(&mut world.slots[slot], fresh)
}

/// Another drive takes the slot. The second time it is the first drive again: of its old state it has kept the shards
/// only, as if they had been prepared. From one that does not vote yet a third drive may take it, while the first one still
/// serves old callers.
fn move_slot(world: &mut World, slot: usize, epoch: Epoch) {
    let third = !world.slots[slot].is_voter() && world.random.chance(500);
    let before = if third { None } else { world.left[slot].pop() };
    let last = before.as_ref().or(world.left[slot].last());
    let from = last.map_or(Epoch(0), |left| left.epochs.end);
    let old = fresh_slot(world, slot, epoch);
    if let Some(Left { slot: kept, .. }) = before {
        let register = kept.register;
        let shards = register.versions.iter().filter(|held| held.shard_present && held.version.has_shards());
        let ops = shards.map(|held| held.version.op);
        world.slots[slot].register.prepared = register.prepared.iter().copied().chain(ops).collect();
    }
    let reachable = world.random.chance(600);
    world.left[slot].push(Left { epochs: from..epoch, slot: Box::new(old), reachable });
}

/// Who hands over as this slot: a voter, or, as the one that joins, the drive that it has left.
fn giver(world: &mut World, peer: usize, joiner: usize) -> Option<&mut Slot> {
    if peer != joiner {
        return world.slots.get_mut(peer);
    }
    let left = world.left[joiner].last_mut()?;
    left.reachable.then_some(left.slot.as_mut())
}

/// What a voter knows is taken over by a slot that is joining.
fn hand_over(world: &mut World, voter: usize, slot: usize) {
    let Some(giver) = giver(world, voter, slot) else { return };
    let Slot { partition, bucket, register, former } = giver.clone();
    let keeps_bucket = world.is_broken(Broken::HandsOverNoBucket);
    let joiner = &mut world.slots[slot];
    joiner.partition.floor = joiner.partition.floor.max(partition.floor);
    if !keeps_bucket {
        joiner.bucket.adopt(bucket.revision);
        // Deleted buckets too: their old callers must be refused for good.
        joiner.former.0.adopt(former.0.revision);
    }
    joiner.register.hand_over(&joiner.partition, &register);
    joiner.former.1.hand_over(&joiner.partition, &former.1);
    if world.trace {
        println!("  {} slot{voter} hands over to slot{slot}", world.now);
    }
}

/// A slot tells what it holds; however long an op has been prepared, it is told to be long enough.
fn tell(world: &World, at: usize, candidate: Candidate, purging: &mut Purging) {
    let Slot { partition, register, .. } = &world.slots[at];
    let evidence = Evidence::of(partition, register, candidate, true);
    purging.machine.answered(SlotIndex(at as u8), vec![evidence]);
}

/// Other keys' tombstones were dropped: floors rise here and there.
fn raise_floors(world: &mut World) {
    let random = &mut world.random;
    let floor = Tag {
        fence: Fence { generation: 0, revision: random.below(world.revision as usize + 1) as u64 },
        seq: 1 + random.below(3) as u64,
        writer: OpId { session: 60 + random.below(4) as u64, counter: 0 },
    };
    let mask = random.subset(world.slots.len());
    for (at, slot) in world.slots.iter_mut().enumerate() {
        if mask >> at & 1 == 1 && slot.is_voter() {
            slot.partition.floor = slot.partition.floor.max(floor);
        }
    }
}

/// Catch-up sends what one voter holds to another slot.
fn install(world: &mut World) {
    let (from, to) = (world.random.below(world.n()), world.random.below(world.n()));
    let source = &world.slots[from];
    let Some(version) = source.register.current() else { return };
    if from == to || !source.is_voter() {
        return;
    }
    let shard = if version.version.has_shards() { Bytes::from_static(b"s") } else { Bytes::new() };
    let request = SlotRequest::Install {
        version: version.version.clone(),
        tag: version.tag,
        source_stable: version.state == VersionState::Stable,
        shard,
    };
    let (slot, epoch) = (to as u8, source.partition.epoch);
    let record = Record { bucket: world.bucket, ..Record::default() };
    world.network.push(Envelope::Request { slot, client: 0, round: None, epoch, record, request });
}
