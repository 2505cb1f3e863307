//! CopyObject.

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;
use serde::Serialize;

use super::super::attributes;
use super::super::body::copy_digester;
use super::super::checksum::{ChecksumAlgorithm, upload_checksum};
use super::super::condition;
use super::super::convert::{algorithm_to_s3, scope_to_s3};
use super::super::encryption;
use super::super::error::{Code, S3Error};
use super::super::events;
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date, quoted};
use super::super::xml;
use super::source::Source;
use crate::notify::Kind;
use crate::object::{Access, Attributes, Checksum, CopyAttributes, CopyError, CopyObject, ObjectStore};

/// Checksums as elements of a result.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChecksumsXml {
    #[serde(rename = "ChecksumCRC32", skip_serializing_if = "Option::is_none")]
    crc32: Option<String>,
    #[serde(rename = "ChecksumCRC32C", skip_serializing_if = "Option::is_none")]
    crc32c: Option<String>,
    #[serde(rename = "ChecksumCRC64NVME", skip_serializing_if = "Option::is_none")]
    crc64nvme: Option<String>,
    #[serde(rename = "ChecksumSHA1", skip_serializing_if = "Option::is_none")]
    sha1: Option<String>,
    #[serde(rename = "ChecksumSHA256", skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl ChecksumsXml {
    /// Of an object with so many parts.
    pub(crate) fn new(checksums: &[Checksum], parts: usize) -> Self {
        let mut out = Self::default();
        for value in checksums {
            let place = match algorithm_to_s3(value.algorithm) {
                ChecksumAlgorithm::Crc32 => &mut out.crc32,
                ChecksumAlgorithm::Crc32c => &mut out.crc32c,
                ChecksumAlgorithm::Crc64Nvme => &mut out.crc64nvme,
                ChecksumAlgorithm::Sha1 => &mut out.sha1,
                ChecksumAlgorithm::Sha256 => &mut out.sha256,
            };
            *place = Some(attributes::checksum_text(value, parts));
        }
        out
    }
}

/// S3's name of what the checksums cover, if there are any.
pub(crate) fn checksum_type(checksums: &[Checksum]) -> Option<&'static str> {
    checksums.first().map(|value| scope_to_s3(value.scope).name())
}

#[derive(Serialize)]
struct CopyObjectResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "LastModified")]
    last_modified: String,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumType", skip_serializing_if = "Option::is_none")]
    checksum_type: Option<&'static str>,
    #[serde(flatten)]
    checksums: ChecksumsXml,
}

/// Copies an object on the server's side.
///
/// # Errors
/// `InvalidRequest` for a copy onto itself that changes nothing; what is wrong with source or target.
pub(crate) async fn copy(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let source = request.copy_source()?;
    let mut judged = Source::demand(store, &source, &request).await?;
    if !replaces(&request, "x-amz-tagging-directive")? {
        judged = judged.with_tags(store, &key, &request).await?;
    }
    let (owner, access) = super::acl::of_new(&request)?;
    let attributes = copy_attributes(&request, access)?;
    let settings = request.access()?.settings();
    let encrypt = encryption::of_write(&request.headers, settings, store.encryption_keys())?;
    let condition = condition::of_write(&request.headers)?;
    let onto_itself = source.bucket == bucket && source.key == key && source.version.is_none();
    if onto_itself && !changes_something(&request) {
        return Err(S3Error::with(
            Code::InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    let algorithm = upload_checksum(&request.headers)?.map(|(algorithm, _)| algorithm);
    let copied = store.copy_object(CopyObject {
        source,
        bucket,
        key: key.clone(),
        attributes,
        owner,
        condition,
        encrypt,
        digester: judged.checked(copy_digester(algorithm)),
    });
    let target = request.access()?;
    let info = copied.await.map_err(|error| match error {
        CopyError::Source(_) => judged.concealed(error.into()),
        CopyError::SourceTooLarge { .. } | CopyError::Target(_) => target.concealed(error.into()),
    })?;
    events::changed(&request, Kind::CreatedByCopy, &key, &info).await?;
    let document = CopyObjectResult {
        xmlns: xml::NAMESPACE,
        last_modified: iso_date(info.last_modified),
        etag: quoted(&info.etag),
        checksum_type: checksum_type(&info.checksums),
        checksums: ChecksumsXml::new(&info.checksums, info.parts.len()),
    };
    let mut response = response::xml(StatusCode::OK, xml::document("CopyObjectResult", &document)?);
    let headers = response.headers_mut();
    attributes::new_version_to_headers(&info, headers);
    attributes::expiration_to_headers(request.access()?.settings(), &key, &info, headers);
    judged.version_to_headers(headers);
    encryption::to_headers(info.encryption.as_ref(), &request.headers, headers);
    Ok(response)
}

/// Whether the target takes the request's metadata, by `x-amz-metadata-directive` or `x-amz-tagging-directive`.
fn replaces(request: &S3Request, name: &'static str) -> Result<bool, S3Error> {
    match request.text(name) {
        None | Some("" | "COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => Err(S3Error::argument(name, other, "Unknown directive.")),
    }
}

fn copy_attributes(request: &S3Request, access: Access) -> Result<CopyAttributes, S3Error> {
    let new_tags = replaces(request, "x-amz-tagging-directive")?;
    let mut attributes = Attributes { access, ..attributes::from_headers(&request.headers)? };
    if replaces(request, "x-amz-metadata-directive")? {
        if !new_tags {
            attributes.tags.clear();
        }
        return Ok(CopyAttributes::Replace { attributes, keep_tags: !new_tags });
    }
    let Attributes { storage_class, tags, retention, legal_hold, website_redirect, .. } = attributes;
    let tags = new_tags.then_some(tags);
    let copied =
        CopyAttributes::FromSource { storage_class, tags, access, retention, legal_hold, website_redirect };
    Ok(copied)
}

fn changes_something(request: &S3Request) -> bool {
    request.text("x-amz-metadata-directive") == Some("REPLACE")
        || request.text("x-amz-tagging-directive") == Some("REPLACE")
        || request.headers.contains_key("x-amz-storage-class")
        || request.headers.contains_key("x-amz-website-redirect-location")
        || request.headers.contains_key("x-amz-checksum-algorithm")
        || encryption::is_asked(&request.headers)
}
