//! Handlers of multipart uploads, one file per operation.

pub(crate) mod abort;
pub(crate) mod complete;
pub(crate) mod copy_part;
pub(crate) mod create;
pub(crate) mod list_parts;
pub(crate) mod list_uploads;
pub(crate) mod upload_part;

use coffer_common::types::{BucketName, ObjectKey};

use super::error::{Code, S3Error};
use super::range;
use super::request::S3Request;
use crate::object::UploadRef;

/// The upload that the query names.
pub(super) fn upload_ref(
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<UploadRef, S3Error> {
    let id = request.query.text("uploadId");
    let upload = id.parse().map_err(|_| S3Error::new(Code::NoSuchUpload).detail("UploadId", id))?;
    Ok(UploadRef { bucket, key, upload })
}

/// The part that the query names.
fn part_number(request: &S3Request) -> Result<u16, S3Error> {
    range::parse_part_number(request.query.text("partNumber"))
}
