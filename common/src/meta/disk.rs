//! The encoding of register metadata: protobuf with fixed field numbers, inside an envelope that says the format.
//!
//! ```text
//! Envelope { 1: format (1; 2 where a version stands among others of its key; 3 where bytes are encrypted)
//!            2: object | 3: upload | 4: part }
//! ```
//! Rules: numbers are never reused; a reader refuses a higher `format`; new optional fields do not raise it; a change that
//! an old reader must not overlook does. Enumerations are numbers with 0 for "absent", so that an unknown value is an
//! error and not a default. Fixed-width fields hold random values, varints small ones.

use bytes::Bytes;
use prost::Message;

use super::records::{
    Body, DiskAttributes, DiskChecksum, DiskCoding, DiskCompletion, DiskEncryption, DiskEnvelope,
    DiskHistory, DiskObject, DiskObjectPart, DiskOp, DiskOwner, DiskPart, DiskPartTable, DiskRetention,
    DiskTag, DiskUpload, DiskVersionRef,
};
use super::{
    Access, Attributes, Checksum, ChecksumAlgorithm, ChecksumScope, Coding, Encryption, EncryptionScheme,
    History, NullVersion, ObjectMeta, ObjectPart, Owner, PartMeta, PartTable, Retention, RetentionMode,
    StorageClass, UploadMeta, UploadState,
};
use crate::time::UnixMillis;
use crate::types::{Fence, OpId, Tag, UploadId, VersionRef};

/// The format of what older versions of Coffer can read.
const FORMAT: u32 = 1;
/// The format of an object that stands among other versions of its key.
const FORMAT_HISTORY: u32 = 2;
/// The format of an object or an upload whose bytes are encrypted, which a reader that does not know of it would hand out
/// as they are; the highest that is read.
const FORMAT_ENCRYPTED: u32 = 3;

/// The bytes are not register metadata this code can read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Not protobuf, or truncated.
    #[error("malformed register metadata: {0}")]
    Malformed(String),
    /// Written by a later version of Coffer.
    #[error("register metadata of format {0} is newer than {FORMAT_ENCRYPTED}")]
    Newer(u32),
    /// A field is missing or holds a value out of its range.
    #[error("register metadata has a bad `{0}`")]
    Field(&'static str),
}

/// What a register's version carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterMeta {
    /// A version of an object.
    Object(Box<ObjectMeta>),
    /// An upload.
    Upload(Box<UploadMeta>),
    /// A part of an upload.
    Part(PartMeta),
}

impl RegisterMeta {
    /// The bytes to store.
    pub fn encode(&self) -> Bytes {
        let body = match self {
            Self::Object(object) => Body::Object(object_to_disk(object)),
            Self::Upload(upload) => Body::Upload(upload_to_disk(upload)),
            Self::Part(part) => Body::Part(part_to_disk(part)),
        };
        DiskEnvelope { format: self.format(), body: Some(body) }.encode_to_vec().into()
    }

