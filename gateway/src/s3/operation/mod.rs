//! Which operation a request asks for: pure, no I/O, no clock.
//!
//! Owns: reading method, host, path and query. Never: looks at the body, at an identity or at what exists.
//!
//! 1. [`Address::parse`] finds bucket and key, percent-decoded exactly once, by virtual host or by path.
//! 2. [`Operation::resolve`] picks the operation. A sub-resource that S3 knows and Coffer does not serve is never taken
//!    for the plain operation: `PUT /bucket/key?acl` must not overwrite the object.
//!
//! Source: the Amazon S3 API Reference, "Request Syntax" of each operation.

mod bucket;
mod object;
#[cfg(test)]
mod tests;

use coffer_common::types::{BucketName, InvalidObjectKey, ObjectKey};
use http::Method;

pub(crate) use bucket::{BucketConfig, BucketOperation, ConfigVerb};
pub(crate) use object::ObjectOperation;

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
            None => Ok(Self::Bucket(bucket, BucketOperation::resolve(method, query)?)),
            Some(key) => Ok(Self::Object(
                bucket,
                object_key(key.clone())?,
                ObjectOperation::resolve(method, query, copy)?,
            )),
        }
    }

    /// The operation that this one becomes when it has a source.
    pub(crate) fn with_source(self) -> Self {
        match self {
            Self::Object(bucket, key, operation) => Self::Object(bucket, key, operation.with_source()),
            Self::ListBuckets | Self::Bucket(..) => self,
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
    if text == crate::notify::QUEUE_BUCKET {
        // It holds what is not delivered yet, of all buckets.
        let message = "The specified bucket is not valid: the name is reserved";
        return Err(S3Error::with(Code::InvalidBucketName, message).detail("BucketName", text));
    }
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
