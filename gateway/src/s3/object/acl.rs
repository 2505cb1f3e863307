//! GetObjectAcl and PutObjectAcl, and what a new object gets.

use std::sync::Arc;

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;

use super::super::acl::{self, Ownership};
use super::super::attributes;
use super::super::bucket::config::acl::asked_for;
use super::super::error::{Code, S3Error};
use super::super::events;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use crate::notify::Kind;
use crate::object::{Access, AmendObject, Attributes, ObjectStore, Owner};

/// Reads who else than the owner may read the object.
///
/// # Errors
/// `NoSuchKey` and so on.
pub(crate) async fn get(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let info = super::describe::info(store, bucket, key, request).await?;
    let access = request.access()?;
    let bucket_owner = &access.bucket().owner;
    let document = match access.settings().ownership {
        // What was written before lists were switched off is the bucket owner's, too.
        Ownership::BucketOwnerEnforced => acl::document(Access::Private, bucket_owner, None),
        Ownership::BucketOwnerPreferred | Ownership::ObjectWriter => {
            acl::document(info.attributes.access, &info.owner, Some(bucket_owner))
        }
    };
    Ok(response::xml(StatusCode::OK, document))
}

/// Sets who else than the owner may read the object.
///
/// # Errors
/// `AccessControlListNotSupported`, `AccessDenied`, `NoSuchKey` and so on; `OperationAborted` if it is somebody else's
/// meanwhile.
pub(crate) async fn put(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let version = attributes::parse_version(request.query.get("versionId"))?;
    let info = super::describe::info(store, bucket.clone(), key.clone(), &request).await?;
    let bucket_owner = request.access()?.bucket().owner.clone();
    let access = asked_for(&mut request, &info.owner, Some(&bucket_owner)).await?;
    let change = Arc::new(move |attributes: &mut Attributes| attributes.access = access);
    let amend = AmendObject { bucket, key: key.clone(), version, owner: Some(info.owner), change };
    let info = store.amend_object(amend).await?;
    events::changed(&request, Kind::AclPut, &key, &info).await?;
    Ok(response::empty(StatusCode::OK))
}

/// Who will own a new object, and who else may read it.
///
/// # Errors
/// `AccessControlListNotSupported` where lists are off, `AccessDenied` where public ones are kept out.
pub(crate) fn of_new(request: &S3Request) -> Result<(Owner, Access), S3Error> {
    let access = request.access()?;
    let settings = access.settings();
    let is_owner = request.caller().owner().id == access.bucket().owner.id;
    let list = acl::checked_for(settings.ownership, &request.headers, is_owner)?;
    if settings.public_access.block_acls && acl::is_public(list) {
        let message = "Access Denied: public lists are blocked by the bucket's public access block.";
        return Err(S3Error::with(Code::AccessDenied, message));
    }
    Ok((access.new_owner(list), list))
}
