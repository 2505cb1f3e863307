//! Merges all nodes' ordered pages of one kind of register into one stream.
//!
//! 1. Every node whose page is used up is asked for its next one, all at the same time.
//! 2. The nodes that answered must be R0 voters of every partition (`coverage`), else the listing is unavailable, or the
//!    bucket's record old: drives that know a newer one do not answer.
//! 3. What a node tells of slots that are not its own, by the map of that check, is left out: their drive has been left, or
//!    is not theirs yet.
//! 4. The smallest head of all pages is next; nodes that show the same register or rolled-up prefix are put together.
//!
//! A page that is cut speaks only up to its last item; since no head is taken while any page is used up, nothing that a
//! node has not shown yet is ever passed over.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::cluster::ClusterMap;
use coffer_common::driver;
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::{ListEntry, ListItem, ListRequest, NodeClient, NodeError};
use coffer_common::protocol::fenced::Trouble;
use coffer_common::protocol::message::{SlotVersion, Version, VersionState};
use coffer_common::types::{
    BucketId, DriveId, NodeId, PartitionId, RegisterKey, RegisterKind, SlotIndex, SlotSet,
};
use futures_util::future::join_all;

use super::coverage::{self, Authority};
use crate::object::core::Core;
use crate::object::error::Unavailable;

/// How long a node may take for a page.
const PAGE_LIMIT: Duration = Duration::from_secs(20);
/// How often the map is read again because nodes know a newer one.
const REFRESHES: usize = 3;
/// Most items asked for in one page.
const PAGE_ITEMS: u32 = 1_001;

/// What is listed.
#[derive(Clone, Debug)]
pub(super) struct ScanRequest {
    /// The bucket.
    pub(super) bucket: BucketId,
    /// The revision of its record.
    pub(super) bucket_revision: u64,
    /// The kind of register.
    pub(super) kind: RegisterKind,
    /// Only keys that begin with this.
    pub(super) prefix: Bytes,
    /// Rolls keys up; empty for none.
    pub(super) delimiter: Bytes,
    /// Only what comes after this encoded register key; empty for all.
    pub(super) after: Vec<u8>,
    /// Items that the caller hopes to need.
    pub(super) expected: u32,
    /// The partition, if all registers are in one.
    pub(super) only: Option<PartitionId>,
    /// The drives whose answers count, if not all do.
    pub(super) among: Option<Arc<BTreeSet<DriveId>>>,
}

/// The next item of a scan.
#[derive(Clone, Debug)]
pub(super) enum Merged {
    /// A register as all answering slots hold it; slots that are not named hold nothing.
    Entry(ListEntry),
    /// A rolled-up prefix, with the registers below it that nodes believe to be live.
    Prefix {
        /// Delimiter included.
        prefix: Bytes,
        /// The witnesses, put together by register.
        witnesses: Vec<ListEntry>,
    },
}

struct Cursor {
    node: NodeId,
    client: Option<Arc<dyn NodeClient>>,
    /// With where each stands in the order of encoded register keys.
    items: VecDeque<(Vec<u8>, ListItem)>,
    after: Vec<u8>,
    more: bool,
    authority: Option<Authority>,
    /// A newer revision of the bucket's record that some drive of the node knows.
    newer_bucket: Option<u64>,
}

/// See the module.
pub(super) struct Scan {
    core: Arc<Core>,
    request: ScanRequest,
    cursors: Vec<Cursor>,
    /// The map by which the nodes that answered may speak for every partition.
    map: Arc<ClusterMap>,
}

impl Scan {
    /// Begins a scan; nothing is asked yet.
    pub(super) fn new(core: Arc<Core>, request: ScanRequest) -> Self {
        let cursors = driver::nodes(&core.cluster, request.only)
            .into_iter()
            .map(|(node, client)| Cursor {
                node,
                client,
                items: VecDeque::new(),
                after: request.after.clone(),
                more: true,
                authority: None,
                newer_bucket: None,
            })
            .collect();
        let map = core.cluster.map();
        Self { core, request, cursors, map }
    }

