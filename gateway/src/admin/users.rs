//! The users, for `coffer user`: each request is signed by root with Signature Version 4, body and all.

use std::sync::Arc;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use coffer_common::time::UnixMillis;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Admin;
use crate::s3::auth::{AuthConfig, Credentials, PayloadMode, RequestParts, Verifier};
use crate::users::{self, AddUser, UserError, UserRecord};

/// Longest body, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// A user as it is shown: its secret only when it is made.
#[derive(Debug, Serialize, Deserialize)]
pub struct UserView {
    /// Its name.
    pub name: String,
    /// Its canonical id.
    pub id: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Its access keys.
    pub access_keys: Vec<String>,
    /// The secret key of the only one, when it was just made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
}

impl From<UserRecord> for UserView {
    fn from(record: UserRecord) -> Self {
        let access_keys = record.keys.into_iter().map(|key| key.access_key).collect();
        let (name, id, created_ms) = (record.name, record.id, record.created_ms);
        Self { name, id, created_ms, access_keys, secret_key: None }
    }
}

/// All users.
pub(super) async fn list(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    if let Err(refusal) = proven(&admin, request).await {
        return refusal;
    }
    match users::list(admin.cluster.coordinator().as_ref()).await {
        Ok(records) => Json(records.into_iter().map(UserView::from).collect::<Vec<_>>()).into_response(),
        Err(error) => refusal(&error),
    }
}

/// Makes a user.
pub(super) async fn add(State(admin): State<Arc<Admin>>, request: Request) -> Response {
    let body = match proven(&admin, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let wanted: AddUser = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let root = admin.users.root().access_key();
    match users::add(admin.cluster.coordinator().as_ref(), wanted, root).await {
        Ok(record) => {
            tracing::info!(user = record.name, id = record.id, "user made");
            let secret_key = record.keys.first().map(|key| key.secret_key.clone());
            Json(UserView { secret_key, ..record.into() }).into_response()
        }
        Err(error) => refusal(&error),
    }
}

/// Removes a user.
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    if let Err(refusal) = proven(&admin, request).await {
        return refusal;
    }
    match users::remove(admin.cluster.coordinator().as_ref(), &name).await {
        Ok(record) => {
            tracing::info!(user = record.name, id = record.id, "user removed");
            Json(UserView::from(record)).into_response()
        }
        Err(error) => refusal(&error),
    }
}

/// The body of a request that root has signed.
async fn proven(admin: &Admin, request: Request) -> Result<Bytes, Response> {
    let denied = |reason: String| (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response();
    let (parts, body) = request.into_parts();
    let signed = RequestParts {
        method: parts.method.as_str(),
        raw_path: parts.uri.path(),
        raw_query: parts.uri.query(),
        headers: &parts.headers,
        authority: parts.uri.authority().map(axum::http::uri::Authority::as_str),
        host_bucket: None,
    };
    let root: Credentials = [admin.users.root().clone()].into_iter().collect();
    let verifier = Verifier::new(AuthConfig { region: None, sigv2: false });
    let verified =
        verifier.verify(&signed, &root, UnixMillis::now()).map_err(|error| denied(error.to_string()))?;
    let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| denied(error.to_string()))?;
    let hash: [u8; 32] = Sha256::digest(&body).into();
    match verified.payload() {
        PayloadMode::Hashed(expected) if *expected == hash => Ok(body),
        _ => Err(denied("the body is not what was signed".to_owned())),
    }
}

fn refusal(error: &UserError) -> Response {
    let status = match error {
        UserError::Invalid { .. } => StatusCode::BAD_REQUEST,
        UserError::Taken => StatusCode::CONFLICT,
        UserError::NotFound(_) => StatusCode::NOT_FOUND,
        UserError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n")).into_response()
}
