//! The state of the cluster as one document.

use coffer_common::cluster::{Cluster, NodeStatus};
use coffer_common::layout::Tolerance;
use coffer_common::node::{DriveInfo, DriveState};
use coffer_common::types::{ClusterId, NodeId};
use serde::Serialize;

use super::quorum::Quorum;

/// The cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Every slot answers.
    Healthy,
    /// Everything can be read and written; some slots are away.
    Degraded,
    /// Everything can be read, not everything written.
    ReadOnly,
    /// Not everything can be read.
    Unavailable,
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The cluster in one word.
    pub health: Health,
    /// Its id.
    pub cluster: ClusterId,
    /// Its generation.
    pub generation: u32,
    /// Slots of a partition.
    pub slots: u8,
    /// Partitions and what they can lose, as of now.
    pub quorum: Quorum,
    /// What the layout can lose when everything is up.
    pub tolerance: Tolerance,
    /// Bytes of all drives that answer.
    pub capacity_bytes: u64,
    /// Free bytes of all drives that answer.
    pub free_bytes: u64,
    /// Versions whose shard is missing on a drive that answers.
    pub missing_shards: u64,
    /// Versions that are committed but not yet known to be so everywhere.
    pub unstable_versions: u64,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// The version of this gateway.
    pub version: &'static str,
}

/// A node in [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Where its gRPC service answers.
    pub address: String,
    /// What fails together above it.
    pub zone: String,
    /// Whether it answers.
    pub alive: bool,
    /// Coffer's version there.
    pub version: String,
    /// How far its clock is ahead of the gateway's, in milliseconds.
    pub clock_ahead_ms: i64,
    /// Its drives as it reported them last.
    pub drives: Vec<DriveInfo>,
}

impl Status {
    /// As of now.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let map = cluster.map();
        let quorum = Quorum::of(cluster, None);
        let nodes: Vec<NodeView> = cluster.nodes().into_iter().map(NodeView::from).collect();
        let serving = |drive: &&DriveInfo| !matches!(drive.state, DriveState::Failed | DriveState::Offline);
        let drives = || nodes.iter().filter(|node| node.alive).flat_map(|node| &node.drives).filter(serving);
        Self {
            health: health(&quorum, drives().any(|drive| drive.join.waiting > 0)),
            cluster: map.cluster,
            generation: map.generation,
            slots: map.layout.n(),
            tolerance: map.layout.tolerance(),
            capacity_bytes: drives().map(|drive| drive.capacity_bytes).sum(),
            free_bytes: drives().map(|drive| drive.free_bytes).sum(),
            missing_shards: drives().map(|drive| drive.missing_shards).sum(),
            unstable_versions: drives().map(|drive| drive.unstable).sum(),
            quorum,
            nodes,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// `joining`: a drive has lost its state, and not all of its slots vote.
fn health(quorum: &Quorum, joining: bool) -> Health {
    if quorum.complete == quorum.partitions && !joining {
        Health::Healthy
    } else if quorum.writable == quorum.partitions {
        Health::Degraded
    } else if quorum.readable == quorum.partitions {
        Health::ReadOnly
    } else {
        Health::Unavailable
    }
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        let (version, drives) = match node.info {
            Some(info) => (info.version, info.drives),
            None => (node.record.version, Vec::new()),
        };
        Self {
            id: node.record.id,
            address: node.record.address,
            zone: node.record.zone,
            alive: node.alive,
            version,
            clock_ahead_ms: node.clock_ahead_ms,
            drives,
        }
    }
}
