//! Requests and responses of the object layer. No S3 word, no HTTP.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, BucketName, ObjectKey, Tag, VersionRef};

pub use coffer_common::meta::{
    Access, Attributes, Checksum, ChecksumAlgorithm, ChecksumScope, Owner, Retention, RetentionMode,
    StorageClass,
};

pub use super::documents::Documents;
use super::encryption::{CustomerKey, Encrypt, Encrypted, Unlock};
use super::error::BodyError;
pub use super::upload::*;
pub use super::versioning::*;

/// A version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionId {
    /// The version of a bucket that keeps none.
    Null,
    /// A version of a bucket that keeps them.
    Op(VersionRef),
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Op(VersionRef { ordinal, op }) => {
                write!(f, "{ordinal:016x}{:032x}", u128::from_be_bytes(op.to_bytes()))
            }
        }
    }
}

/// What is known of an object version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: String,
    /// Monotone per key.
    pub last_modified: UnixMillis,
    /// The owner.
    pub owner: Owner,
    /// What the writer said about it: headers, user metadata, tags, storage class, retention.
    pub attributes: Attributes,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
    /// Its version.
    pub version: VersionId,
    /// Its parts in order, if it is a multipart object; else empty.
    pub parts: Vec<ObjectPartInfo>,
    /// Whether its bucket keeps versions, or did.
    pub versioned: bool,
    /// Whether another version of the key is current: told by reads only.
    pub archived: bool,
    /// Where a write came in the order of all writes of its key: told of writes only.
    pub sequence: Option<Tag>,
    /// How it is encrypted at rest, if it is.
    pub encryption: Option<Encrypted>,
}

#[cfg(test)]
impl ObjectInfo {
    /// Of an object without bytes or anything else, for tests that are about some of it.
    pub(crate) fn empty() -> Self {
        Self {
            size: 0,
            etag: String::new(),
            last_modified: UnixMillis(0),
            owner: Owner::default(),
            attributes: Attributes::default(),
            checksums: Vec::new(),
            version: VersionId::Null,
            parts: Vec::new(),
            versioned: false,
            archived: false,
            sequence: None,
            encryption: None,
        }
    }
}

/// One part of a multipart object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPartInfo {
    /// `1..=10,000`.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
}

/// Bytes that a client sends, without any work done to them: the object layer reads and hashes them apart.
#[async_trait]
pub trait ByteSource: Send {
    /// The next bytes, never empty; `None` at the end.
    ///
    /// # Errors
    /// [`BodyError`] if the client's bytes are wrong or stop early.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError>;
}

/// Hashes a body and has the last word about it.
///
/// `update` gets all bytes in order, on a thread where computing is allowed; `finish` comes after the source's end, and
/// before anything is committed.
pub trait Digester: Send {
    /// Takes the next bytes.
    fn update(&mut self, data: &[u8]);

    /// The digests to store.
    ///
    /// # Errors
    /// [`BodyError`] refuses the body: nothing is committed and the error reaches the caller.
    fn finish(self: Box<Self>) -> Result<Digests, BodyError>;
}

/// Makes a digester for a copy: from the source's information and, for a part, the upload's checksum; or refuses the source.
pub type MakeDigester = Box<
    dyn FnOnce(
            &ObjectInfo,
            Option<(ChecksumAlgorithm, ChecksumScope)>,
        ) -> Result<Box<dyn Digester>, BodyError>
        + Send,
>;

/// The digests of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// MD5, from which the entity tag is made.
    pub md5: [u8; 16],
    /// Checksums to store and return (scope: full object).
    pub checksums: Vec<Checksum>,
}

/// A body of known length.
pub struct Body {
    /// Bytes that `source` will yield.
    pub length: u64,
    /// The bytes.
    pub source: Box<dyn ByteSource>,
    /// Their digests.
    pub digester: Box<dyn Digester>,
}

