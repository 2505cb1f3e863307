//! DeleteObjects: up to 1,000 keys; each has its own result.

use coffer_common::types::{BucketName, ObjectKey};
use http::StatusCode;
use serde::Serialize;

use super::super::access::{Access, Action};
use super::super::attributes::parse_version;
use super::super::condition::unquoted;
use super::super::error::{Code, S3Error};
use super::super::events;
use super::super::lock;
use super::super::operation::object_key;
use super::super::request::S3Request;
use super::super::response::{self, S3Response};
use super::super::xml::{self, Element, malformed};
use crate::object::{DeleteError, DeleteObject, Deleted, ObjectStore, VersionId, WriteCondition};

/// Most keys of one request (S3).
const MAX_KEYS: usize = 1000;

#[derive(Default, Serialize)]
struct DeleteResult {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Deleted")]
    deleted: Vec<DeletedXml>,
    #[serde(rename = "Error")]
    errors: Vec<ErrorXml>,
}

#[derive(Serialize)]
struct DeletedXml {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "VersionId", skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(rename = "DeleteMarker", skip_serializing_if = "std::ops::Not::not")]
    delete_marker: bool,
    #[serde(rename = "DeleteMarkerVersionId", skip_serializing_if = "Option::is_none")]
    marker_version: Option<String>,
}

#[derive(Serialize)]
struct ErrorXml {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "VersionId", skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(rename = "Code")]
    code: &'static str,
    #[serde(rename = "Message")]
    message: String,
}

/// One `<Object>` of the request, in the client's words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    key: String,
    version: Option<String>,
    etag: Option<String>,
    unserved: bool,
}

/// What is to be deleted.
struct Target {
    key: ObjectKey,
    version: Option<VersionId>,
    condition: WriteCondition,
}

/// Deletes the objects that the body names.
///
/// # Errors
/// `MalformedXML`, `NoSuchBucket`, or what is wrong with the body; what goes wrong with one key is in its result.
pub(crate) async fn delete_many(
    store: &ObjectStore,
    bucket: BucketName,
    mut request: S3Request,
) -> Result<S3Response, S3Error> {
    let bypass_governance = lock::bypasses(&request.headers);
    let (named, quiet) = parse(&request.xml_body().await?)?;
    let access = request.access()?;
    let mut results: Vec<Option<Result<Deleted, S3Error>>> = Vec::new();
    results.resize_with(named.len(), || None);
    let mut plain = Vec::new();
    for (index, object) in named.iter().enumerate() {
        match allowed(store, access, object, bypass_governance).await {
            Err(error) => results[index] = Some(Err(error)),
            Ok(Target { key, version, condition: WriteCondition::Always }) => {
                plain.push((index, (key, version)))
            }
            Ok(Target { key, version, condition }) => {
                let bucket = bucket.clone();
                let request = DeleteObject { bucket, key, version, condition, bypass_governance };
                results[index] = Some(checked(store.delete_object(request).await)?);
            }
        }
    }
    let (places, keys): (Vec<usize>, Vec<_>) = plain.into_iter().unzip();
    if keys.is_empty() {
        store.head_bucket(&bucket).await?;
    }
    for (place, result) in places.into_iter().zip(store.delete_objects(bucket, keys, bypass_governance).await)
    {
        results[place] = Some(checked(result)?);
    }
    tell_of(&request, &named, &results).await?;
    let mut document = DeleteResult { xmlns: xml::NAMESPACE, ..DeleteResult::default() };
    for (object, result) in named.into_iter().zip(results) {
        match result {
            Some(Ok(deleted)) if !quiet => document.deleted.push(deleted_xml(object, deleted)),
            Some(Ok(_)) => {}
            Some(Err(error)) => document.errors.push(error_xml(object, &error)),
            None => document.errors.push(error_xml(object, &S3Error::new(Code::InternalError))),
        }
    }
    Ok(response::xml(StatusCode::OK, xml::document("DeleteResult", &document)?))
}

/// Tells of what was deleted.
async fn tell_of(
    request: &S3Request,
    named: &[Named],
    results: &[Option<Result<Deleted, S3Error>>],
) -> Result<(), S3Error> {
    if !events::are_asked_for(request)? {
        return Ok(());
    }
    let mut removals = Vec::new();
    for (object, result) in named.iter().zip(results) {
        if let Some(Ok(deleted)) = result {
            let version = parse_version(object.version.as_deref())?;
            removals.push((object_key(object.key.clone())?, version.is_some(), *deleted));
        }
    }
    events::removed(request, &removals).await
}

