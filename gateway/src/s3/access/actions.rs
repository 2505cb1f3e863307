//! Which actions an operation needs.

use coffer_common::types::ObjectKey;
use http::HeaderMap;

use crate::s3::lock;
use crate::s3::operation::{BucketConfig, BucketOperation, ConfigVerb, ObjectOperation, Operation};
use crate::s3::request::S3Request;

macro_rules! actions {
    ($($name:ident),+ $(,)?) => {
        /// An action of the policy language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Action {
            $(#[doc = stringify!($name)] $name),+
        }

        impl Action {
            /// As policies name it.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => concat!("s3:", stringify!($name))),+ }
            }
        }
    };
}

actions! {
    AbortMultipartUpload, BypassGovernanceRetention, DeleteBucket, DeleteBucketPolicy, DeleteObject, DeleteObjectTagging,
    DeleteObjectVersion, DeleteObjectVersionTagging, GetAccelerateConfiguration, GetBucketAcl, GetBucketCORS,
    GetBucketLocation, GetBucketLogging, GetBucketNotification, GetBucketObjectLockConfiguration,
    GetBucketOwnershipControls, GetBucketPolicy, GetBucketPolicyStatus, GetBucketPublicAccessBlock,
    GetBucketRequestPayment, GetBucketTagging, GetBucketVersioning, GetBucketWebsite, GetEncryptionConfiguration,
    GetLifecycleConfiguration, GetObject, GetObjectAcl, GetObjectAttributes, GetObjectLegalHold, GetObjectRetention,
    GetObjectTagging, GetObjectVersion, GetObjectVersionAcl, GetObjectVersionAttributes, GetObjectVersionTagging,
    GetReplicationConfiguration, ListBucket, ListBucketMultipartUploads, ListBucketVersions,
    ListMultipartUploadParts, PutAccelerateConfiguration, PutBucketAcl, PutBucketCORS, PutBucketLogging,
    PutBucketNotification, PutBucketObjectLockConfiguration, PutBucketOwnershipControls, PutBucketPolicy,
    PutBucketPublicAccessBlock, PutBucketRequestPayment, PutBucketTagging, PutBucketVersioning, PutBucketWebsite,
    PutEncryptionConfiguration, PutLifecycleConfiguration, PutObject, PutObjectAcl, PutObjectLegalHold,
    PutObjectRetention, PutObjectTagging, PutObjectVersionAcl, PutObjectVersionTagging,
    PutReplicationConfiguration, RestoreObject,
}

impl Action {
    /// Whether it looks after the bucket's policy.
    pub(super) fn is_on_policy(self) -> bool {
        matches!(self, Self::GetBucketPolicy | Self::PutBucketPolicy | Self::DeleteBucketPolicy)
    }

    /// Whether a bucket's list can grant it.
    pub(super) fn is_granted_by_bucket(self) -> bool {
        matches!(self, Self::ListBucket | Self::ListBucketVersions | Self::ListBucketMultipartUploads)
            || self.writes()
    }

    /// Whether a list that grants writing grants it.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::PutObject | Self::DeleteObject)
    }

    /// Whether who has begun an upload may do it with that upload.
    pub(super) fn is_the_initiators(self) -> bool {
        matches!(self, Self::ListMultipartUploadParts | Self::AbortMultipartUpload)
    }

    /// Whether a list that grants reading an object grants it.
    pub(super) fn reads_object(self) -> bool {
        matches!(self, Self::GetObject | Self::GetObjectVersion)
    }

    /// Whether an object's owner may do it, or its list can grant it.
    pub(super) fn is_granted_by_object(self) -> bool {
        self.reads_object()
            || matches!(
                self,
                Self::GetObjectAcl
                    | Self::GetObjectVersionAcl
                    | Self::PutObjectAcl
                    | Self::PutObjectVersionAcl
                    | Self::GetObjectAttributes
                    | Self::GetObjectVersionAttributes
            )
    }
}

/// An action on the bucket, or on a key.
pub(super) struct Need<'a> {
    pub(super) action: Action,
    pub(super) key: Option<&'a ObjectKey>,
}

