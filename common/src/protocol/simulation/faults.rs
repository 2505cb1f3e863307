//! What happens to slots: tombstones dropped (§7), state lost and learned again, slots moved (§8), catch-up (§3.6),
//! freeing. Each process takes one step at a time at one slot, interleaved with everything else.

use bytes::Bytes;

use super::super::message::{SlotRequest, VersionKind, VersionState};
use super::super::register::Role;
use super::broken::Broken;
use super::scenario::{Scenario, Start};
use super::world::{Envelope, Slot, World, count_learned};
use crate::types::{Epoch, Fence, OpId, Tag};

/// How often a slot is lost, moved or retired in one schedule.
const LOSSES: u32 = 4;

/// The drop of a tombstone: seen STABLE everywhere, epoch adopted everywhere, dropped one by one.
#[derive(Clone, Copy, Debug)]
enum Purge {
    Idle,
    Scanning { tag: Tag, seen: u32, missing: u32 },
    Adopting { tag: Tag, epoch: Epoch, adopted: u32 },
    Dropping { tag: Tag, tried: u32 },
}

/// A slot that is learning its registers.
#[derive(Clone, Copy, Debug)]
struct Join {
    slot: usize,
    epoch: Epoch,
    from: u32,
    need: usize,
}

/// Everything that is going on, and how fast.
#[derive(Debug)]
pub(super) struct Faults {
    scenario: Scenario,
    purge: Purge,
    join: Option<Join>,
    retired: Option<usize>,
    losses: u32,
    /// Slots that answer rarely.
    pub(super) slow: [bool; 16],
    /// Slows rare events down on wide stripes, where a schedule has more steps.
    scale: usize,
    slow_rate: u32,
    purge_rate: u32,
    loss_rate: u32,
    join_rate: u32,
    /// Tombstones dropped, slots rejoined or moved.
    pub(super) drops: u64,
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
            purge: Purge::Idle,
            join: None,
            retired: None,
            losses: 0,
            slow: [false; 16],
            scale,
            slow_rate: 3 + random.below(10) as u32,
            purge_rate: if hurried { 300 } else { 50 } + random.below(400) as u32,
            loss_rate: random.pick(if seeded { &[10, 30, 60] } else { &[4, 10, 25] }),
            join_rate: random.pick(&[10, 30, 100]),
            drops: 0,
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
        if scenario.retires {
            self.retire_step(world);
        }
        let loses = scenario.wipes || scenario.moves;
        if loses
            && self.join.is_none()
            && self.losses < LOSSES
            && world.random.odds(self.loss_rate, self.scale)
        {
            let slot = world.random.below(world.n());
            self.lose_slot(world, slot);
        }
        if self.join.is_some() && world.random.chance(self.join_rate) {
            self.join_step(world);
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

    fn purge_step(&mut self, world: &mut World) {
        let n = world.n();
        let at = world.random.below(n);
        let bit = 1 << at;
        self.purge = match self.purge {
            Purge::Idle => match world.slots[at].register.current() {
                Some(v) if v.version.kind == VersionKind::Tombstone => {
                    Purge::Scanning { tag: v.tag, seen: 0, missing: 0 }
                }
                Some(_) | None => Purge::Idle,
            },
            Purge::Scanning { tag, seen, missing } if seen.count_ones() as usize == n => {
                let allowed = u32::from(world.is_broken(Broken::PurgesOnTooFew));
                if missing > allowed {
                    Purge::Idle
                } else if world.is_broken(Broken::PurgesWithoutEpoch) {
                    Purge::Dropping { tag, tried: 0 }
                } else {
                    Purge::Adopting { tag, epoch: world.raise_epoch(true), adopted: 0 }
                }
            }
            Purge::Scanning { tag, seen, missing } => {
                if seen & bit != 0 || !self.reaches(world, at) {
                    return;
                }
                let slot = &world.slots[at];
                let holds = |v: &&_| holds_stable(v, tag);
                let held = slot.is_voter() && slot.register.current().filter(holds).is_some();
                if !held && !world.is_broken(Broken::PurgesOnTooFew) {
                    Purge::Idle
                } else {
                    Purge::Scanning { tag, seen: seen | bit, missing: missing + u32::from(!held) }
                }
            }
            Purge::Adopting { tag, epoch, adopted } => {
                let spared = usize::from(world.is_broken(Broken::PurgesPartlyAdopted));
                if adopted.count_ones() as usize >= n - spared {
                    Purge::Dropping { tag, tried: 0 }
                } else if !world.slots[at].is_voter() {
                    Purge::Idle
                } else if self.reaches(world, at) {
                    world.slots[at].partition.adopt_purge(epoch);
                    Purge::Adopting { tag, epoch, adopted: adopted | bit }
                } else {
                    return;
                }
            }
            Purge::Dropping { tag, tried } => {
                if tried.count_ones() as usize == n || world.random.chance(20) {
                    Purge::Idle
                } else if tried & bit == 0 && self.reaches(world, at) {
                    self.drop_at(world, at, tag);
                    Purge::Dropping { tag, tried: tried | bit }
                } else {
                    return;
                }
            }
        };
    }

    fn drop_at(&mut self, world: &mut World, at: usize, tag: Tag) {
        let unfloored = world.is_broken(Broken::NoFloor);
        let Slot { partition, register } = &mut world.slots[at];
        let floor = partition.floor;
        if register.drop_tombstone(partition, tag) {
            self.drops += 1;
            if unfloored {
                partition.floor = floor;
            }
            if world.trace {
                println!("  {} slot{at} drops {tag:?}", world.now);
            }
        }
    }

    /// A slot loses its state, or moves away from a drive that nobody can reach but that still serves old callers.
    pub(super) fn lose_slot(&mut self, world: &mut World, slot: usize) {
        let moves = self.scenario.moves && (!self.scenario.wipes || world.random.chance(500));
        if moves && world.left[slot].is_some() {
            return;
        }
        self.losses += 1;
        let mut epoch = world.raise_epoch(false);
        let mut fresh = Slot::default();
        fresh.partition.epoch = epoch;
        if !world.is_broken(Broken::JoiningVotes) {
            fresh.partition.role = Role::Joining;
        }
        let old = std::mem::replace(&mut world.slots[slot], fresh);
        let need = if moves {
            world.left[slot] = Some((epoch, Box::new(old)));
            if world.is_broken(Broken::MovesWithoutAdopters) { 1 } else { world.geometry.m() }
        } else {
            epoch = world.raise_epoch(false);
            if world.is_broken(Broken::RejoinsFromOne) { 1 } else { world.geometry.r0() }
        };
        if world.trace {
            println!("  {} slot{slot} {} {epoch:?}", world.now, if moves { "moves" } else { "is wiped" });
        }
        self.join = Some(Join { slot, epoch, from: 0, need });
    }

    /// One voter adopts the epoch of the cut-over and hands over.
    fn join_step(&mut self, world: &mut World) {
        let Some(Join { slot, epoch, from, need }) = self.join else { return };
        let peer = world.random.below(world.n());
        let reached = self.reaches(world, peer);
        if peer == slot || from >> peer & 1 == 1 || !reached || !world.slots[peer].is_voter() {
            return;
        }
        let voter = &mut world.slots[peer];
        voter.partition.epoch = voter.partition.epoch.max(epoch);
        let (floor, register) = (voter.partition.floor, voter.register.clone());
        let joiner = &mut world.slots[slot];
        joiner.partition.floor = joiner.partition.floor.max(floor);
        joiner.register.hand_over(&joiner.partition, &register);
        if world.trace {
            println!("  {} slot{peer} hands over to slot{slot} {epoch:?}", world.now);
        }
        let from = from | 1 << peer;
        if (from.count_ones() as usize) < need {
            self.join = Some(Join { slot, epoch, from, need });
            return;
        }
        joiner.partition.role = Role::Voter;
        joiner.partition.epoch = joiner.partition.epoch.max(epoch);
        if world.broken == Some(Broken::LearnedVotes) {
            count_learned(&mut joiner.register);
        }
        self.join = None;
        self.joins += 1;
    }

    /// The old drive refuses everything, the new one takes its exact state and votes under a new epoch.
    fn retire_step(&mut self, world: &mut World) {
        match self.retired {
            Some(slot) if world.random.chance(30) => {
                let epoch = world.raise_epoch(false);
                let partition = &mut world.slots[slot].partition;
                (partition.role, partition.epoch) = (Role::Voter, epoch);
                self.retired = None;
                self.joins += 1;
            }
            None if self.losses < LOSSES && world.random.odds(self.loss_rate, self.scale) => {
                let slot = world.random.below(world.n());
                world.slots[slot].partition.role = Role::Out;
                self.retired = Some(slot);
                self.losses += 1;
            }
            Some(_) | None => {}
        }
    }
}

fn holds_stable(version: &super::super::message::SlotVersion, tag: Tag) -> bool {
    version.tag == tag && version.state == VersionState::Stable
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
    let epoch = source.partition.epoch;
    world.network.push(Envelope::Request { slot: to as u8, client: 0, round: None, epoch, request });
}
