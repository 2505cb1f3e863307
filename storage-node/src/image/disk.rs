//! The bytes of a REGISTER record.
//!
//! ```text
//! Register   1 key  2 partition  3 slot  4 fence  5 exclusive fence  6 exclusive op  7 learn tag  8 versions
//!            9 prepared ops  10 shards  11 waiting
//! Version    1 op  2 tombstone  3 null version  4 k  5 shard length  6 block length  7 metadata  8 tag  9 state
//!            10 shard present  11 acknowledged
//! Shard      1 op  2 segment (0: a file)  3 offset  4 length
//! Waiting    1 op  2 since, Unix ms
//! Fence      1 generation  2 revision
//! Tag        1 fence  2 seq  3 writer
//! ```
//! Ops are 16 bytes, big-endian.

use bytes::Bytes;
use coffer_common::protocol::message::{SlotVersion, Version, VersionKind, VersionState};
use coffer_common::protocol::register::Register;
use coffer_common::time::UnixMillis;
use coffer_common::types::{Fence, OpId, PartitionId, SlotIndex, SlotSet, Tag};
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{Entry, ShardLocation, StoredShard, Waiting};
use crate::journal::Place;

/// The payload is no register of this format, although its checksum is right.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed record: {0}")]
pub(crate) struct DecodeImageError(pub(super) String);

#[derive(Clone, PartialEq, Message)]
struct RegisterImage {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(uint32, tag = "2")]
    partition: u32,
    #[prost(uint32, tag = "3")]
    slot: u32,
    #[prost(message, optional, tag = "4")]
    fence: Option<FenceImage>,
    #[prost(message, optional, tag = "5")]
    exclusive_fence: Option<FenceImage>,
    #[prost(bytes = "bytes", tag = "6")]
    exclusive_op: Bytes,
    #[prost(message, optional, tag = "7")]
    learn: Option<TagImage>,
    #[prost(message, repeated, tag = "8")]
    versions: Vec<VersionImage>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    prepared: Vec<Bytes>,
    #[prost(message, repeated, tag = "10")]
    shards: Vec<ShardImage>,
    #[prost(message, repeated, tag = "11")]
    waiting: Vec<WaitingImage>,
}

#[derive(Clone, PartialEq, Message)]
struct VersionImage {
    #[prost(bytes = "bytes", tag = "1")]
    op: Bytes,
    #[prost(bool, tag = "2")]
    tombstone: bool,
    #[prost(bool, tag = "3")]
    null_version: bool,
    #[prost(uint32, tag = "4")]
    k: u32,
    #[prost(uint64, tag = "5")]
    shard_len_bytes: u64,
    #[prost(uint32, tag = "6")]
    block_len_bytes: u32,
    #[prost(bytes = "bytes", tag = "7")]
    metadata: Bytes,
    #[prost(message, optional, tag = "8")]
    tag: Option<TagImage>,
    #[prost(uint32, tag = "9")]
    state: u32,
    #[prost(bool, tag = "10")]
    shard_present: bool,
    #[prost(uint32, tag = "11")]
    acknowledged: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ShardImage {
    #[prost(bytes = "bytes", tag = "1")]
    op: Bytes,
    #[prost(uint64, tag = "2")]
    segment: u64,
    #[prost(uint32, tag = "3")]
    offset: u32,
    #[prost(uint64, tag = "4")]
    len: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WaitingImage {
    #[prost(bytes = "bytes", tag = "1")]
    op: Bytes,
    #[prost(uint64, tag = "2")]
    since_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FenceImage {
    #[prost(uint32, tag = "1")]
    generation: u32,
    #[prost(uint64, tag = "2")]
    revision: u64,
}

/// A tag; also part of PARTITION records.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TagImage {
    #[prost(message, optional, tag = "1")]
    fence: Option<FenceImage>,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(bytes = "bytes", tag = "3")]
    writer: Bytes,
}

/// The record of a register.
pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let register = &entry.register;
    RegisterImage {
        key: entry.key.clone(),
        partition: u32::from(entry.partition.0),
        slot: u32::from(entry.slot.0),
        fence: Some(fence_image(register.fence)),
        exclusive_fence: register.exclusive.map(|(fence, _)| fence_image(fence)),
        exclusive_op: register.exclusive.map(|(_, op)| op_image(op)).unwrap_or_default(),
        learn: register.learn.map(tag_image),
        versions: register.versions.iter().map(version_image).collect(),
        prepared: register.prepared.iter().copied().map(op_image).collect(),
        shards: entry.shards.iter().map(shard_image).collect(),
        waiting: entry
            .waiting
            .iter()
            .map(|waiting| WaitingImage { op: op_image(waiting.op), since_ms: waiting.since.0 })
            .collect(),
    }
    .encode_to_vec()
}

