//! Configurations that are read back as they were written: tags and cross-origin rules.

use http::StatusCode;

use super::super::super::cors::Cors;
use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::names;
use super::super::super::tagging;
use super::Context;

/// Cross-origin rules.
pub(super) async fn cors(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let text = context.text(names::CORS, Code::NoSuchCORSConfiguration)?;
            Ok(response::xml(StatusCode::OK, text.to_owned()))
        }
        ConfigVerb::Put => {
            let rules = Cors::parse(&context.request.xml_body().await?)?;
            context.set(names::CORS, Some(&rules.document())).await?;
            Ok(response::empty(StatusCode::OK))
        }
        ConfigVerb::Delete => context.remove(names::CORS).await,
    }
}

/// Tags.
pub(super) async fn tagging(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let text = context.text(names::TAGGING, Code::NoSuchTagSet)?;
            Ok(response::xml(StatusCode::OK, text.to_owned()))
        }
        ConfigVerb::Put => {
            let tags = tagging::parse(&context.request.xml_body().await?, tagging::MAX_BUCKET_TAGS)?;
            let text = (!tags.is_empty()).then(|| tagging::document(&tags));
            context.set(names::TAGGING, text.as_deref()).await?;
            Ok(response::empty(StatusCode::NO_CONTENT))
        }
        ConfigVerb::Delete => context.remove(names::TAGGING).await,
    }
}
