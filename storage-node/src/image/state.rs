//! The bytes of the records that are not registers, and the names they are kept under in the index.
//!
//! ```text
//! Partition  1 partition  2 epoch  3 purge epoch  4 floor tag  5 role  6 the last epoch in which it was JOINING
//! Bucket     1 bucket id (16 bytes, big-endian)  2 revision
//! Snapshot   1 kind, or 16 + kind for a change  2 generation  3 revision  4 data  5 the revision that a change follows
//! Boot       1 count of starts
//! Forget     1 register key
//! ```
//!
//! A SNAPSHOT record is a whole copy of a kind of cluster state, or a change of one. The copy that is here is the newest whole
//! one and, in order of their revisions, the changes that are newer: each follows the one before it, so that a hole is
//! seen. A version that does not know changes meets a kind that it does not know, and refuses the drive, instead of taking
//! an older copy, or a change, for the newest copy.

use bytes::Bytes;
use coffer_common::node::{Snapshot, SnapshotChange, SnapshotKind};
use coffer_common::protocol::register::{PartitionState, Role};
use coffer_common::types::{BucketId, Epoch, PartitionId};
use prost::Message;

use super::disk::{DecodeImageError, TagImage, small, tag_image, tag_of};

/// The name of a piece of drive state that is not a register; of each the newest record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum StateKey {
    /// The count of starts.
    Boot,
    /// A partition's slot.
    Partition(PartitionId),
    /// A bucket's adopted revision.
    Bucket(BucketId),
    /// A whole copy of cluster state.
    Snapshot(u8),
    /// The change of a copy to a revision.
    Change(u8, u64),
}

impl StateKey {
    /// As bytes, for the index: a kind, then the id.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Boot => vec![b'o'],
            Self::Partition(partition) => [&b"p"[..], &partition.0.to_be_bytes()].concat(),
            Self::Bucket(bucket) => [&b"b"[..], &bucket.to_bytes()].concat(),
            Self::Snapshot(kind) => vec![b's', kind],
            Self::Change(kind, revision) => [&[b'c', kind][..], &revision.to_be_bytes()].concat(),
        }
    }

    /// The inverse of [`Self::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [b'o'] => Self::Boot,
            [b'p', high, low] => Self::Partition(PartitionId(u16::from_be_bytes([*high, *low]))),
            [b'b', id @ ..] => Self::Bucket(BucketId::from_bytes(id.try_into().ok()?)),
            [b's', kind] => Self::Snapshot(*kind),
            [b'c', kind, revision @ ..] => Self::Change(*kind, u64::from_be_bytes(revision.try_into().ok()?)),
            _ => return None,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct PartitionImage {
    #[prost(uint32, tag = "1")]
    partition: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    purge_epoch: u64,
    #[prost(message, optional, tag = "4")]
    floor: Option<TagImage>,
    #[prost(uint32, tag = "5")]
    role: u32,
    #[prost(uint64, tag = "6")]
    taken: u64,
}

#[derive(Clone, PartialEq, Message)]
struct BucketImage {
    #[prost(bytes = "bytes", tag = "1")]
    bucket: Bytes,
    #[prost(uint64, tag = "2")]
    revision: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotImage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
    #[prost(uint64, tag = "5")]
    previous: u64,
}

