//! Object lock in headers and documents: mode, date and legal hold.
//!
//! Source: the Amazon S3 API Reference, PutObject, PutObjectRetention, PutObjectLegalHold, PutObjectLockConfiguration.

use coffer_common::time::UnixMillis;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::S3Error;
use super::response::{iso_date, parse_iso_date, set};
use super::xml::{Element, malformed};
use crate::object::{Retention, RetentionMode};

const MODE: &str = "x-amz-object-lock-mode";
const UNTIL: &str = "x-amz-object-lock-retain-until-date";
const HOLD: &str = "x-amz-object-lock-legal-hold";

/// A mode by its name.
pub(crate) fn mode_of(name: &str) -> Option<RetentionMode> {
    match name {
        "GOVERNANCE" => Some(RetentionMode::Governance),
        "COMPLIANCE" => Some(RetentionMode::Compliance),
        _ => None,
    }
}

/// S3's name of a mode.
pub(crate) fn mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}

/// The retention that the headers of a write ask for.
///
/// # Errors
/// `InvalidArgument` if it is half of one, or over already.
pub(crate) fn retention(headers: &HeaderMap, now: UnixMillis) -> Result<Option<Retention>, S3Error> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let (mode, until) = match (text(MODE), text(UNTIL)) {
        (None, None) => return Ok(None),
        (Some(mode), Some(until)) => (mode, until),
        (mode, until) => {
            let message =
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied";
            let name = if mode.is_some() { MODE } else { UNTIL };
            return Err(S3Error::argument(name, mode.or(until).unwrap_or_default(), message));
        }
    };
    let known = mode_of(mode).ok_or_else(|| S3Error::argument(MODE, mode, "Unknown wormMode directive."))?;
    let date = parse_iso_date(until).ok_or_else(|| {
        S3Error::argument(UNTIL, until, "The retain until date must be provided in ISO 8601 format")
    })?;
    if date <= now {
        return Err(S3Error::argument(UNTIL, until, "The retain until date must be in the future!"));
    }
    Ok(Some(Retention { mode: known, until: date }))
}

/// The legal hold that the headers of a write ask for.
///
/// # Errors
/// `InvalidArgument` if it is neither on nor off.
pub(crate) fn legal_hold(headers: &HeaderMap) -> Result<bool, S3Error> {
    match headers.get(HOLD).map(HeaderValue::as_bytes) {
        None | Some(b"OFF") => Ok(false),
        Some(b"ON") => Ok(true),
        Some(other) => {
            let text = String::from_utf8_lossy(other);
            Err(S3Error::argument(HOLD, &text, "Legal Hold must be either of 'ON' or 'OFF'"))
        }
    }
}

/// Whether a retention that may be bypassed is to be.
pub(crate) fn bypasses(headers: &HeaderMap) -> bool {
    let value = headers.get("x-amz-bypass-governance-retention");
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// Writes the headers that tell how a version is protected.
pub(crate) fn to_headers(retention: Option<Retention>, legal_hold: bool, headers: &mut HeaderMap) {
    if let Some(Retention { mode, until }) = retention {
        set(headers, HeaderName::from_static(MODE), mode_name(mode));
        set(headers, HeaderName::from_static(UNTIL), &iso_date(until));
    }
    if legal_hold {
        set(headers, HeaderName::from_static(HOLD), "ON");
    }
}

/// Reads `<Retention>`; an empty one is none.
///
/// # Errors
/// `MalformedXML`; `InvalidArgument` if it is over already.
pub(crate) fn parse_retention(body: &[u8], now: UnixMillis) -> Result<Option<Retention>, S3Error> {
    let document = Element::parse(body, "Retention")?;
    let text = |name: &str| document.text_of(name).map(str::trim).filter(|text| !text.is_empty());
    let (mode, until) = match (text("Mode"), text("RetainUntilDate")) {
        (None, None) => return Ok(None),
        (Some(mode), Some(until)) => (mode, until),
        _ => return Err(malformed()),
    };
    let mode = mode_of(mode).ok_or_else(malformed)?;
    let until = parse_iso_date(until).ok_or_else(malformed)?;
    if until <= now {
        let message = "The retain until date must be in the future!";
        return Err(S3Error::argument("RetainUntilDate", &iso_date(until), message));
    }
    Ok(Some(Retention { mode, until }))
}

/// Reads `<LegalHold>`.
///
/// # Errors
/// `MalformedXML`.
pub(crate) fn parse_legal_hold(body: &[u8]) -> Result<bool, S3Error> {
    match Element::parse(body, "LegalHold")?.text_of("Status").map(str::trim) {
        Some("ON") => Ok(true),
        Some("OFF") => Ok(false),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_507_697_000);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn headers_ask_for_protection() {
        let later = "2030-01-01T00:00:00Z";
        let found = retention(&headers(&[(MODE, "GOVERNANCE"), (UNTIL, later)]), NOW).unwrap().unwrap();
        assert_eq!(
            (found.mode, iso_date(found.until).as_str()),
            (RetentionMode::Governance, "2030-01-01T00:00:00.000Z")
        );
        assert_eq!(retention(&headers(&[]), NOW).unwrap(), None);
        for wrong in [
            vec![(MODE, "GOVERNANCE")],
            vec![(UNTIL, later)],
            vec![(MODE, "governance"), (UNTIL, later)],
            vec![(MODE, "COMPLIANCE"), (UNTIL, "2020-01-01T00:00:00Z")],
            vec![(MODE, "COMPLIANCE"), (UNTIL, "tomorrow")],
        ] {
            assert_eq!(
                retention(&headers(&wrong), NOW).unwrap_err().code(),
                Code::InvalidArgument,
                "{wrong:?}"
            );
        }
        assert!(legal_hold(&headers(&[(HOLD, "ON")])).unwrap());
        assert!(!legal_hold(&headers(&[(HOLD, "OFF")])).unwrap());
        assert_eq!(legal_hold(&headers(&[(HOLD, "on")])).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn documents_parse() {
        let parse = |inner: &str| parse_retention(format!("<Retention>{inner}</Retention>").as_bytes(), NOW);
        let found = parse("<Mode>COMPLIANCE</Mode><RetainUntilDate>2030-01-01T00:00:00.5Z</RetainUntilDate>");
        assert_eq!(
            found.unwrap().map(|found| iso_date(found.until)),
            Some("2030-01-01T00:00:00.500Z".to_owned())
        );
        assert_eq!(parse("").unwrap(), None);
        for (inner, code) in [
            ("<Mode>COMPLIANCE</Mode>", Code::MalformedXML),
            ("<Mode>abc</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate>", Code::MalformedXML),
            (
                "<Mode>COMPLIANCE</Mode><RetainUntilDate>2020-01-01T00:00:00Z</RetainUntilDate>",
                Code::InvalidArgument,
            ),
        ] {
            assert_eq!(parse(inner).unwrap_err().code(), code, "{inner}");
        }
        assert!(parse_legal_hold(b"<LegalHold><Status>ON</Status></LegalHold>").unwrap());
        assert!(parse_legal_hold(b"<LegalHold><Status>abc</Status></LegalHold>").is_err());
    }
}
