//! AbortMultipartUpload.

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;

use super::super::error::S3Error;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use crate::object::ObjectStore;

/// Ends an upload and frees its parts.
///
/// # Errors
/// `NoSuchUpload`, `NoSuchBucket`.
pub(crate) async fn abort(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    store.abort_upload(&super::upload_ref(bucket, key, &request)?).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}
