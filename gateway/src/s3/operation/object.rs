//! What is done with an object.

use http::Method;

use crate::s3::error::{Code, S3Error};
use crate::s3::query::Query;

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectOperation {
    /// Writes it.
    Put,
    /// Copies it from another.
    Copy,
    /// Reads it.
    Get,
    /// Reads its headers.
    Head,
    /// Deletes it.
    Delete,
    /// Reads who else may read it.
    GetAcl,
    /// Sets who else may read it.
    PutAcl,
    /// Reads its tags.
    GetTagging,
    /// Replaces its tags.
    PutTagging,
    /// Removes its tags.
    DeleteTagging,
    /// `?attributes`: reads its sizes, parts and checksums.
    GetAttributes,
    /// Reads its retention.
    GetRetention,
    /// Sets its retention.
    PutRetention,
    /// Reads its legal hold.
    GetLegalHold,
    /// Sets its legal hold.
    PutLegalHold,
    /// `?select`: not served.
    Select,
    /// `?restore`: there is no class to restore from.
    Restore,
    /// Begins a multipart upload.
    CreateUpload,
    /// Writes a part.
    UploadPart,
    /// Copies a part.
    UploadPartCopy,
    /// Lists parts.
    ListParts,
    /// Makes the object of its parts.
    CompleteUpload,
    /// Drops an upload.
    AbortUpload,
}

/// Sub-resources of an object that S3 knows: never taken for the plain operation.
pub(super) const KNOWN: [&str; 12] = [
    "acl",
    "attributes",
    "encryption",
    "legal-hold",
    "renameObject",
    "restore",
    "retention",
    "select",
    "select-type",
    "tagging",
    "torrent",
    "uploads",
];

impl ObjectOperation {
    /// Picks the operation.
    pub(super) fn resolve(method: &Method, query: &Query, copy: bool) -> Result<Self, S3Error> {
        let sub = KNOWN.into_iter().find(|name| query.has(name));
        let (upload, part) = (query.has("uploadId"), query.has("partNumber"));
        match (method.as_str(), sub) {
            ("GET", None) if upload => Ok(Self::ListParts),
            ("GET", None) => Ok(Self::Get),
            ("GET", Some("acl")) => Ok(Self::GetAcl),
            ("PUT", Some("acl")) => Ok(Self::PutAcl),
            ("GET", Some("tagging")) => Ok(Self::GetTagging),
            ("PUT", Some("tagging")) => Ok(Self::PutTagging),
            ("DELETE", Some("tagging")) => Ok(Self::DeleteTagging),
            ("GET", Some("attributes")) => Ok(Self::GetAttributes),
            ("GET", Some("retention")) => Ok(Self::GetRetention),
            ("PUT", Some("retention")) => Ok(Self::PutRetention),
            ("GET", Some("legal-hold")) => Ok(Self::GetLegalHold),
            ("PUT", Some("legal-hold")) => Ok(Self::PutLegalHold),
            ("HEAD", None) => Ok(Self::Head),
            ("PUT", None) => match (upload, part, copy) {
                (true, true, false) => Ok(Self::UploadPart),
                (true, true, true) => Ok(Self::UploadPartCopy),
                (false, false, true) => Ok(Self::Copy),
                (false, false, false) => Ok(Self::Put),
                _ => {
                    let message = "An upload of a part needs both uploadId and partNumber.";
                    Err(S3Error::with(Code::InvalidArgument, message))
                }
            },
            ("DELETE", None) if upload => Ok(Self::AbortUpload),
            ("DELETE", None) => Ok(Self::Delete),
            ("POST", Some("uploads")) => Ok(Self::CreateUpload),
            ("POST", Some("select" | "select-type")) => Ok(Self::Select),
            ("POST", Some("restore")) => Ok(Self::Restore),
            ("POST", None) if upload => Ok(Self::CompleteUpload),
            ("GET" | "HEAD" | "PUT" | "DELETE" | "POST", Some(sub)) => Err(S3Error::not_implemented(sub)),
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }

    /// The operation that this one becomes when it has a source.
    pub(super) fn with_source(self) -> Self {
        match self {
            Self::Put => Self::Copy,
            Self::UploadPart => Self::UploadPartCopy,
            Self::Copy
            | Self::Get
            | Self::Head
            | Self::Delete
            | Self::GetAcl
            | Self::PutAcl
            | Self::GetTagging
            | Self::PutTagging
            | Self::DeleteTagging
            | Self::GetAttributes
            | Self::GetRetention
            | Self::PutRetention
            | Self::GetLegalHold
            | Self::PutLegalHold
            | Self::Select
            | Self::Restore
            | Self::CreateUpload
            | Self::UploadPartCopy
            | Self::ListParts
            | Self::CompleteUpload
            | Self::AbortUpload => self,
        }
    }

    /// S3's name of the operation.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "PutObject",
            Self::Copy => "CopyObject",
            Self::Get => "GetObject",
            Self::Head => "HeadObject",
            Self::Delete => "DeleteObject",
            Self::GetAcl => "GetObjectAcl",
            Self::PutAcl => "PutObjectAcl",
            Self::GetTagging => "GetObjectTagging",
            Self::PutTagging => "PutObjectTagging",
            Self::DeleteTagging => "DeleteObjectTagging",
            Self::GetAttributes => "GetObjectAttributes",
            Self::GetRetention => "GetObjectRetention",
            Self::PutRetention => "PutObjectRetention",
            Self::GetLegalHold => "GetObjectLegalHold",
            Self::PutLegalHold => "PutObjectLegalHold",
            Self::Select => "SelectObjectContent",
            Self::Restore => "RestoreObject",
            Self::CreateUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::UploadPartCopy => "UploadPartCopy",
            Self::ListParts => "ListParts",
            Self::CompleteUpload => "CompleteMultipartUpload",
            Self::AbortUpload => "AbortMultipartUpload",
        }
    }
}
