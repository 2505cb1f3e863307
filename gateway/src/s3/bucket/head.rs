//! HeadBucket.

use coffer_common::types::BucketName;
use http::{HeaderName, StatusCode};

use super::super::error::S3Error;
use super::super::response::{self, S3Response};
use crate::object::ObjectStore;

/// Tells whether the bucket exists.
///
/// # Errors
/// `NoSuchBucket`.
pub(crate) async fn head(store: &ObjectStore, bucket: &BucketName) -> Result<S3Response, S3Error> {
    let info = store.head_bucket(bucket).await?;
    let mut response = response::empty(StatusCode::OK);
    response::set(response.headers_mut(), HeaderName::from_static("x-amz-bucket-region"), &info.region);
    Ok(response)
}
