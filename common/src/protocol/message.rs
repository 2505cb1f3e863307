//! What a coordinator (gateway, settler, catch-up worker) and a slot say to each other about one register.
//!
//! Owns the domain form of requests, replies and refusals; `proto/` and `rpc` own the wire form, the node the
//! disk form. Never decides anything: [`super::register`] applies a request, the client machines judge replies.

use bytes::Bytes;

use crate::types::{Epoch, Fence, OpId, SlotSet, Tag};

/// Whether a version holds data or hides the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionKind {
    /// An object, an upload, a part or a metadata record.
    Data,
    /// A delete: k = 0, no shard.
    Tombstone,
}

/// Everything about a version that does not depend on the slot: a COMMIT carries it, so that a slot that
/// missed the PREPARE can record the commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The op that made it.
    pub op: OpId,
    /// Data or tombstone.
    pub kind: VersionKind,
    /// Data shards; 0 for a tombstone, and for a version that has metadata only.
    pub k: u8,
    /// Length of each of its shards in bytes, headers and checksums not counted; 0 without shards.
    pub shard_len_bytes: u64,
    /// Bytes of a shard block.
    pub block_len_bytes: u32,
    /// Whether it replaces null versions below it, and is freed as one once a newer one is STABLE. Any other version keeps
    /// them: a version of a bucket that keeps versions, on top of an object that was written before and has its shards in
    /// the same register. It has no shards of its own, and is freed once anything newer is STABLE; what is kept of it lies
    /// in a register of its own by then. An attempt at a part has shards and is no null version either.
    pub null_version: bool,
    /// What the gateway keeps about the version; opaque to slots.
    pub metadata: Bytes,
}

impl Version {
    /// Whether slots hold shards of it: not for tombstones, empty objects and metadata-only versions.
    pub fn has_shards(&self) -> bool {
        self.k > 0 && self.shard_len_bytes > 0
    }
}

/// How far a version has come at a slot. Ops that are only prepared are no versions yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VersionState {
    /// Arrived by catch-up or hand-over: a candidate, never counted as a commit.
    Learned = 2,
    /// A COMMIT passed the rules here.
    Committed = 3,
    /// W commits are known.
    Stable = 4,
}

/// A version as one slot knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotVersion {
    /// The version.
    pub version: Version,
    /// Its tag.
    pub tag: Tag,
    /// How far it has come here.
    pub state: VersionState,
    /// Whether this slot holds its verified shard (true for versions without shards).
    pub shard_present: bool,
    /// The slots that acknowledged its commit, once STABLE told it.
    pub acknowledged: SlotSet,
}

/// What a slot tells of a register: the reply to QUERY, PREPARE and FENCE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RegisterView {
    /// The highest fence promised.
    pub fence: Fence,
    /// Who may commit under that fence alone.
    pub exclusive: Option<(Fence, OpId)>,
    /// The current version (highest committed tag); `None` answers "nothing", which counts as STABLE.
    pub current: Option<SlotVersion>,
    /// The highest tag a writer must go beyond: `current`'s tag or the partition's floor.
    pub learn: Tag,
    /// On FENCE: every other version that is not STABLE. Empty on QUERY and PREPARE.
    pub unstable: Vec<SlotVersion>,
}

/// A request about one register to one slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SlotRequest {
    /// Tells the register's view; with `inline_data` also the current version's inline shard, if it has one.
    Query {
        /// Whether to send the inline shard along.
        inline_data: bool,
    },
    /// Makes a small shard (or none, for tombstones and metadata-only versions) durable.
    /// Large shards go through `NodeClient::prepare_shard`.
    Prepare {
        /// The op.
        op: OpId,
        /// The encoded shard: header, blocks, bound checksums (see `shard`); empty if the version has none.
        shard: Bytes,
    },
    /// Records the version as committed under the tag. An exclusive fence lets pass only the tag whose `writer` is
    /// its owner: the owner itself, or whoever sends the owner's COMMIT again (a write-back).
    Commit {
        /// The version.
        version: Version,
        /// Its tag.
        tag: Tag,
    },
    /// Promises to refuse tags below `fence`, and any other committer under it.
    Fence {
        /// The lock's fence.
        fence: Fence,
        /// The op that will commit under it.
        op: OpId,
    },
    /// Ends the exclusivity of a fence.
    Release {
        /// The fence.
        fence: Fence,
    },
    /// Tells that W commits are known. Sent under the epoch in which they were counted and no newer one: a purge may have
    /// come in between, and what it dropped would come back. Who finds a slot's STABLE missing later settles the register
    /// (or, for catch-up, reads it again) instead of sending an old notice.
    Stable {
        /// The version; recorded even if the COMMIT was missed.
        version: Version,
        /// Its tag.
        tag: Tag,
        /// The slots that acknowledged.
        acknowledged: SlotSet,
    },
    /// Catch-up: adds a version (and its shard, unless empty) that this slot lacks. Never lowers, never deletes. Sent under
    /// the epoch that the source had when it was read, for the same reason as STABLE.
    Install {
        /// The version.
        version: Version,
        /// Its tag.
        tag: Tag,
        /// Whether the source held it STABLE.
        source_stable: bool,
        /// The encoded shard, or empty.
        shard: Bytes,
    },
    /// Drops a prepared op that will never be committed (its own gateway gave up before any COMMIT).
    Abandon {
        /// The op.
        op: OpId,
    },
}

impl SlotRequest {
    /// Its name in PROTOCOL.md, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Query { .. } => "QUERY",
            Self::Prepare { .. } => "PREPARE",
            Self::Commit { .. } => "COMMIT",
            Self::Fence { .. } => "FENCE",
            Self::Release { .. } => "RELEASE",
            Self::Stable { .. } => "STABLE",
            Self::Install { .. } => "INSTALL",
            Self::Abandon { .. } => "ABANDON",
        }
    }
}

/// Why a slot said no.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The tag's fence, or the fence itself, is below this one.
    Fenced(Fence),
    /// Another op holds the exclusive fence.
    Exclusive(Fence, OpId),
    /// The caller's epoch is old; re-read the map.
    WrongEpoch(Epoch),
    /// The caller's bucket record is old; re-read it.
    BucketChanged(u64),
    /// The slot is JOINING (it may have recorded the request, as LEARNED) or OUT: it takes part in no count.
    NotVoter,
    /// The drive is full (read-only) and the request needs room.
    Full,
}

/// A slot's reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "most replies are views; a box would cost each an allocation")]
pub enum SlotReply {
    /// To QUERY, PREPARE and FENCE; the bytes are the inline shard if it was asked for and is here.
    View(RegisterView, Option<Bytes>),
    /// To COMMIT: recorded; `superseded` if a higher committed tag is known here.
    Committed {
        /// Whether it is already below the current version.
        superseded: bool,
    },
    /// To RELEASE, STABLE, INSTALL, ABANDON.
    Done,
    /// Refused; nothing recorded (but see [`Refusal::NotVoter`]).
    Refused(Refusal),
}
