//! What a gateway keeps in `Version::metadata`: the domain types and, in `disk`, their encoding.
//!
//! Slots treat the bytes as opaque; the gateway's object layer writes and reads them, and repair tools that must know
//! which shards a completed object needs read them too. Four kinds of register hold three records:
//!
//! - `RegisterKind::Object`: [`ObjectMeta`], one per version; a tombstone carries [`ObjectMeta`] too (its time and owner);
//! - `RegisterKind::Version`: [`ObjectMeta`] of one version that is not current any more;
//! - `RegisterKind::Upload`: [`UploadMeta`];
//! - `RegisterKind::Part`: [`PartMeta`].
//!
//! This module does no I/O and knows no clock.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::time::UnixMillis;
use crate::types::{OpId, Tag, UploadId, VersionRef};

mod disk;
mod records;
#[cfg(test)]
mod tests;

pub use disk::{DecodeError, RegisterMeta};

/// Who owns a bucket, object or upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// The canonical id.
    pub id: String,
    /// The name to show.
    pub display_name: String,
}

/// The five checksum algorithms of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC), 4 bytes.
    Crc32,
    /// CRC-32C (Castagnoli), 4 bytes.
    Crc32c,
    /// CRC-64/NVME, 8 bytes.
    Crc64Nvme,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

/// What a multipart object's checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumScope {
    /// All bytes of the object.
    FullObject,
    /// The concatenation of the parts' checksums.
    Composite,
}

/// A checksum of an object or a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// What it covers.
    pub scope: ChecksumScope,
    /// The raw digest, big-endian for the CRCs.
    pub value: Bytes,
}

/// How much parity an object gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StorageClass {
    /// The cluster's default parity.
    #[default]
    Standard,
    /// Less parity.
    ReducedRedundancy,
}

/// Who else than its owner may do something with what carries this: the predefined grants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nobody.
    #[default]
    Private,
    /// Everybody may read.
    PublicRead,
    /// Everybody may read and write.
    PublicReadWrite,
    /// Everybody who is known may read.
    AuthenticatedRead,
    /// The bucket's owner may read.
    BucketOwnerRead,
    /// The bucket's owner may do everything.
    BucketOwnerFullControl,
}

/// How firmly a retention date holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionMode {
    /// Users with a special permission may shorten it.
    Governance,
    /// Nobody may.
    Compliance,
}

/// A version may not be deleted before a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How firmly.
    pub mode: RetentionMode,
    /// Until when.
    pub until: UnixMillis,
}

/// What the writer says about an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Media type.
    pub content_type: Option<String>,
    /// Encoding of the stored bytes.
    pub content_encoding: Option<String>,
    /// Natural language.
    pub content_language: Option<String>,
    /// How a browser shows it.
    pub content_disposition: Option<String>,
    /// Caching.
    pub cache_control: Option<String>,
    /// Expiry date as the writer sent it.
    pub expires: Option<String>,
    /// Redirect of a website bucket.
    pub website_redirect: Option<String>,
    /// User metadata: lower-case names without a prefix.
    pub user_metadata: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Parity class.
    pub storage_class: StorageClass,
    /// Retention, if any.
    pub retention: Option<Retention>,
    /// Legal hold.
    pub legal_hold: bool,
    /// Who else may do something with it.
    pub access: Access,
}

/// Whose key seals a data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncryptionScheme {
    /// The client's, which it brings with each request, and which is kept nowhere.
    Customer,
    /// One of the gateway's keyring, which the gateway has chosen.
    Managed,
    /// One of the gateway's keyring, which the writer has named.
    Named,
}

/// How the bytes of an object or of an upload are encrypted at rest. It is sealed and opened by the gateway's
/// `object::encryption`, which says what all of it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// Whose key seals the data key.
    pub scheme: EncryptionScheme,
    /// The name of that key in the keyring; empty for a customer's.
    pub key_id: String,
    /// The sealed data key.
    pub sealed_key: Bytes,
}

/// How the bytes of one op were cut into shards; with the partition's n it says all a reader needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    /// Codec id, see `erasure::CODEC_REED_SOLOMON`; 0 if there is no byte.
    pub codec: u32,
    /// Data shards; 0 if there is no byte.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Bytes of a shard block.
    pub block_len_bytes: u32,
}