/// What is to be deleted, if the caller may.
async fn allowed(
    store: &ObjectStore,
    access: &Access,
    object: &Named,
    bypass_governance: bool,
) -> Result<Target, S3Error> {
    let target = target(object)?;
    let version = object.version.as_deref().filter(|version| !version.is_empty());
    let action = if version.is_some() { Action::DeleteObjectVersion } else { Action::DeleteObject };
    let access = access.about_version(version);
    access.demand(store, action, Some((&target.key, version))).await?;
    if bypass_governance {
        access.demand(store, Action::BypassGovernanceRetention, Some((&target.key, version))).await?;
    }
    Ok(target)
}

/// An absent bucket is the request's error, not a key's.
fn checked(result: Result<Deleted, DeleteError>) -> Result<Result<Deleted, S3Error>, S3Error> {
    match result {
        Err(DeleteError::NoSuchBucket) => Err(DeleteError::NoSuchBucket.into()),
        other => Ok(other.map_err(S3Error::from)),
    }
}

fn parse(body: &[u8]) -> Result<(Vec<Named>, bool), S3Error> {
    if body.is_empty() {
        return Err(S3Error::new(Code::MissingRequestBodyError));
    }
    let document = Element::parse(body, "Delete")?;
    let quiet = document.text_of("Quiet").is_some_and(|text| text.trim().eq_ignore_ascii_case("true"));
    let mut named = Vec::new();
    for object in document.children_of("Object") {
        let text = |name: &str| object.text_of(name).map(str::to_owned);
        let key = text("Key").filter(|key| !key.is_empty()).ok_or_else(malformed)?;
        let unserved = object.child("LastModifiedTime").is_some() || object.child("Size").is_some();
        named.push(Named { key, version: text("VersionId"), etag: text("ETag"), unserved });
    }
    if named.is_empty() || named.len() > MAX_KEYS {
        return Err(malformed());
    }
    Ok((named, quiet))
}

fn target(object: &Named) -> Result<Target, S3Error> {
    if object.unserved {
        return Err(S3Error::not_implemented("LastModifiedTime or Size of an object to delete"));
    }
    let condition = match object.etag.as_deref().map(unquoted) {
        None => WriteCondition::Always,
        Some("*") => WriteCondition::Present,
        Some(tag) => WriteCondition::EtagIn(vec![tag.to_owned()]),
    };
    let version = parse_version(object.version.as_deref())?;
    Ok(Target { key: object_key(object.key.clone())?, version, condition })
}

fn deleted_xml(object: Named, deleted: Deleted) -> DeletedXml {
    let marker = deleted.version.filter(|_| deleted.delete_marker);
    DeletedXml {
        key: object.key,
        version: object.version,
        delete_marker: deleted.delete_marker,
        marker_version: marker.map(|version| version.to_string()),
    }
}

fn error_xml(object: Named, error: &S3Error) -> ErrorXml {
    let (code, message) = (error.code().name(), error.message().to_owned());
    ErrorXml { key: object.key, version: object.version, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_parse_in_any_order() {
        let body = b"<Delete><Object><VersionId>null</VersionId><Key> a </Key></Object><Quiet>true</Quiet>\
                     <Object><Key>b</Key><ETag>\"e\"</ETag></Object></Delete>";
        let (named, quiet) = parse(body).unwrap();
        assert!(quiet);
        assert_eq!(named[0].key, " a ");
        assert_eq!(named[0].version.as_deref(), Some("null"));
        let second = target(&named[1]).unwrap();
        assert_eq!(second.condition, WriteCondition::EtagIn(vec!["e".to_owned()]));
    }

    #[test]
    fn too_many_none_or_nameless_keys_are_malformed() {
        let many = format!("<Delete>{}</Delete>", "<Object><Key>k</Key></Object>".repeat(1001));
        for body in [
            many.as_str(),
            "<Delete/>",
            "<Delete><Object/></Delete>",
            "<Delete><Object><Key/></Object></Delete>",
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().code(), Code::MalformedXML);
        }
        assert_eq!(parse(b"").unwrap_err().code(), Code::MissingRequestBodyError);
    }
}
