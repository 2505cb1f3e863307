//! One page of a node's listing: the pages of its drives, merged by key.
//!
//! 1. Each drive reads its own page, all at once; a drive that fails, or does not come to an end, or knows a newer record
//!    of the bucket than the caller, is left out of [`ListPage::drives`].
//! 2. A page speaks only up to the smallest last item of the drives that have more; what lies behind is dropped. Drives have
//!    more, too, where versions with long metadata (part tables) fill [`PAGE_BYTES`] before there are enough items, and where
//!    they have looked for [`WALK`] at registers of which none is an item: such a drive speaks up to where it stopped, and
//!    so does the page ([`ListPage::walked`]), if the caller goes on from there.
//! 3. Entries of one register are joined. Of a common prefix the smallest witness is kept, and every other drive is asked
//!    what it holds of that register, so that the gateway sees all of the node's slots of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::node::{ListEntry, ListItem, ListPage, ListRequest, NodeError};
use coffer_common::types::{DriveId, PartitionId, RegisterKey};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::StorageNode;
use crate::store::{DriveItem, DriveList, DriveStore, after_prefix};

/// Most items of a page, whatever the caller asks for.
const MAX_ITEMS: u32 = 10_000;
/// A page ends with the item that exceeds this in metadata and keys: together with the longest item (a version of 1 MiB in 16
/// slots) far below what a message may have, and enough for 1,000 ordinary registers in 16 slots each.
const PAGE_BYTES: usize = 16 << 20;
/// A drive reads at least so much of it.
const MIN_DRIVE_BYTES: usize = 1 << 20;
/// How long a drive may take for its part of a page: less than a gateway waits for the node's.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this long a drive ends its part where it is: half of [`PATIENCE`], so that a drive gets on as long as each of its
/// pieces takes less than that half, and one that hangs is still left out.
const WALK: Duration = Duration::from_millis(2_500);

impl StorageNode {
    pub(super) async fn list_merged(&self, mut request: ListRequest) -> Result<ListPage, NodeError> {
        if request.cluster != self.cluster {
            return Err(NodeError::Denied(format!("this node is of cluster {}", self.cluster)));
        }
        request.limit = request.limit.clamp(1, MAX_ITEMS);
        let limit = request.limit as usize;
        let request = Arc::new(request);
        let bytes = (PAGE_BYTES / self.drives().count().max(1)).max(MIN_DRIVE_BYTES);
        let lists = join_all(self.drives().map(|store| read(store, &request, bytes))).await;
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
        let (mut merge, mut held) = (Merge::of(complete), 0);
        while page.items.len() < limit && held <= PAGE_BYTES {
            let item = match merge.next()? {
                None => {
                    page.walked = merge.walked().unwrap_or_default();
                    break;
                }
                Some(Merged::Entry(entry)) => ListItem::Entry(entry),
                Some(Merged::CommonPrefix(prefix, witness, from)) => {
                    let witness = self.complete_witness(witness, from).await?;
                    ListItem::CommonPrefix { prefix, witness }
                }
            };
            held += match &item {
                ListItem::Entry(entry) | ListItem::CommonPrefix { witness: entry, .. } => entry.memory(),
            };
            page.items.push(item);
        }
        page.truncated = merge.has_more();
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
    bytes: usize,
) -> (&'a Arc<DriveStore>, Result<(Vec<PartitionId>, DriveList), NodeError>) {
    let not_voting = store.not_voting();
    let until = request.resumes.then(|| Instant::now() + WALK);
    let list = in_time(store, store.list(Arc::clone(request), bytes, until)).await;
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

/// An item as all drives tell it; of a prefix, the drive of its witness.
enum Merged {
    Entry(ListEntry),
    CommonPrefix(Bytes, ListEntry, DriveId),
}

/// Drives' pages, taken together in order.
struct Merge {
    lists: Vec<(DriveId, VecDeque<(Bytes, DriveItem)>)>,
    /// How far all pages speak; `None`: to the end.
    bound: Option<Bytes>,
    /// The last item that was taken, or what is behind all that is rolled up into it.
    taken: Option<Bytes>,
}

impl Merge {
    fn of(lists: Vec<(DriveId, DriveList)>) -> Self {
        let bound = lists
            .iter()
            .filter(|(_, list)| list.truncated)
            .filter_map(|(_, list)| {
                list.walked.clone().or_else(|| list.items.last().map(|(key, _)| key.clone()))
            })
            .min();
        let lists = lists.into_iter().map(|(drive, list)| (drive, list.items.into())).collect();
        Self { lists, bound, taken: None }
    }

    /// Up to where the page speaks after everything was taken, if that is behind its last item. A drive that stopped amid
    /// what another one rolls up adds nothing to that: the prefix is told.
    fn walked(&self) -> Option<Bytes> {
        self.bound.clone().filter(|bound| self.taken.as_ref().is_none_or(|taken| bound > taken))
    }

    /// Whether more may follow what was taken.
    fn has_more(&self) -> bool {
        self.bound.is_some() || self.lists.iter().any(|(_, items)| !items.is_empty())
    }

    /// The next item.
    ///
    /// # Errors
    /// If a drive tells a key that is none: its page cannot be believed.
    fn next(&mut self) -> Result<Option<Merged>, NodeError> {
        let heads = self.lists.iter().filter_map(|(_, items)| items.front());
        let smallest = heads.map(|(key, _)| key).min();
        let Some(smallest) = smallest.filter(|key| self.bound.as_ref().is_none_or(|bound| *key <= bound))
        else {
            return Ok(None);
        };
        let (smallest, count) = (smallest.clone(), self.lists.len());
        let (mut entry, mut rolled_up): (Option<ListEntry>, Option<(Bytes, ListEntry, DriveId)>) =
            (None, None);
        for (drive, items) in &mut self.lists {
            if items.front().is_none_or(|(key, _)| *key != smallest) {
                continue;
            }
            match items.pop_front() {
                Some((_, DriveItem::Entry(listed))) => {
                    if entry.is_none() {
                        let register = register_of(&smallest, *drive)?;
                        let (partition, slots) = (listed.partition, Vec::with_capacity(count));
                        entry = Some(ListEntry { register, partition, slots });
                    }
                    if let Some(entry) = &mut entry {
                        entry.slots.push((listed.slot, listed.current));
                    }
                }
                // (A register's encoded key ends behind its terminator, a prefix before one: they are never equal.)
                Some((_, DriveItem::CommonPrefix(prefix, witness)))
                    if rolled_up.as_ref().is_none_or(|(_, held, _)| witness.register < held.register) =>
                {
                    rolled_up = Some((prefix, witness, *drive));
                }
                // The witness that is held is the smaller one.
                Some((_, DriveItem::CommonPrefix(..))) | None => {}
            }
        }
        self.taken = Some(match &rolled_up {
            Some(_) => Bytes::from(after_prefix(&smallest)),
            None => smallest,
        });
        let rolled_up =
            rolled_up.map(|(prefix, witness, drive)| Merged::CommonPrefix(prefix, witness, drive));
        Ok(rolled_up.or(entry.map(Merged::Entry)))
    }
}

fn register_of(key: &[u8], drive: DriveId) -> Result<RegisterKey, NodeError> {
    RegisterKey::decode(key).map_err(|error| NodeError::DriveUnavailable { drive, reason: error.to_string() })
}
