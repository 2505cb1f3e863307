//! What may fail under a layout.

use std::collections::BTreeMap;

use super::quota::Groups;
use super::{Layout, partitions};

/// What may fail at once, whichever they are, and what the drives do not allow.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tolerance {
    /// Drives that may fail while writes go on.
    pub drives_for_writes: usize,
    /// Drives that may fail while everything stays readable.
    pub drives_for_reads: usize,
    /// Nodes that may fail while writes go on.
    pub nodes_for_writes: usize,
    /// Nodes that may fail while everything stays readable.
    pub nodes_for_reads: usize,
    /// Zones that may fail while writes go on.
    pub zones_for_writes: usize,
    /// Zones that may fail while everything stays readable.
    pub zones_for_reads: usize,
    /// Capacity of all drives, in bytes.
    pub capacity_bytes: u64,
    /// Of it, what can be filled, parity included, before the fullest drive is full, in bytes.
    pub usable_bytes: u64,
    /// For people: what is worse than it should be, and what would help.
    pub warnings: Vec<String>,
}

/// Of the capacity, this part may lie idle without a word.
const IDLE_WITHOUT_WARNING: f64 = 0.10;

impl Layout {
    /// What may fail under this layout with the default parity n / 2. Exact: the worst partition decides.
    pub fn tolerance(&self) -> Tolerance {
        self.tolerance_of(self.n.div_ceil(2))
    }

    /// What may fail under this layout while objects of so many data shards stay readable. The parity of what is written rises when
    /// drives are away, so that writes go on with n / 2 + 1 slots in every storage class.
    pub fn tolerance_of(&self, data_shards: u8) -> Tolerance {
        let groups = Groups::new(&self.drives);
        let n = usize::from(self.n);
        let read_needs = usize::from(data_shards).clamp(n - n / 2, n);
        let (spare_for_writes, spare_for_reads) = (n - (n / 2 + 1), n - read_needs);
        let (capacity, usable) = self.capacity();
        let mut tolerance = Tolerance {
            drives_for_writes: spare_for_writes,
            drives_for_reads: spare_for_reads,
            nodes_for_writes: self.nodes_that_may_fail(spare_for_writes),
            nodes_for_reads: self.nodes_that_may_fail(spare_for_reads),
            zones_for_writes: self.zones_that_may_fail(spare_for_writes),
            zones_for_reads: self.zones_that_may_fail(spare_for_reads),
            capacity_bytes: capacity as u64,
            usable_bytes: usable.min(capacity) as u64,
            warnings: Vec::new(),
        };
        let used = |group: &Vec<usize>| !group.is_empty();
        let nodes = groups.nodes.iter().filter(|node| used(node)).count();
        let zones =
            groups.zones.iter().filter(|zone| zone.iter().any(|&node| used(&groups.nodes[node]))).count();
        tolerance.warnings = warnings(&tolerance, n, nodes, zones);
        tolerance
    }

    /// How many nodes may fail, whichever they are, so that no partition loses more than `spare` slots.
    pub fn nodes_that_may_fail(&self, spare: usize) -> usize {
        let groups = Groups::new(&self.drives);
        self.may_fail(spare, |drive| groups.node_of[drive])
    }

    /// How many zones may fail, whichever they are, so that no partition loses more than `spare` slots.
    pub fn zones_that_may_fail(&self, spare: usize) -> usize {
        let groups = Groups::new(&self.drives);
        self.may_fail(spare, |drive| groups.zone_of[groups.node_of[drive]])
    }

    /// How many groups may fail, whichever they are, so that no partition loses more than `spare` slots.
    fn may_fail(&self, spare: usize, group_of: impl Fn(usize) -> usize) -> usize {
        let of_partition = |partition| {
            let mut counts = BTreeMap::<usize, usize>::new();
            for &drive in self.slots_of(partition) {
                *counts.entry(group_of(usize::from(drive))).or_default() += 1;
            }
            let mut counts: Vec<usize> = counts.into_values().collect();
            counts.sort_unstable_by_key(|&count| std::cmp::Reverse(count));
            let lost = counts.iter().scan(0, |lost, count| {
                *lost += count;
                Some(*lost)
            });
            lost.take_while(|&lost| lost <= spare).count()
        };
        partitions().map(of_partition).min().unwrap_or(0)
    }

    /// (capacity, usable) in bytes.
    fn capacity(&self) -> (f64, f64) {
        let capacity: f64 = self.drives.iter().map(|drive| drive.capacity_bytes as f64).sum();
        let per_slot = self
            .drives
            .iter()
            .zip(self.loads())
            .filter(|(_, load)| *load > 0)
            .map(|(drive, load)| drive.capacity_bytes as f64 / f64::from(load))
            .fold(f64::INFINITY, f64::min);
        (capacity, per_slot * self.slots.len() as f64)
    }
}

fn warnings(tolerance: &Tolerance, n: usize, nodes: usize, zones: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    match n {
        1 => warnings.push("one drive: data is lost if it fails; add drives for parity".to_owned()),
        2 => warnings.push("two drives: writes stop if either fails; use 3 or more".to_owned()),
        _ => {}
    }
    let writes_need = n / 2 + 1;
    if nodes > 1 && tolerance.nodes_for_writes == 0 {
        let fate = if tolerance.nodes_for_reads == 0 { "data is not readable" } else { "writes stop" };
        warnings.push(format!(
            "{fate} while any one of some nodes is down: {nodes} nodes do not hold stripes of {n} slots so that \
             {writes_need} remain; use at least 3 nodes with equal drives"
        ));
    } else if nodes > 1 && tolerance.nodes_for_reads == 0 {
        let needed = n - tolerance.drives_for_reads;
        warnings.push(format!(
            "objects of {needed} data shards are not readable while any one of some nodes is down: their storage class has too \
             little parity for {nodes} nodes"
        ));
    }
    if zones > 1 && tolerance.zones_for_reads == 0 {
        warnings.push(format!(
            "data is not readable while any one of some zones is down: {zones} zones are too few or too unequal"
        ));
    } else if zones > 2 && tolerance.zones_for_writes == 0 {
        warnings.push(format!(
            "writes stop while any one of some of the {zones} zones is down: they are too unequal"
        ));
    }
    let idle = 1.0 - tolerance.usable_bytes as f64 / tolerance.capacity_bytes.max(1) as f64;
    if idle > IDLE_WITHOUT_WARNING {
        warnings.push(format!(
            "{:.0} % of the capacity cannot be used: drives, nodes or zones are too unequal for stripes of {n} slots",
            idle * 100.0
        ));
    }
    warnings
}
