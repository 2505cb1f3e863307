//! How a gateway (and a peer node) talks to a storage node: domain requests, the [`NodeClient`] trait and its
//! implementations (remote over tonic, local by direct call in `coffer-storage-node`, a faulty decorator).
//!
//! A call names the slot it means completely (cluster, drive, incarnation, partition, epoch): a node answers
//! only for a slot that is provably that one.

#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod copies;
mod door;
mod faulty;
mod lacking;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use crate::protocol::message::{SlotReply, SlotRequest, SlotVersion};
use crate::protocol::purge::{Candidate, Evidence};
use crate::protocol::register::Register;
use crate::types::{
    BucketId, ClusterId, DriveId, Epoch, Incarnation, NodeId, ObjectKey, OpId, PartitionId, RegisterKey,
    RegisterKind, SlotIndex, Tag,
};

pub use copies::{BrokenLog, Fit, Snapshot, SnapshotChange, SnapshotKind, SnapshotLog};
pub use door::{Door, Stand};
pub use faulty::{Doors, FaultPlan, FaultyNode};
pub use lacking::{Lacking, Partitions};

/// Names one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotAddress {
    /// The cluster the caller means.
    pub cluster: ClusterId,
    /// The drive that owns the slot.
    pub drive: DriveId,
    /// That drive's incarnation as the caller knows it.
    pub incarnation: Incarnation,
    /// The partition.
    pub partition: PartitionId,
    /// The slot's place in the partition.
    pub slot: SlotIndex,
    /// The partition's epoch as the caller knows it.
    pub epoch: Epoch,
}

/// A request to one register at one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCall {
    /// The slot.
    pub address: SlotAddress,
    /// The register.
    pub register: RegisterKey,
    /// The revision of the caller's bucket record (writes and reads are refused if the slot knows a newer one).
    pub bucket_revision: u64,
    /// The request.
    pub request: SlotRequest,
}

/// Announces a large shard; its encoded bytes (see `shard`) follow as a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareShard {
    /// The slot.
    pub address: SlotAddress,
    /// The register.
    pub register: RegisterKey,
    /// The revision of the caller's bucket record.
    pub bucket_revision: u64,
    /// The op.
    pub op: OpId,
}

/// Asks for blocks of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadShard {
    /// The slot.
    pub address: SlotAddress,
    /// The register.
    pub register: RegisterKey,
    /// The op whose shard is wanted. Parts of a completed object name the part's op and the part's register.
    pub op: OpId,
    /// First block.
    pub first_block: u64,
    /// Number of blocks; they arrive in order, each verified by the node.
    pub block_count: u64,
}

/// A shard block with its bound checksum, so that the gateway verifies end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardBlock {
    /// xxh3-128 bound to (cluster id, op id, slot index, block number); see `shard`.
    pub checksum: u128,
    /// The block's bytes.
    pub data: Bytes,
}

/// Blocks of a shard on their way from a node.
pub type ShardBlocks = tokio::sync::mpsc::Receiver<Result<ShardBlock, NodeError>>;

/// Encoded shard bytes on their way to a node, in pieces of any size; closing the channel without
/// [`ShardPiece::End`] aborts the prepare and leaves nothing behind.
pub type ShardPieces = tokio::sync::mpsc::Receiver<ShardPiece>;

/// A piece of an encoded shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardPiece {
    /// Bytes, at most 1 MiB.
    Data(Bytes),
    /// The shard is complete.
    End,
}

/// Asks a node for an ordered range of registers of one kind in one bucket, merged over its own drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// The cluster the caller means.
    pub cluster: ClusterId,
    /// The bucket.
    pub bucket: BucketId,
    /// The revision of the caller's bucket record: a drive that knows a newer one is left out. 0 from an older gateway,
    /// which all drives answer.
    pub bucket_revision: u64,
    /// The kind of register.
    pub kind: RegisterKind,
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// Only registers whose encoded key (`RegisterKey::encode`) is greater than this; empty for all.
    pub after: Bytes,
    /// Roll keys up to the first occurrence of this after the prefix; empty for none.
    pub delimiter: Bytes,
    /// Most items (entries and common prefixes together) to return.
    pub limit: u32,
    /// Whether the caller understands [`ListPage::walked`]. To older gateways, which do not, a drive that has to look at too
    /// many registers is left out.
    pub resumes: bool,
}

