//! How many slots of one partition a node, and a zone, may hold.
//!
//! The fewer, the more of them may fail; but small groups then must hold as much as large ones, and the rest
//! of the large ones lies idle. For nodes, and after them for zones:
//!
//! 1. The tightest limit is the smallest for which a partition still finds n drives.
//! 2. If even that lets one group hold more than half of a partition, no spread over these groups saves
//!    anything: there is no limit.
//! 3. Else the limit is the smallest, from the tightest up to the largest at which the loss of a group keeps the
//!    write quorum, that leaves at least 95 % of the capacity usable which the largest of these leaves.

use super::LayoutDrive;
use super::quota::{Groups, usable_bytes};

/// Of the capacity that a looser limit would make usable, this part is enough to keep the tighter one.
const ENOUGH_USABLE: f64 = 0.95;

/// Most slots of one partition in a node and in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) node: usize,
    pub(super) zone: usize,
}

/// The limits for these drives.
pub(super) fn limits(drives: &[LayoutDrive], groups: &Groups, n: usize) -> Limits {
    let open = Limits { node: n, zone: n };
    let node_sizes: Vec<usize> = groups.nodes.iter().map(Vec::len).collect();
    let node = choose(n, &node_sizes, |node| usable_bytes(drives, groups, n, Limits { node, ..open }));
    let zone_sizes: Vec<usize> = groups
        .zones
        .iter()
        .map(|nodes| nodes.iter().map(|&index| node_sizes[index].min(node)).sum())
        .collect();
    let zone = choose(n, &zone_sizes, |zone| usable_bytes(drives, groups, n, Limits { node, zone }));
    Limits { node, zone }
}

/// The rule of the module, for groups that could hold up to `sizes` slots of a partition each.
fn choose(n: usize, sizes: &[usize], usable: impl Fn(usize) -> f64) -> usize {
    let holds = |limit: usize| sizes.iter().map(|&size| size.min(limit)).sum::<usize>() >= n;
    let tightest = (1..=n).find(|&limit| holds(limit)).unwrap_or(n);
    if tightest > n / 2 {
        return n;
    }
    let keeps_writes = n - (n / 2 + 1);
    let loosest = keeps_writes.max(tightest);
    let enough = usable(loosest) * ENOUGH_USABLE;
    (tightest..loosest).find(|&limit| usable(limit) >= enough).unwrap_or(loosest)
}