    /// The next item; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Merged>, Unavailable> {
        if self.cursors.iter().any(|cursor| cursor.items.is_empty() && cursor.more) {
            self.fetch().await?;
        }
        let heads = self.cursors.iter().filter_map(|cursor| cursor.items.front());
        let Some(smallest) = heads.map(|(position, _)| position).min().cloned() else { return Ok(None) };
        let mut entries: Vec<ListEntry> = Vec::new();
        let mut rolled_up = None;
        for cursor in &mut self.cursors {
            if cursor.items.front().is_none_or(|(position, _)| *position != smallest) {
                continue;
            }
            match cursor.items.pop_front() {
                Some((_, ListItem::Entry(entry))) => {
                    cursor.after.clone_from(&smallest);
                    add(&mut entries, own(&self.map, &cursor.node, entry));
                }
                Some((_, ListItem::CommonPrefix { prefix, witness })) => {
                    cursor.after.clone_from(&smallest);
                    cursor.after.push(0xFF);
                    add(&mut entries, own(&self.map, &cursor.node, witness));
                    rolled_up = Some(prefix);
                }
                None => {}
            }
        }
        if let Some(prefix) = rolled_up {
            return Ok(Some(Merged::Prefix { prefix, witnesses: entries }));
        }
        Ok(entries.pop().map(Merged::Entry))
    }

    async fn fetch(&mut self) -> Result<(), Unavailable> {
        let items = self.request.expected.clamp(1, PAGE_ITEMS);
        let cluster = self.core.cluster.map().cluster;
        let request = &self.request;
        let pages = self.cursors.iter_mut().filter(|cursor| cursor.items.is_empty() && cursor.more).map(
            async |cursor| {
                let request = ListRequest {
                    cluster,
                    bucket: request.bucket,
                    bucket_revision: request.bucket_revision,
                    kind: request.kind,
                    prefix: request.prefix.clone(),
                    after: Bytes::copy_from_slice(&cursor.after),
                    delimiter: request.delimiter.clone(),
                    limit: items,
                };
                cursor.fetch(&self.core, request).await;
            },
        );
        join_all(pages).await;
        self.check().await.map_err(|error| {
            match self.cursors.iter().filter_map(|cursor| cursor.newer_bucket).max() {
                Some(revision) => self.core.undecided(Trouble::BucketChanged(revision)),
                None => error,
            }
        })
    }

    /// Whether the nodes that answered may speak for every partition, by a map that knows what they know.
    async fn check(&mut self) -> Result<(), Unavailable> {
        let answered: Vec<&Authority> =
            self.cursors.iter().filter_map(|cursor| cursor.authority.as_ref()).collect();
        let mut refreshed = 0;
        loop {
            let map = self.core.cluster.map();
            let checked = match (self.request.only, self.request.among.as_deref()) {
                (None, None) => self.core.coverage.check(&map, &answered),
                (only, among) => coverage::check(&map, &answered, only, among),
            };
            match checked {
                Err(_) if refreshed < REFRESHES && answered.iter().any(|node| node.is_ahead_of(&map)) => {
                    self.core.cluster.refresh().await;
                    refreshed += 1;
                }
                checked => {
                    self.map = map;
                    return checked;
                }
            }
        }
    }
}

impl Cursor {
    /// Asks for the next page; a node that fails says nothing from here on.
    async fn fetch(&mut self, core: &Core, request: ListRequest) {
        let (bucket, kind) = (request.bucket, request.kind);
        let result = match &self.client {
            None => Err(NodeError::Unreachable {
                node: self.node.to_string(),
                reason: "no address is known".to_owned(),
            }),
            Some(client) => match tokio::time::timeout(PAGE_LIMIT, client.list(request)).await {
                Ok(result) => result,
                Err(_) => Err(NodeError::Timeout { node: self.node.to_string() }),
            },
        };
        core.cluster.report(&self.node, result.as_ref().map(|_| ()));
        match result {
            Ok(mut page) if !page.truncated || !page.items.is_empty() => {
                self.authority = Some(Authority::of(&mut page));
                self.newer_bucket = Some(page.newer_bucket).filter(|revision| *revision > 0);
                self.more = page.truncated;
                let positioned = |item| (position(bucket, kind, &item), item);
                self.items = page.items.into_iter().map(positioned).collect();
            }
            Ok(_) => {
                tracing::warn!(node = %self.node, "a page of a listing is cut before its first item");
                self.fail();
            }
            Err(error) => {
                tracing::debug!(node = %self.node, %error, "node does not list");
                self.fail();
            }
        }
    }

    fn fail(&mut self) {
        self.authority = None;
        self.more = false;
    }
}

/// Where an item stands in the order of encoded register keys.
fn position(bucket: BucketId, kind: RegisterKind, item: &ListItem) -> Vec<u8> {
    match item {
        ListItem::Entry(entry) => entry.register.encode(),
        ListItem::CommonPrefix { prefix, .. } => RegisterKey::encode_prefix(bucket, kind, prefix),
    }
}

/// Leaves out what the node tells of slots that it does not hold.
fn own(map: &ClusterMap, node: &NodeId, mut entry: ListEntry) -> ListEntry {
    let partition = entry.partition;
    let holds = |slot: SlotIndex| {
        let known = slot.0 < map.layout.n() && partition.0 < PARTITION_COUNT;
        known && map.locate(map.drive_of(partition, slot)).is_none_or(|(holder, _)| holder == node)
    };
    entry.slots.retain(|(slot, _)| holds(*slot));
    entry
}

fn add(entries: &mut Vec<ListEntry>, entry: ListEntry) {
    match entries.iter_mut().find(|known| known.register == entry.register) {
        Some(known) => known.slots.extend(entry.slots),
        None => entries.push(entry),
    }
}

impl Merged {
    /// Rough bytes in memory.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.memory(),
            Self::Prefix { witnesses, .. } => witnesses.iter().map(ListEntry::memory).sum(),
        }
    }
}

/// The version with the highest tag, and whether it is decided by rules 5.1 and 5.2.
pub(super) fn top(entry: &ListEntry, m: usize) -> Option<(&Version, bool)> {
    let held = || entry.slots.iter().map(|(_, held)| held);
    let top = held().max_by_key(|held| held.tag)?;
    let stable = held().any(|held| held.tag == top.tag && held.state == VersionState::Stable);
    // A slot that has moved between two drives of a node may have been told twice.
    let mut agreeing = SlotSet::default();
    let votes =
        |(_, held): &&(SlotIndex, SlotVersion)| held.tag == top.tag && held.state >= VersionState::Committed;
    entry.slots.iter().filter(votes).for_each(|(slot, _)| agreeing.insert(*slot));
    Some((&top.version, stable || agreeing.len() >= m))
}
