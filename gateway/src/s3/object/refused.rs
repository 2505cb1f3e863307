//! Operations that need what Coffer does not have; each is refused with S3's own answer.

use coffer_common::types::{BucketName, ObjectKey};

use super::super::error::{Code, S3Error};
use super::super::object::describe;
use super::super::request::S3Request;
use super::super::response::S3Response;
use crate::object::ObjectStore;

/// SelectObjectContent.
///
/// # Errors
/// Always: `NotImplemented`.
pub(crate) fn select() -> Result<S3Response, S3Error> {
    Err(S3Error::with(
        Code::NotImplemented,
        "SelectObjectContent is not implemented: read the object and query it where you are.",
    ))
}

/// RestoreObject: no storage class has to be restored from.
///
/// # Errors
/// Always: `NoSuchKey` and so on, or `InvalidObjectState`.
pub(crate) async fn restore(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let info = describe::info(store, bucket, key, request).await?;
    let class = super::super::attributes::class_name(info.attributes.storage_class);
    let message = "Restore is not allowed for the object's current storage class";
    Err(S3Error::with(Code::InvalidObjectState, message).detail("StorageClass", class))
}