/// When a write may take place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WriteCondition {
    /// Always.
    #[default]
    Always,
    /// Only if there is no object under the key.
    Absent,
    /// Only if there is an object with one of these entity tags (without quotes).
    EtagIn(Vec<String>),
    /// Only if there is an object.
    Present,
    /// Only if the version that is meant, the current one or the one that a delete names, is still as it was listed.
    Unchanged(Box<ListedVersion>),
}

/// Writes an object.
pub struct PutObject {
    /// Where.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// Headers, user metadata, tags, storage class, retention.
    pub attributes: Attributes,
    /// Who writes.
    pub owner: Owner,
    /// When it may take place.
    pub condition: WriteCondition,
    /// How its bytes are to be encrypted.
    pub encrypt: Encrypt,
    /// The bytes.
    pub body: Body,
}

/// Entity tags in a read condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtagSet {
    /// Any (`*`).
    Any,
    /// One of these, without quotes.
    Of(Vec<String>),
}

/// When a read may take place, by the rules of RFC 9110 §13.2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadCondition {
    /// Only if the tag is one of these.
    pub if_match: Option<EtagSet>,
    /// Only if it is none of these.
    pub if_none_match: Option<EtagSet>,
    /// Only if modified after this (whole seconds).
    pub if_modified_since: Option<UnixMillis>,
    /// Only if not modified after this (whole seconds).
    pub if_unmodified_since: Option<UnixMillis>,
}

/// Which bytes of an object are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// All.
    #[default]
    All,
    /// From `first` to `last`, both included, or to the end.
    Range {
        /// First byte.
        first: u64,
        /// Last byte; clamped to the end.
        last: Option<u64>,
    },
    /// The last so many bytes.
    Suffix(u64),
    /// One part of a multipart object; part 1 of a plain object is all of it.
    Part(u16),
}

/// Reads an object, or only its information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetObject {
    /// Where.
    pub bucket: BucketName,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` for the current one.
    pub version: Option<VersionId>,
    /// Which bytes.
    pub select: Select,
    /// When.
    pub condition: ReadCondition,
    /// What opens it, if it is encrypted.
    pub unlock: Unlock,
}

/// The bytes a [`Select`] chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// First byte.
    pub first: u64,
    /// Number of bytes.
    pub length: u64,
    /// Whether the request named a range or a part.
    pub partial: bool,
}

/// An object's bytes on their way to a client. Lazy: nothing is read before the first call. An error means that the
/// response must be broken off: the bytes so far are right, but they are not all.
#[async_trait]
pub trait ObjectBytes: Send {
    /// The next bytes, never empty; `None` after exactly `Selected::length` bytes.
    async fn next(&mut self) -> Result<Option<Bytes>, super::error::ReadBroken>;
}

/// An object and its bytes.
pub struct ObjectRead {
    /// The object.
    pub info: ObjectInfo,
    /// The bytes chosen.
    pub selected: Selected,
    /// The bytes.
    pub bytes: Box<dyn ObjectBytes>,
}

/// Deletes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteObject {
    /// Where.
    pub bucket: BucketName,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` for the current one.
    pub version: Option<VersionId>,
    /// When.
    pub condition: WriteCondition,
    /// Whether a retention that may be bypassed is.
    pub bypass_governance: bool,
}

/// Changes attributes; may be called several times, each time on what is there then.
pub type ChangeAttributes = std::sync::Arc<dyn Fn(&mut Attributes) + Send + Sync>;

/// Changes what an object carries beside its bytes.
pub struct AmendObject {
    /// Where.
    pub bucket: BucketName,
    /// Which key.
    pub key: ObjectKey,
    /// Which version; `None` for the current one.
    pub version: Option<VersionId>,
    /// Only while it is of this owner, if one is named.
    pub owner: Option<Owner>,
    /// The change.
    pub change: ChangeAttributes,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The version deleted or the marker made; `None` in a bucket without versioning.
    pub version: Option<VersionId>,
    /// Whether a delete marker was made or removed.
    pub delete_marker: bool,
    /// Where it came in the order of all writes of its key; `None` if there was nothing to do.
    pub sequence: Option<Tag>,
}

