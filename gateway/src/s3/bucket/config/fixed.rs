//! Configurations of what Coffer does not do: read as S3 reads them when they were never set, removed with success, and
//! written only if the document says that nothing is to be done.

use http::StatusCode;

use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::xml::{DECLARATION, Element, NAMESPACE, malformed};
use super::{Context, empty_document};

/// A configuration that no bucket has.
pub(super) fn absent(context: &Context<'_>, code: Code) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let bucket = context.request.access()?.bucket();
            Err(S3Error::new(code).detail("BucketName", bucket.name.as_str()))
        }
        ConfigVerb::Put => Err(S3Error::new(Code::NotImplemented)),
        ConfigVerb::Delete => Ok(response::empty(StatusCode::NO_CONTENT)),
    }
}

/// Transfer acceleration.
pub(super) async fn accelerate(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb == ConfigVerb::Get {
        return Ok(empty_document("AccelerateConfiguration"));
    }
    let document = Element::parse(&context.request.xml_body().await?, "AccelerateConfiguration")?;
    match document.text_of("Status").map(str::trim) {
        Some("Suspended") => Ok(response::empty(StatusCode::OK)),
        Some("Enabled") => Err(S3Error::not_implemented("transfer acceleration")),
        _ => Err(malformed()),
    }
}

/// Access logs.
pub(super) async fn logging(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb == ConfigVerb::Get {
        return Ok(empty_document("BucketLoggingStatus"));
    }
    let document = Element::parse(&context.request.xml_body().await?, "BucketLoggingStatus")?;
    match document.child("LoggingEnabled") {
        None => Ok(response::empty(StatusCode::OK)),
        Some(_) => Err(S3Error::not_implemented("access logs")),
    }
}

/// Who pays.
pub(super) async fn request_payment(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb == ConfigVerb::Get {
        let document = format!(
            "{DECLARATION}<RequestPaymentConfiguration xmlns=\"{NAMESPACE}\"><Payer>BucketOwner</Payer>\
             </RequestPaymentConfiguration>"
        );
        return Ok(response::xml(StatusCode::OK, document));
    }
    let document = Element::parse(&context.request.xml_body().await?, "RequestPaymentConfiguration")?;
    match document.text_of("Payer").map(str::trim) {
        Some("BucketOwner") => Ok(response::empty(StatusCode::OK)),
        Some("Requester") => Err(S3Error::not_implemented("requester pays")),
        _ => Err(malformed()),
    }
}