/// All that an operation needs of its own bucket. What it needs for each key that its body names, and of the source of a
/// copy, its handler demands.
pub(super) fn needs<'a>(operation: &'a Operation, request: &S3Request) -> Vec<Need<'a>> {
    match operation {
        Operation::ListBuckets => Vec::new(),
        Operation::Bucket(_, operation) => {
            bucket(*operation).into_iter().map(|action| Need { action, key: None }).collect()
        }
        Operation::Object(_, key, operation) => {
            let actions = object(*operation, request).into_iter();
            actions.map(|action| Need { action, key: Some(key) }).collect()
        }
    }
}

fn bucket(operation: BucketOperation) -> Option<Action> {
    match operation {
        // There is no bucket yet, or each key is demanded.
        BucketOperation::Create | BucketOperation::DeleteObjects | BucketOperation::PostObject => None,
        BucketOperation::Head | BucketOperation::ListV1 | BucketOperation::ListV2 => Some(Action::ListBucket),
        BucketOperation::ListVersions => Some(Action::ListBucketVersions),
        BucketOperation::Delete => Some(Action::DeleteBucket),
        BucketOperation::Location => Some(Action::GetBucketLocation),
        BucketOperation::ListUploads => Some(Action::ListBucketMultipartUploads),
        BucketOperation::Config(verb, config) => Some(of_config(verb, config)),
    }
}

fn of_config(verb: ConfigVerb, config: BucketConfig) -> Action {
    let reads = verb == ConfigVerb::Get;
    let pick = |get: Action, put: Action| if reads { get } else { put };
    match config {
        BucketConfig::Accelerate => {
            pick(Action::GetAccelerateConfiguration, Action::PutAccelerateConfiguration)
        }
        BucketConfig::Acl => pick(Action::GetBucketAcl, Action::PutBucketAcl),
        BucketConfig::Cors => pick(Action::GetBucketCORS, Action::PutBucketCORS),
        BucketConfig::Encryption => {
            pick(Action::GetEncryptionConfiguration, Action::PutEncryptionConfiguration)
        }
        BucketConfig::Lifecycle => pick(Action::GetLifecycleConfiguration, Action::PutLifecycleConfiguration),
        BucketConfig::Logging => pick(Action::GetBucketLogging, Action::PutBucketLogging),
        BucketConfig::Notification => pick(Action::GetBucketNotification, Action::PutBucketNotification),
        BucketConfig::ObjectLock => {
            pick(Action::GetBucketObjectLockConfiguration, Action::PutBucketObjectLockConfiguration)
        }
        BucketConfig::Ownership => {
            pick(Action::GetBucketOwnershipControls, Action::PutBucketOwnershipControls)
        }
        BucketConfig::Policy if verb == ConfigVerb::Delete => Action::DeleteBucketPolicy,
        BucketConfig::Policy => pick(Action::GetBucketPolicy, Action::PutBucketPolicy),
        BucketConfig::PolicyStatus => Action::GetBucketPolicyStatus,
        BucketConfig::PublicAccess => {
            pick(Action::GetBucketPublicAccessBlock, Action::PutBucketPublicAccessBlock)
        }
        BucketConfig::Replication => {
            pick(Action::GetReplicationConfiguration, Action::PutReplicationConfiguration)
        }
        BucketConfig::RequestPayment => {
            pick(Action::GetBucketRequestPayment, Action::PutBucketRequestPayment)
        }
        BucketConfig::Tagging => pick(Action::GetBucketTagging, Action::PutBucketTagging),
        BucketConfig::Versioning => pick(Action::GetBucketVersioning, Action::PutBucketVersioning),
        BucketConfig::Website => pick(Action::GetBucketWebsite, Action::PutBucketWebsite),
    }
}

