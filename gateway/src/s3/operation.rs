//! Which operation a request asks for: pure, no I/O, no clock.
//!
//! Owns: reading method, host, path and query. Never: looks at the body, at an identity or at what exists.
//!
//! 1. [`Address::parse`] finds bucket and key, percent-decoded exactly once, by virtual host or by path.
//! 2. [`Operation::resolve`] picks the operation. A sub-resource that S3 knows and Coffer does not serve is never taken
//!    for the plain operation: `PUT /bucket/key?acl` must not overwrite the object.
//!
//! Source: the Amazon S3 API Reference, "Request Syntax" of each operation.

use coffer_common::types::{BucketName, InvalidObjectKey, ObjectKey};
use http::Method;

use super::auth::percent_decode;
use super::error::{Code, S3Error};
use super::query::Query;

/// Bucket and key as the client names them, decoded, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// The bucket, if any.
    pub(crate) bucket: Option<Vec<u8>>,
    /// The key, if any; never empty.
    pub(crate) key: Option<Vec<u8>>,
    /// Whether the host named the bucket.
    pub(crate) virtual_host: bool,
}

impl Address {
    /// Reads `host` (with or without a port) against `domains`, and the path as it came over the wire.
    pub(crate) fn parse(host: &str, raw_path: &str, domains: &[String]) -> Self {
        let path = raw_path.strip_prefix('/').unwrap_or(raw_path);
        let some = |text: &str| Some(percent_decode(text).into_owned()).filter(|bytes| !bytes.is_empty());
        if let Some(bucket) = host_bucket(host, domains) {
            return Self { bucket: Some(bucket.into_bytes()), key: some(path), virtual_host: true };
        }
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        Self { bucket: some(bucket), key: some(key), virtual_host: false }
    }

    /// The host's bucket, which Signature Version 2 signs.
    pub(crate) fn host_bucket(&self) -> Option<&str> {
        self.bucket
            .as_deref()
            .filter(|_| self.virtual_host)
            .and_then(|bucket| std::str::from_utf8(bucket).ok())
    }
}

/// The bucket in `<bucket>.<domain>`; the longest domain wins.
fn host_bucket(host: &str, domains: &[String]) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.to_ascii_lowercase();
    let before = |domain: &String| {
        let rest = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        Some(rest.to_owned()).filter(|bucket| !bucket.is_empty())
    };
    domains
        .iter()
        .filter(|domain| name.ends_with(domain.as_str()))
        .max_by_key(|domain| domain.len())
        .and_then(before)
}

/// An operation and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The buckets of the caller.
    ListBuckets,
    /// An operation on a bucket.
    Bucket(BucketName, BucketOperation),
    /// An operation on an object.
    Object(BucketName, ObjectKey, ObjectOperation),
}

/// What is done with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketOperation {
    /// Creates it.
    Create,
    /// Tells whether it exists.
    Head,
    /// Deletes it.
    Delete,
    /// Tells its region.
    Location,
    /// Lists objects, first form.
    ListV1,
    /// Lists objects, second form.
    ListV2,
    /// Lists versions.
    ListVersions,
    /// Lists open uploads.
    ListUploads,
    /// Deletes many objects.
    DeleteObjects,
    /// Reads a configuration that no bucket has.
    GetDefault(BucketDefault),
    /// Deletes a configuration that no bucket has.
    DeleteDefault,
}

/// A configuration of a bucket that cannot be set, with its own answer when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketDefault {
    /// `?versioning`: never enabled.
    Versioning,
    /// `?acl`: the owner has full control.
    Acl,
    /// `?notification`: none.
    Notification,
    /// `?logging`: none.
    Logging,
    /// `?accelerate`: none.
    Accelerate,
    /// `?requestPayment`: the owner pays.
    RequestPayment,
    /// `?policyStatus`, `?policy`, `?cors` and so on: the error that says there is none.
    Absent(Code),
}

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
    /// `?acl`: the owner has full control.
    GetAcl,
    /// Reads its tags.
    GetTagging,
    /// `?attributes`: reads its sizes, parts and checksums.
    GetAttributes,
    /// `?retention`, `?legal-hold`: none.
    GetLock,
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

