//! CreateMultipartUpload.

use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey};
use http::{HeaderName, StatusCode};
use serde::Serialize;

use super::super::attributes;
use super::super::checksum::upload_checksum;
use super::super::convert::{algorithm_to_object, scope_to_object};
use super::super::encryption;
use super::super::error::S3Error;
use super::super::object::acl::of_new;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::xml;
use crate::object::{Attributes, CreateUpload, ObjectStore};

#[derive(Serialize)]
struct InitiateMultipartUploadResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Bucket")]
    bucket: String,
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "UploadId")]
    upload: String,
}

/// Begins an upload.
///
/// # Errors
/// What is wrong with the headers, `NoSuchBucket`.
pub(crate) async fn create(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let (owner, access) = of_new(&request)?;
    let attributes = Attributes { access, ..attributes::from_headers(&request.headers)? };
    let settings = request.access()?.settings();
    let encrypt = encryption::of_write(&request.headers, settings, store.encryption_keys())?;
    let encrypted = encryption::made(&encrypt);
    let checksum = upload_checksum(&request.headers)?;
    let upload = CreateUpload {
        bucket: bucket.clone(),
        key: key.clone(),
        attributes,
        owner,
        initiator: request.caller().owner(),
        encrypt,
        checksum: checksum.map(|(algorithm, kind)| (algorithm_to_object(algorithm), scope_to_object(kind))),
    };
    // No later than what the upload's record says.
    let initiated = UnixMillis::now();
    let upload = store.create_upload(upload).await?;
    let document = InitiateMultipartUploadResult {
        xmlns: xml::NAMESPACE,
        bucket: bucket.as_str().to_owned(),
        key: key.as_str().to_owned(),
        upload: upload.to_string(),
    };
    let body = xml::document("InitiateMultipartUploadResult", &document)?;
    let mut response = response::xml(StatusCode::OK, body);
    let headers = response.headers_mut();
    if let Some((algorithm, kind)) = checksum {
        response::set(headers, HeaderName::from_static("x-amz-checksum-algorithm"), algorithm.name());
        response::set(headers, HeaderName::from_static("x-amz-checksum-type"), kind.name());
    }
    encryption::to_headers(encrypted.as_ref(), &request.headers, headers);
    attributes::abort_to_headers(request.access()?.settings(), &key, initiated, headers);
    Ok(response)
}
