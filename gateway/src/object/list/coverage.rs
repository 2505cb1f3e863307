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
    fn of(page: &mut ListPage) -> Self {
        Self {
            drives: std::mem::take(&mut page.drives),
            not_voting: std::mem::take(&mut page.not_voting),
            epochs: std::mem::take(&mut page.epochs),
        }
    }

    /// Leaves only what also held when `before` was told. (Epochs only rise: these are the higher ones.)
    fn narrow(&mut self, before: Self) {
        self.drives.retain(|drive| before.drives.contains(drive));
        if !before.not_voting.is_empty() {
            self.not_voting.extend(before.not_voting);
            self.not_voting.sort_unstable();
            self.not_voting.dedup();
        }
    }

    /// Whether the node knows of newer epochs than the map has.
    pub(super) fn is_ahead_of(&self, map: &ClusterMap) -> bool {
        self.epochs.iter().any(|(_, partition, epoch)| *epoch > map.epochs(*partition).epoch)
    }
}

/// What a node's pages, one after the other, say of their authority.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Over all that was told since the last item of an earlier page.
    pub(super) authority: Authority,
    /// Over what was told behind the last item of this page.
    behind: Authority,
}

impl Standing {
    /// Takes it out of a page. One that goes on where its node had stopped looking speaks together with what was told `before`
    /// it behind the last item, for other nodes' pages may end between. (Once the page is used up its own items were taken.)
    pub(super) fn of(page: &mut ListPage, before: Option<Self>) -> Self {
        let told = Authority::of(page);
        let mut authority = told.clone();
        if let Some(before) = before {
            authority.narrow(before.behind);
        }
        let behind = if page.items.is_empty() { authority.clone() } else { told };
        Self { authority, behind }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coffer_common::node::{ListEntry, ListItem};
    use coffer_common::types::{BucketId, ObjectKey, RegisterKey};

    use super::*;

    fn authority(drives: &[u128], not_voting: &[(u128, u16)]) -> Authority {
        Authority {
            drives: drives.iter().map(|drive| (DriveId(*drive), Incarnation(0))).collect(),
            not_voting: not_voting.iter().map(|(drive, p)| (DriveId(*drive), PartitionId(*p))).collect(),
            epochs: Vec::new(),
        }
    }

    fn page(authority: Authority, items: usize) -> ListPage {
        let Authority { drives, not_voting, epochs } = authority;
        let register = RegisterKey::object(BucketId(1), ObjectKey::new("k".to_owned()).unwrap());
        let entry = ListEntry { register, partition: PartitionId(0), slots: Vec::new() };
        let items = vec![ListItem::Entry(entry); items];
        let walked = Bytes::from_static(b"w");
        ListPage { items, truncated: true, walked, drives, not_voting, epochs, newer_bucket: 0 }
    }

    #[test]
    fn a_page_that_goes_on_counts_with_what_was_told_since_the_last_item() {
        let first = Standing::of(&mut page(authority(&[1, 2, 4], &[(1, 5), (2, 7)]), 0), None);
        assert_eq!(first.authority, authority(&[1, 2, 4], &[(1, 5), (2, 7)]));
        let second = authority(&[1, 2, 3], &[(2, 7)]);
        for (items, third) in [
            (0, authority(&[2], &[(1, 5), (2, 7)])),
            // Before the second page's item nothing is left to be told.
            (1, authority(&[2, 3], &[(2, 7)])),
        ] {
            let second = Standing::of(&mut page(second.clone(), items), Some(first.clone()));
            assert_eq!(second.authority, authority(&[1, 2], &[(1, 5), (2, 7)]));
            let told = Standing::of(&mut page(authority(&[2, 3], &[]), 0), Some(second));
            assert_eq!(told.authority, third, "{items} items");
        }
    }
}
