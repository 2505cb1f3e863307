//! Configurations that no bucket has yet: the answers S3 gives for a bucket that never got one.

use coffer_common::types::BucketName;
use http::StatusCode;

use super::super::error::S3Error;
use super::super::operation::BucketDefault;
use super::super::response::{self, S3Response};
use super::super::xml::{DECLARATION, NAMESPACE, push_element};
use crate::object::{ObjectStore, Owner};

/// Answers for an existing bucket.
///
/// # Errors
/// `NoSuchBucket`, or the error that says that there is no such configuration.
pub(crate) async fn get(
    store: &ObjectStore,
    bucket: &BucketName,
    default: BucketDefault,
) -> Result<S3Response, S3Error> {
    let info = store.head_bucket(bucket).await?;
    let document = match default {
        BucketDefault::Versioning => empty("VersioningConfiguration"),
        BucketDefault::Notification => empty("NotificationConfiguration"),
        BucketDefault::Logging => empty("BucketLoggingStatus"),
        BucketDefault::Accelerate => empty("AccelerateConfiguration"),
        BucketDefault::RequestPayment => format!(
            "{DECLARATION}<RequestPaymentConfiguration xmlns=\"{NAMESPACE}\"><Payer>BucketOwner</Payer>\
             </RequestPaymentConfiguration>"
        ),
        BucketDefault::Acl => owner_full_control(&info.owner),
        BucketDefault::Absent(code) => {
            return Err(S3Error::new(code).detail("BucketName", bucket.as_str()));
        }
    };
    Ok(response::xml(StatusCode::OK, document))
}

/// Deleting what is not there succeeds, for an existing bucket.
///
/// # Errors
/// `NoSuchBucket`.
pub(crate) async fn delete(store: &ObjectStore, bucket: &BucketName) -> Result<S3Response, S3Error> {
    store.head_bucket(bucket).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

fn empty(root: &str) -> String {
    format!("{DECLARATION}<{root} xmlns=\"{NAMESPACE}\"></{root}>")
}

/// The only access control list there is.
pub(crate) fn owner_full_control(owner: &Owner) -> String {
    let mut person = String::new();
    push_element(&mut person, "ID", &owner.id);
    push_element(&mut person, "DisplayName", &owner.display_name);
    format!(
        "{DECLARATION}<AccessControlPolicy xmlns=\"{NAMESPACE}\"><Owner>{person}</Owner><AccessControlList><Grant>\
         <Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\">{person}</Grantee>\
         <Permission>FULL_CONTROL</Permission></Grant></AccessControlList></AccessControlPolicy>"
    )
}
