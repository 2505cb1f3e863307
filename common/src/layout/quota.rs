//! How many slots each drive gets.
//!
//! If a partition weighs s bytes a slot, a drive of c bytes can hold c / s slots, at most one a partition; a
//! node or zone, at most its limit a partition. The largest s for which all slots find a place is found by
//! bisection; with it every drive that is not held back by a limit is filled in proportion to its capacity.
//! Where a node or zone is held back, its share is spread over its own members by the same rule. Shares are
//! then rounded to whole slots, top down, so that every level still adds up.

use std::collections::BTreeMap;

use super::LayoutDrive;
use super::limits::Limits;
use crate::limits::PARTITION_COUNT;

const BISECTIONS: usize = 200;

/// Drives by node and nodes by zone, as places in their tables.
pub(super) struct Groups {
    /// Drives of each node that have a capacity.
    pub(super) nodes: Vec<Vec<usize>>,
    /// Nodes of each zone.
    pub(super) zones: Vec<Vec<usize>>,
    /// The node of each drive.
    pub(super) node_of: Vec<usize>,
    /// The zone of each node.
    pub(super) zone_of: Vec<usize>,
}

impl Groups {
    pub(super) fn new(drives: &[LayoutDrive]) -> Self {
        // A node that is listed under two zones counts as two: what fails together is the narrower of both.
        let mut node_index = BTreeMap::new();
        let mut zone_index = BTreeMap::new();
        let mut groups = Self { nodes: vec![], zones: vec![], node_of: vec![], zone_of: vec![] };
        for (index, drive) in drives.iter().enumerate() {
            let zones = zone_index.len();
            let zone = *zone_index.entry(&drive.zone).or_insert(zones);
            if zone == groups.zones.len() {
                groups.zones.push(vec![]);
            }
            let nodes = node_index.len();
            let node = *node_index.entry((&drive.zone, &drive.node)).or_insert(nodes);
            if node == groups.nodes.len() {
                groups.nodes.push(vec![]);
                groups.zone_of.push(zone);
                groups.zones[zone].push(node);
            }
            if drive.capacity_bytes > 0 {
                groups.nodes[node].push(index);
            }
            groups.node_of.push(node);
        }
        groups
    }
}

/// The fractional shares under a weight of 1 / `rate` bytes a slot.
struct Shares<'a> {
    drives: &'a [LayoutDrive],
    groups: &'a Groups,
    limits: Limits,
}

const PARTITIONS: f64 = PARTITION_COUNT as f64;

impl Shares<'_> {
    fn drive(&self, drive: usize, rate: f64) -> f64 {
        (self.drives[drive].capacity_bytes as f64 * rate).min(PARTITIONS)
    }

    fn node(&self, node: usize, rate: f64) -> f64 {
        let sum: f64 = self.groups.nodes[node].iter().map(|&drive| self.drive(drive, rate)).sum();
        sum.min(self.limits.node as f64 * PARTITIONS)
    }

    fn zone(&self, zone: usize, rate: f64) -> f64 {
        let sum: f64 = self.groups.zones[zone].iter().map(|&node| self.node(node, rate)).sum();
        sum.min(self.limits.zone as f64 * PARTITIONS)
    }
}