/// What a copy's target carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyAttributes {
    /// The source's attributes, with this storage class, and these tags in place of the source's if given.
    FromSource {
        /// The storage class.
        storage_class: StorageClass,
        /// Tags that replace the source's.
        tags: Option<std::collections::BTreeMap<String, String>>,
        /// Who else may read the target: this never comes from the source.
        access: Access,
        /// The target's own retention.
        retention: Option<Retention>,
        /// The target's own legal hold.
        legal_hold: bool,
        /// Where the target redirects to: this never comes from the source.
        website_redirect: Option<String>,
    },
    /// These (and the source's tags, if `keep_tags`).
    Replace {
        /// The attributes.
        attributes: Attributes,
        /// Whether the source's tags are kept.
        keep_tags: bool,
    },
}

/// Names the source of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// Where.
    pub bucket: BucketName,
    /// Which key.
    pub key: ObjectKey,
    /// Which version.
    pub version: Option<VersionId>,
    /// When; 412 if false.
    pub condition: ReadCondition,
    /// The customer's key, if it is encrypted with one.
    pub customer_key: Option<CustomerKey>,
}

/// Copies an object on the server's side.
pub struct CopyObject {
    /// From.
    pub source: CopySource,
    /// To this bucket.
    pub bucket: BucketName,
    /// Under this key.
    pub key: ObjectKey,
    /// What the target carries.
    pub attributes: CopyAttributes,
    /// Who owns the target.
    pub owner: Owner,
    /// When the target may be written.
    pub condition: WriteCondition,
    /// How the target is to be encrypted, however the source is.
    pub encrypt: Encrypt,
    /// Makes a digester for the source's bytes once the source is known; its checksums are stored.
    pub digester: MakeDigester,
}

/// Lists objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListObjects {
    /// Where.
    pub bucket: BucketName,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Rolls keys up to its first occurrence after the prefix; empty for none.
    pub delimiter: String,
    /// Only items (keys and rolled-up prefixes) greater than this; empty for all.
    pub start_after: String,
    /// Most items (keys and prefixes together).
    pub limit: u32,
    /// If given, a page ends where it is after this time, or before what is unavailable, with fewer items than there are or none, and
    /// a `next` that may be no item's name.
    pub pause_after: Option<Duration>,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key.
    pub key: ObjectKey,
    /// The object.
    pub info: ObjectInfo,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// Objects in key order.
    pub objects: Vec<ListedObject>,
    /// Rolled-up prefixes in order, delimiter included.
    pub prefixes: Vec<String>,
    /// If more may follow: the `start_after` of the next page.
    pub next: Option<String>,
}

/// Creates a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBucket {
    /// Its name.
    pub name: BucketName,
    /// Who will own it.
    pub owner: Owner,
    /// The region it is created for.
    pub region: String,
    /// How it is configured from the start.
    pub documents: Documents,
    /// Whether it keeps and protects versions from the start.
    pub object_lock: bool,
}

/// A bucket's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketQuota {
    /// So much may be stored.
    pub bytes: u64,
    /// What is in use; `None` until it was counted for the first time.
    pub usage: Option<BucketUsage>,
}

/// What is in use of a bucket's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketUsage {
    /// Bytes of objects, older versions and parts of uploads, by the last survey.
    pub bytes: u64,
    /// When that was concluded.
    pub surveyed: UnixMillis,
    /// Bytes written since, being written, or set aside by gateways for what they will be asked to write.
    pub pending_bytes: u64,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: BucketName,
    /// Its id, never used again.
    pub id: BucketId,
    /// The revision of its record: rises with every change of it.
    pub revision: u64,
    /// When it was created.
    pub created: UnixMillis,
    /// Its owner.
    pub owner: Owner,
    /// The region it was created for.
    pub region: String,
    /// How it is configured.
    pub documents: Documents,
    /// Whether it keeps versions.
    pub versioning: BucketVersioning,
    /// How it protects them, if it does.
    pub object_lock: Option<ObjectLock>,
}
