//! DeleteObject.

use coffer_common::types::{BucketName, ObjectKey};
use http::{HeaderName, HeaderValue, StatusCode};

use super::super::attributes;
use super::super::condition;
use super::super::error::S3Error;
use super::super::events;
use super::super::lock;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use crate::object::{DeleteObject, ObjectStore};

/// Deletes an object, or a version of it; one that is not there is deleted, too.
///
/// # Errors
/// `NoSuchBucket`, `PreconditionFailed`, `AccessDenied` for a version that is protected.
pub(crate) async fn delete(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let version = attributes::parse_version(request.query.get("versionId"))?;
    let condition = condition::of_write(&request.headers)?;
    let bypass_governance = lock::bypasses(&request.headers);
    let delete = DeleteObject { bucket, key: key.clone(), version, condition, bypass_governance };
    let deleted = store.delete_object(delete).await?;
    events::removed(&request, &[(key, version.is_some(), deleted)]).await?;
    let mut response = response::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    if let Some(version) = deleted.version {
        response::set(headers, HeaderName::from_static("x-amz-version-id"), &version.to_string());
    }
    if deleted.delete_marker {
        headers.insert(HeaderName::from_static("x-amz-delete-marker"), HeaderValue::from_static("true"));
    }
    Ok(response)
}