/// Sub-resources of a bucket that S3 knows and this resolver does not name otherwise.
const UNSERVED_BUCKET: [&str; 34] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "encryption",
    "events",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "replication-metrics",
    "replication-reset",
    "requestPayment",
    "session",
    "tagging",
    "uploads",
    "versioning",
    "versions",
    "website",
    "lambdaArn",
];

/// The same for an object.
const UNSERVED_OBJECT: [&str; 12] = [
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

/// Configurations of a bucket that can be deleted although none is there.
const DELETABLE_DEFAULTS: [&str; 11] = [
    "analytics",
    "cors",
    "encryption",
    "lifecycle",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "tagging",
    "website",
    "metrics",
];

impl Operation {
    /// Picks the operation. `copy` tells whether `x-amz-copy-source` is there.
    ///
    /// # Errors
    /// `InvalidBucketName`, `KeyTooLongError`, `InvalidURI`, `MethodNotAllowed` or `NotImplemented`.
    pub(crate) fn resolve(
        method: &Method,
        address: &Address,
        query: &Query,
        copy: bool,
    ) -> Result<Self, S3Error> {
        let Some(bucket) = &address.bucket else {
            return match *method {
                Method::GET if address.key.is_none() => Ok(Self::ListBuckets),
                _ if address.key.is_some() => Err(S3Error::new(Code::InvalidBucketName)),
                _ => Err(S3Error::new(Code::MethodNotAllowed)),
            };
        };
        let bucket = bucket_name(bucket)?;
        match &address.key {
            None => Ok(Self::Bucket(bucket, bucket_operation(method, query)?)),
            Some(key) => {
                Ok(Self::Object(bucket, object_key(key.clone())?, object_operation(method, query, copy)?))
            }
        }
    }

    /// S3's name of the operation.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::ListBuckets => "ListBuckets",
            Self::Bucket(_, operation) => operation.name(),
            Self::Object(_, _, operation) => operation.name(),
        }
    }
}

/// Checks a bucket name.
///
/// # Errors
/// `InvalidBucketName` with the broken rule.
pub(crate) fn bucket_name(name: &[u8]) -> Result<BucketName, S3Error> {
    let text = String::from_utf8_lossy(name);
    BucketName::new(text.clone().into_owned()).map_err(|error| {
        let message = format!("The specified bucket is not valid: {error}");
        S3Error::with(Code::InvalidBucketName, message).detail("BucketName", text)
    })
}

/// Checks a key.
///
/// # Errors
/// `KeyTooLongError`, or `InvalidURI` if it is not UTF-8.
pub(crate) fn object_key(key: impl Into<bytes::Bytes>) -> Result<ObjectKey, S3Error> {
    ObjectKey::new(key).map_err(|error| match error {
        InvalidObjectKey::TooLong(size) => S3Error::new(Code::KeyTooLongError)
            .detail("Size", size.to_string())
            .detail("MaxSizeAllowed", coffer_common::limits::MAX_KEY_BYTES.to_string()),
        InvalidObjectKey::NotUtf8 => S3Error::new(Code::InvalidURI),
        InvalidObjectKey::Empty => S3Error::with(Code::InvalidArgument, "The object key must not be empty."),
    })
}

impl BucketOperation {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CreateBucket",
            Self::Head => "HeadBucket",
            Self::Delete => "DeleteBucket",
            Self::Location => "GetBucketLocation",
            Self::ListV1 => "ListObjects",
            Self::ListV2 => "ListObjectsV2",
            Self::ListVersions => "ListObjectVersions",
            Self::ListUploads => "ListMultipartUploads",
            Self::DeleteObjects => "DeleteObjects",
            Self::GetDefault(_) => "GetBucketConfiguration",
            Self::DeleteDefault => "DeleteBucketConfiguration",
        }
    }
}