#[derive(Clone, PartialEq, Message)]
struct BootImage {
    #[prost(uint64, tag = "1")]
    count: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ForgetImage {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

fn decode<T: Message + Default>(payload: Bytes) -> Result<T, DecodeImageError> {
    T::decode(payload).map_err(|error| DecodeImageError(error.to_string()))
}

/// A PARTITION record. `taken`: the last epoch in which the slot was JOINING, whose own record is superseded by this one.
pub(crate) fn encode_partition(partition: PartitionId, state: &PartitionState, taken: Epoch) -> Vec<u8> {
    PartitionImage {
        partition: u32::from(partition.0),
        epoch: state.epoch.0,
        purge_epoch: state.purge_epoch.0,
        floor: Some(tag_image(state.floor)),
        role: state.role as u32,
        taken: taken.0,
    }
    .encode_to_vec()
}

/// The inverse of [`encode_partition`]. Of what an older version has written, only the record of a JOINING slot tells `taken`.
pub(crate) fn decode_partition(
    payload: Bytes,
) -> Result<(PartitionId, PartitionState, Epoch), DecodeImageError> {
    let image: PartitionImage = decode(payload)?;
    let role = match image.role {
        0 => Role::Voter,
        1 => Role::Joining,
        2 => Role::Out,
        other => return Err(DecodeImageError(format!("slot role {other}"))),
    };
    let state = PartitionState {
        epoch: Epoch(image.epoch),
        purge_epoch: Epoch(image.purge_epoch),
        floor: image.floor.as_ref().map(tag_of).transpose()?.unwrap_or_default(),
        role,
    };
    let taken = if role == Role::Joining { image.epoch.max(image.taken) } else { image.taken };
    Ok((PartitionId(small(image.partition)?), state, Epoch(taken)))
}

/// A BUCKET record.
pub(crate) fn encode_bucket(bucket: BucketId, revision: u64) -> Vec<u8> {
    BucketImage { bucket: Bytes::copy_from_slice(&bucket.to_bytes()), revision }.encode_to_vec()
}

/// The inverse of [`encode_bucket`].
pub(crate) fn decode_bucket(payload: Bytes) -> Result<(BucketId, u64), DecodeImageError> {
    let image: BucketImage = decode(payload)?;
    let id = image.bucket.as_ref().try_into().map_err(|_| DecodeImageError("a bucket id".to_owned()))?;
    Ok((BucketId::from_bytes(id), image.revision))
}

/// Added to the kind in the record of a change.
const CHANGE: u32 = 16;

/// What a SNAPSHOT record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyRecord {
    /// A whole copy.
    Whole(Snapshot),
    /// A change of one.
    Change(SnapshotChange),
}

impl CopyRecord {
    pub(crate) fn kind(&self) -> SnapshotKind {
        match self {
            Self::Whole(whole) => whole.kind,
            Self::Change(change) => change.kind,
        }
    }

    /// The (generation, revision) that it leads to.
    pub(crate) fn newest(&self) -> (u32, u64) {
        match self {
            Self::Whole(whole) => (whole.generation, whole.revision),
            Self::Change(change) => (change.generation, change.revision),
        }
    }

    /// The name it is kept under.
    pub(crate) fn key(&self) -> StateKey {
        match self {
            Self::Whole(whole) => StateKey::Snapshot(whole.kind as u8),
            Self::Change(change) => StateKey::Change(change.kind as u8, change.revision),
        }
    }
}

/// A SNAPSHOT record of a whole copy.
pub(crate) fn encode_snapshot(whole: &Snapshot) -> Vec<u8> {
    SnapshotImage {
        kind: whole.kind as u32,
        generation: whole.generation,
        revision: whole.revision,
        data: whole.data.clone(),
        previous: 0,
    }
    .encode_to_vec()
}

/// A SNAPSHOT record of a change.
pub(crate) fn encode_change(change: &SnapshotChange) -> Vec<u8> {
    SnapshotImage {
        kind: CHANGE + change.kind as u32,
        generation: change.generation,
        revision: change.revision,
        data: change.data.clone(),
        previous: change.previous,
    }
    .encode_to_vec()
}

/// The inverse of [`encode_snapshot`] and [`encode_change`].
pub(crate) fn decode_copy(payload: Bytes) -> Result<CopyRecord, DecodeImageError> {
    let SnapshotImage { kind, generation, revision, data, previous } = decode(payload)?;
    let of = match kind % CHANGE {
        1 => SnapshotKind::Layout,
        2 => SnapshotKind::Buckets,
        3 => SnapshotKind::Coordinator,
        4 => SnapshotKind::Identity,
        _ => return Err(DecodeImageError(format!("snapshot kind {kind}"))),
    };
    match kind / CHANGE {
        0 => Ok(CopyRecord::Whole(Snapshot { kind: of, generation, revision, data })),
        1 => Ok(CopyRecord::Change(SnapshotChange { kind: of, previous, generation, revision, data })),
        _ => Err(DecodeImageError(format!("snapshot kind {kind}"))),
    }
}

/// A BOOT record.
pub(crate) fn encode_boot(count: u64) -> Vec<u8> {
    BootImage { count }.encode_to_vec()
}

/// The inverse of [`encode_boot`].
pub(crate) fn decode_boot(payload: Bytes) -> Result<u64, DecodeImageError> {
    Ok(decode::<BootImage>(payload)?.count)
}

/// A FORGET record.
pub(crate) fn encode_forget(key: &Bytes) -> Vec<u8> {
    ForgetImage { key: key.clone() }.encode_to_vec()
}

/// The inverse of [`encode_forget`].
pub(crate) fn decode_forget(payload: Bytes) -> Result<Bytes, DecodeImageError> {
    Ok(decode::<ForgetImage>(payload)?.key)
}