/// What a listing needs of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The key's partition.
    pub(crate) partition: PartitionId,
    /// The slot that the drive is.
    pub(crate) slot: SlotIndex,
    /// The current version.
    pub(crate) current: SlotVersion,
}

/// The current version of an encoded register, if it has one, without decoding the rest: listings read millions of them.
/// Its metadata is kept by `keep`.
pub(crate) fn decode_listed(
    mut image: &[u8],
    keep: impl FnOnce(&[u8]) -> Bytes,
) -> Result<Option<Listed>, DecodeImageError> {
    let (mut partition, mut slot, mut last) = (0, 0, None);
    while image.has_remaining() {
        match decode_key(&mut image).map_err(bad)? {
            (2, WireType::Varint) => partition = varint(&mut image)?,
            (3, WireType::Varint) => slot = varint(&mut image)?,
            // The last of the versions is the current one.
            (8, WireType::LengthDelimited) => last = Some(delimited(&mut image)?),
            (field, wire) => {
                skip_field(wire, field, &mut image, DecodeContext::default()).map_err(bad)?;
            }
        }
    }
    let Some(version) = last else { return Ok(None) };
    let (partition, slot) = (PartitionId(small(partition)?), SlotIndex(small(slot)?));
    Ok(Some(Listed { partition, slot, current: decode_version(version, keep)? }))
}

/// What [`VersionImage`] would say, without an allocation for each of its fields.
fn decode_version(
    mut image: &[u8],
    keep: impl FnOnce(&[u8]) -> Bytes,
) -> Result<SlotVersion, DecodeImageError> {
    use WireType::{LengthDelimited, Varint};
    let mut read = VersionImage::default();
    let (mut op, mut metadata, mut tag): (&[u8], &[u8], _) = (&[], &[], Tag::default());
    while image.has_remaining() {
        match decode_key(&mut image).map_err(bad)? {
            (1, LengthDelimited) => op = delimited(&mut image)?,
            (2, Varint) => read.tombstone = varint(&mut image)? != 0,
            (3, Varint) => read.null_version = varint(&mut image)? != 0,
            (4, Varint) => read.k = small(varint(&mut image)?)?,
            (5, Varint) => read.shard_len_bytes = varint(&mut image)?,
            (6, Varint) => read.block_len_bytes = small(varint(&mut image)?)?,
            (7, LengthDelimited) => metadata = delimited(&mut image)?,
            (8, LengthDelimited) => tag = decode_tag(delimited(&mut image)?)?,
            (9, Varint) => read.state = small(varint(&mut image)?)?,
            (10, Varint) => read.shard_present = varint(&mut image)? != 0,
            (11, Varint) => read.acknowledged = small(varint(&mut image)?)?,
            other => skip_unknown(other, 11, &mut image)?,
        }
    }
    held_version(&read, op_of(op)?, tag, keep(metadata))
}

fn decode_tag(mut image: &[u8]) -> Result<Tag, DecodeImageError> {
    let (mut tag, mut writer): (Tag, &[u8]) = (Tag::default(), &[]);
    while image.has_remaining() {
        match decode_key(&mut image).map_err(bad)? {
            (1, WireType::LengthDelimited) => {
                let fence = FenceImage::decode(delimited(&mut image)?).map_err(bad)?;
                tag.fence = fence_of(Some(fence));
            }
            (2, WireType::Varint) => tag.seq = varint(&mut image)?,
            (3, WireType::LengthDelimited) => writer = delimited(&mut image)?,
            other => skip_unknown(other, 3, &mut image)?,
        }
    }
    Ok(Tag { writer: op_of(writer)?, ..tag })
}

/// Passes over a field that this version does not know; one that it does has the wrong type.
fn skip_unknown(
    (field, wire): (u32, WireType),
    known: u32,
    image: &mut &[u8],
) -> Result<(), DecodeImageError> {
    if field <= known {
        return Err(DecodeImageError(format!("the type of field {field}")));
    }
    skip_field(wire, field, image, DecodeContext::default()).map_err(bad)
}

fn varint(image: &mut &[u8]) -> Result<u64, DecodeImageError> {
    decode_varint(image).map_err(bad)
}

/// The bytes of a field, without copying them.
fn delimited<'a>(image: &mut &'a [u8]) -> Result<&'a [u8], DecodeImageError> {
    let len = varint(image)? as usize;
    let (bytes, rest) = image.split_at_checked(len).ok_or_else(|| DecodeImageError("a length".to_owned()))?;
    *image = rest;
    Ok(bytes)
}

fn bad(error: prost::DecodeError) -> DecodeImageError {
    DecodeImageError(error.to_string())
}