/// One register in a node's listing, as the node's slots know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// The register.
    pub register: RegisterKey,
    /// Its partition.
    pub partition: PartitionId,
    /// What each of the node's slots of that partition holds as current; tombstones included.
    pub slots: Vec<(SlotIndex, SlotVersion)>,
}

impl ListEntry {
    /// Rough bytes in memory, and of a message.
    pub fn memory(&self) -> usize {
        let metadata = self.slots.iter().map(|(_, held)| held.version.metadata.len());
        Self::memory_of(self.register.key.as_bytes().len(), metadata)
    }

    /// The same of an entry that has a key and, by slot, metadata of these lengths.
    pub fn memory_of(key_len: usize, metadata: impl Iterator<Item = usize>) -> usize {
        key_len + 80 + metadata.map(|len| len + 160).sum::<usize>()
    }
}

/// An item of a listing, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListItem {
    /// A register.
    Entry(ListEntry),
    /// Keys rolled up: the prefix up to and including the delimiter, and the first register below it
    /// whose current version at some slot of this node is no tombstone, as a witness for the gateway to confirm.
    CommonPrefix {
        /// The rolled-up prefix, delimiter included.
        prefix: Bytes,
        /// The first live register below it.
        witness: ListEntry,
    },
}

/// A page of a node's listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Items in key order.
    pub items: Vec<ListItem>,
    /// Whether more may follow the last item; if so the page speaks only up to that item, or up to `walked`.
    pub truncated: bool,
    /// The encoded register key up to which a truncated page speaks, that key included, if this is behind the last item:
    /// drives have looked for long and stopped there. The next page begins after it. Empty if it is not needed.
    pub walked: Bytes,
    /// The drives that were read completely for this page, with their incarnation; only their slots have answered.
    pub drives: Vec<(DriveId, Incarnation)>,
    /// Partitions of those drives that must not be counted: the slot is not a voter there.
    pub not_voting: Vec<(DriveId, PartitionId)>,
    /// The epoch of each partition whose epoch at the node differs from 0, by drive (epochs not listed are 0).
    pub epochs: Vec<(DriveId, PartitionId, Epoch)>,
    /// The highest bucket revision that a drive knows which was left out because the caller's is older; 0 if there is none.
    pub newer_bucket: u64,
}

/// Asks a voter for what a slot that is joining must know of their partition (PROTOCOL §8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverRequest {
    /// The voter. It adopts the epoch, durably, before it tells anything.
    pub address: SlotAddress,
    /// Only registers that were recorded after this position of the voter; 0 for all.
    pub after: u64,
    /// Only revisions of buckets that were adopted after this position of the voter's drive; 0 for all.
    pub buckets_after: u64,
}

/// What several voters of a node answer.
pub type HandOverAnswers = Vec<Result<HandOverPage, NodeError>>;

/// A page of what a voter hands over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandOverPage {
    /// The partition's epoch at the voter, as of this page.
    pub epoch: Epoch,
    /// Its purge epoch.
    pub purge_epoch: Epoch,
    /// Its floor.
    pub floor: Tag,
    /// Registers, without their prepared ops.
    pub registers: Vec<(RegisterKey, Register)>,
    /// Where the next page begins.
    pub position: u64,
    /// Whether nothing follows: whatever the voter had recorded before it adopted the epoch has been told.
    pub complete: bool,
    /// Adopted revisions of buckets, those of deleted ones too; with the last page.
    pub buckets: Vec<(BucketId, u64)>,
    /// Where the next of them begin.
    pub buckets_position: u64,
}

