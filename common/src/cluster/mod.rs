//! The live cluster: the map, a client for each node, and who is alive.
//!
//! Owns the [`Cluster`] handle that gateways (and nodes among themselves) work through. Never decides about objects,
//! and no request ever waits here for the coordinator.
//!
//! ## Flow
//! 1. [`Cluster::start`] waits for a map: from the coordinator, or, while that is away, from the copies on the drives of
//!    the seed nodes, once at least half of the layout's drives agree on the highest.
//! 2. `follow` watches the coordinator, builds a new map after every change and makes clients for new or moved nodes.
//! 3. `probe` asks each node for its state every few seconds, lost ones more often.
//! 4. A process that has a node of its own stores each new map on its drives (`snapshot`).
//!
//! ## Consistency
//! A map may be old: slots refuse old epochs (`WrongEpoch`), and the caller then asks for [`Cluster::refresh`].

mod bootstrap;
mod follow;
mod liveness;
mod map;
mod probe;
mod raise;
mod record;
pub mod recovery;
pub mod scrub;
mod snapshot;
pub mod staged;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use bootstrap::{BootstrapError, FirstLayout, first_layout};
pub use map::{ClusterMap, MapError, Records, SlotSource, SlotTarget};
pub use raise::{Changed, RAISES_AT_ONCE, change_partitions, partition_records, raise_epochs};
pub use record::{
    ClusterRecord, DriveRecord, LAYOUT_KEY, LAYOUT_MOVES_KEY, LAYOUT_TARGET_KEY, LiveRecord, MovesBegun,
    NodeRecord, PROGRESS_PREFIX, PROTOCOL_VERSION, live_key, node_key, partition_key, progress_key,
    protocol_compatible,
};
pub use snapshot::{
    SnapshotDisagreement, agreed_entries, bucket_entries, decode_entries, encode_entries, user_entries,
};

use crate::coordination::{Coordinator, CoordinatorError};
use crate::node::{NodeClient, NodeError, NodeInfo};
use crate::types::{DriveId, NodeId};
use liveness::Liveness;

/// Makes the client of a node from its record.
pub type ClientFactory = Arc<dyn Fn(&NodeRecord) -> Arc<dyn NodeClient> + Send + Sync>;

/// What a [`Cluster`] works with.
pub struct ClusterOptions {
    /// The coordinator.
    pub coordinator: Arc<dyn Coordinator>,
    /// Makes node clients.
    pub clients: ClientFactory,
    /// Nodes that may be asked for their copy of the map while the coordinator is away.
    pub seeds: Vec<Arc<dyn NodeClient>>,
    /// The node in this process, if it has one: each new map is stored on its drives.
    pub local: Option<Arc<dyn NodeClient>>,
}

/// No map could be had.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Neither the coordinator nor enough nodes answered.
    #[error("no cluster map within {waited:?}: {reason}")]
    NoMap {
        /// How long.
        waited: Duration,
        /// What is missing.
        reason: String,
    },
    /// What is stored is not readable.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A node with what is known of it.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its record.
    pub record: NodeRecord,
    /// Whether it is expected to answer.
    pub alive: bool,
    /// What it said of itself last.
    pub info: Option<NodeInfo>,
    /// How far its clock is ahead of this process's, in milliseconds, as of then.
    pub clock_ahead_ms: i64,
}

struct Inner {
    map: ArcSwap<ClusterMap>,
    clients: ArcSwap<BTreeMap<NodeId, Arc<dyn NodeClient>>>,
    /// The addresses that the clients were made for.
    addresses: Mutex<BTreeMap<NodeId, String>>,
    factory: ClientFactory,
    liveness: Mutex<Liveness>,
    coordinator: Arc<dyn Coordinator>,
    local: Option<Arc<dyn NodeClient>>,
    refresh: tokio::sync::Mutex<()>,
    decoded: Mutex<map::Decoded>,
    stop: CancellationToken,
}

/// The live cluster; clones are handles on one view. Its tasks end with the last handle.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
    _tasks: Arc<StopOnDrop>,
}

struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Cluster {
    /// Waits for a map for at most `wait`, then follows it.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn start(options: ClusterOptions, wait: Duration) -> Result<Self, ClusterError> {
        let map = follow::first_map(&*options.coordinator, (&options.seeds, &options.clients), wait).await?;
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            map: ArcSwap::from_pointee(map.clone()),
            clients: ArcSwap::default(),
            addresses: Mutex::default(),
            factory: options.clients,
            liveness: Mutex::default(),
            coordinator: options.coordinator,
            local: options.local,
            refresh: tokio::sync::Mutex::new(()),
            decoded: Mutex::default(),
            stop: stop.clone(),
        });
        follow::install(&inner, map);
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow::run(inner.clone())));
        tokio::spawn(stop.clone().run_until_cancelled_owned(probe::run(inner.clone())));
        snapshot::start_mirrors(&inner);
        Ok(Self { inner, _tasks: Arc::new(StopOnDrop(stop)) })
    }

    /// The newest map.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.inner.map.load_full()
    }

    /// How to reach a node; `None` if it has no record.
    pub fn client(&self, node: &NodeId) -> Option<Arc<dyn NodeClient>> {
        self.inner.clients.load().get(node).cloned()
    }

    /// [`Self::client`] of a node that has to be asked.
    ///
    /// # Errors
    /// [`NodeError::Unreachable`] if it has no record.
    pub fn reach(&self, node: &NodeId) -> Result<Arc<dyn NodeClient>, NodeError> {
        let unknown = || NodeError::Unreachable { node: node.to_string(), reason: "unknown".to_owned() };
        self.client(node).ok_or_else(unknown)
    }

    /// Whether the drive on this node is expected to answer. A guess for speed, never for a decision.
    pub fn alive(&self, node: &NodeId, drive: &DriveId) -> bool {
        self.inner.liveness.lock().drive_alive(node, drive, Instant::now())
    }

    /// Whether a drive is expected to take data: it is expected to answer, and not known to be full.
    pub fn has_room(&self, node: &NodeId, drive: &DriveId) -> bool {
        self.inner.liveness.lock().drive_has_room(node, drive, Instant::now())
    }

    /// Whether a node is expected to answer.
    pub fn node_alive(&self, node: &NodeId) -> bool {
        self.inner.liveness.lock().node_alive(node, Instant::now())
    }

    /// Tells how a call to a node went.
    pub fn report(&self, node: &NodeId, result: Result<(), &NodeError>) {
        self.inner.liveness.lock().report(node, result, Instant::now());
    }

    /// The coordinator.
    pub fn coordinator(&self) -> Arc<dyn Coordinator> {
        self.inner.coordinator.clone()
    }

    /// Reads the map again now: from the coordinator, else from the nodes' copies. Concurrent callers share one reading.
    pub async fn refresh(&self) {
        let before = self.map();
        let _one = self.inner.refresh.lock().await;
        if !Arc::ptr_eq(&before, &self.map()) {
            return;
        }
        if let Err(error) = follow::refresh(&self.inner).await {
            tracing::warn!(%error, "the cluster map was not refreshed");
        }
    }

    /// The map with layout, target and partition records as the coordinator has them now: linearizable, which the map that
    /// is followed is not.
    ///
    /// # Errors
    /// [`CoordinatorError`] if they cannot be read.
    pub async fn confirmed(&self) -> Result<ClusterMap, CoordinatorError> {
        let coordinator = self.coordinator();
        let tables = coordinator.list(LAYOUT_KEY).await?.entries;
        let records = partition_records(&*coordinator).await?;
        let partitions = records.into_iter().map(|(partition, (record, _))| (partition, record)).collect();
        let unreadable = |error: MapError| CoordinatorError::Refused(error.to_string());
        self.map().with_tables(tables.iter(), partitions).map_err(unreadable)
    }

    /// All nodes with a record.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let map = self.map();
        let (liveness, now) = (self.inner.liveness.lock(), Instant::now());
        let status = |record: &NodeRecord| {
            let known = liveness.info(&record.id);
            NodeStatus {
                record: record.clone(),
                alive: liveness.node_alive(&record.id, now),
                info: known.map(|(info, _)| info.clone()),
                clock_ahead_ms: known.map_or(0, |(_, ahead)| ahead),
            }
        };
        map.nodes.values().map(status).collect()
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.map().cluster).finish_non_exhaustive()
    }
}

impl From<CoordinatorError> for ClusterError {
    fn from(error: CoordinatorError) -> Self {
        Self::NoMap { waited: Duration::ZERO, reason: error.to_string() }
    }
}