/// The inverse of [`encode_entry`]; sequence and place are not part of a record.
pub(crate) fn decode_entry(payload: Bytes, sequence: u64, place: Place) -> Result<Entry, DecodeImageError> {
    let image = RegisterImage::decode(payload).map_err(|error| DecodeImageError(error.to_string()))?;
    let exclusive = match image.exclusive_fence {
        Some(fence) => Some((fence_of(Some(fence)), op_of(&image.exclusive_op)?)),
        None => None,
    };
    Ok(Entry {
        key: image.key,
        partition: PartitionId(small(image.partition)?),
        slot: SlotIndex(small(image.slot)?),
        register: Register {
            fence: fence_of(image.fence),
            exclusive,
            learn: image.learn.as_ref().map(tag_of).transpose()?,
            versions: image.versions.into_iter().map(version_of).collect::<Result<_, _>>()?,
            prepared: image.prepared.iter().map(|op| op_of(op)).collect::<Result<_, _>>()?,
        },
        shards: image.shards.iter().map(shard_of).collect::<Result<_, _>>()?,
        waiting: image
            .waiting
            .iter()
            .map(|waiting| Ok(Waiting { op: op_of(&waiting.op)?, since: UnixMillis(waiting.since_ms) }))
            .collect::<Result<_, DecodeImageError>>()?,
        sequence,
        place,
    })
}

fn version_image(held: &SlotVersion) -> VersionImage {
    let version = &held.version;
    VersionImage {
        op: op_image(version.op),
        tombstone: version.kind == VersionKind::Tombstone,
        null_version: version.null_version,
        k: u32::from(version.k),
        shard_len_bytes: version.shard_len_bytes,
        block_len_bytes: version.block_len_bytes,
        metadata: version.metadata.clone(),
        tag: Some(tag_image(held.tag)),
        state: held.state as u32,
        shard_present: held.shard_present,
        acknowledged: u32::from(held.acknowledged.0),
    }
}

fn version_of(image: VersionImage) -> Result<SlotVersion, DecodeImageError> {
    let tag = image.tag.as_ref().map(tag_of).transpose()?.unwrap_or_default();
    held_version(&image, op_of(&image.op)?, tag, image.metadata.clone())
}

/// A version of these fields, of which the image says the rest.
fn held_version(
    image: &VersionImage,
    op: OpId,
    tag: Tag,
    metadata: Bytes,
) -> Result<SlotVersion, DecodeImageError> {
    let state = match image.state {
        2 => VersionState::Learned,
        3 => VersionState::Committed,
        4 => VersionState::Stable,
        other => return Err(DecodeImageError(format!("version state {other}"))),
    };
    Ok(SlotVersion {
        version: Version {
            op,
            kind: if image.tombstone { VersionKind::Tombstone } else { VersionKind::Data },
            null_version: image.null_version,
            k: small(image.k)?,
            shard_len_bytes: image.shard_len_bytes,
            block_len_bytes: image.block_len_bytes,
            metadata,
        },
        tag,
        state,
        shard_present: image.shard_present,
        acknowledged: SlotSet(small(image.acknowledged)?),
    })
}

fn shard_image(shard: &StoredShard) -> ShardImage {
    let op = op_image(shard.op);
    match shard.location {
        ShardLocation::Inline(place) => {
            ShardImage { op, segment: place.segment, offset: place.offset, len: u64::from(place.len) }
        }
        ShardLocation::File { len } => ShardImage { op, segment: 0, offset: 0, len },
    }
}

fn shard_of(image: &ShardImage) -> Result<StoredShard, DecodeImageError> {
    let location = match image.segment {
        0 => ShardLocation::File { len: image.len },
        segment => ShardLocation::Inline(Place { segment, offset: image.offset, len: small(image.len)? }),
    };
    Ok(StoredShard { op: op_of(&image.op)?, location })
}

fn fence_image(fence: Fence) -> FenceImage {
    FenceImage { generation: fence.generation, revision: fence.revision }
}

fn fence_of(image: Option<FenceImage>) -> Fence {
    image.map(|f| Fence { generation: f.generation, revision: f.revision }).unwrap_or_default()
}

pub(super) fn tag_image(tag: Tag) -> TagImage {
    TagImage { fence: Some(fence_image(tag.fence)), seq: tag.seq, writer: op_image(tag.writer) }
}

pub(super) fn tag_of(image: &TagImage) -> Result<Tag, DecodeImageError> {
    Ok(Tag { fence: fence_of(image.fence), seq: image.seq, writer: op_of(&image.writer)? })
}

fn op_image(op: OpId) -> Bytes {
    Bytes::copy_from_slice(&op.to_bytes())
}

fn op_of(bytes: &[u8]) -> Result<OpId, DecodeImageError> {
    let bytes = bytes.try_into().map_err(|_| DecodeImageError("an op id".to_owned()))?;
    Ok(OpId::from_bytes(bytes))
}

pub(super) fn small<T, U: TryFrom<T>>(value: T) -> Result<U, DecodeImageError> {
    U::try_from(value).map_err(|_| DecodeImageError("a number is out of range".to_owned()))
}
