//! UploadPartCopy.

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;
use serde::Serialize;

use super::super::body::copy_part_digester;
use super::super::encryption;
use super::super::error::S3Error;
use super::super::object::copy::ChecksumsXml;
use super::super::object::source::Source;
use super::super::range;
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date, quoted};
use super::super::xml;
use crate::object::{CopyPart, ObjectStore, Select};

#[derive(Serialize)]
struct CopyPartResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "LastModified")]
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(flatten)]
    checksums: ChecksumsXml,
}

/// Writes a part from the bytes of an object.
///
/// # Errors
/// What is wrong with the source, `NoSuchUpload`.
pub(crate) async fn copy_part(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let number = super::part_number(&request)?;
    let upload = super::upload_ref(bucket, key, &request)?;
    let source = request.copy_source()?;
    let customer_key = encryption::of_upload(&request.headers)?;
    let judged = Source::demand(store, &source, &request).await?;
    let select = match request.text("x-amz-copy-source-range") {
        Some(range) => range::parse_copy_range(range)?,
        None => Select::All,
    };
    let digester = judged.checked(copy_part_digester(select));
    let copy = CopyPart { upload, number, customer_key, source, select, digester };
    let part = store.copy_part(copy).await.map_err(|error| judged.concealed(error.into()))?;
    let document = CopyPartResult {
        xmlns: xml::NAMESPACE,
        last_modified: iso_date(part.last_modified),
        etag: quoted(&part.etag),
        checksums: ChecksumsXml::new(&part.checksums, 1),
    };
    let mut response = response::xml(StatusCode::OK, xml::document("CopyPartResult", &document)?);
    judged.version_to_headers(response.headers_mut());
    encryption::to_headers(part.encryption.as_ref(), &request.headers, response.headers_mut());
    Ok(response)
}
