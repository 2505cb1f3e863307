//! Copies of coordinator entries on the nodes' drives: what lets gateways go on, and start, while etcd is away.
//!
//! 1. A process with a node mirrors four groups of keys to that node's drives, each after a change, one after the other.
//! 2. Without a coordinator a caller asks the nodes it knows for their copies and takes the highest, provided that at
//!    least R0 = N − ⌊N/2⌋ of the map's N nodes answered.
//!
//! A copy may be a little old, and so may what R0 nodes say: slots refuse old epochs and old bucket revisions, so that
//! an old map costs an error, never a wrong answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::map::{ClusterMap, MapError};
use super::record::{LAYOUT_KEY, NODES_PREFIX, PARTITIONS_PREFIX};
use super::{ClientFactory, Cluster, Inner};
use crate::coordination::{CLUSTER_KEY, Entry, WatchEvent};
use crate::node::{NodeClient, Snapshot, SnapshotKind};
use crate::time::UnixMillis;

const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Changes that come together are stored together.
const SETTLE: Duration = Duration::from_millis(200);
/// Between two copies of the map: while slots move or join, much changes all the time, and a copy is a megabyte or two on
/// each drive.
const MAP_PAUSE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// The groups of keys that drives keep.
const MIRRORED: [(SnapshotKind, &[&str]); 3] = [
    (SnapshotKind::Layout, &[CLUSTER_KEY, LAYOUT_KEY, NODES_PREFIX, PARTITIONS_PREFIX]),
    (SnapshotKind::Buckets, &["buckets/"]),
    (SnapshotKind::Identity, &["iam/"]),
];

/// Too few nodes answered to trust their copies, or they hold none.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SnapshotDisagreement {
    /// Below R0.
    #[error("{answered} nodes answered for their copy of the cluster state, {needed} are needed")]
    TooFew {
        /// How many answered.
        answered: usize,
        /// R0.
        needed: usize,
    },
    /// No drive has one.
    #[error("no node holds a copy of the cluster state")]
    None,
    /// Damaged or of a newer version.
    #[error("the nodes' copy of the cluster state is not readable: {0}")]
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct StoredEntries {
    format: u32,
    /// When the copy was made, in milliseconds since the Unix epoch: for people.
    #[serde(default)]
    taken_ms: u64,
    entries: Vec<StoredEntry>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    key: String,
    /// Hexadecimal.
    value: String,
    revision: u64,
    create_revision: u64,
}

/// The stored form of entries: JSON, so that it can be read with common tools when everything else is lost.
pub fn encode_entries<'a>(entries: impl Iterator<Item = &'a Entry>, taken: UnixMillis) -> Bytes {
    let entries = entries
        .map(|entry| StoredEntry {
            key: entry.key.clone(),
            value: hexadecimal(&entry.value),
            revision: entry.revision,
            create_revision: entry.create_revision,
        })
        .collect();
    let stored = StoredEntries { format: 1, taken_ms: taken.0, entries };
    serde_json::to_vec(&stored).expect("plain data is always JSON").into()
}

/// When a copy was made; `None` if it does not tell, as those of early versions.
pub(super) fn taken_at(data: &[u8]) -> Option<UnixMillis> {
    let stored: StoredEntries = serde_json::from_slice(data).ok()?;
    (stored.taken_ms > 0).then_some(UnixMillis(stored.taken_ms))
}

/// All at once, because a map has thousands.
fn hexadecimal(bytes: &[u8]) -> String {
    let mut digits = vec![0; bytes.len() * 2];
    hex::encode_to_slice(bytes, &mut digits).expect("there are two digits for each byte");
    String::from_utf8(digits).expect("digits are text")
}

