//! The bytes of the records that are not registers, and the names they are kept under in the index.
//!
//! ```text
//! Partition  1 partition  2 epoch  3 purge epoch  4 floor tag  5 role
//! Bucket     1 bucket id (16 bytes, big-endian)  2 revision
//! Snapshot   1 kind  2 generation  3 revision  4 data
//! Boot       1 count of starts
//! Forget     1 register key
//! ```

use bytes::Bytes;
use coffer_common::node::{Snapshot, SnapshotKind};
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
    /// A copy of cluster state.
    Snapshot(u8),
}

impl StateKey {
    /// As bytes, for the index: a kind, then the id.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Boot => vec![b'o'],
            Self::Partition(partition) => [&b"p"[..], &partition.0.to_be_bytes()].concat(),
            Self::Bucket(bucket) => [&b"b"[..], &bucket.to_bytes()].concat(),
            Self::Snapshot(kind) => vec![b's', kind],
        }
    }

    /// The inverse of [`Self::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [b'o'] => Self::Boot,
            [b'p', high, low] => Self::Partition(PartitionId(u16::from_be_bytes([*high, *low]))),
            [b'b', id @ ..] => Self::Bucket(BucketId::from_bytes(id.try_into().ok()?)),
            [b's', kind] => Self::Snapshot(*kind),
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

/// A PARTITION record.
pub(crate) fn encode_partition(partition: PartitionId, state: &PartitionState) -> Vec<u8> {
    PartitionImage {
        partition: u32::from(partition.0),
        epoch: state.epoch.0,
        purge_epoch: state.purge_epoch.0,
        floor: Some(tag_image(state.floor)),
        role: state.role as u32,
    }
    .encode_to_vec()
}

/// The inverse of [`encode_partition`].
pub(crate) fn decode_partition(payload: Bytes) -> Result<(PartitionId, PartitionState), DecodeImageError> {
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
    Ok((PartitionId(small(image.partition)?), state))
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

/// A SNAPSHOT record.
pub(crate) fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    SnapshotImage {
        kind: snapshot.kind as u32,
        generation: snapshot.generation,
        revision: snapshot.revision,
        data: snapshot.data.clone(),
    }
    .encode_to_vec()
}

/// The inverse of [`encode_snapshot`].
pub(crate) fn decode_snapshot(payload: Bytes) -> Result<Snapshot, DecodeImageError> {
    let image: SnapshotImage = decode(payload)?;
    let kind = match image.kind {
        1 => SnapshotKind::Layout,
        2 => SnapshotKind::Buckets,
        3 => SnapshotKind::Coordinator,
        4 => SnapshotKind::Identity,
        other => return Err(DecodeImageError(format!("snapshot kind {other}"))),
    };
    Ok(Snapshot { kind, generation: image.generation, revision: image.revision, data: image.data })
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