/// The rate at which `share` reaches `total`; as high as it goes if it never does.
fn rate_for(total: f64, share: impl Fn(f64) -> f64) -> f64 {
    let mut high = 1e-30;
    while share(high) < total && high < 1e9 {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..BISECTIONS {
        let middle = (low + high) / 2.0;
        if share(middle) < total { low = middle } else { high = middle }
    }
    high
}

fn total_rate(shares: &Shares<'_>, n: usize) -> f64 {
    let all = |rate: f64| (0..shares.groups.zones.len()).map(|zone| shares.zone(zone, rate)).sum();
    rate_for(n as f64 * PARTITIONS * (1.0 - 1e-12), all)
}

/// Bytes of shards that fit, over all drives, under these limits.
pub(super) fn usable_bytes(drives: &[LayoutDrive], groups: &Groups, n: usize, limits: Limits) -> f64 {
    let rate = total_rate(&Shares { drives, groups, limits }, n);
    n as f64 * PARTITIONS / rate
}

/// Slots for each drive: they add up to all slots, no drive has more than one a partition. Between equals the
/// odd slot goes to the one with the higher `current` load.
pub(super) fn quotas(
    drives: &[LayoutDrive],
    groups: &Groups,
    n: usize,
    limits: Limits,
    current: &[u32],
) -> Vec<u32> {
    let shares = Shares { drives, groups, limits };
    let rate = total_rate(&shares, n);
    let node_load = |node: usize| groups.nodes[node].iter().map(|&drive| current[drive]).sum::<u32>();
    let partitions = u32::from(PARTITION_COUNT);

    let zones: Vec<Claim> = (0..groups.zones.len())
        .map(|zone| Claim {
            share: shares.zone(zone, rate),
            most: groups.zones[zone]
                .iter()
                .map(|&node| capped(groups.nodes[node].len(), limits.node))
                .sum::<u32>()
                .min(limits.zone as u32 * partitions),
            current: groups.zones[zone].iter().map(|&node| node_load(node)).sum(),
        })
        .collect();
    let zone_quotas = round(&zones, n as u32 * partitions);

    let mut quotas = vec![0; drives.len()];
    for (members, zone_quota) in groups.zones.iter().zip(zone_quotas) {
        let sum = |rate: f64| members.iter().map(|&node| shares.node(node, rate)).sum();
        let rate = rate_for(f64::from(zone_quota), sum);
        let nodes: Vec<Claim> = members
            .iter()
            .map(|&node| Claim {
                share: shares.node(node, rate),
                most: capped(groups.nodes[node].len(), limits.node),
                current: node_load(node),
            })
            .collect();
        for (&node, node_quota) in members.iter().zip(round(&nodes, zone_quota)) {
            let members = &groups.nodes[node];
            let sum = |rate: f64| members.iter().map(|&drive| shares.drive(drive, rate)).sum();
            let rate = rate_for(f64::from(node_quota), sum);
            let claims: Vec<Claim> = members
                .iter()
                .map(|&drive| Claim {
                    share: shares.drive(drive, rate),
                    most: partitions,
                    current: current[drive],
                })
                .collect();
            for (&drive, quota) in members.iter().zip(round(&claims, node_quota)) {
                quotas[drive] = quota;
            }
        }
    }
    quotas
}

/// Most slots of a node with this many drives.
fn capped(drives: usize, limit: usize) -> u32 {
    drives.min(limit) as u32 * u32::from(PARTITION_COUNT)
}

struct Claim {
    share: f64,
    most: u32,
    current: u32,
}

/// Whole numbers close to the shares that add up to `total`: all rounded down, then one more for the largest
/// remainders.
fn round(claims: &[Claim], total: u32) -> Vec<u32> {
    let floor = |claim: &Claim| ((claim.share + 1e-6) as u32).min(claim.most);
    let mut out: Vec<u32> = claims.iter().map(floor).collect();
    let mut order: Vec<usize> = (0..claims.len()).filter(|&i| claims[i].share > 0.0).collect();
    // Remainders of equal drives differ by rounding errors only: they must count as equal.
    let remainder = |i: usize| ((claims[i].share - f64::from(out[i])) * 1e4).round() as i64;
    order.sort_by_key(|&i| (-remainder(i), std::cmp::Reverse(claims[i].current), i));
    let mut left = i64::from(total) - out.iter().map(|&q| i64::from(q)).sum::<i64>();
    while left > 0 {
        let before = left;
        for &i in &order {
            if left > 0 && out[i] < claims[i].most {
                out[i] += 1;
                left -= 1;
            }
        }
        assert!(left < before, "the limits leave room for every slot");
    }
    for &i in order.iter().rev().cycle() {
        if left == 0 {
            break;
        }
        if out[i] > 0 {
            out[i] -= 1;
            left += 1;
        }
    }
    out
}