/// The inverse of [`encode_entries`].
///
/// # Errors
/// [`SnapshotDisagreement::Unreadable`].
pub fn decode_entries(data: &[u8]) -> Result<Vec<Entry>, SnapshotDisagreement> {
    let unreadable = |reason: String| SnapshotDisagreement::Unreadable(reason);
    let stored: StoredEntries =
        serde_json::from_slice(data).map_err(|error| unreadable(error.to_string()))?;
    if stored.format != 1 {
        return Err(unreadable(format!("format {} is newer than this version", stored.format)));
    }
    let decode = |entry: StoredEntry| {
        let value = hex::decode(&entry.value).map_err(|error| unreadable(error.to_string()))?;
        let (revision, create_revision) = (entry.revision, entry.create_revision);
        Ok(Entry { key: entry.key, value: value.into(), revision, create_revision })
    };
    stored.entries.into_iter().map(decode).collect()
}

/// The highest copy among the answers of nodes, if enough of the `known` nodes answered.
///
/// # Errors
/// [`SnapshotDisagreement`].
pub fn agreed_entries(
    answers: Vec<Option<Snapshot>>,
    known: usize,
) -> Result<Vec<Entry>, SnapshotDisagreement> {
    let (answered, needed) = (answers.len(), (known - known / 2).max(1));
    if answered < needed {
        return Err(SnapshotDisagreement::TooFew { answered, needed });
    }
    let highest = answers.into_iter().flatten().max_by_key(|copy| (copy.generation, copy.revision));
    decode_entries(&highest.ok_or(SnapshotDisagreement::None)?.data)
}

async fn ask(nodes: Vec<Arc<dyn NodeClient>>, kind: SnapshotKind) -> Vec<Option<Snapshot>> {
    let answers = join_all(nodes.into_iter().map(|node| async move {
        timeout(ASK_TIMEOUT, node.snapshot(kind)).await.ok().and_then(Result::ok)
    }));
    answers.await.into_iter().flatten().collect()
}

/// The map by the nodes' copies. A seed's copy names the other nodes, which are asked as well: a node that starts
/// alone knows only itself at first.
pub(super) async fn map_from_nodes(
    seeds: Vec<Arc<dyn NodeClient>>,
    clients: &ClientFactory,
) -> Result<ClusterMap, SnapshotDisagreement> {
    let first = readable_map(&agreed_entries(ask(seeds, SnapshotKind::Layout).await, 1)?)?;
    let nodes = first.nodes.values().map(|node| clients(node)).collect();
    let answers = ask(nodes, SnapshotKind::Layout).await;
    readable_map(&agreed_entries(answers, first.nodes.len())?)
}

fn readable_map(entries: &[Entry]) -> Result<ClusterMap, SnapshotDisagreement> {
    let unreadable = |error: MapError| SnapshotDisagreement::Unreadable(error.to_string());
    let map = ClusterMap::from_entries(entries.iter()).map_err(unreadable)?;
    map.ok_or(SnapshotDisagreement::None)
}

/// The bucket entries by the nodes' copies, for gateways that meet a bucket for the first time while the coordinator is
/// away.
///
/// # Errors
/// [`SnapshotDisagreement`].
pub async fn bucket_entries(cluster: &Cluster) -> Result<Vec<Entry>, SnapshotDisagreement> {
    entries_of(cluster, SnapshotKind::Buckets).await
}

/// The same for what is known of users.
///
/// # Errors
/// [`SnapshotDisagreement`].
pub async fn user_entries(cluster: &Cluster) -> Result<Vec<Entry>, SnapshotDisagreement> {
    entries_of(cluster, SnapshotKind::Identity).await
}

async fn entries_of(cluster: &Cluster, kind: SnapshotKind) -> Result<Vec<Entry>, SnapshotDisagreement> {
    let nodes: Vec<_> = cluster.inner.clients.load().values().cloned().collect();
    let known = nodes.len();
    agreed_entries(ask(nodes, kind).await, known)
}

/// Starts the mirrors to the process's own node.
pub(super) fn start_mirrors(inner: &Arc<Inner>) {
    let Some(local) = &inner.local else { return };
    for (kind, prefixes) in MIRRORED {
        let (inner, local) = (inner.clone(), local.clone());
        let stop = inner.stop.clone();
        tokio::spawn(stop.run_until_cancelled_owned(mirror(inner, local, kind, prefixes)));
    }
}

