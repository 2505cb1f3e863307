//! From the errors of the layers below to S3's codes: exhaustive, no wildcard, so that a new error there does not
//! compile here until it has a code.

use http::{HeaderName, HeaderValue, header};

use super::super::auth::AuthError;
use super::super::checksum::ChecksumError;
use super::super::payload::PayloadError;
use super::super::response::{http_date, iso_date, quoted};
use super::{Code, S3Error};
use crate::object::{
    AmendError, BodyError, CompleteError, ConfigureError, CopyError, CreateBucketError, DeleteBucketError,
    DeleteError, EncryptionError, GetError, HeadBucketError, ListError, LockError, LockRefused, OtherOwner,
    PartError, PutError, QuotaExceeded, Unavailable, UploadError, VersionId,
};

impl From<AuthError> for S3Error {
    fn from(error: AuthError) -> Self {
        let code = match &error {
            AuthError::Anonymous
            | AuthError::Expired { .. }
            | AuthError::NotYetValid
            | AuthError::MissingDate
            | AuthError::QueryV2Malformed
            | AuthError::HeaderNotSigned { .. } => Code::AccessDenied,
            AuthError::SeveralMechanisms
            | AuthError::UnsupportedAuthorization
            | AuthError::InvalidContentSha256 => Code::InvalidArgument,
            AuthError::SignatureVersionOff | AuthError::MissingContentSha256 => Code::InvalidRequest,
            AuthError::AsymmetricUnsupported => Code::NotImplemented,
            AuthError::UnknownAccessKey { .. } => Code::InvalidAccessKeyId,
            AuthError::SignatureMismatch { .. } => Code::SignatureDoesNotMatch,
            AuthError::TimeTooSkewed { .. } => Code::RequestTimeTooSkewed,
            AuthError::HeaderMalformed(_) | AuthError::HeaderRegion { .. } => {
                Code::AuthorizationHeaderMalformed
            }
            AuthError::QueryMalformed(_) | AuthError::QueryRegion { .. } => {
                Code::AuthorizationQueryParametersError
            }
            AuthError::InvalidToken => Code::InvalidToken,
            AuthError::ExpiredToken => Code::ExpiredToken,
        };
        let answer = Self::with(code, error.to_string());
        match error {
            AuthError::UnknownAccessKey { access_key } | AuthError::SignatureMismatch { access_key } => {
                answer.detail("AWSAccessKeyId", access_key)
            }
            AuthError::TimeTooSkewed { request_time, server_time } => answer
                .detail("RequestTime", iso_date(request_time))
                .detail("ServerTime", iso_date(server_time))
                .detail("MaxAllowedSkewMilliseconds", super::super::auth::MAX_SKEW.as_millis().to_string()),
            AuthError::Expired { expires, server_time } => {
                answer.detail("Expires", iso_date(expires)).detail("ServerTime", iso_date(server_time))
            }
            AuthError::HeaderRegion { expected, .. } | AuthError::QueryRegion { expected, .. } => {
                answer.detail("Region", expected)
            }
            AuthError::HeaderNotSigned { header } => answer.detail("HeadersNotSigned", header),
            AuthError::Anonymous
            | AuthError::SeveralMechanisms
            | AuthError::UnsupportedAuthorization
            | AuthError::SignatureVersionOff
            | AuthError::AsymmetricUnsupported
            | AuthError::NotYetValid
            | AuthError::MissingDate
            | AuthError::HeaderMalformed(_)
            | AuthError::QueryMalformed(_)
            | AuthError::QueryV2Malformed
            | AuthError::MissingContentSha256
            | AuthError::InvalidContentSha256
            | AuthError::InvalidToken
            | AuthError::ExpiredToken => answer,
        }
    }
}

