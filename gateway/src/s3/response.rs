//! Answers: the body type and the few shapes all handlers use.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use jiff::Timestamp;

use coffer_common::time::UnixMillis;

use super::error::{Code, S3Error};

/// Any error of a body; it breaks the connection off.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// An answer.
pub(crate) type S3Response = Response<ResponseBody>;

/// No body.
pub(crate) fn empty(status: StatusCode) -> S3Response {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// An XML body.
pub(crate) fn xml(status: StatusCode, document: String) -> S3Response {
    let body = Full::new(Bytes::from(document)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// Sets a header; a value that HTTP cannot carry is left out rather than failing the answer.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(name, value);
    }
}

/// An entity tag as HTTP writes it.
pub(crate) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// `Tue, 24 Nov 2026 07:54:57 GMT`.
pub(crate) fn http_date(time: UnixMillis) -> String {
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    printer.timestamp_to_rfc9110_string(&timestamp(time)).unwrap_or_default()
}

/// `2026-11-24T07:54:57.123Z`.
pub(crate) fn iso_date(time: UnixMillis) -> String {
    timestamp(time).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Reads an HTTP date; whole seconds. `None` if it is none.
pub(crate) fn parse_http_date(text: &str) -> Option<UnixMillis> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    let time = parser.parse_timestamp(text.trim()).or_else(|_| text.trim().parse::<Timestamp>()).ok()?;
    u64::try_from(time.as_second()).ok().map(|seconds| UnixMillis(seconds.saturating_mul(1000)))
}

/// Reads a date of ISO 8601. `None` if it is none.
pub(crate) fn parse_iso_date(text: &str) -> Option<UnixMillis> {
    let time = text.trim().parse::<Timestamp>().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(UnixMillis)
}

fn timestamp(time: UnixMillis) -> Timestamp {
    i64::try_from(time.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// `RequestTimeout`, when a client neither sends nor takes bytes for `after`.
pub(crate) fn timeout(after: Duration) -> S3Error {
    S3Error::with(
        Code::RequestTimeout,
        format!("No byte was received or taken for {} seconds.", after.as_secs()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_s3_forms() {
        let time = UnixMillis(1_795_507_697_120);
        assert_eq!(http_date(time), "Tue, 24 Nov 2026 08:08:17 GMT");
        assert_eq!(iso_date(time), "2026-11-24T08:08:17.120Z");
        assert_eq!(parse_http_date("Tue, 24 Nov 2026 08:08:17 GMT"), Some(UnixMillis(1_795_507_697_000)));
        assert_eq!(parse_http_date("2026-11-24T08:08:17.120Z"), Some(UnixMillis(1_795_507_697_000)));
        assert_eq!(parse_http_date("yesterday"), None);
        assert_eq!(iso_date(UnixMillis(u64::MAX)).len(), 24);
    }
}
