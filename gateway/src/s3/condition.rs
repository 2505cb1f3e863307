//! Conditional headers, read only; whether they hold is decided where the object is read or written.
//!
//! The precedence is RFC 9110 §13.2.2's, which is S3's: `If-Match` before `If-Unmodified-Since`, `If-None-Match` before
//! `If-Modified-Since`. A date that cannot be read is ignored, as the RFC asks.

use http::HeaderMap;

use super::error::{Code, S3Error};
use super::response::parse_http_date;
use crate::object::{EtagSet, ReadCondition, WriteCondition};

/// The conditions of a read.
pub(crate) fn of_read(headers: &HeaderMap) -> ReadCondition {
    with_prefix(headers, "")
}

/// The conditions of a copy's source.
pub(crate) fn of_copy_source(headers: &HeaderMap) -> ReadCondition {
    with_prefix(headers, "x-amz-copy-source-")
}

/// The condition of a write.
///
/// # Errors
/// `NotImplemented` for what S3 does not offer: tags in `If-None-Match`, or both headers.
pub(crate) fn of_write(headers: &HeaderMap) -> Result<WriteCondition, S3Error> {
    let condition = with_prefix(headers, "");
    match (condition.if_match, condition.if_none_match) {
        (None, None) => Ok(WriteCondition::Always),
        (Some(EtagSet::Any), None) => Ok(WriteCondition::Present),
        (Some(EtagSet::Of(tags)), None) => Ok(WriteCondition::EtagIn(tags)),
        (None, Some(EtagSet::Any)) => Ok(WriteCondition::Absent),
        (None | Some(_), Some(_)) => Err(S3Error::with(
            Code::NotImplemented,
            "Of If-None-Match only the value * is implemented for writes, and not together with If-Match.",
        )),
    }
}

fn with_prefix(headers: &HeaderMap, prefix: &str) -> ReadCondition {
    let text = |name: &str| headers.get(format!("{prefix}{name}")).and_then(|value| value.to_str().ok());
    let tags = |name: &str| text(name).map(parse_tags);
    let date = |name: &str| text(name).and_then(parse_http_date);
    ReadCondition {
        if_match: tags("if-match"),
        if_none_match: tags("if-none-match"),
        if_modified_since: date("if-modified-since"),
        if_unmodified_since: date("if-unmodified-since"),
    }
}

/// A list of entity tags. Quotes may be missing, as S3 accepts it; weak tags compare by their text.
pub(crate) fn parse_tags(value: &str) -> EtagSet {
    if value.trim() == "*" {
        return EtagSet::Any;
    }
    EtagSet::Of(value.split(',').map(|tag| unquoted(tag).to_owned()).collect())
}

/// An entity tag without white space, weakness and quotes.
pub(crate) fn unquoted(tag: &str) -> &str {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn tags_lose_their_quotes() {
        let of = |tags: &[&str]| EtagSet::Of(tags.iter().map(|tag| (*tag).to_owned()).collect());
        assert_eq!(parse_tags("\"a\", W/\"b\" ,c"), of(&["a", "b", "c"]));
        assert_eq!(parse_tags(" * "), EtagSet::Any);
        assert_eq!(parse_tags("\""), of(&["\""]));
    }

    #[test]
    fn writes_take_what_s3_offers() {
        let of =
            |pairs: &[(&'static str, &'static str)]| of_write(&headers(pairs)).map_err(|error| error.code());
        assert_eq!(of(&[]), Ok(WriteCondition::Always));
        assert_eq!(of(&[("if-none-match", "*")]), Ok(WriteCondition::Absent));
        assert_eq!(of(&[("if-match", "\"a\"")]), Ok(WriteCondition::EtagIn(vec!["a".to_owned()])));
        assert_eq!(of(&[("if-none-match", "\"a\"")]), Err(Code::NotImplemented));
        assert_eq!(of(&[("if-none-match", "*"), ("if-match", "a")]), Err(Code::NotImplemented));
    }

    #[test]
    fn reads_and_copy_sources_have_their_own_headers() {
        let headers = headers(&[
            ("if-match", "a"),
            ("x-amz-copy-source-if-none-match", "b"),
            ("if-modified-since", "nonsense"),
            ("if-unmodified-since", "Tue, 24 Nov 2026 08:08:17 GMT"),
        ]);
        let read = of_read(&headers);
        assert!(read.if_match.is_some() && read.if_none_match.is_none() && read.if_modified_since.is_none());
        assert_eq!(read.if_unmodified_since.map(|time| time.0), Some(1_795_507_697_000));
        let source = of_copy_source(&headers);
        assert!(source.if_match.is_none() && source.if_none_match.is_some());
    }
}
