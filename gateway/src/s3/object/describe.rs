//! What can be asked about an object besides its headers: attributes.

use coffer_common::types::{BucketName, ObjectKey};
use http::{StatusCode, header};
use serde::Serialize;

use super::super::attributes::{self, class_name, parse_version};
use super::super::encryption;
use super::super::error::S3Error;
use super::super::request::S3Request;
use super::super::response::{self, S3Response, http_date};
use super::super::xml;
use super::copy::{ChecksumsXml, checksum_type};
use crate::object::{GetObject, ObjectInfo, ObjectStore, ReadCondition, Select, Unlock};

#[derive(Serialize)]
struct AttributesXml {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "ETag", skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(rename = "Checksum", skip_serializing_if = "Option::is_none")]
    checksum: Option<ChecksumXml>,
    #[serde(rename = "ObjectParts", skip_serializing_if = "Option::is_none")]
    parts: Option<PartsXml>,
    #[serde(rename = "StorageClass", skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(rename = "ObjectSize", skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

#[derive(Serialize)]
struct ChecksumXml {
    #[serde(rename = "ChecksumType", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(flatten)]
    values: ChecksumsXml,
}

#[derive(Serialize)]
struct PartsXml {
    #[serde(rename = "PartsCount")]
    total: usize,
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
}

#[derive(Serialize)]
struct PartXml {
    #[serde(rename = "PartNumber")]
    number: u16,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(flatten)]
    checksums: ChecksumsXml,
}

/// What is known of the version that the request names.
///
/// # Errors
/// `NoSuchKey` and so on.
pub(super) async fn info(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<ObjectInfo, S3Error> {
    info_by(store, (bucket, key), request, Unlock::Nothing).await
}

/// The same, if what is brought opens it.
async fn info_by(
    store: &ObjectStore,
    (bucket, key): (BucketName, ObjectKey),
    request: &S3Request,
    unlock: Unlock,
) -> Result<ObjectInfo, S3Error> {
    let version = parse_version(request.query.get("versionId"))?;
    let (select, condition) = (Select::All, ReadCondition::default());
    let read = GetObject { bucket, key: key.clone(), version, select, condition, unlock };
    let read = store.head_object(read).await;
    Ok(super::confirmed(read, |(info, _)| info, (&key, request))?.0)
}

/// GetObjectAttributes: what `x-amz-object-attributes` names.
///
/// # Errors
/// `InvalidArgument` if it names nothing known, `NoSuchKey` and so on.
pub(crate) async fn attributes(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let wanted: Vec<String> = request
        .headers
        .get_all("x-amz-object-attributes")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    let known = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
    if wanted.is_empty() || wanted.iter().any(|name| !known.contains(&name.as_str())) {
        let message = "Invalid attribute name specified.";
        return Err(S3Error::argument("x-amz-object-attributes", &wanted.join(","), message));
    }
    let has = |name: &str| wanted.iter().any(|wanted| wanted == name);
    let unlock = Unlock::With(encryption::of_read(&request.headers)?);
    let info = info_by(store, (bucket, key), request, unlock).await?;
    let checksum = (has("Checksum") && !info.checksums.is_empty()).then(|| ChecksumXml {
        kind: checksum_type(&info.checksums),
        values: ChecksumsXml::new(&info.checksums, info.parts.len()),
    });
    let parts =
        if has("ObjectParts") && !info.parts.is_empty() { Some(parts(&info, request)?) } else { None };
    let document = AttributesXml {
        xmlns: xml::NAMESPACE,
        etag: has("ETag").then(|| info.etag.clone()),
        checksum,
        parts,
        class: has("StorageClass").then(|| class_name(info.attributes.storage_class)),
        size: has("ObjectSize").then_some(info.size),
    };
    let body = xml::document("GetObjectAttributesResponse", &document)?;
    let mut response = response::xml(StatusCode::OK, body);
    response::set(response.headers_mut(), header::LAST_MODIFIED, &http_date(info.last_modified));
    attributes::version_to_headers(&info, response.headers_mut());
    Ok(response)
}

fn parts(info: &ObjectInfo, request: &S3Request) -> Result<PartsXml, S3Error> {
    let number = |name: &'static str, default: u32| match request.text(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| S3Error::argument(name, text, "Not an integer")),
    };
    let max_parts = number("x-amz-max-parts", 1000)?.min(1000);
    let marker = u16::try_from(number("x-amz-part-number-marker", 0)?).unwrap_or(u16::MAX);
    let limit = usize::try_from(max_parts).unwrap_or(usize::MAX);
    let mut rest = info.parts.iter().filter(|part| part.number > marker);
    let parts: Vec<PartXml> = rest
        .by_ref()
        .take(limit)
        .map(|part| PartXml {
            number: part.number,
            size: part.size,
            checksums: ChecksumsXml::new(&part.checksums, 1),
        })
        .collect();
    let truncated = rest.next().is_some();
    let next_marker = parts.last().map(|part| part.number).filter(|_| truncated);
    Ok(PartsXml { total: info.parts.len(), marker, next_marker, max_parts, truncated, parts })
}
