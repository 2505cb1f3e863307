//! ListObjectVersions.

use coffer_common::types::BucketName;
use http::StatusCode;
use serde::Serialize;

use super::super::attributes::parse_version;
use super::super::error::{Code, S3Error};
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date};
use super::super::xml;
use super::{ContentsXml, Encoding, Listing, OwnerXml, PrefixXml};
use crate::object::{ListVersions, ListedObject, ListedVersion, ObjectStore, VersionPage};

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
    next_version_marker: Option<String>,
    #[serde(rename = "MaxKeys")]
    max_keys: u32,
    #[serde(rename = "Delimiter", skip_serializing_if = "Option::is_none")]
    delimiter: Option<String>,
    #[serde(rename = "IsTruncated")]
    truncated: bool,
    #[serde(rename = "EncodingType", skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(rename = "$value")]
    versions: Vec<EntryXml>,
    #[serde(rename = "CommonPrefixes")]
    prefixes: Vec<PrefixXml>,
}

#[derive(Serialize)]
enum EntryXml {
    Version(VersionXml),
    DeleteMarker(MarkerXml),
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

#[derive(Serialize)]
struct MarkerXml {
    #[serde(rename = "VersionId")]
    version: String,
    #[serde(rename = "IsLatest")]
    latest: bool,
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "LastModified")]
    last_modified: String,
    #[serde(rename = "Owner")]
    owner: OwnerXml,
}

impl EntryXml {
    fn new(listed: ListedVersion, encoding: Encoding) -> Self {
        let ListedVersion { key, info, latest, delete_marker } = listed;
        let version = info.version.to_string();
        if delete_marker {
            return Self::DeleteMarker(MarkerXml {
                version,
                latest,
                key: encoding.apply(key.as_str()),
                last_modified: iso_date(info.last_modified),
                owner: info.owner.into(),
            });
        }
        let contents = ContentsXml::new(ListedObject { key, info }, encoding, true);
        Self::Version(VersionXml { version, latest, contents })
    }
}

/// Lists versions after `key-marker` and `version-id-marker`.
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
    let (key_marker, version_marker) = (query.text("key-marker"), query.text("version-id-marker"));
    let after_version = parse_version(Some(version_marker))?;
    if after_version.is_some() && key_marker.is_empty() {
        let message = "A version-id marker cannot be specified without a key marker.";
        return Err(S3Error::with(Code::InvalidArgument, message));
    }
    let page = if listing.limit == 0 {
        store.head_bucket(bucket).await?;
        VersionPage::default()
    } else {
        let request = ListVersions {
            bucket: bucket.clone(),
            prefix: listing.prefix.clone(),
            delimiter: listing.delimiter.clone(),
            after_key: key_marker.to_owned(),
            after_version,
            limit: listing.limit,
        };
        store.list_versions(request).await?
    };
    let encoding = listing.encoding;
    let truncated = page.next.is_some();
    let (next_key, next_version) = page.next.map_or((None, None), |(key, version)| (Some(key), version));
    let document = ListVersionsResult {
        xmlns: xml::NAMESPACE,
        name: bucket.as_str().to_owned(),
        prefix: encoding.apply(&listing.prefix),
        key_marker: encoding.apply(key_marker),
        version_marker: version_marker.to_owned(),
        next_key_marker: next_key.map(|next| encoding.apply(&next)),
        next_version_marker: next_version.map(|version| version.to_string()),
        max_keys: listing.limit,
        delimiter: listing.delimiter_xml(),
        truncated,
        encoding: encoding.name(),
        versions: page.versions.into_iter().map(|listed| EntryXml::new(listed, encoding)).collect(),
        prefixes: listing.prefixes(page.prefixes),
    };
    Ok(response::xml(StatusCode::OK, xml::document("ListVersionsResult", &document)?))
}

#[cfg(test)]
mod tests {
    use coffer_common::types::{ObjectKey, OpId, VersionRef};

    use super::super::super::query::Query;
    use super::*;
    use crate::object::{Checksum, ChecksumAlgorithm, ChecksumScope, ObjectInfo, Owner, VersionId};

    fn listed(version: VersionId, delete_marker: bool) -> ListedVersion {
        let checksum = |algorithm| Checksum {
            algorithm,
            scope: ChecksumScope::FullObject,
            value: bytes::Bytes::from_static(&[0; 4]),
        };
        let info = ObjectInfo {
            size: 7,
            etag: "e".to_owned(),
            owner: Owner { id: "o".to_owned(), display_name: "d".to_owned() },
            checksums: vec![checksum(ChecksumAlgorithm::Crc32), checksum(ChecksumAlgorithm::Crc32c)],
            version,
            versioned: true,
            ..ObjectInfo::empty()
        };
        ListedVersion { key: ObjectKey::new("a&b").unwrap(), info, latest: !delete_marker, delete_marker }
    }

    #[test]
    fn versions_and_delete_markers_keep_their_order() {
        #[derive(Serialize)]
        struct Document {
            #[serde(rename = "$value")]
            entries: Vec<EntryXml>,
        }
        let encoding = Encoding::parse(&Query::default()).unwrap();
        let marker = VersionId::Op(VersionRef { ordinal: 2, op: OpId { session: 1, counter: 3 } });
        let entries = [listed(VersionId::Null, false), listed(marker, true), listed(VersionId::Null, false)];
        let entries = entries.into_iter().map(|listed| EntryXml::new(listed, encoding)).collect();
        let text = xml::document("R", &Document { entries }).unwrap();
        let version = "<Version><VersionId>null</VersionId><IsLatest>true</IsLatest><Key>a&amp;b</Key>\
                       <LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>\
                       <ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumAlgorithm>CRC32C</ChecksumAlgorithm>\
                       <ChecksumType>FULL_OBJECT</ChecksumType><Size>7</Size><Owner><ID>o</ID>\
                       <DisplayName>d</DisplayName></Owner><StorageClass>STANDARD</StorageClass></Version>";
        let marker = "<DeleteMarker><VersionId>000000000000000200000000000000010000000000000003</VersionId>\
                      <IsLatest>false</IsLatest><Key>a&amp;b</Key>\
                      <LastModified>1970-01-01T00:00:00.000Z</LastModified>\
                      <Owner><ID>o</ID><DisplayName>d</DisplayName></Owner></DeleteMarker>";
        let expected = format!("<R>{version}{marker}{version}</R>");
        assert_eq!(text.strip_prefix(xml::DECLARATION), Some(expected.as_str()));
    }
}
