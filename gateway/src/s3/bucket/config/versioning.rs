//! GetBucketVersioning and PutBucketVersioning.

use http::StatusCode;
use serde::Serialize;

use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::xml::{self, Element, malformed};
use super::Context;
use crate::object::BucketVersioning;

#[derive(Serialize)]
struct VersioningConfiguration {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "Status", skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

/// Reads it, and has a bucket keep versions, or keep no more.
///
/// # Errors
/// `MalformedXML`, `InvalidBucketState` for a bucket with object lock, `NotImplemented` for MFA delete.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb != ConfigVerb::Get {
        let enabled = parse(&context.request.xml_body().await?)?;
        let bucket = context.request.access()?.bucket();
        context.store.set_versioning(&bucket.name, enabled).await?;
        return Ok(response::empty(StatusCode::OK));
    }
    let status = match context.request.access()?.bucket().versioning {
        BucketVersioning::Never => None,
        BucketVersioning::Enabled => Some("Enabled"),
        BucketVersioning::Suspended => Some("Suspended"),
    };
    let document = VersioningConfiguration { xmlns: xml::NAMESPACE, status };
    Ok(response::xml(StatusCode::OK, xml::document("VersioningConfiguration", &document)?))
}

fn parse(body: &[u8]) -> Result<bool, S3Error> {
    if body.is_empty() {
        return Err(S3Error::new(Code::MissingRequestBodyError));
    }
    let document = Element::parse(body, "VersioningConfiguration")?;
    match document.text_of("MfaDelete").map(str::trim) {
        None | Some("Disabled") => {}
        Some("Enabled") => return Err(S3Error::not_implemented("MfaDelete")),
        Some(_) => return Err(malformed()),
    }
    match document.text_of("Status").map(str::trim) {
        Some("Enabled") => Ok(true),
        Some("Suspended") => Ok(false),
        Some(_) => Err(malformed()),
        None => {
            let message = "The Versioning element must be specified";
            Err(S3Error::with(Code::IllegalVersioningConfigurationException, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_parse() {
        let parse = |inner: &str| {
            parse(format!("<VersioningConfiguration>{inner}</VersioningConfiguration>").as_bytes())
                .map_err(|error| error.code())
        };
        assert_eq!(parse("<Status>Enabled</Status>"), Ok(true));
        assert_eq!(parse("<MfaDelete>Disabled</MfaDelete><Status>Suspended</Status>"), Ok(false));
        assert_eq!(parse("<Status>enabled</Status>"), Err(Code::MalformedXML));
        assert_eq!(parse(""), Err(Code::IllegalVersioningConfigurationException));
        assert_eq!(
            parse("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>"),
            Err(Code::NotImplemented)
        );
    }
}