async fn mirror(
    inner: Arc<Inner>,
    local: Arc<dyn NodeClient>,
    kind: SnapshotKind,
    prefixes: &'static [&'static str],
) {
    let mut events = super::follow::watch_all(&*inner.coordinator, prefixes);
    let mut table = Table::default();
    let pause = if kind == SnapshotKind::Layout { MAP_PAUSE } else { Duration::ZERO };
    let mut stored = false;
    let mut last: Option<Instant> = None;
    while let Some(event) = events.recv().await {
        table.apply(event);
        let next = last.map_or(Duration::ZERO, |last| pause.saturating_sub(last.elapsed()));
        tokio::time::sleep(next.max(SETTLE)).await;
        while let Ok(event) = events.try_recv() {
            table.apply(event);
        }
        stored &= matches!(table.take_changes(), Changes::None);
        if stored || !table.complete(prefixes) {
            continue;
        }
        last = Some(Instant::now());
        let data = encode_entries(table.entries(), UnixMillis::now());
        let generation = inner.map.load().generation;
        let copy = Snapshot { kind, generation, revision: table.revision, data };
        match local.store_snapshot(copy).await {
            Ok(()) => stored = true,
            Err(error) => {
                tracing::warn!(%error, ?kind, "cluster state was not copied to this node's drives");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The entries below several prefixes, kept up to date by watch events.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    groups: BTreeMap<&'static str, BTreeMap<String, Entry>>,
    pub(super) revision: u64,
    changes: Changes,
}

/// How a table differs from what it was before.
#[derive(Clone, Debug, Default)]
pub(super) enum Changes {
    /// In nothing.
    #[default]
    None,
    /// Only in the records of partitions, by their keys, all of which are there.
    Records(BTreeSet<String>),
    /// In anything.
    Any,
}

impl Changes {
    fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Any, _) | (_, Self::None) => {}
            (Self::Records(keys), Self::Records(more)) => keys.extend(more),
            (_, more) => *self = more,
        }
    }
}

impl Table {
    /// Applies one event of the watch on a prefix.
    pub(super) fn apply(&mut self, (prefix, event): (&'static str, WatchEvent)) {
        let known = self.groups.contains_key(prefix);
        let group = self.groups.entry(prefix).or_default();
        let (revision, changed) = match event {
            WatchEvent::Reset(listing) => {
                let same = known && group.values().eq(&listing.entries);
                if !same {
                    *group = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                }
                (listing.revision, if same { Changes::None } else { Changes::Any })
            }
            WatchEvent::Put(entry) => {
                let changes = match prefix {
                    PARTITIONS_PREFIX => Changes::Records(BTreeSet::from([entry.key.clone()])),
                    _ => Changes::Any,
                };
                let revision = entry.revision;
                group.insert(entry.key.clone(), entry);
                (revision, changes)
            }
            WatchEvent::Delete { key, revision } => {
                let removed = group.remove(&key).is_some();
                (revision, if removed { Changes::Any } else { Changes::None })
            }
        };
        self.revision = self.revision.max(revision);
        self.changes.add(changed);
    }

    /// What has changed since this was asked last.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The entries of these partitions' records.
    pub(super) fn records<'a>(&'a self, keys: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Entry> {
        keys.iter().filter_map(|key| self.groups.get(PARTITIONS_PREFIX)?.get(key))
    }

    /// Whether each prefix was listed once.
    pub(super) fn complete(&self, prefixes: &[&'static str]) -> bool {
        prefixes.iter().all(|prefix| self.groups.contains_key(prefix))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.values().flat_map(BTreeMap::values)
    }

    pub(super) fn below(&self, prefix: &str) -> impl Iterator<Item = &Entry> {
        self.groups.get(prefix).into_iter().flat_map(BTreeMap::values)
    }
}