impl From<PayloadError> for S3Error {
    fn from(error: PayloadError) -> Self {
        let code = match &error {
            PayloadError::MissingContentLength => Code::MissingContentLength,
            PayloadError::IncompleteBody | PayloadError::Transport(_) => Code::IncompleteBody,
            PayloadError::ChunkTooSmall { .. } => Code::InvalidChunkSizeError,
            PayloadError::SignatureMismatch => Code::SignatureDoesNotMatch,
            PayloadError::MalformedTrailer => Code::MalformedTrailerError,
            PayloadError::Sha256Mismatch => Code::XAmzContentSHA256Mismatch,
        };
        let answer = Self::with(code, error.to_string());
        match error {
            PayloadError::ChunkTooSmall { chunk, size } => {
                answer.detail("Chunk", chunk.to_string()).detail("BadChunkSize", size.to_string())
            }
            PayloadError::MissingContentLength
            | PayloadError::IncompleteBody
            | PayloadError::SignatureMismatch
            | PayloadError::MalformedTrailer
            | PayloadError::Sha256Mismatch
            | PayloadError::Transport(_) => answer,
        }
    }
}

impl From<ChecksumError> for S3Error {
    fn from(error: ChecksumError) -> Self {
        let code = match &error {
            ChecksumError::InvalidContentMd5 => Code::InvalidDigest,
            ChecksumError::ContentMd5Mismatch | ChecksumError::Mismatch { .. } => Code::BadDigest,
            ChecksumError::InvalidHeader { .. }
            | ChecksumError::InvalidTrailer { .. }
            | ChecksumError::Several
            | ChecksumError::UnsupportedTrailer
            | ChecksumError::UnsupportedAlgorithm
            | ChecksumError::ValueMissing
            | ChecksumError::UnsupportedType { .. } => Code::InvalidRequest,
        };
        Self::with(code, error.to_string())
    }
}

impl From<Unavailable> for S3Error {
    fn from(error: Unavailable) -> Self {
        if error.full {
            tracing::warn!(reason = error.reason, "no room for a request");
            return Self::new(Code::InsufficientStorage);
        }
        tracing::warn!(reason = error.reason, "no quorum for a request");
        Self::new(Code::ServiceUnavailable)
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Length { .. } | BodyError::Broken(_) => Self::new(Code::IncompleteBody),
            BodyError::Refused(refusal) => match refusal.downcast::<super::super::body::Refusal>() {
                Ok(refusal) => refusal.0,
                Err(other) => {
                    tracing::error!(error = %other, "a body was refused for a reason that is not the edge's");
                    Self::new(Code::InternalError)
                }
            },
        }
    }
}

impl From<CreateBucketError> for S3Error {
    fn from(error: CreateBucketError) -> Self {
        match error {
            CreateBucketError::Exists(_) => Self::new(Code::BucketAlreadyExists),
            CreateBucketError::Busy => Self::new(Code::OperationAborted),
            CreateBucketError::Unavailable(error) => error.into(),
        }
    }
}

impl From<HeadBucketError> for S3Error {
    fn from(error: HeadBucketError) -> Self {
        match error {
            HeadBucketError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            HeadBucketError::Unavailable(error) => error.into(),
        }
    }
}

impl From<DeleteBucketError> for S3Error {
    fn from(error: DeleteBucketError) -> Self {
        match error {
            DeleteBucketError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            DeleteBucketError::NotEmpty => Self::new(Code::BucketNotEmpty),
            DeleteBucketError::Busy => Self::new(Code::OperationAborted),
            DeleteBucketError::Unavailable(error) => error.into(),
        }
    }
}

impl From<ConfigureError> for S3Error {
    fn from(error: ConfigureError) -> Self {
        match error {
            ConfigureError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            ConfigureError::Locked => Self::with(
                Code::InvalidBucketState,
                "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
            ),
            ConfigureError::NotVersioned => Self::with(
                Code::InvalidBucketState,
                "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration",
            ),
            ConfigureError::Busy => Self::new(Code::OperationAborted),
            ConfigureError::Unavailable(error) => error.into(),
        }
    }
}

impl From<LockRefused> for S3Error {
    fn from(error: LockRefused) -> Self {
        match error {
            LockRefused::NoObjectLock => {
                Self::with(Code::InvalidRequest, "Bucket is missing Object Lock Configuration")
            }
            LockRefused::Protected => {
                Self::with(Code::AccessDenied, "Access Denied because object protected by object lock.")
            }
        }
    }
}