/// Asks a node what its slots hold STABLE that other slots are not known to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedRequest {
    /// The cluster the caller means.
    pub cluster: ClusterId,
    /// The slots that ask; at most one of a partition.
    pub slots: Vec<(PartitionId, SlotIndex)>,
    /// Only registers whose encoded key is greater than this; empty for all.
    pub after: Bytes,
    /// Most registers to return.
    pub limit: u32,
}

/// A register of which a slot is owed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedRegister {
    /// The register.
    pub register: RegisterKey,
    /// Its partition.
    pub partition: PartitionId,
    /// The partition's epoch at the slot that tells this: what is told is true in that epoch, and may not be in a later.
    pub epoch: Epoch,
    /// STABLE versions that the slot has not acknowledged, ascending by tag.
    pub versions: Vec<SlotVersion>,
}

/// A page of what a node owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwedPage {
    /// In key order; a register may come twice, from two slots of the node.
    pub registers: Vec<OwedRegister>,
    /// Where to go on; empty at the end.
    pub next: Bytes,
    /// Whether the node knows all that it owes to these slots: it does not for some time after a start, or when there is
    /// very much.
    pub complete: bool,
}

/// What a slot is to do for a purge; see `protocol::purge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeStep {
    /// Tell of the candidates, in the caller's epoch or the slot's newer one.
    Look,
    /// Adopt the caller's epoch as that of a purge, durably, and tell of the candidates then.
    Adopt,
    /// Drop the candidates, if that very epoch is still the slot's.
    Drop,
}

/// Asks a slot for its part in a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeRequest {
    /// The slot, and the epoch of the purge.
    pub address: SlotAddress,
    /// What it is to do.
    pub step: PurgeStep,
    /// What may be purged, by register; all of the slot's partition.
    pub candidates: Vec<(RegisterKey, Candidate)>,
    /// How long an op must have been prepared to be told as [`crate::protocol::purge::Held::Waited`], in milliseconds.
    pub grace_ms: u64,
}

/// A drive as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DriveInfo {
    /// Its id.
    pub id: DriveId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Where it is mounted.
    pub path: String,
    /// `online`, `suspect`, `failed`, `read-only` or `offline`, and why, if not online.
    pub state: DriveState,
    /// Why it is not online; empty if it is.
    pub reason: String,
    /// Size of its file system in bytes.
    pub capacity_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Which file system it is on, among those of its node; 0 if that is not known.
    #[serde(default)]
    pub file_system: u64,
    /// Registers with a current version.
    pub registers: u64,
    /// Versions COMMITTED, with no STABLE one above them.
    pub unstable: u64,
    /// Versions whose shard is missing here, those that are superseded and not freed yet among them.
    pub missing_shards: u64,
    /// Starts of this drive so far.
    pub boot_count: u64,
    /// Last journal sequence.
    pub journal_sequence: u64,
    /// How far it has come if it has lost its state.
    #[serde(default)]
    pub join: DriveJoin,
    /// What its catch-up knows and has done.
    #[serde(default)]
    pub heal: DriveHeal,
    /// Where it lacks shards. What a write has left missing a moment ago does not count yet: most of it comes back at once.
    #[serde(rename = "lacking_partitions", skip_deserializing)]
    pub lacking: Lacking,
    /// The most data shards that a version which it knows of has; `None` until it has looked at all.
    #[serde(default)]
    pub most_data_shards: Option<u8>,
    /// How its scrubbing goes.
    #[serde(default)]
    pub scrub: DriveScrub,
}

impl DriveInfo {
    /// A drive of which nothing else is known: everything that is counted is zero.
    pub fn unknown(id: DriveId, incarnation: Incarnation, path: String, state: DriveState) -> Self {
        Self {
            id,
            incarnation,
            path,
            state,
            reason: String::new(),
            capacity_bytes: 0,
            free_bytes: 0,
            file_system: 0,
            registers: 0,
            unstable: 0,
            missing_shards: 0,
            boot_count: 0,
            journal_sequence: 0,
            join: DriveJoin::default(),
            heal: DriveHeal::default(),
            lacking: Lacking::Unknown,
            most_data_shards: None,
            scrub: DriveScrub::default(),
        }
    }
}

