//! ListObjects, the first form: `marker`.

use coffer_common::types::BucketName;
use http::StatusCode;
use serde::Serialize;

use super::super::error::S3Error;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::xml;
use super::{ContentsXml, Listing, PrefixXml};
use crate::object::{ObjectPage, ObjectStore};

#[derive(Serialize)]
struct ListBucketResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Prefix")]
    prefix: String,
    #[serde(rename = "Marker")]
    marker: String,
    #[serde(rename = "NextMarker", skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    #[serde(rename = "MaxKeys")]
    max_keys: u32,
    #[serde(rename = "Delimiter", skip_serializing_if = "Option::is_none")]
    delimiter: Option<String>,
    #[serde(rename = "IsTruncated")]
    truncated: bool,
    #[serde(rename = "EncodingType", skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(rename = "Contents")]
    contents: Vec<ContentsXml>,
    #[serde(rename = "CommonPrefixes")]
    prefixes: Vec<PrefixXml>,
}

/// Lists objects after `marker`.
///
/// # Errors
/// `NoSuchBucket`, `InvalidArgument`.
pub(crate) async fn list(
    store: &ObjectStore,
    bucket: &BucketName,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let listing = Listing::parse(&request.query)?;
    let marker = request.query.text("marker");
    // Without a delimiter clients go on behind the last key: a page without any would be the end to them.
    let may_pause = !listing.delimiter.is_empty();
    let page = listing.page(store, bucket, marker.to_owned(), may_pause).await?;
    let document = document(bucket, marker, &listing, page);
    Ok(response::xml(StatusCode::OK, xml::document("ListBucketResult", &document)?))
}

fn document(bucket: &BucketName, marker: &str, listing: &Listing, page: ObjectPage) -> ListBucketResult {
    let encoding = listing.encoding;
    let truncated = page.next.is_some();
    ListBucketResult {
        xmlns: xml::NAMESPACE,
        name: bucket.as_str().to_owned(),
        prefix: encoding.apply(&listing.prefix),
        marker: encoding.apply(marker),
        // S3 sends it only with a delimiter: else it is the last key.
        next_marker: page.next.filter(|_| !listing.delimiter.is_empty()).map(|next| encoding.apply(&next)),
        max_keys: listing.limit,
        delimiter: listing.delimiter_xml(),
        truncated,
        encoding: encoding.name(),
        contents: page.objects.into_iter().map(|object| ContentsXml::new(object, encoding, true)).collect(),
        prefixes: listing.prefixes(page.prefixes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::query::Query;
    use super::*;

    #[test]
    fn a_page_without_anything_may_name_the_next_one() {
        let listing = Listing::parse(&Query::parse("delimiter=/&encoding-type=url").unwrap()).unwrap();
        let page = ObjectPage { next: Some("a b/1".to_owned()), ..ObjectPage::default() };
        let document = document(&BucketName::new("bucket").unwrap(), "", &listing, page);
        let text = xml::document("ListBucketResult", &document).unwrap();
        for part in ["<NextMarker>a%20b/1</NextMarker>", "<IsTruncated>true</IsTruncated>"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("<Contents") && !text.contains("<CommonPrefixes"), "{text}");
    }
}