impl ObjectOperation {
    /// The operation that this one becomes when it has a source.
    pub(crate) fn with_source(self) -> Self {
        match self {
            Self::Put => Self::Copy,
            Self::UploadPart => Self::UploadPartCopy,
            Self::Copy
            | Self::Get
            | Self::Head
            | Self::Delete
            | Self::GetAcl
            | Self::GetTagging
            | Self::GetAttributes
            | Self::GetLock
            | Self::CreateUpload
            | Self::UploadPartCopy
            | Self::ListParts
            | Self::CompleteUpload
            | Self::AbortUpload => self,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Put => "PutObject",
            Self::Copy => "CopyObject",
            Self::Get => "GetObject",
            Self::Head => "HeadObject",
            Self::Delete => "DeleteObject",
            Self::GetAcl => "GetObjectAcl",
            Self::GetTagging => "GetObjectTagging",
            Self::GetAttributes => "GetObjectAttributes",
            Self::GetLock => "GetObjectLock",
            Self::CreateUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::UploadPartCopy => "UploadPartCopy",
            Self::ListParts => "ListParts",
            Self::CompleteUpload => "CompleteMultipartUpload",
            Self::AbortUpload => "AbortMultipartUpload",
        }
    }
}

fn bucket_operation(method: &Method, query: &Query) -> Result<BucketOperation, S3Error> {
    let sub = UNSERVED_BUCKET.into_iter().find(|name| query.has(name));
    match (method.as_str(), sub) {
        ("GET", None) if query.has("list-type") => match query.get("list-type") {
            Some("2") => Ok(BucketOperation::ListV2),
            other => {
                let value = other.unwrap_or_default();
                Err(S3Error::argument("list-type", value, "Invalid List Type specified in Query"))
            }
        },
        ("GET", None) => Ok(BucketOperation::ListV1),
        ("GET", Some("location")) => Ok(BucketOperation::Location),
        ("GET", Some("uploads")) => Ok(BucketOperation::ListUploads),
        ("GET", Some("versions")) => Ok(BucketOperation::ListVersions),
        ("GET", Some(sub)) => bucket_default(sub).map(BucketOperation::GetDefault),
        ("PUT", None) => Ok(BucketOperation::Create),
        ("HEAD", None) => Ok(BucketOperation::Head),
        ("DELETE", None) => Ok(BucketOperation::Delete),
        ("DELETE", Some(sub)) if DELETABLE_DEFAULTS.contains(&sub) => Ok(BucketOperation::DeleteDefault),
        ("POST", None) if query.has("delete") => Ok(BucketOperation::DeleteObjects),
        ("POST", None) => Err(S3Error::not_implemented("browser-based upload by POST")),
        ("PUT" | "HEAD" | "DELETE" | "POST", Some(sub)) => Err(S3Error::not_implemented(sub)),
        _ => Err(S3Error::new(Code::MethodNotAllowed)),
    }
}

fn bucket_default(sub: &str) -> Result<BucketDefault, S3Error> {
    let code = match sub {
        "versioning" => return Ok(BucketDefault::Versioning),
        "acl" => return Ok(BucketDefault::Acl),
        "notification" => return Ok(BucketDefault::Notification),
        "logging" => return Ok(BucketDefault::Logging),
        "accelerate" => return Ok(BucketDefault::Accelerate),
        "requestPayment" => return Ok(BucketDefault::RequestPayment),
        "policy" | "policyStatus" => Code::NoSuchBucketPolicy,
        "cors" => Code::NoSuchCORSConfiguration,
        "encryption" => Code::ServerSideEncryptionConfigurationNotFoundError,
        "lifecycle" => Code::NoSuchLifecycleConfiguration,
        "object-lock" => Code::ObjectLockConfigurationNotFoundError,
        "ownershipControls" => Code::OwnershipControlsNotFoundError,
        "publicAccessBlock" => Code::NoSuchPublicAccessBlockConfiguration,
        "replication" => Code::ReplicationConfigurationNotFoundError,
        "tagging" => Code::NoSuchTagSet,
        "website" => Code::NoSuchWebsiteConfiguration,
        other => return Err(S3Error::not_implemented(other)),
    };
    Ok(BucketDefault::Absent(code))
}

