//! The users, for `coffer user`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Admin;
use super::proof::proven;
use crate::users::{self, AddUser, UserError, UserRecord};

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

fn refusal(error: &UserError) -> Response {
    let status = match error {
        UserError::Invalid { .. } => StatusCode::BAD_REQUEST,
        UserError::Taken => StatusCode::CONFLICT,
        UserError::NotFound(_) => StatusCode::NOT_FOUND,
        UserError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n")).into_response()
}
