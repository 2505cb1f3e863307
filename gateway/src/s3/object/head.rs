//! HeadObject: the headers of GetObject.

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;

use super::super::attributes;
use super::super::error::S3Error;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use crate::object::ObjectStore;

/// Reads an object's headers.
///
/// # Errors
/// As GetObject.
pub(crate) async fn head(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let read = super::read_request(bucket, key.clone(), &request)?;
    let select = read.select;
    let read = store.head_object(read).await;
    let (info, selected) = super::confirmed(read, |(info, _)| info, (&key, &request))?;
    let mut response = response::empty(StatusCode::OK);
    *response.status_mut() = super::get::describe(&info, select, selected, &request, response.headers_mut());
    super::get::permitted(&info, &key, &request, response.headers_mut())?;
    let settings = request.access()?.settings();
    attributes::expiration_to_headers(settings, &key, &info, response.headers_mut());
    Ok(response)
}
