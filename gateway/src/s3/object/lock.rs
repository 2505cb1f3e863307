//! Retention and legal hold of a version.

use std::sync::Arc;

use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;
use serde::Serialize;

use super::super::attributes::parse_version;
use super::super::error::{Code, S3Error};
use super::super::lock::{self, mode_name};
use super::super::request::S3Request;
use super::super::response::{self, S3Response, iso_date};
use super::super::xml;
use super::describe::info;
use crate::object::{AmendObject, Attributes, NamedVersion, ObjectInfo, ObjectStore};

#[derive(Serialize)]
struct RetentionXml {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Mode")]
    mode: &'static str,
    #[serde(rename = "RetainUntilDate")]
    until: String,
}

#[derive(Serialize)]
struct LegalHoldXml {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Status")]
    status: &'static str,
}

/// Refuses a bucket that does not protect its versions.
async fn demand_lock(store: &ObjectStore, bucket: &BucketName) -> Result<(), S3Error> {
    match store.head_bucket(bucket).await?.object_lock {
        Some(_) => Ok(()),
        None => Err(S3Error::with(Code::InvalidRequest, "Bucket is missing Object Lock Configuration")),
    }
}

/// The version that a request names, in a bucket that protects its versions.
async fn protected_name(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<NamedVersion, S3Error> {
    let version = parse_version(request.query.get("versionId"))?;
    demand_lock(store, &bucket).await?;
    Ok(NamedVersion { bucket, key, version })
}

/// The version, in a bucket that protects its versions.
async fn protected(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<ObjectInfo, S3Error> {
    demand_lock(store, &bucket).await?;
    info(store, bucket, key, request).await
}

/// GetObjectRetention.
///
/// # Errors
/// `NoSuchKey` and so on, `InvalidRequest`, or `NoSuchObjectLockConfiguration` if there is none.
pub(crate) async fn get_retention(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let info = protected(store, bucket, key, request).await?;
    let retention = info.attributes.retention;
    let retention = retention.ok_or_else(|| S3Error::new(Code::NoSuchObjectLockConfiguration))?;
    let (mode, until) = (mode_name(retention.mode), iso_date(retention.until));
    let document = RetentionXml { xmlns: xml::NAMESPACE, mode, until };
    Ok(response::xml(StatusCode::OK, xml::document("Retention", &document)?))
}

/// PutObjectRetention.
///
/// # Errors
/// `MalformedXML`, `InvalidRequest`, `AccessDenied` if what protects the version now forbids it.
pub(crate) async fn put_retention(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let named = protected_name(store, bucket, key, &request).await?;
    let retention = lock::parse_retention(&request.xml_body().await?, UnixMillis::now())?;
    store.set_retention(&named, retention, lock::bypasses(&request.headers)).await?;
    Ok(response::empty(StatusCode::OK))
}

/// GetObjectLegalHold.
///
/// # Errors
/// `NoSuchKey` and so on, `InvalidRequest`.
pub(crate) async fn get_legal_hold(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: &S3Request,
) -> Result<S3Response, S3Error> {
    let info = protected(store, bucket, key, request).await?;
    let status = if info.attributes.legal_hold { "ON" } else { "OFF" };
    let document = LegalHoldXml { xmlns: xml::NAMESPACE, status };
    Ok(response::xml(StatusCode::OK, xml::document("LegalHold", &document)?))
}

/// PutObjectLegalHold.
///
/// # Errors
/// `MalformedXML`, `InvalidRequest`, `NoSuchKey` and so on.
pub(crate) async fn put_legal_hold(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let named = protected_name(store, bucket, key, &request).await?;
    let on = lock::parse_legal_hold(&request.xml_body().await?)?;
    let NamedVersion { bucket, key, version } = named;
    let change = Arc::new(move |attributes: &mut Attributes| attributes.legal_hold = on);
    store.amend_object(AmendObject { bucket, key, version, owner: None, change }).await?;
    Ok(response::empty(StatusCode::OK))
}
