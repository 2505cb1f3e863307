//! ListObjects, the second form: `continuation-token` and `start-after`.

use coffer_common::types::BucketName;
use http::StatusCode;
use serde::Serialize;

use super::super::error::S3Error;
use super::super::query::Query;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::xml;
use super::{ContentsXml, Listing, PrefixXml, decode_token, encode_token};
use crate::object::{ObjectPage, ObjectStore};

#[derive(Serialize)]
struct ListBucketResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Prefix")]
    prefix: String,
    #[serde(rename = "StartAfter", skip_serializing_if = "Option::is_none")]
    start_after: Option<String>,
    #[serde(rename = "ContinuationToken", skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(rename = "NextContinuationToken", skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
    #[serde(rename = "KeyCount")]
    key_count: usize,
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

/// Lists objects after a token, or after `start-after`.
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
    let after = match decode_token(query.get("continuation-token"))? {
        Some(next) => next,
        None => query.text("start-after").to_owned(),
    };
    let page = listing.page(store, bucket, after, true).await?;
    let document = document(bucket, query, &listing, page);
    Ok(response::xml(StatusCode::OK, xml::document("ListBucketResult", &document)?))
}

fn document(bucket: &BucketName, query: &Query, listing: &Listing, page: ObjectPage) -> ListBucketResult {
    let encoding = listing.encoding;
    let start_after = query.get("start-after").filter(|text| !text.is_empty());
    let with_owner = query.text("fetch-owner").eq_ignore_ascii_case("true");
    ListBucketResult {
        xmlns: xml::NAMESPACE,
        name: bucket.as_str().to_owned(),
        prefix: encoding.apply(&listing.prefix),
        start_after: start_after.map(|text| encoding.apply(text)),
        token: query.get("continuation-token").map(str::to_owned),
        truncated: page.next.is_some(),
        next_token: page.next.map(|next| encode_token(&next)),
        key_count: page.objects.len() + page.prefixes.len(),
        max_keys: listing.limit,
        delimiter: listing.delimiter_xml(),
        encoding: encoding.name(),
        contents: page
            .objects
            .into_iter()
            .map(|object| ContentsXml::new(object, encoding, with_owner))
            .collect(),
        prefixes: listing.prefixes(page.prefixes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_anything_may_name_the_next_one() {
        let query = Query::parse("list-type=2&start-after=a").unwrap();
        let listing = Listing::parse(&query).unwrap();
        let page = ObjectPage { next: Some("a/1".to_owned()), ..ObjectPage::default() };
        let document = document(&BucketName::new("bucket").unwrap(), &query, &listing, page);
        let next = document.next_token.clone();
        assert_eq!(decode_token(next.as_deref()).unwrap().as_deref(), Some("a/1"));
        let text = xml::document("ListBucketResult", &document).unwrap();
        for part in ["<NextContinuationToken>", "<IsTruncated>true</IsTruncated>", "<KeyCount>0</KeyCount>"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("<Contents") && !text.contains("<CommonPrefixes"), "{text}");
    }
}