/// How far a drive that has lost its state has come; all zero for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DriveJoin {
    /// Partitions in which it has a slot.
    pub partitions: u32,
    /// Those in which its slot does not vote yet.
    pub waiting: u32,
}

/// How far a drive's catch-up has come, as far as the drive knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DriveHeal {
    /// Registers with a version that is not superseded and whose shard is missing here. While they are too many to be kept in
    /// mind, or are still looked for: [`DriveInfo::missing_shards`], if that is more.
    pub missing: u64,
    /// Registers of which other slots are not known to have all that is STABLE here.
    pub owed: u64,
    /// Whether both are all there are: they are not for some time after a start, or when there are very many.
    pub complete: bool,
    /// Shards rebuilt here since the start.
    pub rebuilt_shards: u64,
    /// Their bytes.
    pub rebuilt_bytes: u64,
    /// How fast, lately.
    pub shards_per_minute: u64,
}

/// How a drive's scrubbing goes: everything on it is re-read once in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DriveScrub {
    /// The period in seconds; 0 if the drive is not scrubbed.
    pub period_seconds: u64,
    /// Whether an operator has paused it.
    pub paused: bool,
    /// When the running pass began, in milliseconds since the Unix epoch; 0 if none runs.
    pub began_ms: u64,
    /// Shards read in the running pass.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// About how many there will be; 0 if that is not known.
    pub expected_bytes: u64,
    /// When the last whole pass ended, in milliseconds since the Unix epoch; 0 if there was none.
    pub finished_ms: u64,
    /// Damaged shards found in the running pass and the last whole one.
    pub damaged_shards: u64,
    /// Damaged journal segments found in them.
    pub damaged_segments: u64,
    /// Those of them that are still there.
    pub unrepaired_segments: u64,
}

/// A drive's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriveState {
    /// Serves reads and writes.
    Online,
    /// Slow or erring; served, avoided for reads.
    Suspect,
    /// Full: reads and deletes only.
    ReadOnly,
    /// Poisoned by a failed sync or I/O errors: serves nothing.
    Failed,
    /// Not there.
    Offline,
}

impl DriveState {
    /// Whether a drive in this state serves at all.
    pub fn serves(self) -> bool {
        match self {
            Self::Online | Self::Suspect | Self::ReadOnly => true,
            Self::Failed | Self::Offline => false,
        }
    }
}

/// A node as it reports itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// The cluster, once known.
    pub cluster: Option<ClusterId>,
    /// Coffer's version.
    pub version: String,
    /// The protocol version it speaks.
    pub protocol: u32,
    /// Wall clock, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Its drives.
    pub drives: Vec<DriveInfo>,
}

/// Why a node gave no answer about a slot.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NodeError {
    /// No connection, or it broke: the outcome of a mutation is unknown.
    #[error("node `{node}` does not answer: {reason}")]
    Unreachable {
        /// The node or its address.
        node: String,
        /// What the transport said.
        reason: String,
    },
    /// The deadline passed: the outcome of a mutation is unknown.
    #[error("node `{node}` did not answer in time")]
    Timeout {
        /// The node or its address.
        node: String,
    },
    /// The caller is not of this cluster, lacks the secret, or speaks another protocol version.
    #[error("node refuses this caller: {0}")]
    Denied(String),
    /// The drive is not here, has another incarnation, or is failed.
    #[error("drive `{drive}` cannot serve: {reason}")]
    DriveUnavailable {
        /// The drive.
        drive: DriveId,
        /// Why.
        reason: String,
    },
    /// The shard is missing or does not verify here.
    #[error("shard of op {op} is missing or damaged: {reason}")]
    ShardUnavailable {
        /// The op.
        op: OpId,
        /// Why.
        reason: String,
    },
    /// The node refused bytes that do not verify, or a malformed request.
    #[error("node rejects the request: {0}")]
    Invalid(String),
    /// Too much is waiting; try again later.
    #[error("node is overloaded")]
    Overloaded,
}