    /// The lowest format whose readers take it for nothing else than it is.
    fn format(&self) -> u32 {
        let object = match self {
            Self::Object(object) => Some(&**object),
            Self::Upload(upload) => match &upload.state {
                UploadState::Completed { object, .. } => Some(&**object),
                UploadState::Open => None,
            },
            Self::Part(_) => None,
        };
        let upload_is_encrypted = matches!(self, Self::Upload(upload) if upload.encryption.is_some());
        if upload_is_encrypted || object.is_some_and(|object| object.encryption.is_some()) {
            FORMAT_ENCRYPTED
        } else if object.is_some_and(|object| object.history.is_some()) {
            FORMAT_HISTORY
        } else {
            FORMAT
        }
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeError`] says what cannot be read.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let envelope =
            DiskEnvelope::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if envelope.format > FORMAT_ENCRYPTED {
            return Err(DecodeError::Newer(envelope.format));
        }
        match envelope.body.ok_or(DecodeError::Field("body"))? {
            Body::Object(object) => Ok(Self::Object(Box::new(object_from_disk(object)?))),
            Body::Upload(upload) => Ok(Self::Upload(Box::new(upload_from_disk(upload)?))),
            Body::Part(part) => Ok(Self::Part(part_from_disk(part)?)),
        }
    }
}

fn owner_to_disk(owner: &Owner) -> DiskOwner {
    DiskOwner { id: owner.id.clone(), display_name: owner.display_name.clone() }
}

fn owner_from_disk(owner: Option<DiskOwner>) -> Owner {
    let owner = owner.unwrap_or_default();
    Owner { id: owner.id, display_name: owner.display_name }
}

fn op_to_disk(op: OpId) -> DiskOp {
    DiskOp { session: op.session, counter: op.counter }
}

fn op_from_disk(op: DiskOp) -> OpId {
    OpId { session: op.session, counter: op.counter }
}

fn tag_to_disk(tag: Tag) -> Option<DiskTag> {
    (tag != Tag::default()).then(|| DiskTag {
        generation: tag.fence.generation,
        revision: tag.fence.revision,
        seq: tag.seq,
        writer: Some(op_to_disk(tag.writer)),
    })
}

fn tag_from_disk(tag: Option<DiskTag>) -> Result<Tag, DecodeError> {
    let Some(tag) = tag else { return Ok(Tag::default()) };
    let fence = Fence { generation: tag.generation, revision: tag.revision };
    let writer = tag.writer.map(op_from_disk).ok_or(DecodeError::Field("tag writer"))?;
    Ok(Tag { fence, seq: tag.seq, writer })
}

fn algorithm_number(algorithm: ChecksumAlgorithm) -> u32 {
    match algorithm {
        ChecksumAlgorithm::Crc32 => 1,
        ChecksumAlgorithm::Crc32c => 2,
        ChecksumAlgorithm::Crc64Nvme => 3,
        ChecksumAlgorithm::Sha1 => 4,
        ChecksumAlgorithm::Sha256 => 5,
    }
}

fn algorithm_from_number(number: u32) -> Result<ChecksumAlgorithm, DecodeError> {
    Ok(match number {
        1 => ChecksumAlgorithm::Crc32,
        2 => ChecksumAlgorithm::Crc32c,
        3 => ChecksumAlgorithm::Crc64Nvme,
        4 => ChecksumAlgorithm::Sha1,
        5 => ChecksumAlgorithm::Sha256,
        _ => return Err(DecodeError::Field("checksum algorithm")),
    })
}

fn scope_number(scope: ChecksumScope) -> u32 {
    match scope {
        ChecksumScope::FullObject => 1,
        ChecksumScope::Composite => 2,
    }
}

fn scope_from_number(number: u32) -> Result<ChecksumScope, DecodeError> {
    match number {
        1 => Ok(ChecksumScope::FullObject),
        2 => Ok(ChecksumScope::Composite),
        _ => Err(DecodeError::Field("checksum scope")),
    }
}

fn checksums_to_disk(checksums: &[Checksum]) -> Vec<DiskChecksum> {
    let one = |checksum: &Checksum| DiskChecksum {
        algorithm: algorithm_number(checksum.algorithm),
        scope: scope_number(checksum.scope),
        value: checksum.value.clone(),
    };
    checksums.iter().map(one).collect()
}

fn checksums_from_disk(checksums: Vec<DiskChecksum>) -> Result<Vec<Checksum>, DecodeError> {
    let one = |checksum: DiskChecksum| {
        let algorithm = algorithm_from_number(checksum.algorithm)?;
        Ok(Checksum { algorithm, scope: scope_from_number(checksum.scope)?, value: checksum.value })
    };
    checksums.into_iter().map(one).collect()
}

fn coding_to_disk(coding: Coding) -> Option<DiskCoding> {
    (coding != Coding::default()).then(|| DiskCoding {
        codec: coding.codec,
        k: u32::from(coding.k),
        m: u32::from(coding.m),
        block_len_bytes: coding.block_len_bytes,
    })
}

fn coding_from_disk(coding: Option<DiskCoding>) -> Result<Coding, DecodeError> {
    let Some(coding) = coding else { return Ok(Coding::default()) };
    let small = |value: u32| u8::try_from(value).map_err(|_| DecodeError::Field("coding"));
    let (k, m) = (small(coding.k)?, small(coding.m)?);
    Ok(Coding { codec: coding.codec, k, m, block_len_bytes: coding.block_len_bytes })
}

fn retention_to_disk(retention: Retention) -> DiskRetention {
    let mode = match retention.mode {
        RetentionMode::Governance => 1,
        RetentionMode::Compliance => 2,
    };
    DiskRetention { mode, until_ms: retention.until.0 }
}

fn retention_from_disk(retention: DiskRetention) -> Result<Retention, DecodeError> {
    let mode = match retention.mode {
        1 => RetentionMode::Governance,
        2 => RetentionMode::Compliance,
        _ => return Err(DecodeError::Field("retention mode")),
    };
    Ok(Retention { mode, until: UnixMillis(retention.until_ms) })
}

fn attributes_to_disk(attributes: &Attributes) -> DiskAttributes {
    let attributes = attributes.clone();
    DiskAttributes {
        content_type: attributes.content_type,
        content_encoding: attributes.content_encoding,
        content_language: attributes.content_language,
        content_disposition: attributes.content_disposition,
        cache_control: attributes.cache_control,
        expires: attributes.expires,
        website_redirect: attributes.website_redirect,
        user_metadata: attributes.user_metadata,
        tags: attributes.tags,
        storage_class: match attributes.storage_class {
            StorageClass::Standard => 1,
            StorageClass::ReducedRedundancy => 2,
        },
        retention: attributes.retention.map(retention_to_disk),
        legal_hold: attributes.legal_hold,
        access: match attributes.access {
            Access::Private => 0,
            Access::PublicRead => 1,
            Access::PublicReadWrite => 2,
            Access::AuthenticatedRead => 3,
            Access::BucketOwnerRead => 4,
            Access::BucketOwnerFullControl => 5,
        },
    }
}

fn attributes_from_disk(attributes: Option<DiskAttributes>) -> Result<Attributes, DecodeError> {
    let attributes = attributes.ok_or(DecodeError::Field("attributes"))?;
    Ok(Attributes {
        content_type: attributes.content_type,
        content_encoding: attributes.content_encoding,
        content_language: attributes.content_language,
        content_disposition: attributes.content_disposition,
        cache_control: attributes.cache_control,
        expires: attributes.expires,
        website_redirect: attributes.website_redirect,
        user_metadata: attributes.user_metadata,
        tags: attributes.tags,
        storage_class: match attributes.storage_class {
            1 => StorageClass::Standard,
            2 => StorageClass::ReducedRedundancy,
            _ => return Err(DecodeError::Field("storage class")),
        },
        retention: attributes.retention.map(retention_from_disk).transpose()?,
        legal_hold: attributes.legal_hold,
        access: match attributes.access {
            0 => Access::Private,
            1 => Access::PublicRead,
            2 => Access::PublicReadWrite,
            3 => Access::AuthenticatedRead,
            4 => Access::BucketOwnerRead,
            5 => Access::BucketOwnerFullControl,
            _ => return Err(DecodeError::Field("access")),
        },
    })
}

fn digest_16(bytes: &Bytes, field: &'static str) -> Result<[u8; 16], DecodeError> {
    <[u8; 16]>::try_from(bytes.as_ref()).map_err(|_| DecodeError::Field(field))
}

fn object_part_to_disk(part: &ObjectPart) -> DiskObjectPart {
    DiskObjectPart {
        number: u32::from(part.number),
        size: part.size,
        md5: Bytes::copy_from_slice(&part.md5),
        checksums: checksums_to_disk(&part.checksums),
        op: Some(op_to_disk(part.op)),
        coding: coding_to_disk(part.coding),
    }
}

fn object_part_from_disk(part: DiskObjectPart) -> Result<ObjectPart, DecodeError> {
    Ok(ObjectPart {
        number: u16::try_from(part.number).map_err(|_| DecodeError::Field("part number"))?,
        size: part.size,
        md5: digest_16(&part.md5, "part md5")?,
        checksums: checksums_from_disk(part.checksums)?,
        op: part.op.map(op_from_disk).ok_or(DecodeError::Field("part op"))?,
        coding: coding_from_disk(part.coding)?,
    })
}

fn table_to_disk(table: &PartTable) -> DiskPartTable {
    DiskPartTable {
        upload: Bytes::copy_from_slice(&table.upload.to_bytes()),
        parts: table.parts.iter().map(object_part_to_disk).collect(),
    }
}

fn table_from_disk(table: DiskPartTable) -> Result<PartTable, DecodeError> {
    let upload = UploadId::from_bytes(digest_16(&table.upload, "upload")?);
    let parts = table.parts.into_iter().map(object_part_from_disk).collect::<Result<_, _>>()?;
    Ok(PartTable { upload, parts })
}

fn encryption_to_disk(encryption: &Encryption) -> DiskEncryption {
    let scheme = match encryption.scheme {
        EncryptionScheme::Customer => "customer-1",
        EncryptionScheme::Managed => "managed-1",
        EncryptionScheme::Named => "named-1",
    };
    DiskEncryption {
        scheme: scheme.to_owned(),
        key_id: encryption.key_id.clone(),
        sealed_key: encryption.sealed_key.clone(),
    }
}

fn encryption_from_disk(encryption: DiskEncryption) -> Result<Encryption, DecodeError> {
    let scheme = match encryption.scheme.as_str() {
        "customer-1" => EncryptionScheme::Customer,
        "managed-1" => EncryptionScheme::Managed,
        "named-1" => EncryptionScheme::Named,
        _ => return Err(DecodeError::Field("encryption scheme")),
    };
    Ok(Encryption { scheme, key_id: encryption.key_id, sealed_key: encryption.sealed_key })
}

fn version_to_disk(version: VersionRef) -> DiskVersionRef {
    DiskVersionRef { ordinal: version.ordinal, op: Some(op_to_disk(version.op)), has_shards: false }
}

fn version_from_disk(version: DiskVersionRef) -> Result<VersionRef, DecodeError> {
    let op = version.op.map(op_from_disk).ok_or(DecodeError::Field("version op"))?;
    Ok(VersionRef { ordinal: version.ordinal, op })
}

fn history_to_disk(history: &History) -> DiskHistory {
    let null = |null: NullVersion| DiskVersionRef { has_shards: null.has_shards, ..version_to_disk(null.at) };
    DiskHistory {
        ordinal: history.ordinal,
        edits: history.edits,
        high: history.high,
        null: history.null.map(null),
        removing: history.removing.iter().copied().map(version_to_disk).collect(),
    }
}

fn history_from_disk(history: DiskHistory) -> Result<History, DecodeError> {
    let null =
        |null: DiskVersionRef| Ok(NullVersion { has_shards: null.has_shards, at: version_from_disk(null)? });
    Ok(History {
        ordinal: history.ordinal,
        edits: history.edits,
        high: history.high,
        null: history.null.map(null).transpose()?,
        removing: history.removing.into_iter().map(version_from_disk).collect::<Result<_, _>>()?,
    })
}

fn object_to_disk(object: &ObjectMeta) -> DiskObject {
    DiskObject {
        size: object.size,
        etag: object.etag.clone(),
        last_modified_ms: object.last_modified.0,
        owner: Some(owner_to_disk(&object.owner)),
        attributes: Some(attributes_to_disk(&object.attributes)),
        checksums: checksums_to_disk(&object.checksums),
        coding: coding_to_disk(object.coding),
        parts: object.parts.as_ref().map(table_to_disk),
        version: object.version.map(op_to_disk),
        delete_marker: object.delete_marker,
        encryption: object.encryption.as_ref().map(encryption_to_disk),
        history: object.history.as_ref().map(history_to_disk),
    }
}

fn object_from_disk(object: DiskObject) -> Result<ObjectMeta, DecodeError> {
    Ok(ObjectMeta {
        size: object.size,
        etag: object.etag,
        last_modified: UnixMillis(object.last_modified_ms),
        owner: owner_from_disk(object.owner),
        attributes: attributes_from_disk(object.attributes)?,
        checksums: checksums_from_disk(object.checksums)?,
        coding: coding_from_disk(object.coding)?,
        parts: object.parts.map(table_from_disk).transpose()?,
        version: object.version.map(op_from_disk),
        delete_marker: object.delete_marker,
        encryption: object.encryption.map(encryption_from_disk).transpose()?,
        history: object.history.map(history_from_disk).transpose()?,
    })
}

fn upload_to_disk(upload: &UploadMeta) -> DiskUpload {
    let checksum = upload.checksum.map(|(algorithm, scope)| DiskChecksum {
        algorithm: algorithm_number(algorithm),
        scope: scope_number(scope),
        value: Bytes::new(),
    });
    let completion = match &upload.state {
        UploadState::Open => None,
        UploadState::Completed { op, object, decided, request_digest, before, applied, taken_over } => {
            Some(DiskCompletion {
                op: Some(op_to_disk(*op)),
                object: Some(object_to_disk(object)),
                decided_ms: decided.0,
                request_digest: Bytes::copy_from_slice(&request_digest.to_be_bytes()),
                before: tag_to_disk(*before),
                applied: *applied,
                taken_over: *taken_over,
            })
        }
    };
    DiskUpload {
        initiated_ms: upload.initiated.0,
        owner: Some(owner_to_disk(&upload.owner)),
        attributes: Some(attributes_to_disk(&upload.attributes)),
        checksum,
        completion,
        encryption: upload.encryption.as_ref().map(encryption_to_disk),
        initiator: upload.initiator.as_ref().map(owner_to_disk),
    }
}

fn upload_from_disk(upload: DiskUpload) -> Result<UploadMeta, DecodeError> {
    let checksum = upload
        .checksum
        .map(|checksum| Ok((algorithm_from_number(checksum.algorithm)?, scope_from_number(checksum.scope)?)));
    let state = match upload.completion {
        None => UploadState::Open,
        Some(done) => UploadState::Completed {
            op: done.op.map(op_from_disk).ok_or(DecodeError::Field("completion op"))?,
            object: Box::new(object_from_disk(done.object.ok_or(DecodeError::Field("completion object"))?)?),
            decided: UnixMillis(done.decided_ms),
            request_digest: u128::from_be_bytes(digest_16(&done.request_digest, "request digest")?),
            before: tag_from_disk(done.before)?,
            applied: done.applied,
            taken_over: done.taken_over,
        },
    };
    Ok(UploadMeta {
        initiated: UnixMillis(upload.initiated_ms),
        owner: owner_from_disk(upload.owner),
        initiator: upload.initiator.map(|initiator| owner_from_disk(Some(initiator))),
        attributes: attributes_from_disk(upload.attributes)?,
        checksum: checksum.transpose()?,
        encryption: upload.encryption.map(encryption_from_disk).transpose()?,
        state,
    })
}

fn part_to_disk(part: &PartMeta) -> DiskPart {
    DiskPart {
        size: part.size,
        md5: Bytes::copy_from_slice(&part.md5),
        checksums: checksums_to_disk(&part.checksums),
        coding: coding_to_disk(part.coding),
        last_modified_ms: part.last_modified.0,
        replaces: part.replaces,
    }
}

fn part_from_disk(part: DiskPart) -> Result<PartMeta, DecodeError> {
    Ok(PartMeta {
        size: part.size,
        md5: digest_16(&part.md5, "md5")?,
        checksums: checksums_from_disk(part.checksums)?,
        coding: coding_from_disk(part.coding)?,
        last_modified: UnixMillis(part.last_modified_ms),
        replaces: part.replaces,
    })
}
