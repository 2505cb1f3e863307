//! GetBucketLocation.

use coffer_common::types::BucketName;
use http::StatusCode;
use serde::Serialize;

use super::super::error::S3Error;
use super::super::response::{self, S3Response};
use super::super::xml;
use super::create::FIRST_REGION;
use crate::object::ObjectStore;

#[derive(Serialize)]
struct LocationConstraint<'a> {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "$text", skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
}

/// Tells the bucket's region.
///
/// # Errors
/// `NoSuchBucket`.
pub(crate) async fn location(store: &ObjectStore, bucket: &BucketName) -> Result<S3Response, S3Error> {
    let info = store.head_bucket(bucket).await?;
    let region = Some(info.region.as_str()).filter(|region| *region != FIRST_REGION && !region.is_empty());
    let document = LocationConstraint { xmlns: xml::NAMESPACE, region };
    Ok(response::xml(StatusCode::OK, xml::document("LocationConstraint", &document)?))
}