fn object(operation: ObjectOperation, request: &S3Request) -> Vec<Action> {
    let versioned = !request.query.text("versionId").is_empty();
    let pick = |plain: Action, version: Action| vec![if versioned { version } else { plain }];
    match operation {
        ObjectOperation::Put | ObjectOperation::Copy | ObjectOperation::CreateUpload => {
            of_write(&request.headers)
        }
        ObjectOperation::UploadPart | ObjectOperation::UploadPartCopy | ObjectOperation::CompleteUpload => {
            vec![Action::PutObject]
        }
        ObjectOperation::Get | ObjectOperation::Head | ObjectOperation::Select => {
            pick(Action::GetObject, Action::GetObjectVersion)
        }
        ObjectOperation::Delete => {
            bypassing(pick(Action::DeleteObject, Action::DeleteObjectVersion), request)
        }
        ObjectOperation::GetAcl => pick(Action::GetObjectAcl, Action::GetObjectVersionAcl),
        ObjectOperation::PutAcl => pick(Action::PutObjectAcl, Action::PutObjectVersionAcl),
        ObjectOperation::GetTagging => pick(Action::GetObjectTagging, Action::GetObjectVersionTagging),
        ObjectOperation::PutTagging => pick(Action::PutObjectTagging, Action::PutObjectVersionTagging),
        ObjectOperation::DeleteTagging => {
            pick(Action::DeleteObjectTagging, Action::DeleteObjectVersionTagging)
        }
        ObjectOperation::GetAttributes => match versioned {
            true => vec![Action::GetObjectVersion, Action::GetObjectVersionAttributes],
            false => vec![Action::GetObject, Action::GetObjectAttributes],
        },
        ObjectOperation::GetRetention => vec![Action::GetObjectRetention],
        ObjectOperation::PutRetention => bypassing(vec![Action::PutObjectRetention], request),
        ObjectOperation::GetLegalHold => vec![Action::GetObjectLegalHold],
        ObjectOperation::PutLegalHold => vec![Action::PutObjectLegalHold],
        ObjectOperation::Restore => vec![Action::RestoreObject],
        ObjectOperation::ListParts => vec![Action::ListMultipartUploadParts],
        ObjectOperation::AbortUpload => vec![Action::AbortMultipartUpload],
    }
}

/// With what it takes to bypass a retention, if that is asked for.
fn bypassing(mut actions: Vec<Action>, request: &S3Request) -> Vec<Action> {
    if lock::bypasses(&request.headers) {
        actions.push(Action::BypassGovernanceRetention);
    }
    actions
}

/// A list that goes with a new object. It must not be denied, but need not be allowed: with AWS it must.
pub(super) fn list<'a>(operation: &'a Operation, request: &S3Request) -> Option<Need<'a>> {
    match operation {
        Operation::Object(
            _,
            key,
            ObjectOperation::Put | ObjectOperation::Copy | ObjectOperation::CreateUpload,
        ) => of_list(&request.headers).map(|action| Need { action, key: Some(key) }),
        Operation::ListBuckets | Operation::Bucket(..) | Operation::Object(..) => None,
    }
}

/// What is done beside writing a new object, if its headers ask for another list than the one that it has without them.
pub(crate) fn of_list(headers: &HeaderMap) -> Option<Action> {
    let named = headers.get("x-amz-acl").is_some_and(|name| name != "private");
    let granted = headers.keys().any(|name| name.as_str().starts_with("x-amz-grant-"));
    (named || granted).then_some(Action::PutObjectAcl)
}

/// What writing a new object needs, with what its headers set beside the bytes. The fields of a form are headers, too.
pub(crate) fn of_write(headers: &HeaderMap) -> Vec<Action> {
    let mut actions = vec![Action::PutObject];
    for (header, action) in [
        ("x-amz-tagging", Action::PutObjectTagging),
        ("x-amz-object-lock-mode", Action::PutObjectRetention),
        ("x-amz-object-lock-legal-hold", Action::PutObjectLegalHold),
    ] {
        if headers.contains_key(header) {
            actions.push(action);
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn any_list_but_the_one_that_is_there_without_a_word_is_an_action() {
        for (header, value, expected) in [
            ("x-amz-acl", "private", None),
            ("x-amz-meta-acl", "public-read", None),
            ("x-amz-acl", "public-read", Some(Action::PutObjectAcl)),
            ("x-amz-acl", "bucket-owner-full-control", Some(Action::PutObjectAcl)),
            ("x-amz-acl", "", Some(Action::PutObjectAcl)),
            ("x-amz-grant-read", "id=x", Some(Action::PutObjectAcl)),
        ] {
            let (name, value) = (HeaderName::from_static(header), HeaderValue::from_static(value));
            assert_eq!(of_list(&HeaderMap::from_iter([(name, value)])), expected, "{header}");
        }
        assert_eq!(of_list(&HeaderMap::new()), None);
    }
}