impl From<LockError> for S3Error {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Get(error) => error.into(),
            LockError::MetadataTooLarge => Self::new(Code::MetadataTooLarge),
            LockError::Refused(error) => error.into(),
        }
    }
}

impl From<EncryptionError> for S3Error {
    fn from(error: EncryptionError) -> Self {
        match error {
            EncryptionError::KeyNeeded => Self::with(
                Code::InvalidRequest,
                "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to \
                 retrieve the object.",
            ),
            EncryptionError::WrongKey => Self::with(
                Code::InvalidRequest,
                "The provided encryption parameters did not match the ones used originally.",
            ),
            EncryptionError::NotApplicable => Self::with(
                Code::InvalidRequest,
                "The encryption parameters are not applicable to this object.",
            ),
            EncryptionError::NoKeyring => Self::with(
                Code::NotImplemented,
                "This gateway has no encryption keys: start it with --encryption-keys FILE (COFFER_ENCRYPTION_KEYS).",
            ),
            EncryptionError::UnknownKey(name) => Self::with(
                Code::KmsNotFoundException,
                format!("Key '{name}' is not among this gateway's encryption keys (--encryption-keys)."),
            ),
            EncryptionError::MissingKey(_) => {
                tracing::error!(%error, "an encrypted object cannot be read");
                Self::with(Code::KmsNotFoundException, format!("{error} (--encryption-keys)."))
            }
            EncryptionError::Unopened(_) | EncryptionError::Cipher => {
                tracing::error!(%error, "an encrypted object cannot be read");
                Self::with(Code::InternalError, format!("{error}."))
            }
        }
    }
}

/// An error that tells of a delete marker.
fn delete_marker(answer: S3Error, version: VersionId) -> S3Error {
    let answer =
        answer.header(HeaderName::from_static("x-amz-delete-marker"), HeaderValue::from_static("true"));
    match HeaderValue::from_str(&version.to_string()) {
        Ok(value) => answer.header(HeaderName::from_static("x-amz-version-id"), value),
        Err(_) => answer,
    }
}

/// As MinIO answers for a hard quota; S3 has none. 400: clients do not send the body again.
impl From<QuotaExceeded> for S3Error {
    fn from(error: QuotaExceeded) -> Self {
        let QuotaExceeded { bucket, quota, in_use } = error;
        let used = in_use.map_or(String::new(), |in_use| format!(", and {in_use} are in use"));
        let message = format!("Bucket quota exceeded: bucket {bucket} may hold {quota} bytes{used}.");
        let answer = Self::with(Code::XMinioAdminBucketQuotaExceeded, message)
            .detail("BucketName", bucket.as_str())
            .detail("QuotaBytes", quota.to_string());
        match in_use {
            Some(in_use) => answer.detail("UsedBytes", in_use.to_string()),
            None => answer,
        }
    }
}

impl From<PutError> for S3Error {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            PutError::NoSuchKey => Self::new(Code::NoSuchKey),
            PutError::ConditionFailed => Self::new(Code::PreconditionFailed),
            PutError::Conflict => Self::new(Code::ConditionalRequestConflict),
            PutError::Body(error) => error.into(),
            PutError::TooLarge { size, limit } => too_large(size, limit),
            PutError::MetadataTooLarge => Self::new(Code::MetadataTooLarge),
            PutError::QuotaExceeded(error) => error.into(),
            PutError::Lock(error) => error.into(),
            PutError::Encryption(error) => error.into(),
            PutError::Overloaded => Self::new(Code::SlowDown),
            PutError::Unavailable(error) => error.into(),
        }
    }
}

