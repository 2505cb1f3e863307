//! What one drive tells of itself and of the cluster, read from its journal: what a recovery is made from.
//!
//! One JSON object per drive, written where the drive is and read where the recovery is made. Fields are only ever added;
//! readers ignore those they do not know.

use serde::{Deserialize, Serialize};

use crate::layout::SlotRole;
use crate::node::SnapshotKind;
use crate::types::{BucketId, ClusterId, DriveId, Epoch, Incarnation, PartitionId, SlotIndex};

/// The form that this program writes.
pub const REPORT_FORMAT: u32 = 1;

/// What one drive tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveReport {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// When it was read, in milliseconds since the Unix epoch.
    pub read_ms: u64,
    /// Where it is.
    pub path: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub drive: DriveId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Whether a node had it open.
    pub in_use: bool,
    /// Its starts so far.
    pub boot_count: u64,
    /// The last sequence of its journal.
    pub last_sequence: u64,
    /// What is damaged: such a drive has forgotten promises, and is heard only for its copies.
    pub damage: Option<String>,
    /// The highest generation in any fence, tag or adopted revision; 0 if there is none.
    pub generation: u32,
    /// Copies of cluster state.
    pub copies: Vec<CopyReport>,
    /// Partitions whose slot has a record here.
    pub partitions: Vec<PartitionReport>,
    /// Buckets with objects, or whose revision was adopted.
    pub buckets: Vec<BucketReport>,
}

/// A copy of cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Of what.
    pub kind: SnapshotKind,
    /// The generation it was made under.
    pub generation: u32,
    /// The coordinator's revision.
    pub revision: u64,
    /// The stored entries, JSON.
    pub data: String,
}

/// What a slot of the drive has adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// The partition.
    pub partition: PartitionId,
    /// The highest epoch.
    pub epoch: Epoch,
    /// The slot's role.
    pub role: SlotRole,
    /// The slots whose registers are here: one, or none. `None` in a report of an older version, which does not tell.
    #[serde(default)]
    pub slots: Option<Vec<SlotIndex>>,
    /// The epoch in which the drive last began to take the slot, or to learn it anew; 0 if the journal does not know one.
    #[serde(default)]
    pub taken: Epoch,
    /// The epoch of the last purge that was adopted.
    #[serde(default)]
    pub purge_epoch: Epoch,
}

/// What a drive holds of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketReport {
    /// The bucket.
    pub bucket: BucketId,
    /// The adopted revision of its record; 0 for none.
    pub adopted: u64,
    /// Keys whose newest version here is an object.
    pub objects: u64,
}
