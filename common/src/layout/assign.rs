//! Places slots on drives.
//!
//! The quotas and limits describe a flow from partitions over zones and nodes to drives that always has a
//! whole-number solution. It is found from where the layout before left off:
//!
//! 1. **keep**: what the layout before has and the limits allow stays;
//! 2. **fill**: an empty slot takes, among the drives that its partition may add, the one whose quota is used
//!    least; ties are broken by a hash, so that the partners of a drive are spread over all others and its
//!    rebuild is fed by all;
//! 3. **balance**: while a drive exceeds its quota, one slot of it moves to a drive with room; where no such move is
//!    allowed, along the shortest chain of drives that each pass one slot on (an augmenting path);
//! 4. **index**: a drive that stays keeps its slot index; new ones take the free indices so that every drive
//!    holds each index, data or parity, about equally often.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64;

use super::limits::{Limits, limits};
use super::quota::{Groups, quotas};
use super::{Layout, LayoutDrive, partitions};
use crate::limits::PARTITION_COUNT;
use crate::types::PartitionId;

/// The slot table for these drives, of which n or more have a capacity.
pub(super) fn assign(drives: &[LayoutDrive], n: u8, previous: Option<&Layout>) -> Vec<u16> {
    let groups = Groups::new(drives);
    let width = usize::from(n);
    let limits = limits(drives, &groups, width);
    let before = previous.map(|previous| in_new_table(drives, previous)).unwrap_or_default();
    let mut loads = vec![0; drives.len()];
    for drive in before.iter().flatten() {
        loads[*drive] += 1;
    }
    let quotas = quotas(drives, &groups, width, limits, &loads);
    let mut board = Board::new(&groups, limits, quotas);
    board.keep(&before, width);
    board.fill(width);
    board.balance();
    board.index(&before, width)
}

/// The previous table in places of the new one; `None` where the drive is gone or drained.
fn in_new_table(drives: &[LayoutDrive], previous: &Layout) -> Vec<Option<usize>> {
    let place = |id| drives.iter().position(|drive| drive.id == id && drive.capacity_bytes > 0);
    let places: Vec<Option<usize>> = previous.drives().iter().map(|drive| place(drive.id)).collect();
    previous.slots.iter().map(|&drive| places[usize::from(drive)]).collect()
}

/// The state of the placement: sets of drives for partitions, with the counts that the limits are about.
struct Board<'a> {
    groups: &'a Groups,
    limits: Limits,
    quotas: Vec<u32>,
    /// Drives of each partition, unordered.
    members: Vec<Vec<usize>>,
    /// Partitions of each drive, unordered.
    held: Vec<Vec<usize>>,
    /// Whether a partition has a drive; row by row.
    has: Vec<bool>,
    /// Slots of a partition in a node; row by row.
    in_node: Vec<u8>,
    /// Slots of a partition in a zone; row by row.
    in_zone: Vec<u8>,
}

impl<'a> Board<'a> {
    fn new(groups: &'a Groups, limits: Limits, quotas: Vec<u32>) -> Self {
        let partitions = usize::from(PARTITION_COUNT);
        Self {
            groups,
            limits,
            members: vec![Vec::new(); partitions],
            held: vec![Vec::new(); quotas.len()],
            has: vec![false; partitions * quotas.len()],
            in_node: vec![0; partitions * groups.nodes.len()],
            in_zone: vec![0; partitions * groups.zones.len()],
            quotas,
        }
    }

    fn has(&self, partition: usize, drive: usize) -> bool {
        self.has[partition * self.quotas.len() + drive]
    }

    fn in_node(&self, partition: usize, node: usize) -> usize {
        usize::from(self.in_node[partition * self.groups.nodes.len() + node])
    }

    fn in_zone(&self, partition: usize, zone: usize) -> usize {
        usize::from(self.in_zone[partition * self.groups.zones.len() + zone])
    }

    /// Whether the partition may take the drive as one more.
    fn may_add(&self, partition: usize, drive: usize) -> bool {
        let node = self.groups.node_of[drive];
        let zone = self.groups.zone_of[node];
        !self.has(partition, drive)
            && self.in_node(partition, node) < self.limits.node
            && self.in_zone(partition, zone) < self.limits.zone
    }

