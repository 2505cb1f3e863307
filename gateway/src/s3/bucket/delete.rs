//! DeleteBucket.

use coffer_common::types::BucketName;
use http::StatusCode;

use super::super::error::S3Error;
use super::super::response::{self, S3Response};
use crate::object::ObjectStore;

/// Deletes an empty bucket.
///
/// # Errors
/// `NoSuchBucket`, `BucketNotEmpty`.
pub(crate) async fn delete(store: &ObjectStore, bucket: &BucketName) -> Result<S3Response, S3Error> {
    store.delete_bucket(bucket).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}
