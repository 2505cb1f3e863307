//! Whether the nodes that answered a listing may speak for every partition.

use std::collections::{HashMap, HashSet};

use coffer_common::cluster::Cluster;
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::ListPage;
use coffer_common::types::{DriveId, Epoch, Incarnation, PartitionId};

use crate::object::error::Unavailable;
use crate::object::peers::Peers;

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
}

/// Checks that R0 voters of the partition, or of every partition, are among those that answered.
pub(super) fn check<'a>(
    cluster: &Cluster,
    answered: impl Iterator<Item = &'a Authority>,
    only: Option<PartitionId>,
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
    let map = cluster.map();
    for partition in partitions.map(PartitionId) {
        let (mut votes, mut n) = (0, 0);
        let known = map.epochs(partition).epoch;
        for target in map.targets(partition) {
            n += 1;
            let place = (target.address.drive, partition);
            let counts = target.voter
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

/// The stripe width of a partition.
pub(super) fn majority(cluster: &Cluster, partition: PartitionId) -> (usize, usize) {
    let geometry = Peers::of(cluster, partition).geometry;
    (geometry.m(), geometry.r0())
}
