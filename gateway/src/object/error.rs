//! One enum per operation; every failure that a client may see is a variant, so that the edge maps them exhaustively.

use coffer_common::time::UnixMillis;
use coffer_common::types::BucketName;

use super::encryption::EncryptionError;
use super::types::{ObjectInfo, VersionId};
use super::versions::LockRefused;

/// No quorum, no coordinator or no time: the client should try again. Whether a write took place is unknown.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("unavailable: {reason}")]
pub struct Unavailable {
    /// What is missing.
    pub reason: String,
    /// Drives are full: nothing was written, and trying again helps only after something was deleted.
    pub full: bool,
    /// Slots know this revision of the bucket's record, and the one that was used is older.
    pub(super) newer_bucket: Option<u64>,
}

impl Unavailable {
    /// With a reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), full: false, newer_bucket: None }
    }
}

/// The client's body cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body ended early, or went on past its length.
    #[error("body of {received} bytes where {expected} were announced")]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes received (so far).
        received: u64,
    },
    /// The connection broke.
    #[error("body broke off: {0}")]
    Broken(String),
    /// The edge refuses it (digest, signature, framing); the edge downcasts its own error.
    #[error("body refused: {0}")]
    Refused(Box<dyn std::error::Error + Send + Sync>),
}

/// The bytes of an object stop here: too few shards can be read. The response must be broken off.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("object cannot be read further: {reason}")]
pub struct ReadBroken {
    /// What is missing.
    pub reason: String,
}

/// The bucket's quota leaves too little for a write.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the quota of bucket `{bucket}` is exceeded")]
pub struct QuotaExceeded {
    /// The bucket.
    pub bucket: BucketName,
    /// Its quota in bytes.
    pub quota: u64,
    /// Bytes in use, with those that are being written, if that is known.
    pub in_use: Option<u64>,
}

