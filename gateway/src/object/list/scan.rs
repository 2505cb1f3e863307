//! Merges all nodes' ordered pages of one kind of register into one stream.
//!
//! 1. If it is open what comes next, every node whose page is used up is asked for its next one, all at the same time.
//! 2. The nodes that answered must be R0 voters of every partition (`coverage`), else the listing is unavailable, or the
//!    bucket's record old: drives that know a newer one do not answer.
//! 3. What a node tells of slots that are not its own, by the map of that check, is left out: their drive has been left, or
//!    is not theirs yet.
//! 4. The smallest head of all pages is next; nodes that show the same register or rolled-up prefix are put together.
//! 5. Nodes that look on before it for [`PATIENCE`] rounds are left out, if the others may speak for every partition without
//!    them.
//!
//! A page that is cut speaks only up to its last item, or up to where its node has stopped looking; since no head is taken
//! that is behind such a place, nothing that a node has not shown yet is ever passed over. Where nodes have stopped, pages of
//! different rounds are put together: a drive counts there if it is in all of them ([`Standing`]).
//!
//! A rolled-up prefix stands before all that is below it, and is taken though a node has stopped there: of what comes before
//! it that node has told all. What it would still tell is a witness, which only says where to look: whoever shows the
//! prefix confirms it with R0 slots of a witness, or lists below it. So the node is asked on from behind the prefix; it would
//! have to look at all of it else, and no scan could end there, for the prefix is neither shown nor over.

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
use tokio::time::Instant;

use super::coverage::{self, Authority, Standing};
use super::is_rolled_up;
use crate::object::core::Core;
use crate::object::error::Unavailable;

/// How long a node may take for a page.
const PAGE_LIMIT: Duration = Duration::from_secs(20);
/// How often the map is read again because nodes know a newer one.
const REFRESHES: usize = 3;
/// Most items asked for in one page, unless the scan is limited further.
const PAGE_ITEMS: u32 = 1_001;
/// How many rounds are waited for nodes that others could do without: a drive looks for some seconds in each.
const PATIENCE: usize = 2;

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
    /// Items that the caller hopes to need, of the next page.
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
    /// The last item that was taken, or what is behind a rolled-up prefix.
    after: Vec<u8>,
    /// How far the page speaks, if that may be behind its last item.
    walked: Option<Bytes>,
    more: bool,
    standing: Option<Standing>,
    /// A newer revision of the bucket's record that some drive of the node knows.
    newer_bucket: Option<u64>,
}

