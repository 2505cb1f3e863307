//! Handlers of objects, one file per operation.

pub(crate) mod acl;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod delete_many;
pub(crate) mod describe;
pub(crate) mod get;
pub(crate) mod head;
pub(crate) mod lock;
pub(crate) mod put;
pub(crate) mod refused;
pub(crate) mod source;
pub(crate) mod tags;

use super::auth::Scheme;
use super::error::S3Error;
use super::request::S3Request;
use super::{attributes, condition, encryption, range};
use crate::object::{GetError, GetObject, ObjectInfo, Unlock};
use coffer_common::types::{BucketName, ObjectKey};

/// The object layer's request for GetObject and HeadObject.
fn read_request(bucket: BucketName, key: ObjectKey, request: &S3Request) -> Result<GetObject, S3Error> {
    attributes::check_overrides(&request.query, request.scheme() != Scheme::Anonymous)?;
    let unlock = Unlock::With(encryption::of_read(&request.headers)?);
    Ok(GetObject {
        bucket,
        key,
        version: attributes::parse_version(request.query.get("versionId"))?,
        select: range::select(request.text("range"), request.query.get("partNumber"))?,
        condition: condition::of_read(&request.headers),
        unlock,
    })
}

/// What a read found, if the caller may have it: it may have been written after the caller was judged.
fn confirmed<T>(
    found: Result<T, GetError>,
    info: impl FnOnce(&T) -> &ObjectInfo,
    (key, request): (&ObjectKey, &S3Request),
) -> Result<T, S3Error> {
    match &found {
        Ok(read) => request.access()?.confirm(key, info(read))?,
        Err(GetError::NotModified(info)) => request.access()?.confirm(key, info)?,
        Err(_) => {}
    }
    Ok(found?)
}