impl From<GetError> for S3Error {
    fn from(error: GetError) -> Self {
        match error {
            GetError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            GetError::NoSuchKey => Self::new(Code::NoSuchKey),
            GetError::NoSuchVersion => Self::new(Code::NoSuchVersion),
            GetError::DeleteMarker(version) => delete_marker(Self::new(Code::NoSuchKey), version),
            GetError::IsDeleteMarker { version, last_modified } => {
                let answer = delete_marker(Self::new(Code::MethodNotAllowed), version)
                    .header(header::ALLOW, HeaderValue::from_static("DELETE"));
                match HeaderValue::from_str(&http_date(last_modified)) {
                    Ok(value) => answer.header(header::LAST_MODIFIED, value),
                    Err(_) => answer,
                }
            }
            GetError::RangeNotSatisfiable { size } => {
                let answer = Self::new(Code::InvalidRange).detail("ActualObjectSize", size.to_string());
                match HeaderValue::from_str(&format!("bytes */{size}")) {
                    Ok(value) => answer.header(header::CONTENT_RANGE, value),
                    Err(_) => answer,
                }
            }
            GetError::NoSuchPart { number, count } => Self::new(Code::InvalidPartNumber)
                .detail("PartNumberRequested", number.to_string())
                .detail("ActualPartCount", count.to_string()),
            GetError::NotModified(info) => {
                let mut answer = Self::new(Code::NotModified);
                for (name, text) in [
                    (header::ETAG, quoted(&info.etag)),
                    (header::LAST_MODIFIED, http_date(info.last_modified)),
                ] {
                    if let Ok(value) = HeaderValue::from_str(&text) {
                        answer = answer.header(name, value);
                    }
                }
                answer
            }
            GetError::Encryption(error) => error.into(),
            GetError::ConditionFailed => Self::new(Code::PreconditionFailed),
            GetError::Unavailable(error) => error.into(),
        }
    }
}

impl From<DeleteError> for S3Error {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            DeleteError::NoSuchKey => Self::new(Code::NoSuchKey),
            DeleteError::NoSuchVersion => Self::new(Code::NoSuchVersion),
            DeleteError::ConditionFailed => Self::new(Code::PreconditionFailed),
            DeleteError::Lock(error) => error.into(),
            DeleteError::Conflict => Self::new(Code::ConditionalRequestConflict),
            DeleteError::Unavailable(error) => error.into(),
        }
    }
}

impl From<AmendError> for S3Error {
    fn from(error: AmendError) -> Self {
        match error {
            AmendError::Get(error) => error.into(),
            AmendError::MetadataTooLarge => Self::new(Code::MetadataTooLarge),
            AmendError::Refused(OtherOwner) => Self::new(Code::OperationAborted),
        }
    }
}

/// A delete marker that is named by its version is no source.
pub(crate) fn delete_marker_as_source() -> S3Error {
    S3Error::with(
        Code::InvalidRequest,
        "The source of a copy request may not specifically refer to a delete marker by version id.",
    )
}

/// A source's error: a condition of the source that says "not modified" is a failed condition of the copy, and a delete marker
/// that is named by its version is no source.
pub(crate) fn copy_source(error: GetError) -> S3Error {
    match error {
        GetError::NotModified(_) => S3Error::new(Code::PreconditionFailed),
        GetError::IsDeleteMarker { .. } => delete_marker_as_source(),
        GetError::RangeNotSatisfiable { size } => beyond_source(size),
        error @ (GetError::NoSuchBucket
        | GetError::NoSuchKey
        | GetError::NoSuchVersion
        | GetError::DeleteMarker(_)
        | GetError::NoSuchPart { .. }
        | GetError::ConditionFailed
        | GetError::Encryption(_)
        | GetError::Unavailable(_)) => error.into(),
    }
}

/// A range that goes beyond the source of a copied part, or begins there.
pub(crate) fn beyond_source(size: u64) -> S3Error {
    let message = format!("Range specified is not valid for source object of size: {size}");
    S3Error::with(Code::InvalidArgument, message)
}

impl From<CopyError> for S3Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => copy_source(error),
            CopyError::SourceTooLarge { limit, .. } => Self::with(
                Code::InvalidRequest,
                format!(
                    "The specified copy source is larger than the maximum allowable size for a copy source: {limit}"
                ),
            ),
            CopyError::Target(error) => error.into(),
        }
    }
}

impl From<ListError> for S3Error {
    fn from(error: ListError) -> Self {
        match error {
            ListError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            ListError::Unavailable(error) => error.into(),
        }
    }
}