/// Errors of creating a bucket.
#[derive(Debug, thiserror::Error)]
pub enum CreateBucketError {
    /// The name is taken; by whom.
    #[error("bucket exists")]
    Exists(Box<super::types::BucketInfo>),
    /// The same name is being created or deleted right now.
    #[error("bucket is being changed")]
    Busy,
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of reading a bucket's record.
#[derive(Debug, thiserror::Error)]
pub enum HeadBucketError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of deleting a bucket.
#[derive(Debug, thiserror::Error)]
pub enum DeleteBucketError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// It holds objects or open uploads.
    #[error("bucket is not empty")]
    NotEmpty,
    /// It is being changed right now.
    #[error("bucket is being changed")]
    Busy,
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of changing a bucket's record.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// It protects versions, and must keep them.
    #[error("bucket has object lock")]
    Locked,
    /// It does not keep versions, and can protect none.
    #[error("bucket does not keep versions")]
    NotVersioned,
    /// It is being changed right now.
    #[error("bucket is being changed")]
    Busy,
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of changing what is said about a version; `E` is why the change itself is refused.
#[derive(Debug, thiserror::Error)]
pub enum AmendError<E = OtherOwner> {
    /// The version cannot be had, or the outcome is unknown.
    #[error(transparent)]
    Get(#[from] GetError),
    /// With the change it would carry more than a version can.
    #[error("too much metadata")]
    MetadataTooLarge,
    /// The change is refused.
    #[error("the change is refused")]
    Refused(E),
}

/// The version belongs to somebody else than it did when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherOwner;

/// Errors of changing a version's protection.
pub type LockError = AmendError<LockRefused>;

/// Errors of writing an object.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The condition names an object that is not there.
    #[error("no such key")]
    NoSuchKey,
    /// The condition does not hold.
    #[error("condition does not hold")]
    ConditionFailed,
    /// Another conditional write of the key was faster; try again.
    #[error("conflicting write")]
    Conflict,
    /// The client's body cannot be stored.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Over the largest size of a single write.
    #[error("body of {size} bytes is longer than {limit}")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The attributes' encoding is too long.
    #[error("object metadata is too long")]
    MetadataTooLarge,
    /// The bucket's quota leaves too little.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// It asks for protection that the bucket does not give.
    #[error(transparent)]
    Lock(#[from] LockRefused),
    /// Too many bodies are in flight; slow down.
    #[error("too many requests in flight")]
    Overloaded,
    /// Its key is not had.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of reading an object or its information.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No such object.
    #[error("no such key")]
    NoSuchKey,
    /// No such version.
    #[error("no such version")]
    NoSuchVersion,
    /// The current version is a delete marker of a versioned bucket.
    #[error("delete marker")]
    DeleteMarker(VersionId),
    /// The version that was named is a delete marker.
    #[error("the version is a delete marker")]
    IsDeleteMarker {
        /// The version.
        version: VersionId,
        /// When it was made.
        last_modified: UnixMillis,
    },
    /// No byte of the range is in the object.
    #[error("range not satisfiable in {size} bytes")]
    RangeNotSatisfiable {
        /// The object's size.
        size: u64,
    },
    /// The object has no such part.
    #[error("no part {number}")]
    NoSuchPart {
        /// The number asked for.
        number: u16,
        /// Parts of the object.
        count: u32,
    },
    /// The condition says the client's copy is current.
    #[error("not modified")]
    NotModified(Box<ObjectInfo>),
    /// The condition does not hold.
    #[error("condition does not hold")]
    ConditionFailed,
    /// Its key is not had.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of deleting an object.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The condition names an object that is not there.
    #[error("no such key")]
    NoSuchKey,
    /// No such version.
    #[error("no such version")]
    NoSuchVersion,
    /// The condition does not hold.
    #[error("condition does not hold")]
    ConditionFailed,
    /// Another conditional write of the key was faster; try again.
    #[error("conflicting write")]
    Conflict,
    /// The version is protected.
    #[error(transparent)]
    Lock(#[from] LockRefused),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of copying an object.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error("source: {0}")]
    Source(GetError),
    /// The source is longer than a single write may be.
    #[error("source of {size} bytes is longer than {limit}")]
    SourceTooLarge {
        /// Bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The target cannot be written.
    #[error("target: {0}")]
    Target(PutError),
}

/// Errors of listing objects.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of beginning or aborting an upload and of listing its parts.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No such upload (completed and aborted ones count).
    #[error("no such upload")]
    NoSuchUpload,
    /// The attributes' encoding is too long.
    #[error("object metadata is too long")]
    MetadataTooLarge,
    /// It asks for protection that the bucket does not give.
    #[error(transparent)]
    Lock(#[from] LockRefused),
    /// Another operation of the upload was faster; try again.
    #[error("conflicting operation")]
    Conflict,
    /// Its key is not had.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Errors of writing a part.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The upload is not open.
    #[error("no such upload")]
    NoSuchUpload,
    /// The part's bytes cannot be written.
    #[error(transparent)]
    Write(#[from] PutError),
    /// The source of a copy cannot be read.
    #[error("source: {0}")]
    Source(GetError),
}

/// Errors of completing an upload.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part is not there, or its entity tag or checksum differs.
    #[error("part {number} is not as named")]
    InvalidPart {
        /// Its number.
        number: u16,
    },
    /// The parts are not in ascending order, or there is none.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is smaller than 5 MiB.
    #[error("part {number} of {size} bytes is too small")]
    PartTooSmall {
        /// Its number.
        number: u16,
        /// Bytes.
        size: u64,
        /// Its entity tag.
        etag: String,
    },
    /// The object would be longer than an object may be.
    #[error("object of {size} bytes is longer than {limit}")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The size or checksum is not the one the client named.
    #[error("{what} of the object is not as named")]
    Mismatch {
        /// `size` or `checksum`.
        what: &'static str,
    },
    /// The condition names an object that is not there.
    #[error("no such key")]
    NoSuchKey,
    /// The condition does not hold.
    #[error("condition does not hold")]
    ConditionFailed,
    /// Another operation of the upload or key was faster; try again.
    #[error("conflicting operation")]
    Conflict,
    /// Its key is not had.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// See [`Unavailable`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
