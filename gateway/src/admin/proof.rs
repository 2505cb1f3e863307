//! Who may change things: each request is signed by root with Signature Version 4, body and all.

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use coffer_common::time::UnixMillis;
use sha2::{Digest, Sha256};

use super::Admin;
use crate::s3::auth::{AuthConfig, Credentials, PayloadMode, RequestParts, Verifier};

/// Longest body, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// The body of a request that root has signed.
pub(super) async fn proven(admin: &Admin, request: Request) -> Result<Bytes, Response> {
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