    /// Whether the partition may take `new` in place of its drive `old`.
    fn may_replace(&self, partition: usize, old: usize, new: usize) -> bool {
        if self.has(partition, new) {
            return false;
        }
        let (old_node, new_node) = (self.groups.node_of[old], self.groups.node_of[new]);
        if old_node == new_node {
            return true;
        }
        let (old_zone, new_zone) = (self.groups.zone_of[old_node], self.groups.zone_of[new_node]);
        let zone_fits = old_zone == new_zone || self.in_zone(partition, new_zone) < self.limits.zone;
        zone_fits && self.in_node(partition, new_node) < self.limits.node
    }

    fn add(&mut self, partition: usize, drive: usize) {
        self.members[partition].push(drive);
        self.held[drive].push(partition);
        self.count(partition, drive, true);
    }

    fn remove(&mut self, partition: usize, drive: usize) {
        self.members[partition].retain(|&member| member != drive);
        self.held[drive].retain(|&held| held != partition);
        self.count(partition, drive, false);
    }

    fn count(&mut self, partition: usize, drive: usize, added: bool) {
        let drives = self.quotas.len();
        let node = self.groups.node_of[drive];
        let zone = self.groups.zone_of[node];
        self.has[partition * drives + drive] = added;
        let in_node = &mut self.in_node[partition * self.groups.nodes.len() + node];
        let in_zone = &mut self.in_zone[partition * self.groups.zones.len() + zone];
        if added {
            *in_node += 1;
            *in_zone += 1;
        } else {
            *in_node -= 1;
            *in_zone -= 1;
        }
    }

    fn room(&self, drive: usize) -> bool {
        self.held[drive].len() < self.quotas[drive] as usize
    }

    fn over(&self, drive: usize) -> bool {
        self.held[drive].len() > self.quotas[drive] as usize
    }

    /// How far the quota is used, as a fixed-point fraction.
    fn used(&self, drive: usize) -> u64 {
        ((self.held[drive].len() as u64) << 32) / u64::from(self.quotas[drive].max(1))
    }

    /// Takes over what the limits allow; the drives that are most over their quota are tried last.
    fn keep(&mut self, before: &[Option<usize>], n: usize) {
        let mut loads = vec![0_u32; self.quotas.len()];
        for drive in before.iter().flatten() {
            loads[*drive] += 1;
        }
        for (partition, row) in before.chunks(n).enumerate() {
            let mut row: Vec<usize> = row.iter().flatten().copied().collect();
            row.sort_by_key(|&drive| (i64::from(loads[drive]) - i64::from(self.quotas[drive]), drive));
            for drive in row {
                if self.may_add(partition, drive) {
                    self.add(partition, drive);
                } else {
                    loads[drive] -= 1;
                }
            }
        }
    }

    fn fill(&mut self, n: usize) {
        let candidates: Vec<usize> = (0..self.quotas.len()).filter(|&drive| self.quotas[drive] > 0).collect();
        let all: Vec<usize> = self.groups.nodes.iter().flatten().copied().collect();
        for partition in 0..self.members.len() {
            while self.members[partition].len() < n {
                let drive = self
                    .least_used(partition, &candidates)
                    .or_else(|| self.least_used(partition, &all))
                    .expect("the limits leave n drives for every partition");
                self.add(partition, drive);
            }
        }
    }

    fn least_used(&self, partition: usize, candidates: &[usize]) -> Option<usize> {
        candidates
            .iter()
            .copied()
            .filter(|&drive| self.may_add(partition, drive))
            .min_by_key(|&drive| (self.used(drive), mix(partition, drive), drive))
    }

    fn balance(&mut self) {
        for drive in 0..self.quotas.len() {
            self.pass_directly(drive);
        }
        for drive in 0..self.quotas.len() {
            while self.over(drive) {
                let Some(path) = self.shortest_path(drive) else {
                    break;
                };
                self.pass_along(&path);
            }
        }
    }

