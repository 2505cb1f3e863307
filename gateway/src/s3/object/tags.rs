//! GetObjectTagging, PutObjectTagging, DeleteObjectTagging.

use std::sync::Arc;

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;

use super::super::attributes;
use super::super::error::S3Error;
use super::super::events;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::tagging::{self, Tags};
use crate::notify::Kind;
use crate::object::{AmendObject, ObjectInfo, ObjectStore};

/// Reads the tags.
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
    let document = tagging::document(&info.attributes.tags);
    Ok(of_version(response::xml(StatusCode::OK, document), &info))
}

/// Replaces the tags.
///
/// # Errors
/// What is wrong with the tags, `NoSuchKey` and so on.
pub(crate) async fn put(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let tags = tagging::parse(&request.xml_body().await?, tagging::MAX_OBJECT_TAGS)?;
    let info = replace(store, (bucket, key), &request, tags, Kind::Tagged).await?;
    Ok(of_version(response::empty(StatusCode::OK), &info))
}

/// Removes the tags.
///
/// # Errors
/// `NoSuchKey` and so on.
pub(crate) async fn delete(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let info = replace(store, (bucket, key), &request, Tags::new(), Kind::Untagged).await?;
    Ok(of_version(response::empty(StatusCode::NO_CONTENT), &info))
}

async fn replace(
    store: &ObjectStore,
    (bucket, key): (BucketName, ObjectKey),
    request: &S3Request,
    tags: Tags,
    kind: Kind,
) -> Result<ObjectInfo, S3Error> {
    let version = attributes::parse_version(request.query.get("versionId"))?;
    let change = Arc::new(move |attributes: &mut crate::object::Attributes| attributes.tags = tags.clone());
    let amend = AmendObject { bucket, key: key.clone(), version, owner: None, change };
    let info = store.amend_object(amend).await?;
    events::changed(request, kind, &key, &info).await?;
    Ok(info)
}

fn of_version(mut response: S3Response, info: &ObjectInfo) -> S3Response {
    attributes::version_to_headers(info, response.headers_mut());
    response
}
