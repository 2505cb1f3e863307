//! The quotas of buckets, for `coffer bucket quota`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use coffer_common::time::UnixMillis;
use coffer_common::types::BucketName;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::proof::proven;
use crate::notify::QUEUE_BUCKET;
use crate::object::HeadBucketError;

/// A quota to be set.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SetQuota {
    /// So many bytes may be stored.
    pub quota_bytes: u64,
}

/// A bucket's quota as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaView {
    /// The bucket.
    pub bucket: String,
    /// So many bytes may be stored; absent if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// What is in use; absent if there is no limit, or nobody has counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
}

/// What is in use of a quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageView {
    /// Bytes of objects, older versions and parts of uploads that the last survey found.
    pub used_bytes: u64,
    /// Bytes written since, being written, or set aside by gateways for what they will be asked to write.
    pub pending_bytes: u64,
    /// When the survey ended, milliseconds since the Unix epoch.
    pub surveyed_ms: u64,
    /// How long ago that was, by this gateway's clock.
    pub age_ms: u64,
}

/// Shows a quota.
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    match named(&admin, &name, request).await {
        Ok((name, _)) => shown(&admin, &name).await,
        Err(refusal) => refusal,
    }
}

/// Sets a quota.
pub(super) async fn set(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (name, body) = match named(&admin, &name, request).await {
        Ok(named) => named,
        Err(refusal) => return refusal,
    };
    let wanted: SetQuota = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    if name.as_str() == QUEUE_BUCKET {
        return (StatusCode::BAD_REQUEST, "this bucket is the cluster's own\n").into_response();
    }
    match admin.store.set_quota(&name, Some(wanted.quota_bytes)).await {
        Ok(()) => {
            tracing::info!(bucket = %name, bytes = wanted.quota_bytes, "quota set");
            shown(&admin, &name).await
        }
        Err(error) => refusal(&name, &error),
    }
}

/// Takes a quota away.
pub(super) async fn clear(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let name = match named(&admin, &name, request).await {
        Ok((name, _)) => name,
        Err(refusal) => return refusal,
    };
    match admin.store.set_quota(&name, None).await {
        Ok(()) => {
            tracing::info!(bucket = %name, "quota taken away");
            shown(&admin, &name).await
        }
        Err(error) => refusal(&name, &error),
    }
}

async fn shown(admin: &Admin, name: &BucketName) -> Response {
    let quota = match admin.store.quota(name).await {
        Ok(quota) => quota,
        Err(error) => return refusal(name, &error),
    };
    let usage = quota.and_then(|quota| quota.usage).map(|usage| UsageView {
        used_bytes: usage.bytes,
        pending_bytes: usage.pending_bytes,
        surveyed_ms: usage.surveyed.0,
        age_ms: UnixMillis::now().0.saturating_sub(usage.surveyed.0),
    });
    let quota_bytes = quota.map(|quota| quota.bytes);
    Json(QuotaView { bucket: name.to_string(), quota_bytes, usage }).into_response()
}

/// The bucket that a request of root's names, and the request's body.
async fn named(
    admin: &Admin,
    name: &str,
    request: Request,
) -> Result<(BucketName, axum::body::Bytes), Response> {
    let body = proven(admin, request).await?;
    match BucketName::new(name) {
        Ok(name) => Ok((name, body)),
        Err(error) => Err((StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()),
    }
}

fn refusal(name: &BucketName, error: &HeadBucketError) -> Response {
    match error {
        HeadBucketError::NoSuchBucket => {
            (StatusCode::NOT_FOUND, format!("there is no bucket `{name}`\n")).into_response()
        }
        HeadBucketError::Unavailable(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}