    /// Single moves, which are most of them: from a drive over its quota to those with room.
    fn pass_directly(&mut self, giver: usize) {
        if !self.over(giver) {
            return;
        }
        let mut held = self.held[giver].clone();
        held.sort_by_cached_key(|&partition| mix(partition, giver));
        let mut takers: Vec<usize> = (0..self.quotas.len()).filter(|&drive| self.room(drive)).collect();
        for partition in held {
            if !self.over(giver) {
                return;
            }
            let fits = |&taker: &usize| self.may_replace(partition, giver, taker);
            let best = takers
                .iter()
                .copied()
                .filter(fits)
                .min_by_key(|&taker| (self.used(taker), mix(partition, taker)));
            if let Some(taker) = best {
                self.pass_along(&[(partition, giver, taker)]);
                takers.retain(|&taker| self.room(taker));
            }
        }
    }

    /// From a drive over its quota to one with room: (partition, drive that gives, drive that takes) for each step.
    fn shortest_path(&self, from: usize) -> Option<Vec<(usize, usize, usize)>> {
        let drives = self.quotas.len();
        let mut reached_by: Vec<Option<(usize, usize)>> = vec![None; drives];
        let mut unseen: Vec<usize> = (0..drives).filter(|&d| d != from && self.quotas[d] > 0).collect();
        // Drives with room first: they end the search.
        unseen.sort_by_cached_key(|&drive| (!self.room(drive), mix(from, drive)));
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            let mut held = self.held[giver].clone();
            held.sort_by_cached_key(|&partition| mix(partition, giver));
            let with_room = unseen.iter().take_while(|&&drive| self.room(drive)).count();
            let direct = held.iter().find_map(|&partition| {
                let taker =
                    unseen[..with_room].iter().find(|&&taker| self.may_replace(partition, giver, taker))?;
                Some((partition, *taker))
            });
            if let Some((partition, taker)) = direct {
                reached_by[taker] = Some((partition, giver));
                return Some(trace(&reached_by, from, taker));
            }
            for partition in held {
                unseen.retain(|&taker| {
                    let reached = self.may_replace(partition, giver, taker);
                    if reached {
                        reached_by[taker] = Some((partition, giver));
                        queue.push_back(taker);
                    }
                    !reached
                });
            }
        }
        None
    }

    /// Replaces along the path, last step first, so that every step keeps the limits by itself.
    fn pass_along(&mut self, path: &[(usize, usize, usize)]) {
        for &(partition, giver, taker) in path.iter().rev() {
            // A shortest path meets a partition again only where the steps do not depend on each other.
            assert!(self.may_replace(partition, giver, taker), "steps of a shortest path are independent");
            self.remove(partition, giver);
            self.add(partition, taker);
        }
    }

    /// The slot table.
    fn index(self, before: &[Option<usize>], n: usize) -> Vec<u16> {
        let mut slots: Vec<Option<usize>> = vec![None; self.members.len() * n];
        let mut seen = vec![0_u32; self.quotas.len() * n];
        for (at, drive) in before.iter().enumerate() {
            if let Some(drive) = drive.filter(|&drive| self.has(at / n, drive)) {
                slots[at] = Some(drive);
                seen[drive * n + at % n] += 1;
            }
        }
        for PartitionId(partition) in partitions() {
            let partition = usize::from(partition);
            let row = partition * n;
            let mut fresh: Vec<usize> = self.members[partition].clone();
            fresh.retain(|drive| !slots[row..row + n].contains(&Some(*drive)));
            fresh.sort_by_cached_key(|&drive| mix(partition, drive));
            // Starting elsewhere each time: the first index has the most choice.
            for slot in
                (0..n).map(|i| (i + partition) % n).filter(|&i| slots[row + i].is_none()).collect::<Vec<_>>()
            {
                let best = (0..fresh.len()).min_by_key(|&i| seen[fresh[i] * n + slot]);
                let drive = fresh.remove(best.expect("as many fresh drives as free slots"));
                seen[drive * n + slot] += 1;
                slots[row + slot] = Some(drive);
            }
        }
        slots.into_iter().flatten().map(|drive| drive as u16).collect()
    }
}

fn trace(reached_by: &[Option<(usize, usize)>], from: usize, to: usize) -> Vec<(usize, usize, usize)> {
    let mut path = Vec::new();
    let mut taker = to;
    while taker != from {
        let Some((partition, giver)) = reached_by[taker] else { break };
        path.push((partition, giver, taker));
        taker = giver;
    }
    path.reverse();
    path
}

/// A fixed shuffle: the layout depends on nothing but its input.
fn mix(a: usize, b: usize) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(a as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&(b as u64).to_le_bytes());
    xxh3_64(&bytes)
}
