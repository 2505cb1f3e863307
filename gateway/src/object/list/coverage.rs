//! Whether the nodes that answered a listing may speak for every partition.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use coffer_common::cluster::{Cluster, ClusterMap};
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::ListPage;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{DriveId, Epoch, Incarnation, PartitionId};
use parking_lot::Mutex;

use crate::object::error::Unavailable;

/// What a node's page says of its own authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Authority {
    drives: Vec<(DriveId, Incarnation)>,
    not_voting: Vec<(DriveId, PartitionId)>,
    epochs: Vec<(DriveId, PartitionId, Epoch)>,
}

impl Authority {
    /// Takes it out of a page.
    pub(super) fn of(page: &mut ListPage) -> Self {
        Self {
            drives: std::mem::take(&mut page.drives),
            not_voting: std::mem::take(&mut page.not_voting),
            epochs: std::mem::take(&mut page.epochs),
        }
    }

    /// Whether the node knows of newer epochs than the map has.
    pub(super) fn is_ahead_of(&self, map: &ClusterMap) -> bool {
        self.epochs.iter().any(|(_, partition, epoch)| *epoch > map.epochs(*partition).epoch)
    }
}

/// The last authorities that were found to speak for every partition of a map, so that the next page of the same nodes
/// need not be checked again.
#[derive(Default)]
pub(in crate::object) struct Checked(Mutex<Option<(Arc<ClusterMap>, Vec<Authority>)>>);

impl Checked {
    /// [`check`] for every partition, unless it is known.
    pub(super) fn check(&self, map: &Arc<ClusterMap>, answered: &[&Authority]) -> Result<(), Unavailable> {
        if let Some((known, authorities)) = &*self.0.lock()
            && Arc::ptr_eq(known, map)
            && authorities.iter().eq(answered.iter().copied())
        {
            return Ok(());
        }
        check(map, answered, None, None)?;
        *self.0.lock() =
            Some((Arc::clone(map), answered.iter().map(|authority| (*authority).clone()).collect()));
        Ok(())
    }
}

/// Checks that R0 voters of the partition, or of every partition, are among those that answered; of these drives alone, if
/// they are given.
pub(super) fn check(
    map: &ClusterMap,
    answered: &[&Authority],
    only: Option<PartitionId>,
    among: Option<&BTreeSet<DriveId>>,
) -> Result<(), Unavailable> {
    let mut drives: HashMap<DriveId, Incarnation> = HashMap::new();
    let mut not_voting: HashSet<(DriveId, PartitionId)> = HashSet::new();
    let mut epochs: HashMap<(DriveId, PartitionId), Epoch> = HashMap::new();
    for authority in answered {
        drives.extend(authority.drives.iter().copied());
        not_voting.extend(authority.not_voting.iter().copied());
        epochs
            .extend(authority.epochs.iter().map(|(drive, partition, epoch)| ((*drive, *partition), *epoch)));
    }
    let partitions = match only {
        Some(partition) => partition.0..partition.0 + 1,
        None => 0..PARTITION_COUNT,
    };
    for partition in partitions.map(PartitionId) {
        let (mut votes, mut n) = (0, 0);
        let known = map.epochs(partition).epoch;
        for target in map.targets(partition) {
            n += 1;
            let place = (target.address.drive, partition);
            let counts = target.voter
                && among.is_none_or(|among| among.contains(&target.address.drive))
                && drives.get(&target.address.drive) == Some(&target.address.incarnation)
                && !not_voting.contains(&place)
                && epochs.get(&place).is_none_or(|epoch| *epoch <= known);
            votes += usize::from(counts);
        }
        if votes < n - n / 2 {
            let reason = format!("{votes} of {n} drives of partition {} answered the listing", partition.0);
            return Err(Unavailable::new(reason));
        }
    }
    Ok(())
}

/// M and R0: every partition has the layout's stripe width.
pub(super) fn counts(cluster: &Cluster) -> (usize, usize) {
    let geometry = Geometry::new(cluster.map().layout.n());
    (geometry.m(), geometry.r0())
}
