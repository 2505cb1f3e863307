//! UploadPart.

use coffer_common::types::{BucketName, ObjectKey};
use http::{StatusCode, header};

use super::super::attributes;
use super::super::checksum::RequestChecksums;
use super::super::convert::algorithm_to_s3;
use super::super::encryption;
use super::super::error::{Code, S3Error};
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use crate::object::{ObjectStore, UploadPart};

/// Writes a part.
///
/// # Errors
/// What is wrong with headers or body, `NoSuchUpload`.
pub(crate) async fn upload_part(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let customer_key = encryption::of_upload(&request.headers)?;
    let number = super::part_number(&request)?;
    let upload = super::upload_ref(bucket, key, &request)?;
    let announced = RequestChecksums::parse(&request.headers)?.algorithm();
    let head = store.head_upload(&upload).await?;
    encryption::check_part(&request.headers, head.encryption.as_ref())?;
    let kept = head.checksum.map(|(algorithm, _)| algorithm_to_s3(algorithm));
    if let (Some(announced), Some(kept)) = (announced, kept)
        && announced != kept
    {
        let (kept, announced) = (kept.name().to_lowercase(), announced.name().to_lowercase());
        return Err(S3Error::with(
            Code::InvalidRequest,
            format!(
                "Checksum Type mismatch occurred, expected checksum Type: {kept}, actual checksum Type: {announced}"
            ),
        ));
    }
    let body = request.upload_body(kept)?;
    let part = store.upload_part(UploadPart { upload, number, customer_key, body }).await?;
    let mut response = response::empty(StatusCode::OK);
    response::set(response.headers_mut(), header::ETAG, &response::quoted(&part.etag));
    attributes::part_checksums_to_headers(&part.checksums, response.headers_mut());
    encryption::to_headers(part.encryption.as_ref(), &request.headers, response.headers_mut());
    Ok(response)
}
