//! What the coordinator keeps about a cluster, as JSON so that an operator can read it with etcd's own tools. Fields
//! are only ever added; readers ignore those they do not know.
//!
//! ```text
//! cluster          ClusterRecord
//! layout           Layout (binary, see `layout`): the table
//! layout-target    Layout, only while slots move: where they go. Its version is above that of `layout`, which it becomes
//!                  when every slot is there
//! layout-moves     MovesBegun: how many slots the moves to the target began with
//! layout-removed   the ids of registered drives that were taken out of the layout on purpose and not taken in since
//! nodes/<id>       NodeRecord, persistent; goes with `coffer node forget`
//! progress/<id>    DriveRecord of each drive that the node has, as of a few seconds ago
//! live/<id>        LiveRecord, leased: goes with the node's session
//! partitions/<p>   PartitionRecord (binary), only where it differs from a new one; p is 4 hexadecimal digits
//! ```

use serde::{Deserialize, Serialize};

use crate::coordination::CLUSTER_KEY;
use crate::node::DriveInfo;
use crate::types::{ClusterId, DriveId, Incarnation, NodeId, PartitionId};

/// The version of the protocol between gateways and nodes that this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Whether programs of these two protocol versions may work together: neighbours may, so that upgrades roll.
pub fn protocol_compatible(ours: u32, theirs: u32) -> bool {
    ours.abs_diff(theirs) <= 1
}

/// The key of the layout. What is listed below it and watched includes [`LAYOUT_TARGET_KEY`], so that both are always
/// seen as of one moment.
pub const LAYOUT_KEY: &str = "layout";
/// The key of the layout that slots are on their way to.
pub const LAYOUT_TARGET_KEY: &str = "layout-target";
/// The key of what the moves to the target began with.
pub const LAYOUT_MOVES_KEY: &str = "layout-moves";
/// The key of which drives were taken out on purpose.
pub(super) const LAYOUT_REMOVED_KEY: &str = "layout-removed";
pub(super) const NODES_PREFIX: &str = "nodes/";
/// What the keys of all [`progress_key`]s begin with.
pub const PROGRESS_PREFIX: &str = "progress/";
pub(super) const LIVE_PREFIX: &str = "live/";
pub(super) const PARTITIONS_PREFIX: &str = "partitions/";

/// Everything the map follows.
pub(super) const PREFIXES: [&str; 5] =
    [CLUSTER_KEY, LAYOUT_KEY, NODES_PREFIX, LIVE_PREFIX, PARTITIONS_PREFIX];

/// The key of a node's persistent record.
pub fn node_key(node: &NodeId) -> String {
    format!("{NODES_PREFIX}{node}")
}

/// The key of how far the journals of a node's drives are.
pub fn progress_key(node: &NodeId) -> String {
    format!("{PROGRESS_PREFIX}{node}")
}

/// The key of a node's sign of life.
pub fn live_key(node: &NodeId) -> String {
    format!("{LIVE_PREFIX}{node}")
}

/// The key of a partition's record.
pub fn partition_key(partition: PartitionId) -> String {
    format!("{PARTITIONS_PREFIX}{:04x}", partition.0)
}

/// What the keys of 256 partitions, this one among them, begin with.
pub(super) fn partition_neighbours(partition: PartitionId) -> String {
    format!("{PARTITIONS_PREFIX}{:02x}", partition.0 >> 8)
}

pub(super) fn parse_partition_key(key: &str) -> Option<PartitionId> {
    u16::from_str_radix(key.strip_prefix(PARTITIONS_PREFIX)?, 16).ok().map(PartitionId)
}

/// What a cluster is; written once, when its first layout is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its id.
    pub id: ClusterId,
    /// Raised when the coordinator's state is rebuilt; part of every fence.
    pub generation: u32,
    /// Number of partitions; never changes.
    pub partitions: u16,
    /// Slots of a partition.
    pub n: u8,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: NodeId,
    /// Where its gRPC service answers, `host:port`; the name is resolved again on every connect.
    pub address: String,
    /// What fails together above the node.
    pub zone: String,
    /// Its drives as of its last start.
    pub drives: Vec<DriveRecord>,
    /// Coffer's version.
    pub version: String,
    /// The protocol version it speaks.
    pub protocol: u32,
    /// The endpoints it was started with, expanded; empty if it was started without a list. They must be the same on
    /// all nodes.
    #[serde(default)]
    pub endpoints: Vec<String>,
}

/// A drive as its node registered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveRecord {
    /// Its id.
    pub id: DriveId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Where it is mounted.
    pub path: String,
    /// Size of its file system in bytes.
    pub capacity_bytes: u64,
    /// Starts so far: a drive that comes back with fewer was restored from a snapshot.
    pub boot_count: u64,
    /// Journal sequence at that start; comes back lower only for the same reason.
    pub journal_sequence: u64,
    /// Whether it still waits to become part of the cluster (it has no `coffer.json` yet).
    #[serde(default)]
    pub fresh: bool,
    /// Whether the node was last started without it: the record stays, so that an old copy of the drive is known for one. Nodes
    /// of older versions do not tell.
    #[serde(default)]
    pub absent: bool,
}

impl From<&DriveInfo> for DriveRecord {
    fn from(info: &DriveInfo) -> Self {
        Self {
            id: info.id,
            incarnation: info.incarnation,
            path: info.path.clone(),
            capacity_bytes: info.capacity_bytes,
            boot_count: info.boot_count,
            journal_sequence: info.journal_sequence,
            fresh: false,
            absent: false,
        }
    }
}

/// A node's sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRecord {
    /// When the process started, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Random, one per process: two processes that claim one node id see each other.
    pub process: u64,
}

/// The moves to a target, as they were when it was made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesBegun {
    /// The target's version; of another target this tells nothing.
    pub version: u64,
    /// Slots that had to move.
    pub slots: usize,
    /// When, in milliseconds since the Unix epoch, by the clock of who asked for it.
    pub began_ms: u64,
}