impl From<UploadError> for S3Error {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            UploadError::NoSuchUpload => Self::new(Code::NoSuchUpload),
            UploadError::MetadataTooLarge => Self::new(Code::MetadataTooLarge),
            UploadError::Lock(error) => error.into(),
            UploadError::Encryption(error) => error.into(),
            UploadError::Conflict => Self::new(Code::OperationAborted),
            UploadError::Unavailable(error) => error.into(),
        }
    }
}

impl From<PartError> for S3Error {
    fn from(error: PartError) -> Self {
        match error {
            PartError::NoSuchUpload => Self::new(Code::NoSuchUpload),
            PartError::Write(error) => error.into(),
            PartError::Source(error) => copy_source(error),
        }
    }
}

impl From<CompleteError> for S3Error {
    fn from(error: CompleteError) -> Self {
        match error {
            CompleteError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            CompleteError::NoSuchUpload => Self::new(Code::NoSuchUpload),
            CompleteError::InvalidPart { number } => {
                Self::new(Code::InvalidPart).detail("PartNumber", number.to_string())
            }
            CompleteError::InvalidPartOrder => Self::new(Code::InvalidPartOrder),
            CompleteError::PartTooSmall { number, size, etag } => Self::new(Code::EntityTooSmall)
                .detail("ProposedSize", size.to_string())
                .detail("MinSizeAllowed", MIN_PART_BYTES.to_string())
                .detail("PartNumber", number.to_string())
                .detail("ETag", etag),
            CompleteError::TooLarge { size, limit } => too_large(size, limit),
            CompleteError::Mismatch { what: "size" } => Self::with(
                Code::InvalidRequest,
                "The provided x-amz-mp-object-size header value does not match the size of the object.",
            ),
            CompleteError::Mismatch { what } => Self::with(
                Code::BadDigest,
                format!("The {what} you specified did not match what we calculated."),
            ),
            CompleteError::NoSuchKey => Self::new(Code::NoSuchKey),
            CompleteError::ConditionFailed => Self::new(Code::PreconditionFailed),
            CompleteError::Encryption(error) => error.into(),
            CompleteError::Conflict => Self::new(Code::ConditionalRequestConflict),
            CompleteError::Unavailable(error) => error.into(),
        }
    }
}

/// Smallest part but the last, in bytes (S3).
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

fn too_large(size: u64, limit: u64) -> S3Error {
    let answer = S3Error::new(Code::EntityTooLarge);
    answer.detail("ProposedSize", size.to_string()).detail("MaxSizeAllowed", limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_agree_with_those_the_errors_document() {
        for error in [
            AuthError::Anonymous,
            AuthError::SeveralMechanisms,
            AuthError::MissingContentSha256,
            AuthError::HeaderMalformed("x"),
            AuthError::QueryMalformed("x"),
            AuthError::InvalidToken,
            AuthError::ExpiredToken,
            AuthError::AsymmetricUnsupported,
        ] {
            let named = Code::from_name(error.code());
            assert_eq!(named, Some(S3Error::from(error).code()));
        }
        for error in
            [PayloadError::MissingContentLength, PayloadError::MalformedTrailer, PayloadError::Sha256Mismatch]
        {
            let named = Code::from_name(error.code());
            assert_eq!(named, Some(S3Error::from(error).code()));
        }
    }

    #[test]
    fn the_source_of_a_copy_has_refusals_of_its_own() {
        let last_modified = coffer_common::time::UnixMillis(0);
        for (error, code) in [
            (GetError::IsDeleteMarker { version: VersionId::Null, last_modified }, Code::InvalidRequest),
            (GetError::DeleteMarker(VersionId::Null), Code::NoSuchKey),
            (GetError::RangeNotSatisfiable { size: 1 }, Code::InvalidArgument),
            (GetError::ConditionFailed, Code::PreconditionFailed),
        ] {
            assert_eq!(copy_source(error).code(), code);
        }
    }

    #[test]
    fn a_refused_body_keeps_its_own_error() {
        let refusal = super::super::super::body::Refusal(S3Error::new(Code::BadDigest));
        let error = PutError::Body(BodyError::Refused(Box::new(refusal)));
        assert_eq!(S3Error::from(error).code(), Code::BadDigest);
    }
}
