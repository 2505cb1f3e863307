//! GetObjectLockConfiguration and PutObjectLockConfiguration.

use http::StatusCode;
use serde::Serialize;

use super::super::super::error::{Code, S3Error};
use super::super::super::lock::{mode_name, mode_of};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::xml::{self, Element, malformed};
use super::Context;
use crate::object::{DefaultRetention, ObjectLock, RetentionPeriod};

/// The longest default retention, in years (S3), and the same in days.
const MAX_YEARS: u32 = 100;
const MAX_DAYS: u32 = 36_500;

#[derive(Serialize)]
struct ObjectLockConfiguration {
    #[serde(rename = "@xmlns")]
    xmlns: &'static str,
    #[serde(rename = "ObjectLockEnabled")]
    enabled: &'static str,
    #[serde(rename = "Rule", skip_serializing_if = "Option::is_none")]
    rule: Option<RuleXml>,
}

#[derive(Serialize)]
struct RuleXml {
    #[serde(rename = "DefaultRetention")]
    retention: RetentionXml,
}

#[derive(Serialize)]
struct RetentionXml {
    #[serde(rename = "Mode")]
    mode: &'static str,
    #[serde(rename = "Days", skip_serializing_if = "Option::is_none")]
    days: Option<u32>,
    #[serde(rename = "Years", skip_serializing_if = "Option::is_none")]
    years: Option<u32>,
}

impl From<DefaultRetention> for RuleXml {
    fn from(default: DefaultRetention) -> Self {
        let (days, years) = match default.period {
            RetentionPeriod::Days(days) => (Some(days), None),
            RetentionPeriod::Years(years) => (None, Some(years)),
        };
        Self { retention: RetentionXml { mode: mode_name(default.mode), days, years } }
    }
}

/// Reads it, and has a bucket protect versions.
///
/// # Errors
/// `ObjectLockConfigurationNotFoundError`, `MalformedXML`, `InvalidRetentionPeriod`, `InvalidBucketState` for a bucket that
/// does not keep versions.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb != ConfigVerb::Get {
        let lock = parse(&context.request.xml_body().await?)?;
        let bucket = context.request.access()?.bucket();
        context.store.set_object_lock(&bucket.name, lock).await?;
        return Ok(response::empty(StatusCode::OK));
    }
    let bucket = context.request.access()?.bucket();
    let absent = || {
        let code = Code::ObjectLockConfigurationNotFoundError;
        S3Error::new(code).detail("BucketName", bucket.name.as_str())
    };
    let lock = bucket.object_lock.clone().ok_or_else(absent)?;
    let rule = lock.default.map(RuleXml::from);
    let document = ObjectLockConfiguration { xmlns: xml::NAMESPACE, enabled: "Enabled", rule };
    Ok(response::xml(StatusCode::OK, xml::document("ObjectLockConfiguration", &document)?))
}

fn parse(body: &[u8]) -> Result<ObjectLock, S3Error> {
    if body.is_empty() {
        return Err(S3Error::new(Code::MissingRequestBodyError));
    }
    let document = Element::parse(body, "ObjectLockConfiguration")?;
    if document.text_of("ObjectLockEnabled").map(str::trim) != Some("Enabled") {
        return Err(malformed());
    }
    let Some(rule) = document.child("Rule") else { return Ok(ObjectLock::default()) };
    let retention = rule.child("DefaultRetention").ok_or_else(malformed)?;
    let mode = retention.text_of("Mode").map(str::trim).and_then(mode_of).ok_or_else(malformed)?;
    let (days, years) = (retention.text_of("Days"), retention.text_of("Years"));
    let period = match (days, years) {
        (Some(days), None) => RetentionPeriod::Days(length(days, MAX_DAYS)?),
        (None, Some(years)) => RetentionPeriod::Years(length(years, MAX_YEARS)?),
        (None, None) | (Some(_), Some(_)) => return Err(malformed()),
    };
    Ok(ObjectLock { default: Some(DefaultRetention { mode, period }) })
}

fn length(text: &str, most: u32) -> Result<u32, S3Error> {
    let number: i64 = text.trim().parse().map_err(|_| malformed())?;
    let within = u32::try_from(number).ok().filter(|number| (1..=most).contains(number));
    within.ok_or_else(|| {
        let message = if number > 0 {
            "Default retention period is too large."
        } else {
            "Default retention period must be a positive integer value."
        };
        S3Error::with(Code::InvalidRetentionPeriod, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::RetentionMode;

    fn check(rule: &str, expected: Result<Option<(RetentionMode, RetentionPeriod)>, Code>) {
        let body = format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}</ObjectLockConfiguration>"
        );
        let found = parse(body.as_bytes()).map_err(|error| error.code());
        let found = found.map(|lock| lock.default.map(|default| (default.mode, default.period)));
        assert_eq!(found, expected, "{rule}");
    }

    #[test]
    fn documents_parse() {
        let rule = |inner: &str| format!("<Rule><DefaultRetention>{inner}</DefaultRetention></Rule>");
        check("", Ok(None));
        let governance = |period| Ok(Some((RetentionMode::Governance, period)));
        check(&rule("<Mode>GOVERNANCE</Mode><Days>1</Days>"), governance(RetentionPeriod::Days(1)));
        check(&rule("<Mode>GOVERNANCE</Mode><Years>2</Years>"), governance(RetentionPeriod::Years(2)));
        for (inner, code) in [
            ("<Mode>GOVERNANCE</Mode>", Code::MalformedXML),
            ("<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>", Code::MalformedXML),
            ("<Mode>governance</Mode><Days>1</Days>", Code::MalformedXML),
            ("<Mode>COMPLIANCE</Mode><Days>0</Days>", Code::InvalidRetentionPeriod),
            ("<Mode>COMPLIANCE</Mode><Years>-1</Years>", Code::InvalidRetentionPeriod),
            ("<Mode>COMPLIANCE</Mode><Years>101</Years>", Code::InvalidRetentionPeriod),
            ("<Mode>COMPLIANCE</Mode><Days>x</Days>", Code::MalformedXML),
        ] {
            check(&rule(inner), Err(code));
        }
        check("<Rule/>", Err(Code::MalformedXML));
        let disabled = b"<ObjectLockConfiguration><ObjectLockEnabled>Disabled</ObjectLockEnabled></ObjectLockConfiguration>";
        assert_eq!(parse(disabled).unwrap_err().code(), Code::MalformedXML);
    }
}
