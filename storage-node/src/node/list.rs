//! One page of a node's listing: the pages of its drives, merged by key.
//!
//! 1. Each drive reads its own page, all at once; a drive that fails, or does not come to an end, or knows a newer record
//!    of the bucket than the caller, is left out of [`ListPage::drives`].
//! 2. A page speaks only up to the smallest last item of the drives that have more; what lies behind is dropped.
//! 3. Entries of one register are joined. Of a common prefix the smallest witness is kept, and every other drive is asked
//!    what it holds of that register, so that the gateway sees all of the node's slots of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::node::{ListEntry, ListItem, ListPage, ListRequest, NodeError};
use coffer_common::types::{DriveId, PartitionId};
use futures_util::future::join_all;

use super::StorageNode;
use crate::store::{DriveItem, DriveList, DriveStore};

/// Most items of a page, whatever the caller asks for.
const MAX_ITEMS: u32 = 10_000;
/// How long a drive may take for its part of a page: less than a gateway waits for the node's.
const PATIENCE: Duration = Duration::from_secs(5);

impl StorageNode {
    pub(super) async fn list_merged(&self, mut request: ListRequest) -> Result<ListPage, NodeError> {
        if request.cluster != self.cluster {
            return Err(NodeError::Denied(format!("this node is of cluster {}", self.cluster)));
        }
        request.limit = request.limit.clamp(1, MAX_ITEMS);
        let limit = request.limit as usize;
        let request = Arc::new(request);
        let lists = join_all(self.drives().map(|store| read(store, &request))).await;
        let mut page = ListPage::default();
        let mut complete = Vec::new();
        for (store, result) in lists {
            match result {
                Ok((_, DriveList { newer_bucket: Some(newer), .. })) => {
                    page.newer_bucket = page.newer_bucket.max(newer);
                }
                Ok((not_voting, list)) => {
                    page.drives.push((store.id(), store.incarnation()));
                    page.not_voting.extend(not_voting.into_iter().map(|partition| (store.id(), partition)));
                    let epochs = store.epochs();
                    page.epochs.extend(epochs.into_iter().map(|(p, epoch)| (store.id(), p, epoch)));
                    complete.push((store.id(), list));
                }
                Err(error) => tracing::warn!(drive = %store.id(), %error, "a drive is left out of a listing"),
            }
        }
        let (merged, truncated) = merge(complete, limit);
        page.truncated = truncated;
        for (key, (item, from)) in merged {
            page.items.push(match item {
                DriveItem::Entry(entry) => ListItem::Entry(entry),
                DriveItem::CommonPrefix(prefix, witness) => {
                    let witness = self.complete_witness(witness, from).await?;
                    debug_assert!(!key.is_empty());
                    ListItem::CommonPrefix { prefix, witness }
                }
            });
        }
        Ok(page)
    }

    /// Adds what the node's other drives hold of a witness.
    async fn complete_witness(&self, mut witness: ListEntry, from: DriveId) -> Result<ListEntry, NodeError> {
        let others = self.drives().filter(|store| store.id() != from);
        for found in
            join_all(others.map(|store| in_time(store, store.list_one(witness.register.clone())))).await
        {
            // A drive that fails here is one whose other answers count; its slot is just not told.
            if let Ok(Some(entry)) = found {
                witness.slots.extend(entry.slots);
            }
        }
        Ok(witness)
    }
}

/// A drive's page, with the partitions in which it did not vote before it was read: a slot that votes only since has not
/// told of all that it votes on. (Epochs are looked at afterwards: they only rise.)
async fn read<'a>(
    store: &'a Arc<DriveStore>,
    request: &Arc<ListRequest>,
) -> (&'a Arc<DriveStore>, Result<(Vec<PartitionId>, DriveList), NodeError>) {
    let not_voting = store.not_voting();
    let list = in_time(store, store.list(Arc::clone(request))).await;
    (store, list.map(|list| (not_voting, list)))
}

/// A drive that hangs must not hold up what the others know.
async fn in_time<T>(
    store: &DriveStore,
    read: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    let late = |_| NodeError::DriveUnavailable {
        drive: store.id(),
        reason: format!("it did not answer within {} s", PATIENCE.as_secs()),
    };
    tokio::time::timeout(PATIENCE, read).await.map_err(late)?
}

type Merged = BTreeMap<Bytes, (DriveItem, DriveId)>;

/// Merges drives' pages; also tells whether more may follow.
fn merge(lists: Vec<(DriveId, DriveList)>, limit: usize) -> (Merged, bool) {
    let bound = lists
        .iter()
        .filter(|(_, list)| list.truncated)
        .filter_map(|(_, list)| list.items.last().map(|(key, _)| key.clone()))
        .min();
    let mut merged = Merged::new();
    let mut truncated = bound.is_some();
    for (drive, list) in lists {
        for (key, item) in list.items {
            if bound.as_ref().is_some_and(|bound| key > *bound) {
                break;
            }
            join(&mut merged, key, item, drive);
        }
    }
    while merged.len() > limit {
        merged.pop_last();
        truncated = true;
    }
    (merged, truncated)
}

fn join(merged: &mut Merged, key: Bytes, item: DriveItem, drive: DriveId) {
    use std::collections::btree_map::Entry;
    match merged.entry(key) {
        Entry::Vacant(vacant) => drop(vacant.insert((item, drive))),
        Entry::Occupied(mut held) => match (&mut held.get_mut().0, item) {
            (DriveItem::Entry(held), DriveItem::Entry(other)) => held.slots.extend(other.slots),
            (DriveItem::CommonPrefix(_, witness), DriveItem::CommonPrefix(prefix, other))
                if other.register < witness.register =>
            {
                held.insert((DriveItem::CommonPrefix(prefix, other), drive));
            }
            // The witness that is held is the smaller one. (A register's encoded key ends behind its terminator, a prefix
            // before one: they are never equal.)
            _ => {}
        },
    }
}
