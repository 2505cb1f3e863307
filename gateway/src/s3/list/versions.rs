//! ListObjectVersions. Buckets have no versioning yet: every object is its own null version, as S3 lists it.

use coffer_common::types::BucketName;
use http::StatusCode;
use serde::Serialize;

use super::super::error::S3Error;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::xml;
use super::{ContentsXml, Listing, PrefixXml};
use crate::object::ObjectStore;

#[derive(Serialize)]
struct ListVersionsResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Prefix")]
    prefix: String,
    #[serde(rename = "KeyMarker")]
    key_marker: String,
    #[serde(rename = "VersionIdMarker")]
    version_marker: String,
    #[serde(rename = "NextKeyMarker", skip_serializing_if = "Option::is_none")]
    next_key_marker: Option<String>,
    #[serde(rename = "NextVersionIdMarker", skip_serializing_if = "Option::is_none")]
    next_version_marker: Option<&'static str>,
    #[serde(rename = "MaxKeys")]
    max_keys: u32,
    #[serde(rename = "Delimiter", skip_serializing_if = "Option::is_none")]
    delimiter: Option<String>,
    #[serde(rename = "IsTruncated")]
    truncated: bool,
    #[serde(rename = "EncodingType", skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(rename = "Version")]
    versions: Vec<VersionXml>,
    #[serde(rename = "CommonPrefixes")]
    prefixes: Vec<PrefixXml>,
}

#[derive(Serialize)]
struct VersionXml {
    #[serde(rename = "VersionId")]
    version: String,
    #[serde(rename = "IsLatest")]
    latest: bool,
    #[serde(flatten)]
    contents: ContentsXml,
}

/// Lists versions after `key-marker`.
///
/// # Errors
/// `NoSuchBucket`, `InvalidArgument`.
pub(crate) async fn list(
    store: &ObjectStore,
    bucket: &BucketName,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let query = &request.query;
    let listing = Listing::parse(query)?;
    let key_marker = query.text("key-marker");
    let page = listing.page(store, bucket, key_marker.to_owned()).await?;
    let encoding = listing.encoding;
    let versions = page.objects.into_iter().map(|object| VersionXml {
        version: object.info.version.to_string(),
        latest: true,
        contents: ContentsXml::new(object, encoding, true),
    });
    let truncated = page.next.is_some();
    let document = ListVersionsResult {
        xmlns: xml::NAMESPACE,
        name: bucket.as_str().to_owned(),
        prefix: encoding.apply(&listing.prefix),
        key_marker: encoding.apply(key_marker),
        version_marker: query.text("version-id-marker").to_owned(),
        next_key_marker: page.next.map(|next| encoding.apply(&next)),
        next_version_marker: truncated.then_some("null"),
        max_keys: listing.limit,
        delimiter: listing.delimiter_xml(),
        truncated,
        encoding: encoding.name(),
        versions: versions.collect(),
        prefixes: listing.prefixes(page.prefixes),
    };
    Ok(response::xml(StatusCode::OK, xml::document("ListVersionsResult", &document)?))
}

#[cfg(test)]
mod tests {
    use coffer_common::time::UnixMillis;
    use coffer_common::types::ObjectKey;

    use super::super::super::query::Query;
    use super::super::Encoding;
    use super::*;
    use crate::object::{
        Attributes, Checksum, ChecksumAlgorithm, ChecksumScope, ListedObject, ObjectInfo, Owner, VersionId,
    };

    #[test]
    fn a_version_is_an_object_with_its_version() {
        let checksum = |algorithm| Checksum {
            algorithm,
            scope: ChecksumScope::FullObject,
            value: bytes::Bytes::from_static(&[0; 4]),
        };
        let info = ObjectInfo {
            size: 7,
            etag: "e".to_owned(),
            last_modified: UnixMillis(0),
            owner: Owner { id: "o".to_owned(), display_name: "d".to_owned() },
            attributes: Attributes::default(),
            checksums: vec![checksum(ChecksumAlgorithm::Crc32), checksum(ChecksumAlgorithm::Crc32c)],
            version: VersionId::Null,
            parts: Vec::new(),
        };
        let object = ListedObject { key: ObjectKey::new("a&b").unwrap(), info };
        let encoding = Encoding::parse(&Query::default()).unwrap();
        let version = VersionXml {
            version: object.info.version.to_string(),
            latest: true,
            contents: ContentsXml::new(object, encoding, true),
        };
        let text = xml::document("Version", &version).unwrap();
        let expected = "<Version><VersionId>null</VersionId><IsLatest>true</IsLatest><Key>a&amp;b</Key>\
                        <LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>\
                        <ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumAlgorithm>CRC32C</ChecksumAlgorithm>\
                        <ChecksumType>FULL_OBJECT</ChecksumType><Size>7</Size><Owner><ID>o</ID>\
                        <DisplayName>d</DisplayName></Owner><StorageClass>STANDARD</StorageClass></Version>";
        assert_eq!(text.strip_prefix(xml::DECLARATION), Some(expected));
    }
}