fn object_operation(method: &Method, query: &Query, copy: bool) -> Result<ObjectOperation, S3Error> {
    let sub = UNSERVED_OBJECT.into_iter().find(|name| query.has(name));
    let (upload, part) = (query.has("uploadId"), query.has("partNumber"));
    match (method.as_str(), sub) {
        ("GET", None) if upload => Ok(ObjectOperation::ListParts),
        ("GET", None) => Ok(ObjectOperation::Get),
        ("GET", Some("acl")) => Ok(ObjectOperation::GetAcl),
        ("GET", Some("tagging")) => Ok(ObjectOperation::GetTagging),
        ("GET", Some("attributes")) => Ok(ObjectOperation::GetAttributes),
        ("GET", Some("retention" | "legal-hold")) => Ok(ObjectOperation::GetLock),
        ("HEAD", None) => Ok(ObjectOperation::Head),
        ("PUT", None) => match (upload, part, copy) {
            (true, true, false) => Ok(ObjectOperation::UploadPart),
            (true, true, true) => Ok(ObjectOperation::UploadPartCopy),
            (false, false, true) => Ok(ObjectOperation::Copy),
            (false, false, false) => Ok(ObjectOperation::Put),
            _ => {
                let message = "An upload of a part needs both uploadId and partNumber.";
                Err(S3Error::with(Code::InvalidArgument, message))
            }
        },
        ("DELETE", None) if upload => Ok(ObjectOperation::AbortUpload),
        ("DELETE", None) => Ok(ObjectOperation::Delete),
        ("POST", Some("uploads")) => Ok(ObjectOperation::CreateUpload),
        ("POST", None) if upload => Ok(ObjectOperation::CompleteUpload),
        ("GET" | "HEAD" | "PUT" | "DELETE" | "POST", Some(sub)) => Err(S3Error::not_implemented(sub)),
        _ => Err(S3Error::new(Code::MethodNotAllowed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(method: &str, target: &str, copy: bool) -> Result<Operation, Code> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let address = Address::parse("127.0.0.1:9000", path, &[]);
        let query = Query::parse(query).map_err(|error| error.code())?;
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Operation::resolve(&method, &address, &query, copy).map_err(|error| error.code())
    }

    fn check(method: &str, target: &str, expected: Result<&str, Code>) {
        let name = resolve(method, target, false).map(|operation| operation.name());
        assert_eq!(name, expected, "{method} {target}");
    }

    #[test]
    fn operations_resolve() {
        check("GET", "/", Ok("ListBuckets"));
        check("PUT", "/", Err(Code::MethodNotAllowed));
        check("PUT", "/bkt", Ok("CreateBucket"));
        check("PUT", "/bkt/", Ok("CreateBucket"));
        check("PUT", "/bkt?versioning", Err(Code::NotImplemented));
        check("PUT", "/b", Err(Code::InvalidBucketName));
        check("PUT", "//key", Err(Code::InvalidBucketName));
        check("GET", "/bkt", Ok("ListObjects"));
        check("GET", "/bkt?list-type=2&prefix=a", Ok("ListObjectsV2"));
        check("GET", "/bkt?list-type=3", Err(Code::InvalidArgument));
        check("GET", "/bkt?location=", Ok("GetBucketLocation"));
        check("GET", "/bkt?inventory", Err(Code::NotImplemented));
        check("GET", "/bkt?x-id=ListObjects", Ok("ListObjects"));
        check("POST", "/bkt?delete", Ok("DeleteObjects"));
        check("POST", "/bkt", Err(Code::NotImplemented));
        check("DELETE", "/bkt?lifecycle", Ok("DeleteBucketConfiguration"));
        check("PATCH", "/bkt", Err(Code::MethodNotAllowed));
        check("PUT", "/bkt/k", Ok("PutObject"));
        check("PUT", "/bkt/k?acl", Err(Code::NotImplemented));
        check("PUT", "/bkt/k?uploadId=1&partNumber=2", Ok("UploadPart"));
        check("PUT", "/bkt/k?uploadId=1", Err(Code::InvalidArgument));
        check("DELETE", "/bkt/k?uploadId=1", Ok("AbortMultipartUpload"));
        check("DELETE", "/bkt/k?tagging", Err(Code::NotImplemented));
        check("POST", "/bkt/k?uploads", Ok("CreateMultipartUpload"));
        check("POST", "/bkt/k?uploadId=1", Ok("CompleteMultipartUpload"));
        check("POST", "/bkt/k", Err(Code::MethodNotAllowed));
        assert_eq!(resolve("PUT", "/bkt/k", true).unwrap().name(), "CopyObject");
        assert_eq!(resolve("PUT", "/bkt/k?uploadId=1&partNumber=2", true).unwrap().name(), "UploadPartCopy");
    }

    #[test]
    fn every_absent_configuration_has_its_own_answer() {
        for sub in UNSERVED_BUCKET {
            let answer = resolve("GET", &format!("/bkt?{sub}"), false);
            assert!(answer != resolve("GET", "/bkt", false), "{sub} must not list objects");
            let answer = resolve("PUT", &format!("/bkt?{sub}"), false);
            assert_eq!(answer, Err(Code::NotImplemented), "{sub} must not create a bucket");
        }
        for sub in UNSERVED_OBJECT {
            assert!(
                resolve("PUT", &format!("/bkt/k?{sub}"), false).is_err(),
                "{sub} must not write the object"
            );
            assert!(resolve("DELETE", &format!("/bkt/k?{sub}"), false).is_err(), "{sub} must not delete it");
        }
    }

    #[test]
    fn keys_are_decoded_once_and_kept_as_they_are() {
        for (path, key) in [
            ("/bkt/a%2Fb", "a/b"),
            ("/bkt/a%252Fb", "a%2Fb"),
            ("/bkt//x//", "/x//"),
            ("/bkt/../x", "../x"),
            ("/bkt/.", "."),
            ("/bkt/a+b", "a+b"),
            ("/bkt/%00%01", "\0\u{1}"),
            ("/bkt/%C3%A9", "é"),
        ] {
            let Ok(Operation::Object(_, found, _)) = resolve("GET", path, false) else { panic!("{path}") };
            assert_eq!(found.as_str(), key, "{path}");
        }
        check("GET", "/bkt/%ff", Err(Code::InvalidURI));
        check("GET", &format!("/bkt/{}", "k".repeat(1025)), Err(Code::KeyTooLongError));
        check("GET", &format!("/bkt/{}", "k".repeat(1024)), Ok("GetObject"));
    }

    #[test]
    fn virtual_hosts_name_the_bucket() {
        let domains = ["s3.example.com".to_owned(), "example.com".to_owned()];
        let parse = |host: &str, path: &str| {
            let address = Address::parse(host, path, &domains);
            let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8(bytes).unwrap());
            (text(address.bucket), text(address.key), address.virtual_host)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("bkt.s3.example.com:9000", "/a/b"), (some("bkt"), some("a/b"), true));
        assert_eq!(parse("my.bkt.S3.Example.com", "/"), (some("my.bkt"), None, true));
        assert_eq!(parse("s3.example.com", "/bkt/k"), (some("bkt"), some("k"), false));
        assert_eq!(parse("other.org", "/bkt/k"), (some("bkt"), some("k"), false));
        assert_eq!(parse("xexample.com", "/bkt"), (some("bkt"), None, false));
        assert_eq!(parse("[::1]:9000", "/bkt"), (some("bkt"), None, false));
    }
}
