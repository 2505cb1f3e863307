//! CreateBucket.

use bytes::Bytes;
use coffer_common::types::{BucketId, BucketName};
use http::{StatusCode, header};

use super::super::access::Caller;
use super::super::acl::{self, Ownership};
use super::super::error::{Code, S3Error};
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::settings::names;
use super::super::xml::Element;
use crate::object::{
    Access, BucketInfo, CreateBucket, CreateBucketError, Documents, ObjectStore, bucket_record,
};
use crate::users::root_owner;

/// The region that S3 writes as an empty location.
pub(crate) const FIRST_REGION: &str = "us-east-1";

/// The record of a bucket of which only the id is known: the root user's, in the first region.
pub fn record_of(id: BucketId) -> Bytes {
    bucket_record(id, root_owner(), FIRST_REGION.to_owned())
}

/// What a gateway gives to new buckets.
#[derive(Clone, Copy)]
pub(crate) struct Defaults<'a> {
    /// The region.
    pub(crate) region: &'a str,
    /// Whether no other region is accepted.
    pub(crate) region_fixed: bool,
    /// Who owns what others write.
    pub(crate) ownership: Ownership,
}

/// Creates a bucket.
///
/// # Errors
/// `BucketAlreadyOwnedByYou`, `BucketAlreadyExists`, `InvalidLocationConstraint`, `MalformedXML`.
pub(crate) async fn create(
    store: &ObjectStore,
    bucket: BucketName,
    mut request: S3Request,
    defaults: Defaults<'_>,
) -> Result<S3Response, S3Error> {
    if *request.caller() == Caller::Anonymous {
        return Err(S3Error::new(Code::AccessDenied));
    }
    check_name(&bucket)?;
    let lock = request.text("x-amz-bucket-object-lock-enabled");
    let object_lock = lock.is_some_and(|on| on.eq_ignore_ascii_case("true"));
    let documents = documents(&request, defaults.ownership)?;
    let wanted = location_constraint(&request.xml_body().await?)?;
    let region = wanted.filter(|wanted| !wanted.is_empty()).unwrap_or_else(|| defaults.region.to_owned());
    if defaults.region_fixed && region != defaults.region {
        return Err(S3Error::new(Code::InvalidLocationConstraint).detail("LocationConstraint", region));
    }
    let owner = request.caller().owner();
    let new = CreateBucket {
        name: bucket.clone(),
        owner: owner.clone(),
        region: region.clone(),
        documents: documents.clone(),
        object_lock,
    };
    match store.create_bucket(new).await {
        Ok(_) => {}
        Err(CreateBucketError::Exists(other)) if other.owner.id == owner.id => {
            again(&other, &documents)?;
        }
        Err(error) => return Err(error.into()),
    }
    let mut response = response::empty(StatusCode::OK);
    response::set(response.headers_mut(), header::LOCATION, &format!("/{bucket}"));
    Ok(response)
}

/// The caller's own bucket is there already: in the first region that is no error, as long as nothing else is asked for
/// than there is (S3 would reset its list; that is left to those who say so).
fn again(bucket: &BucketInfo, wanted: &Documents) -> Result<(), S3Error> {
    let same = |name| bucket.documents.get(name) == wanted.get(name);
    let code = if bucket.region != FIRST_REGION {
        Code::BucketAlreadyOwnedByYou
    } else if same(names::ACL) {
        return Ok(());
    } else {
        Code::BucketAlreadyExists
    };
    Err(S3Error::new(code).detail("BucketName", bucket.name.as_str()))
}

/// A new bucket's name must do as a host's: no label of it begins or ends with a hyphen.
fn check_name(bucket: &BucketName) -> Result<(), S3Error> {
    if bucket.as_str().split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        let message = "The specified bucket is not valid: a hyphen stands beside a period";
        return Err(S3Error::with(Code::InvalidBucketName, message).detail("BucketName", bucket.as_str()));
    }
    Ok(())
}

/// What the headers configure.
fn documents(request: &S3Request, default: Ownership) -> Result<Documents, S3Error> {
    const OWNERSHIP: &str = "x-amz-object-ownership";
    let ownership = match request.text(OWNERSHIP) {
        None => default,
        Some(name) => Ownership::from_name(name)
            .ok_or_else(|| S3Error::argument(OWNERSHIP, name, "Unknown ownership"))?,
    };
    let access = acl::checked_for(ownership, &request.headers, true).map_err(|error| match error.code() {
        Code::AccessControlListNotSupported => S3Error::new(Code::InvalidBucketAclWithObjectOwnership),
        _ => error,
    })?;
    let mut documents = Documents::default();
    if ownership != Ownership::default() {
        documents.set(names::OWNERSHIP, ownership.name());
    }
    match access {
        Access::Private | Access::BucketOwnerRead | Access::BucketOwnerFullControl => {}
        Access::PublicRead | Access::PublicReadWrite | Access::AuthenticatedRead => {
            documents.set(names::ACL, acl::name_of(access));
        }
    }
    Ok(documents)
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
