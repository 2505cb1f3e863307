//! CreateBucket.

use bytes::Bytes;
use coffer_common::types::{BucketId, BucketName};
use http::{StatusCode, header};

use super::super::attributes;
use super::super::error::{Code, S3Error};
use super::super::request::{S3Request, root_owner};
use super::super::response::{self, S3Response};
use super::super::xml::Element;
use crate::object::{CreateBucketError, ObjectStore, bucket_record};

/// The region that S3 writes as an empty location.
pub(crate) const FIRST_REGION: &str = "us-east-1";

/// The record of a bucket of which only the id is known: the root user's, in the first region.
pub fn record_of(id: BucketId) -> Bytes {
    bucket_record(id, root_owner(), FIRST_REGION.to_owned())
}

/// Creates a bucket. `region` is the gateway's; `fixed` says that no other is accepted.
///
/// # Errors
/// `BucketAlreadyOwnedByYou`, `BucketAlreadyExists`, `InvalidLocationConstraint`, `MalformedXML`.
pub(crate) async fn create(
    store: &ObjectStore,
    bucket: BucketName,
    mut request: S3Request,
    (region, fixed): (&str, bool),
) -> Result<S3Response, S3Error> {
    attributes::refuse_acl(&request.headers)?;
    if request.text("x-amz-bucket-object-lock-enabled").is_some_and(|on| on.eq_ignore_ascii_case("true")) {
        return Err(S3Error::not_implemented("x-amz-bucket-object-lock-enabled"));
    }
    let wanted = location_constraint(&request.xml_body().await?)?;
    let wanted = wanted.filter(|wanted| !wanted.is_empty()).unwrap_or_else(|| region.to_owned());
    if fixed && wanted != region {
        return Err(S3Error::new(Code::InvalidLocationConstraint).detail("LocationConstraint", wanted));
    }
    let owner = request.owner();
    let answer = match store.create_bucket(bucket.clone(), owner.clone(), wanted).await {
        Ok(_) => Ok(()),
        Err(CreateBucketError::Exists(other)) if other.owner.id == owner.id => {
            Err(S3Error::new(Code::BucketAlreadyOwnedByYou).detail("BucketName", bucket.as_str()))
        }
        Err(error) => Err(error.into()),
    };
    answer.map(|()| {
        let mut response = response::empty(StatusCode::OK);
        response::set(response.headers_mut(), header::LOCATION, &format!("/{bucket}"));
        response
    })
}

fn location_constraint(body: &[u8]) -> Result<Option<String>, S3Error> {
    if body.is_empty() {
        return Ok(None);
    }
    let document = Element::parse(body, "CreateBucketConfiguration")?;
    if document.child("Bucket").is_some() || document.child("Location").is_some() {
        return Err(S3Error::not_implemented("directory buckets"));
    }
    Ok(document.text_of("LocationConstraint").map(|text| text.trim().to_owned()))
}
