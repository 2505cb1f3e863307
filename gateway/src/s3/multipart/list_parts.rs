//! ListParts.

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;
use serde::Serialize;

use super::super::attributes::{self, class_name};
use super::super::convert::{algorithm_to_s3, scope_to_s3};
use super::super::error::S3Error;
use super::super::list::OwnerXml;
use super::super::object::copy::ChecksumsXml;
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date, quoted};
use super::super::xml;
use crate::object::{ListParts, ObjectStore, PartInfo};

#[derive(Serialize)]
struct ListPartsResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Bucket")]
    bucket: String,
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "UploadId")]
    upload: String,
    #[serde(rename = "PartNumberMarker")]
    marker: u16,
    #[serde(rename = "NextPartNumberMarker", skip_serializing_if = "Option::is_none")]
    next_marker: Option<u16>,
    #[serde(rename = "MaxParts")]
    max_parts: u32,
    #[serde(rename = "IsTruncated")]
    truncated: bool,
    #[serde(rename = "Part")]
    parts: Vec<PartXml>,
    #[serde(rename = "Initiator")]
    initiator: OwnerXml,
    #[serde(rename = "Owner")]
    owner: OwnerXml,
    #[serde(rename = "StorageClass")]
    class: &'static str,
    #[serde(rename = "ChecksumAlgorithm", skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    #[serde(rename = "ChecksumType", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
}

#[derive(Serialize)]
struct PartXml {
    #[serde(rename = "PartNumber")]
    number: u16,
    #[serde(rename = "LastModified")]
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(flatten)]
    checksums: ChecksumsXml,
}

impl From<PartInfo> for PartXml {
    fn from(part: PartInfo) -> Self {
        Self {
            number: part.number,
            last_modified: iso_date(part.last_modified),
            etag: quoted(&part.etag),
            size: part.size,
            checksums: ChecksumsXml::new(&part.checksums, 1),
        }
    }
}

/// Lists the parts of an upload.
///
/// # Errors
/// `NoSuchUpload`, `InvalidArgument`.
pub(crate) async fn list_parts(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let query = &request.query;
    let max_parts = query.page_size("max-parts")?;
    let marker = match query.get("part-number-marker") {
        None | Some("") => 0,
        Some(text) => text.parse().map_err(|_| {
            let message = "Argument part-number-marker must be an integer between 0 and 65535";
            S3Error::argument("part-number-marker", text, message)
        })?,
    };
    let upload = super::upload_ref(bucket.clone(), key.clone(), &request)?;
    let id = upload.upload.to_string();
    // One part is read even for none, so that the upload is looked at.
    let page = store.list_parts(ListParts { upload, after: marker, limit: max_parts.max(1) }).await?;
    let initiated = page.upload.initiated;
    let (parts, next) = if max_parts == 0 { (Vec::new(), None) } else { (page.parts, page.next) };
    let document = ListPartsResult {
        xmlns: xml::NAMESPACE,
        bucket: bucket.as_str().to_owned(),
        key: key.as_str().to_owned(),
        upload: id,
        marker,
        next_marker: next.or_else(|| parts.last().map(|part| part.number)),
        max_parts,
        truncated: next.is_some(),
        parts: parts.into_iter().map(PartXml::from).collect(),
        initiator: page.upload.initiator.into(),
        owner: page.upload.owner.into(),
        class: class_name(page.upload.attributes.storage_class),
        algorithm: page.upload.checksum.map(|(algorithm, _)| algorithm_to_s3(algorithm).name()),
        kind: page.upload.checksum.map(|(_, scope)| scope_to_s3(scope).name()),
    };
    let mut response = response::xml(StatusCode::OK, xml::document("ListPartsResult", &document)?);
    let settings = request.access()?.settings();
    attributes::abort_to_headers(settings, &key, initiated, response.headers_mut());
    Ok(response)
}
