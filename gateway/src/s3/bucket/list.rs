//! ListBuckets.

use http::StatusCode;
use serde::Serialize;

use super::super::access::Caller;
use super::super::error::{Code, S3Error};
use super::super::list::{OwnerXml, decode_token, encode_token};
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date};
use super::super::xml;
use crate::object::ObjectStore;

/// Most buckets of a page (S3), and the default.
const MAX_BUCKETS: usize = 10_000;

#[derive(Serialize)]
struct ListAllMyBucketsResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Owner")]
    owner: OwnerXml,
    #[serde(rename = "Buckets")]
    buckets: Buckets,
    #[serde(rename = "ContinuationToken", skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(rename = "Prefix", skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
}

#[derive(Serialize)]
struct Buckets {
    #[serde(rename = "Bucket")]
    bucket: Vec<BucketXml>,
}

#[derive(Serialize)]
struct BucketXml {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "CreationDate")]
    created: String,
    #[serde(rename = "BucketRegion", skip_serializing_if = "Option::is_none")]
    region: Option<String>,
}

/// Lists the caller's buckets; for root, all.
///
/// # Errors
/// 503 if they are not known.
pub(crate) async fn list(store: &ObjectStore, request: &S3Request) -> Result<S3Response, S3Error> {
    let query = &request.query;
    let prefix = query.get("prefix").map(str::to_owned);
    let region = query.get("bucket-region").filter(|region| !region.is_empty());
    let after = decode_token(query.get("continuation-token"))?.unwrap_or_default();
    // S3 tells regions to who asks for anything at all.
    let told_region =
        ["max-buckets", "prefix", "continuation-token", "bucket-region"].iter().any(|name| query.has(name));
    let limit = match query.get("max-buckets") {
        None => MAX_BUCKETS,
        Some(text) => {
            text.parse().ok().filter(|count| (1..=MAX_BUCKETS).contains(count)).ok_or_else(|| {
                let message = "Argument max-buckets must be an integer between 1 and 10000";
                S3Error::argument("max-buckets", text, message)
            })?
        }
    };
    if *request.caller() == Caller::Anonymous {
        return Err(S3Error::new(Code::AccessDenied));
    }
    let owner = request.caller().owner();
    let mut found = store.list_buckets().await?;
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found.retain(|bucket| {
        let name = bucket.name.as_str();
        let own = *request.caller() == Caller::Root || bucket.owner.id == owner.id;
        own && name != crate::notify::QUEUE_BUCKET
            && name > after.as_str()
            && prefix.as_deref().is_none_or(|prefix| name.starts_with(prefix))
            && region.is_none_or(|region| bucket.region == region)
    });
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|bucket| bucket.name.as_str().to_owned());
    let bucket = found.into_iter().map(|bucket| BucketXml {
        name: bucket.name.as_str().to_owned(),
        created: iso_date(bucket.created),
        region: told_region.then_some(bucket.region),
    });
    let document = ListAllMyBucketsResult {
        xmlns: xml::NAMESPACE,
        owner: owner.into(),
        buckets: Buckets { bucket: bucket.collect() },
        token: last.filter(|_| more).map(|name| encode_token(&name)),
        prefix,
    };
    Ok(response::xml(StatusCode::OK, xml::document("ListAllMyBucketsResult", &document)?))
}
