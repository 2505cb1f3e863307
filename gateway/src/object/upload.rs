//! Requests and responses of multipart uploads. No S3 word, no HTTP.

use bytes::Bytes;
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey, UploadId};

use super::encryption::{CustomerKey, Encrypt, Encrypted};
use super::types::{
    Attributes, Body, Checksum, ChecksumAlgorithm, ChecksumScope, CopySource, MakeDigester, Owner, Select,
    WriteCondition,
};

/// Begins a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateUpload {
    /// Where.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// What the object will carry.
    pub attributes: Attributes,
    /// Who will own the object.
    pub owner: Owner,
    /// Who uploads.
    pub initiator: Owner,
    /// The checksum to keep, if any.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumScope)>,
    /// How its parts are to be encrypted.
    pub encrypt: Encrypt,
}

/// Names an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRef {
    /// Where.
    pub bucket: BucketName,
    /// Under which key.
    pub key: ObjectKey,
    /// Which upload.
    pub upload: UploadId,
}

/// Writes a part.
pub struct UploadPart {
    /// The upload.
    pub upload: UploadRef,
    /// `1..=10,000`.
    pub number: u16,
    /// The customer's key, if the upload is encrypted with one.
    pub customer_key: Option<CustomerKey>,
    /// The bytes.
    pub body: Body,
}

/// Writes a part from the bytes of an object.
pub struct CopyPart {
    /// The upload.
    pub upload: UploadRef,
    /// `1..=10,000`.
    pub number: u16,
    /// The customer's key, if the upload is encrypted with one.
    pub customer_key: Option<CustomerKey>,
    /// From.
    pub source: CopySource,
    /// Which bytes of the source.
    pub select: Select,
    /// Makes a digester for the source's bytes once the source and the upload's checksum are known.
    pub digester: MakeDigester,
}

/// A part of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// `1..=10,000`.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
    /// When it was written.
    pub last_modified: UnixMillis,
    /// How its upload is encrypted, if it is.
    pub encryption: Option<Encrypted>,
}

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// Under which key.
    pub key: ObjectKey,
    /// Its id.
    pub upload: UploadId,
    /// When it began.
    pub initiated: UnixMillis,
    /// Who will own the object.
    pub owner: Owner,
    /// Who began it.
    pub initiator: Owner,
    /// What the object will carry.
    pub attributes: Attributes,
    /// The checksum to keep, if any.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumScope)>,
    /// How it is encrypted at rest, if it is.
    pub encryption: Option<Encrypted>,
}

/// Lists the parts of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListParts {
    /// The upload.
    pub upload: UploadRef,
    /// Only parts with a greater number.
    pub after: u16,
    /// Most parts.
    pub limit: u32,
}

/// A page of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPage {
    /// The upload.
    pub upload: UploadInfo,
    /// Parts in order.
    pub parts: Vec<PartInfo>,
    /// If more follows: the `after` of the next page.
    pub next: Option<u16>,
}

/// Lists the open uploads of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListUploads {
    /// Where.
    pub bucket: BucketName,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Rolls keys up; empty for none.
    pub delimiter: String,
    /// Only uploads of keys greater than this, or of this key and greater than `after_upload`; empty for all.
    pub after_key: String,
    /// See `after_key`.
    pub after_upload: Option<UploadId>,
    /// Most items.
    pub limit: u32,
}

/// A page of uploads, by key and then by upload id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadPage {
    /// Uploads in order.
    pub uploads: Vec<UploadInfo>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// If more follows: the `after_key` and `after_upload` of the next page.
    pub next: Option<(String, Option<UploadId>)>,
}

/// A part as the client that completes an upload names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPart {
    /// `1..=10,000`.
    pub number: u16,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// Its checksums, if the client names them; they must be equal.
    pub checksums: Vec<Checksum>,
}

/// What is combined into the digests of a multipart object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartDigests {
    /// Bytes.
    pub size: u64,
    /// MD5 of its bytes.
    pub md5: [u8; 16],
    /// Its checksums.
    pub checksums: Vec<Checksum>,
}

/// The digests of a multipart object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CombinedDigests {
    /// The entity tag, without quotes.
    pub etag: String,
    /// Its checksums.
    pub checksums: Vec<Checksum>,
}

/// Combines the digests of an object's parts, in order, for the upload's checksum; the edge knows the convention.
pub type CombineDigests =
    Box<dyn Fn(&[PartDigests], Option<(ChecksumAlgorithm, ChecksumScope)>) -> CombinedDigests + Send + Sync>;

/// A checksum of an object as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedChecksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// What it covers; `None` if the client did not say, and means what the upload began with.
    pub scope: Option<ChecksumScope>,
    /// The raw digest, big-endian for the CRCs.
    pub value: Bytes,
}

/// Completes an upload.
pub struct CompleteUpload {
    /// The upload.
    pub upload: UploadRef,
    /// The parts of the object, in ascending order.
    pub parts: Vec<ChosenPart>,
    /// When the object may be written.
    pub condition: WriteCondition,
    /// The object's size as the client knows it, if it says so.
    pub expected_size: Option<u64>,
    /// The customer's key, if the client sends one: it must be that of the upload.
    pub customer_key: Option<CustomerKey>,
    /// The object's checksum as the client knows it, if it says so.
    pub expected_checksum: Option<ExpectedChecksum>,
    /// Combines the parts' digests.
    pub combine: CombineDigests,
}
