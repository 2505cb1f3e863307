//! What is done with a bucket.

use http::Method;

use crate::s3::error::{Code, S3Error};
use crate::s3::query::Query;

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
    /// Writes an object by a browser's form.
    PostObject,
    /// Reads, writes or removes a configuration.
    Config(ConfigVerb, BucketConfig),
}

/// What is done with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConfigVerb {
    /// Reads it.
    Get,
    /// Replaces it.
    Put,
    /// Removes it.
    Delete,
}

/// A configuration of a bucket: a sub-resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BucketConfig {
    Accelerate,
    Acl,
    Cors,
    Encryption,
    Lifecycle,
    Logging,
    Notification,
    ObjectLock,
    Ownership,
    Policy,
    PolicyStatus,
    PublicAccess,
    Replication,
    RequestPayment,
    Tagging,
    Versioning,
    Website,
}

/// A sub-resource, with S3's names of reading, writing and removing it; empty where S3 has no such operation.
type Row = (&'static str, BucketConfig, [&'static str; 3]);

const CONFIGS: [Row; 17] = [
    (
        "accelerate",
        BucketConfig::Accelerate,
        ["GetBucketAccelerateConfiguration", "PutBucketAccelerateConfiguration", ""],
    ),
    ("acl", BucketConfig::Acl, ["GetBucketAcl", "PutBucketAcl", ""]),
    ("cors", BucketConfig::Cors, ["GetBucketCors", "PutBucketCors", "DeleteBucketCors"]),
    (
        "encryption",
        BucketConfig::Encryption,
        ["GetBucketEncryption", "PutBucketEncryption", "DeleteBucketEncryption"],
    ),
    (
        "lifecycle",
        BucketConfig::Lifecycle,
        ["GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration", "DeleteBucketLifecycle"],
    ),
    ("logging", BucketConfig::Logging, ["GetBucketLogging", "PutBucketLogging", ""]),
    (
        "notification",
        BucketConfig::Notification,
        ["GetBucketNotificationConfiguration", "PutBucketNotificationConfiguration", ""],
    ),
    (
        "object-lock",
        BucketConfig::ObjectLock,
        ["GetObjectLockConfiguration", "PutObjectLockConfiguration", ""],
    ),
    (
        "ownershipControls",
        BucketConfig::Ownership,
        ["GetBucketOwnershipControls", "PutBucketOwnershipControls", "DeleteBucketOwnershipControls"],
    ),
    ("policy", BucketConfig::Policy, ["GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"]),
    ("policyStatus", BucketConfig::PolicyStatus, ["GetBucketPolicyStatus", "", ""]),
    (
        "publicAccessBlock",
        BucketConfig::PublicAccess,
        ["GetPublicAccessBlock", "PutPublicAccessBlock", "DeletePublicAccessBlock"],
    ),
    (
        "replication",
        BucketConfig::Replication,
        ["GetBucketReplication", "PutBucketReplication", "DeleteBucketReplication"],
    ),
    (
        "requestPayment",
        BucketConfig::RequestPayment,
        ["GetBucketRequestPayment", "PutBucketRequestPayment", ""],
    ),
    ("tagging", BucketConfig::Tagging, ["GetBucketTagging", "PutBucketTagging", "DeleteBucketTagging"]),
    ("versioning", BucketConfig::Versioning, ["GetBucketVersioning", "PutBucketVersioning", ""]),
    ("website", BucketConfig::Website, ["GetBucketWebsite", "PutBucketWebsite", "DeleteBucketWebsite"]),
];

/// Sub-resources that S3 knows and Coffer does not serve: never taken for the plain operation.
const UNSERVED: [&str; 14] = [
    "abac",
    "analytics",
    "events",
    "intelligent-tiering",
    "inventory",
    "lambdaArn",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "replication-metrics",
    "replication-reset",
    "session",
];

impl BucketOperation {
    /// Picks the operation.
    pub(super) fn resolve(method: &Method, query: &Query) -> Result<Self, S3Error> {
        if let Some(sub) = UNSERVED.into_iter().find(|name| query.has(name)) {
            return Err(S3Error::not_implemented(sub));
        }
        if let Some((sub, config, names)) = CONFIGS.into_iter().find(|(sub, ..)| query.has(sub)) {
            let verb = match method.as_str() {
                "GET" => ConfigVerb::Get,
                "PUT" => ConfigVerb::Put,
                "DELETE" => ConfigVerb::Delete,
                _ => return Err(S3Error::not_implemented(sub)),
            };
            return match names[verb as usize] {
                "" => Err(S3Error::new(Code::MethodNotAllowed)),
                _ => Ok(Self::Config(verb, config)),
            };
        }
        let listing = ["location", "uploads", "versions"].into_iter().find(|name| query.has(name));
        match (method.as_str(), listing) {
            ("GET", Some("location")) => Ok(Self::Location),
            ("GET", Some("uploads")) => Ok(Self::ListUploads),
            ("GET", Some("versions")) => Ok(Self::ListVersions),
            ("GET" | "PUT" | "HEAD" | "DELETE" | "POST", Some(sub)) => Err(S3Error::not_implemented(sub)),
            ("GET", None) if query.has("list-type") => match query.get("list-type") {
                Some("2") => Ok(Self::ListV2),
                other => {
                    let value = other.unwrap_or_default();
                    Err(S3Error::argument("list-type", value, "Invalid List Type specified in Query"))
                }
            },
            ("GET", None) => Ok(Self::ListV1),
            ("PUT", None) => Ok(Self::Create),
            ("HEAD", None) => Ok(Self::Head),
            ("DELETE", None) => Ok(Self::Delete),
            ("POST", None) if query.has("delete") => Ok(Self::DeleteObjects),
            ("POST", None) => Ok(Self::PostObject),
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }

    /// S3's name of the operation.
    pub(super) fn name(self) -> &'static str {
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
            Self::PostObject => "PostObject",
            Self::Config(verb, config) => {
                let row = CONFIGS.into_iter().find(|(_, known, _)| *known == config);
                row.map_or("BucketConfiguration", |(_, _, names)| names[verb as usize])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sub_resource_has_its_own_answer() {
        let resolve = |method, sub: &str| BucketOperation::resolve(&method, &Query::parse(sub).unwrap());
        for (sub, config, names) in CONFIGS {
            for (verb, method) in [
                (ConfigVerb::Get, Method::GET),
                (ConfigVerb::Put, Method::PUT),
                (ConfigVerb::Delete, Method::DELETE),
            ] {
                let found = resolve(method, sub).map_err(|error| error.code());
                let expected = match names[verb as usize] {
                    "" => Err(Code::MethodNotAllowed),
                    _ => Ok(BucketOperation::Config(verb, config)),
                };
                assert_eq!(found, expected, "{sub}");
            }
            assert!(resolve(Method::POST, sub).is_err() && resolve(Method::HEAD, sub).is_err(), "{sub}");
        }
        for sub in UNSERVED {
            for method in [Method::GET, Method::PUT, Method::DELETE, Method::POST] {
                assert_eq!(resolve(method, sub).unwrap_err().code(), Code::NotImplemented, "{sub}");
            }
        }
        for sub in ["uploads", "versions", "location"] {
            assert_eq!(resolve(Method::PUT, sub).unwrap_err().code(), Code::NotImplemented, "{sub}");
        }
    }
}
