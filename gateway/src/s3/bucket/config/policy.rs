//! The policy of a bucket, and whether it is public.

use http::{HeaderValue, StatusCode, header};

use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::names;
use super::super::super::xml::{DECLARATION, NAMESPACE};
use super::Context;
use crate::policy::{Policy, PolicyError, Scope, is_public};

/// The policy, as it was written.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let text = context.text(names::POLICY, Code::NoSuchBucketPolicy)?.to_owned();
            let mut answer = response::xml(StatusCode::OK, text);
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok(answer)
        }
        ConfigVerb::Put => {
            let body = context.request.xml_body().await?;
            let text = std::str::from_utf8(&body).map_err(|_| malformed(&PolicyError::NotJson))?;
            let access = context.request.access()?;
            let scope = Scope::Bucket(access.bucket().name.as_str());
            let policy = Policy::parse(text, scope).map_err(|error| malformed(&error))?;
            if access.settings().public_access.block_policy && is_public(&policy) {
                let message =
                    "Access Denied: public policies are blocked by the bucket's public access block.";
                return Err(S3Error::with(Code::AccessDenied, message));
            }
            context.set(names::POLICY, Some(text)).await?;
            Ok(response::empty(StatusCode::NO_CONTENT))
        }
        ConfigVerb::Delete => context.remove(names::POLICY).await,
    }
}

/// Whether the policy is public; a bucket without one is not.
pub(super) fn status(context: &Context<'_>) -> Result<S3Response, S3Error> {
    let public = context.request.access()?.settings().policy_is_public;
    let document = format!(
        "{DECLARATION}<PolicyStatus xmlns=\"{NAMESPACE}\"><IsPublic>{public}</IsPublic></PolicyStatus>"
    );
    Ok(response::xml(StatusCode::OK, document))
}

fn malformed(error: &PolicyError) -> S3Error {
    S3Error::with(Code::MalformedPolicy, error.to_string())
}