/// One part of a completed object: its bytes are the shards of op `op` in the part's own register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPart {
    /// `1..=10,000`.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// MD5 of its bytes.
    pub md5: [u8; 16],
    /// Its checksum, if the upload has an algorithm.
    pub checksums: Vec<Checksum>,
    /// The op that wrote its shards.
    pub op: OpId,
    /// How its bytes are coded.
    pub coding: Coding,
}

/// The parts of an object that a multipart upload made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartTable {
    /// The upload, which with the part number names the register of each part.
    pub upload: UploadId,
    /// In order.
    pub parts: Vec<ObjectPart>,
}

/// One version of an object, or its delete marker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Bytes of the object.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: String,
    /// Wall time of the write, kept monotone per key.
    pub last_modified: UnixMillis,
    /// Who owns it.
    pub owner: Owner,
    /// What the writer said about it.
    pub attributes: Attributes,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
    /// How its own shards are coded; `k` is 0 for empty and multipart objects.
    pub coding: Coding,
    /// The parts, if it is a multipart object.
    pub parts: Option<PartTable>,
    /// The version id's op in a bucket that keeps versions; `None` is the null version.
    pub version: Option<OpId>,
    /// Whether this hides the key (a delete marker or a plain tombstone).
    pub delete_marker: bool,
    /// Encryption at rest, if any.
    pub encryption: Option<Encryption>,
    /// Where it stands among the versions of its key; `None` in a bucket that never kept versions.
    pub history: Option<History>,
}

/// What the current version of a key says of the versions below it, and each version of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The version's place among those of the key.
    pub ordinal: u64,
    /// How often the version's attributes were changed.
    pub edits: u32,
    /// The highest place that was ever given to a version of the key. Only the current version's counts, as with what follows.
    pub high: u64,
    /// The null version, if it is not the current one.
    pub null: Option<NullVersion>,
    /// Versions that are gone, and may not have been cleared away yet.
    pub removing: Vec<VersionRef>,
}

/// A null version below the current one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NullVersion {
    /// Its register.
    pub at: VersionRef,
    /// Whether its shards lie in the object's register, where they were written before the bucket kept versions.
    pub has_shards: bool,
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// Takes parts.
    Open,
    /// Complete has chosen: op `op` is, or is being, committed with this metadata.
    Completed {
        /// The op of the object's version.
        op: OpId,
        /// The object's metadata, complete.
        object: Box<ObjectMeta>,
        /// When it was decided; the same answer is given for 24 hours.
        decided: UnixMillis,
        /// A digest of the request, so that only the same request gets the same answer.
        request_digest: u128,
        /// The tag of the key's current version when it was decided: the op is committed only on top of that one, so
        /// that whoever drives it again after a crash never brings it back over a later write.
        before: Tag,
        /// Whether the op is known to be committed.
        applied: bool,
        /// Whether another request than the one that recorded the op has taken it over, and may have committed it: no
        /// other op must then be recorded in its place, or one Complete would take place twice.
        taken_over: bool,
    },
}

/// A multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadMeta {
    /// When it was created.
    pub initiated: UnixMillis,
    /// Who will own the object.
    pub owner: Owner,
    /// Who created it, if that is not its owner.
    pub initiator: Option<Owner>,
    /// What the object will carry.
    pub attributes: Attributes,
    /// The checksum algorithm and scope, if one was chosen.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumScope)>,
    /// How its parts are encrypted at rest, if they are.
    pub encryption: Option<Encryption>,
    /// Where it stands.
    pub state: UploadState,
}

/// One part of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartMeta {
    /// Bytes.
    pub size: u64,
    /// MD5 of its bytes.
    pub md5: [u8; 16],
    /// Its checksums.
    pub checksums: Vec<Checksum>,
    /// How its bytes are coded.
    pub coding: Coding,
    /// When it was written.
    pub last_modified: UnixMillis,
    /// Whether its writer saw an earlier attempt, which then lies below it in the register.
    pub replaces: bool,
}
