//! The access control list of a bucket.

use http::StatusCode;

use super::super::super::acl::{self, Ownership};
use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::request::S3Request;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::names;
use super::Context;
use crate::object::{Access, Owner};

/// The list.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb == ConfigVerb::Get {
        let access = context.request.access()?;
        let settings = access.settings();
        let list = if settings.ownership.has_acls() { settings.access } else { Access::Private };
        return Ok(response::xml(StatusCode::OK, acl::document(list, &access.bucket().owner, None)));
    }
    let owner = context.request.access()?.bucket().owner.clone();
    let wanted = asked_for(&mut context.request, &owner, None).await?;
    if matches!(wanted, Access::BucketOwnerRead | Access::BucketOwnerFullControl) {
        return Err(S3Error::argument("x-amz-acl", acl::name_of(wanted), "This list is for objects."));
    }
    let text = (wanted != Access::Private).then(|| acl::name_of(wanted));
    context.set(names::ACL, text).await?;
    Ok(response::empty(StatusCode::OK))
}

/// The list that a request to set one asks for, by header or body.
///
/// # Errors
/// `AccessControlListNotSupported` where lists are off, `AccessDenied` if public ones are kept out, or what is wrong
/// with it.
pub(crate) async fn asked_for(
    request: &mut S3Request,
    owner: &Owner,
    bucket_owner: Option<&Owner>,
) -> Result<Access, S3Error> {
    let wanted = match acl::from_headers(&request.headers) {
        Ok(Some(named)) => Ok(named),
        Ok(None) => acl::from_document(&request.xml_body().await?, owner, bucket_owner),
        Err(error) => Err(error),
    };
    let settings = request.access()?.settings();
    if settings.ownership == Ownership::BucketOwnerEnforced {
        return Err(S3Error::new(Code::AccessControlListNotSupported));
    }
    let wanted = wanted?;
    if settings.public_access.block_acls && acl::is_public(wanted) {
        let message = "Access Denied: public lists are blocked by the bucket's public access block.";
        return Err(S3Error::with(Code::AccessDenied, message));
    }
    Ok(wanted)
}