/// See the module.
pub(super) struct Scan {
    core: Arc<Core>,
    request: ScanRequest,
    cursors: Vec<Cursor>,
    /// Most items asked for in one page.
    page_items: u32,
    /// The map by which the nodes that answered may speak for every partition.
    map: Arc<ClusterMap>,
    /// From when on the scan ends where it is, if another one can go on from there.
    until: Option<Instant>,
    /// Where that is.
    paused: Option<String>,
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
                walked: None,
                more: true,
                standing: None,
                newer_bucket: None,
            })
            .collect();
        let map = core.cluster.map();
        Self { core, request, cursors, page_items: PAGE_ITEMS, map, until: None, paused: None }
    }

    /// Asks for at most so many items in one page.
    pub(super) fn limit_pages(&mut self, items: u32) {
        self.page_items = items;
    }

    /// Has the scan end where it is after this time, or when too few nodes answer. Only for objects' registers.
    pub(super) fn pause_at(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// Where another scan may go on, if this one has ended before the end: behind this key, or all that is rolled up into
    /// this prefix. Every item up to there was taken.
    pub(super) fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// The next item; `None` at the end, and from a pause on.
    pub(super) async fn next(&mut self) -> Result<Option<Merged>, Unavailable> {
        let mut rounds = 0;
        while self.paused.is_none() && self.is_open() {
            if rounds >= PATIENCE && self.leave_out().await {
                break;
            }
            let reached = self.until.and_then(|_| self.reached());
            if reached.is_some() && self.until.is_some_and(|until| Instant::now() >= until) {
                self.paused = reached;
                break;
            }
            match self.fetch().await {
                Ok(()) => rounds += 1,
                // Up to there nodes have answered.
                Err(error) if reached.is_some() && error.newer_bucket.is_none() => {
                    tracing::debug!(%error, "a listing ends before what is unavailable");
                    self.paused = reached;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(if self.paused.is_none() { self.take() } else { None })
    }

    /// Whether nodes have to be asked before it is known what comes next.
    fn is_open(&self) -> bool {
        self.told().is_some_and(|told| self.heads().all(|head| head > told))
    }

    /// Up to where those have told what they hold whose pages are used up.
    fn told(&self) -> Option<&[u8]> {
        self.cursors.iter().filter(|cursor| cursor.is_used_up()).map(Cursor::end).min()
    }

    fn heads(&self) -> impl Iterator<Item = &[u8]> {
        self.cursors.iter().filter_map(|cursor| cursor.items.front()).map(|(position, _)| position.as_slice())
    }

    /// The smallest head of all, as all nodes together show it.
    fn take(&mut self) -> Option<Merged> {
        let smallest = self.heads().min()?.to_vec();
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
                    add(&mut entries, own(&self.map, &cursor.node, witness));
                    rolled_up = Some(prefix);
                }
                None => {}
            }
        }
        let Some(prefix) = rolled_up else { return entries.pop().map(Merged::Entry) };
        let behind = [smallest.as_slice(), &[0xFF]].concat();
        self.cursors.iter_mut().for_each(|cursor| cursor.skip_to(&behind));
        Some(Merged::Prefix { prefix, witnesses: entries })
    }

    async fn fetch(&mut self) -> Result<(), Unavailable> {
        let items = self.request.expected.clamp(1, self.page_items);
        // Who needs another page has met more that is hidden than was expected.
        self.request.expected = items * 2;
        let cluster = self.core.cluster.map().cluster;
        let request = &self.request;
        let used_up = self.cursors.iter_mut().filter(|cursor| cursor.is_used_up());
        let pages = used_up.map(async |cursor| {
            let request = ListRequest {
                cluster,
                bucket: request.bucket,
                bucket_revision: request.bucket_revision,
                kind: request.kind,
                prefix: request.prefix.clone(),
                after: Bytes::copy_from_slice(cursor.end()),
                delimiter: request.delimiter.clone(),
                limit: items,
                resumes: true,
            };
            cursor.fetch(&self.core, request).await;
        });
        join_all(pages).await;
        self.check(|_| true, REFRESHES).await.map_err(|error| {
            match self.cursors.iter().filter_map(|cursor| cursor.newer_bucket).max() {
                Some(revision) => self.core.undecided(Trouble::BucketChanged(revision)),
                None => error,
            }
        })
    }

    /// While it is open what comes next: the last key, or rolled-up prefix, up to which nothing is left to be shown; `None` if
    /// that is nothing yet.
    fn reached(&self) -> Option<String> {
        let begin = self.request.after.as_slice();
        let taken = self.cursors.iter().map(|cursor| cursor.after.as_slice()).max();
        let ends = [self.told(), taken].into_iter().flatten();
        ends.filter(|end| *end > begin).find_map(|end| self.start_after(end))
    }

    /// What begins a listing of objects behind this place; `None` if it would begin elsewhere: a key that looks like a
    /// rolled-up prefix stands for all that is below it.
    fn start_after(&self, end: &[u8]) -> Option<String> {
        let rolled_up = end.strip_suffix(&[0xFF_u8]);
        let register = match rolled_up {
            Some(prefix) => RegisterKey::decode(&[prefix, &[0x00, 0x01]].concat()),
            None => RegisterKey::decode(end),
        };
        let key = register.ok()?.key.as_str().to_owned();
        let texts =
            (str::from_utf8(&self.request.prefix).ok()?, str::from_utf8(&self.request.delimiter).ok()?);
        (is_rolled_up(&key, texts.0, texts.1) == rolled_up.is_some()).then_some(key)
    }

    /// Leaves out nodes that still look, if the others can do without them: one slow drive must not set the pace of all. A used
    /// up page that reaches to the next head speaks for it, too. No newer map is read for what waiting does as well.
    async fn leave_out(&mut self) -> bool {
        let head = self.heads().min().map(<[u8]>::to_vec);
        let speaks = |cursor: &Cursor| {
            !cursor.is_used_up() || head.as_deref().is_some_and(|head| cursor.end() >= head)
        };
        let can = self.check(speaks, 0).await.is_ok();
        for cursor in self.cursors.iter_mut().filter(|cursor| can && !speaks(cursor)) {
            tracing::debug!(node = %cursor.node, "a node that looks for long is left out of a listing");
            cursor.fail();
        }
        can
    }

    /// Whether those of the nodes that answered which count may speak for every partition, by a map that knows what they know:
    /// for that it is read again so many times at most.
    async fn check(
        &mut self,
        counts: impl Fn(&Cursor) -> bool,
        mut refreshes: usize,
    ) -> Result<(), Unavailable> {
        let counting = self.cursors.iter().filter(|cursor| counts(cursor));
        let answered: Vec<&Authority> =
            counting.filter_map(|cursor| Some(&cursor.standing.as_ref()?.authority)).collect();
        loop {
            let map = self.core.cluster.map();
            let checked = match (self.request.only, self.request.among.as_deref()) {
                (None, None) => self.core.coverage.check(&map, &answered),
                (only, among) => coverage::check(&map, &answered, only, among),
            };
            match checked {
                Err(_) if refreshes > 0 && answered.iter().any(|node| node.is_ahead_of(&map)) => {
                    self.core.cluster.refresh().await;
                    refreshes -= 1;
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    self.map = map;
                    return Ok(());
                }
            }
        }
    }
}

impl Cursor {
    /// Whether all of its page was taken, and more may follow.
    fn is_used_up(&self) -> bool {
        self.items.is_empty() && self.more
    }

    /// How far the page speaks, once it is used up.
    fn end(&self) -> &[u8] {
        let walked = self.walked.as_deref().filter(|walked| *walked > self.after.as_slice());
        walked.unwrap_or(&self.after)
    }

    /// All up to there counts as taken; the node is asked on from there, unless it has told more already.
    fn skip_to(&mut self, behind: &[u8]) {
        if self.end() < behind {
            self.walked = None;
        }
        if self.after.as_slice() < behind {
            self.after = behind.to_vec();
        }
    }

    /// Asks for the next page; a node that fails says nothing from here on.
    async fn fetch(&mut self, core: &Core, request: ListRequest) {
        let (bucket, kind, after) = (request.bucket, request.kind, request.after.clone());
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
            Ok(mut page) if !page.truncated || !page.items.is_empty() || page.walked > after => {
                let before = self.standing.take().filter(|_| self.walked.is_some());
                self.standing = Some(Standing::of(&mut page, before));
                self.walked = Some(page.walked).filter(|walked| page.truncated && !walked.is_empty());
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
        self.standing = None;
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
