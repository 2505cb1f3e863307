//! PutObject.

use coffer_common::types::{BucketName, ObjectKey};
use http::{StatusCode, header};

use super::super::attributes;
use super::super::condition;
use super::super::encryption;
use super::super::error::S3Error;
use super::super::events;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use crate::notify::Kind;
use crate::object::{Attributes, ObjectStore, PutObject};

/// Writes an object.
///
/// # Errors
/// What is wrong with headers or body, `NoSuchBucket`, `PreconditionFailed`, `ConditionalRequestConflict`.
pub(crate) async fn put(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let (owner, access) = super::acl::of_new(&request)?;
    let attributes = Attributes { access, ..attributes::from_headers(&request.headers)? };
    let settings = request.access()?.settings();
    let encrypt = encryption::of_write(&request.headers, settings, store.encryption_keys())?;
    let condition = condition::of_write(&request.headers)?;
    let body = request.upload_body(None)?;
    let put = PutObject { bucket, key: key.clone(), attributes, owner, condition, encrypt, body };
    let info = store.put_object(put).await?;
    events::changed(&request, Kind::CreatedByPut, &key, &info).await?;
    let mut response = response::empty(StatusCode::OK);
    let headers = response.headers_mut();
    response::set(headers, header::ETAG, &response::quoted(&info.etag));
    attributes::new_version_to_headers(&info, headers);
    attributes::expiration_to_headers(request.access()?.settings(), &key, &info, headers);
    encryption::to_headers(info.encryption.as_ref(), &request.headers, headers);
    attributes::checksums_to_headers(&info.checksums, info.parts.len(), headers);
    Ok(response)
}