impl NodeError {
    /// Whether the same request may succeed if sent again.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Overloaded)
    }
}

/// A storage node as its callers see it.
///
/// Implementations: remote (tonic), local (direct call), faulty (decorator). Every method may be called
/// concurrently; a dropped future leaves the outcome of a mutation unknown.
#[async_trait]
pub trait NodeClient: Send + Sync + 'static {
    /// Sends one small request to one slot. Durable before the reply.
    async fn call(&self, call: SlotCall) -> Result<SlotReply, NodeError>;

    /// Streams a large shard; the reply is that of PREPARE, after the shard is durable.
    async fn prepare_shard(&self, header: PrepareShard, pieces: ShardPieces) -> Result<SlotReply, NodeError>;

    /// Streams blocks of a shard, inline or file.
    async fn read_shard(&self, request: ReadShard) -> Result<ShardBlocks, NodeError>;

    /// One page of an ordered range.
    async fn list(&self, request: ListRequest) -> Result<ListPage, NodeError>;

    /// What the node says of itself and its drives.
    async fn info(&self) -> Result<NodeInfo, NodeError>;

    /// The highest snapshot of this kind on the node's drives.
    async fn snapshot(&self, kind: SnapshotKind) -> Result<Option<Snapshot>, NodeError>;

    /// Stores a snapshot on every drive of the node (those that hold a higher one keep it). Durable before the reply.
    async fn store_snapshot(&self, snapshot: Snapshot) -> Result<(), NodeError>;

    /// Adopts a bucket's configuration revision on all drives of the node; who knows an older one is refused from then on,
    /// writers and readers (PROTOCOL §9). Returns the drives that adopted it durably.
    async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<Vec<DriveId>, NodeError>;

    /// Tells a slot that is joining what this one has promised, a page at a time. Only voters answer.
    async fn hand_over(&self, request: HandOverRequest) -> Result<HandOverPage, NodeError>;

    /// [`Self::hand_over`] of several of the node's voters at once, which share syncs. The answers are in the order of the requests;
    /// one may be an empty page that is not complete.
    async fn hand_over_all(&self, requests: Vec<HandOverRequest>) -> Result<HandOverAnswers, NodeError> {
        Ok(join_all(requests.into_iter().map(|request| self.hand_over(request))).await)
    }

    /// A page of what the node's slots hold STABLE and the asking slots are not known to have (PROTOCOL §3.5).
    async fn owed(&self, request: OwedRequest) -> Result<OwedPage, NodeError>;

    /// A slot's part in a purge (PROTOCOL §7). Returns what it tells of the candidates, in their order; nothing after a drop.
    async fn purge(&self, request: PurgeRequest) -> Result<Vec<Evidence>, NodeError>;
}

/// The partition of an object key: the top 12 bits of xxh3-128 over (cluster id, bucket id, key).
pub fn partition_of(cluster: ClusterId, bucket: BucketId, key: &ObjectKey) -> PartitionId {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&cluster.to_bytes());
    hasher.update(&bucket.to_bytes());
    hasher.update(key.as_bytes());
    PartitionId((hasher.digest128() >> 116) as u16)
}

#[cfg(test)]
mod tests {
    use super::DriveState;

    #[test]
    fn a_suspect_drive_serves() {
        let states = [
            (DriveState::Online, true),
            (DriveState::Suspect, true),
            (DriveState::ReadOnly, true),
            (DriveState::Failed, false),
            (DriveState::Offline, false),
        ];
        assert!(states.iter().all(|(state, serves)| state.serves() == *serves));
    }
}
