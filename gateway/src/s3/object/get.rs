//! GetObject.
//!
//! 1. The first piece is read before anything is answered: an object that cannot be read is 503, not a broken 200.
//! 2. The rest streams through; when it stops early the connection is broken off, so that no client takes a part for the
//!    whole.

use bytes::Bytes;
use coffer_common::types::{BucketName, ObjectKey};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::super::access::Action;
use super::super::attributes;
use super::super::encryption;
use super::super::error::S3Error;
use super::super::lock;
use super::super::request::S3Request;
use super::super::response::{self, BoxError, ResponseBody, S3Response};
use crate::object::{Attributes, ObjectBytes, ObjectInfo, ObjectStore, Select, Selected, Unavailable};

/// Reads an object.
///
/// # Errors
/// `NoSuchBucket`, `NoSuchKey`, `InvalidRange`, 304, `PreconditionFailed` and so on.
pub(crate) async fn get(
    store: &ObjectStore,
    bucket: BucketName,
    key: ObjectKey,
    request: S3Request,
) -> Result<S3Response, S3Error> {
    let read = super::read_request(bucket, key.clone(), &request)?;
    let select = read.select;
    let read = store.get_object(read).await;
    let mut object = super::confirmed(read, |read| &read.info, (&key, &request))?;
    let first = if object.selected.length > 0 { object.bytes.next().await } else { Ok(None) };
    let first = first.map_err(|error| S3Error::from(Unavailable::new(error.reason)))?;
    let mut response = response::empty(StatusCode::OK);
    *response.status_mut() =
        describe(&object.info, select, object.selected, &request, response.headers_mut());
    permitted(&object.info, &key, &request, response.headers_mut())?;
    let settings = request.access()?.settings();
    attributes::expiration_to_headers(settings, &key, &object.info, response.headers_mut());
    if let Some(first) = first {
        *response.body_mut() = body(first, object.bytes);
    }
    Ok(response)
}

/// Writes the headers that need permissions of their own: what protects the object, and how many tags it has.
pub(super) fn permitted(
    info: &ObjectInfo,
    key: &ObjectKey,
    request: &S3Request,
    headers: &mut HeaderMap,
) -> Result<(), S3Error> {
    let access = request.access()?;
    let may = |action: Action| access.may(action, key, info);
    let Attributes { retention, legal_hold, tags, .. } = &info.attributes;
    let retention = retention.filter(|_| may(Action::GetObjectRetention));
    lock::to_headers(retention, *legal_hold && may(Action::GetObjectLegalHold), headers);
    let named = !request.query.text("versionId").is_empty();
    let read_tags = if named { Action::GetObjectVersionTagging } else { Action::GetObjectTagging };
    if !tags.is_empty() && may(read_tags) {
        headers.insert(HeaderName::from_static("x-amz-tagging-count"), HeaderValue::from(tags.len()));
    }
    Ok(())
}

/// Writes the headers of a read; answers its status.
pub(super) fn describe(
    info: &ObjectInfo,
    select: Select,
    selected: Selected,
    request: &S3Request,
    headers: &mut HeaderMap,
) -> StatusCode {
    attributes::to_headers(info, headers);
    encryption::to_headers(info.encryption.as_ref(), &request.headers, headers);
    attributes::apply_overrides(&request.query, headers);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(selected.length));
    if request.wants_checksums() {
        attributes::read_checksums(info, select, selected, headers);
    }
    if matches!(select, Select::Part(_)) && !info.parts.is_empty() {
        headers.insert(HeaderName::from_static("x-amz-mp-parts-count"), HeaderValue::from(info.parts.len()));
    }
    if !selected.partial {
        return StatusCode::OK;
    }
    if selected.length > 0 {
        let last = selected.first + selected.length - 1;
        let range = format!("bytes {}-{last}/{}", selected.first, info.size);
        response::set(headers, header::CONTENT_RANGE, &range);
    }
    StatusCode::PARTIAL_CONTENT
}

fn body(first: Bytes, bytes: Box<dyn ObjectBytes>) -> ResponseBody {
    let first = stream::iter([Ok(Frame::data(first))]);
    let rest = stream::try_unfold(bytes, |mut bytes| async move {
        match bytes.next().await {
            Ok(Some(piece)) => Ok(Some((Frame::data(piece), bytes))),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::warn!(
                    reason = error.reason,
                    "an object's bytes stop early: the connection is broken off"
                );
                Err(BoxError::from(error))
            }
        }
    });
    StreamBody::new(first.chain(rest)).boxed_unsync()
}
