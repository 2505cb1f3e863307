//! ListMultipartUploads.

use coffer_common::types::{BucketName, UploadId};
use http::StatusCode;
use serde::Serialize;

use super::super::attributes::class_name;
use super::super::convert::{algorithm_to_s3, scope_to_s3};
use super::super::error::S3Error;
use super::super::list::{Encoding, OwnerXml, PrefixXml};
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date};
use super::super::xml;
use crate::object::{ListUploads, ObjectStore, UploadInfo, UploadPage};

#[derive(Serialize)]
struct ListMultipartUploadsResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Bucket")]
    bucket: String,
    #[serde(rename = "KeyMarker")]
    key_marker: String,
    #[serde(rename = "UploadIdMarker")]
    upload_marker: String,
    #[serde(rename = "NextKeyMarker", skip_serializing_if = "Option::is_none")]
    next_key_marker: Option<String>,
    #[serde(rename = "NextUploadIdMarker", skip_serializing_if = "Option::is_none")]
    next_upload_marker: Option<String>,
    #[serde(rename = "Prefix")]
    prefix: String,
    #[serde(rename = "Delimiter", skip_serializing_if = "Option::is_none")]
    delimiter: Option<String>,
    #[serde(rename = "EncodingType", skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(rename = "MaxUploads")]
    max_uploads: u32,
    #[serde(rename = "IsTruncated")]
    truncated: bool,
    #[serde(rename = "Upload")]
    uploads: Vec<UploadXml>,
    #[serde(rename = "CommonPrefixes")]
    prefixes: Vec<PrefixXml>,
}

#[derive(Serialize)]
struct UploadXml {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "UploadId")]
    upload: String,
    #[serde(rename = "Initiator")]
    initiator: OwnerXml,
    #[serde(rename = "Owner")]
    owner: OwnerXml,
    #[serde(rename = "StorageClass")]
    class: &'static str,
    #[serde(rename = "Initiated")]
    initiated: String,
    #[serde(rename = "ChecksumAlgorithm", skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    #[serde(rename = "ChecksumType", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
}

impl UploadXml {
    fn new(upload: UploadInfo, encoding: Encoding) -> Self {
        Self {
            key: encoding.apply(upload.key.as_str()),
            upload: upload.upload.to_string(),
            initiator: upload.initiator.into(),
            owner: upload.owner.into(),
            class: class_name(upload.attributes.storage_class),
            initiated: iso_date(upload.initiated),
            algorithm: upload.checksum.map(|(algorithm, _)| algorithm_to_s3(algorithm).name()),
            kind: upload.checksum.map(|(_, scope)| scope_to_s3(scope).name()),
        }
    }
}

/// Lists the open uploads of a bucket.
///
/// # Errors
/// `NoSuchBucket`, `InvalidArgument`.
pub(crate) async fn list_uploads(
    store: &ObjectStore,
    bucket: &BucketName,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let query = &request.query;
    let encoding = Encoding::parse(query)?;
    let limit = query.page_size("max-uploads")?;
    let (prefix, delimiter, key_marker) =
        (query.text("prefix"), query.text("delimiter"), query.text("key-marker"));
    // S3 ignores the upload's marker without the key's.
    let marker = query.get("upload-id-marker").filter(|text| !text.is_empty() && !key_marker.is_empty());
    let after_upload = marker.map(parse_marker).transpose()?;
    let page = if limit == 0 {
        store.head_bucket(bucket).await?;
        UploadPage::default()
    } else {
        let list = ListUploads {
            bucket: bucket.clone(),
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            after_key: key_marker.to_owned(),
            after_upload,
            limit,
        };
        store.list_uploads(list).await?
    };
    let truncated = page.next.is_some();
    let (next_key, next_upload) = page.next.unzip();
    let document = ListMultipartUploadsResult {
        xmlns: xml::NAMESPACE,
        bucket: bucket.as_str().to_owned(),
        key_marker: encoding.apply(key_marker),
        upload_marker: query.text("upload-id-marker").to_owned(),
        next_key_marker: next_key.map(|key| encoding.apply(&key)),
        next_upload_marker: next_upload.flatten().map(|upload| upload.to_string()),
        prefix: encoding.apply(prefix),
        delimiter: Some(encoding.apply(delimiter)).filter(|text| !text.is_empty()),
        encoding: encoding.name(),
        max_uploads: limit,
        truncated,
        uploads: page.uploads.into_iter().map(|upload| UploadXml::new(upload, encoding)).collect(),
        prefixes: page.prefixes.iter().map(|prefix| PrefixXml { prefix: encoding.apply(prefix) }).collect(),
    };
    Ok(response::xml(StatusCode::OK, xml::document("ListMultipartUploadsResult", &document)?))
}

fn parse_marker(text: &str) -> Result<UploadId, S3Error> {
    text.parse().map_err(|_| S3Error::argument("upload-id-marker", text, "Invalid uploadId marker"))
}
