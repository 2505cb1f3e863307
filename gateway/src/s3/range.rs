//! The `Range` header and its relatives.

use super::error::{Code, S3Error};
use crate::object::Select;

/// Reads `Range`. What is not one range of bytes is ignored, as RFC 9110 §14.2 and S3 do: the answer is the whole object.
pub(crate) fn parse_range(value: &str) -> Select {
    let Some(spec) = value.trim().strip_prefix("bytes=") else {
        return Select::All;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Select::All;
    };
    match (number(first), number(last)) {
        (Some(first), None) if last.trim().is_empty() => Select::Range { first, last: None },
        (Some(first), Some(last)) if first <= last => Select::Range { first, last: Some(last) },
        (None, Some(count)) if first.trim().is_empty() => Select::Suffix(count),
        _ => Select::All,
    }
}

/// Reads `x-amz-copy-source-range`, which must be `bytes=first-last`.
///
/// # Errors
/// `InvalidArgument` if it is anything else.
pub(crate) fn parse_copy_range(value: &str) -> Result<Select, S3Error> {
    match parse_range(value) {
        range @ Select::Range { last: Some(_), .. } => Ok(range),
        Select::All | Select::Range { .. } | Select::Suffix(_) | Select::Part(_) => Err(S3Error::argument(
            "x-amz-copy-source-range",
            value,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy",
        )),
    }
}

/// Reads `partNumber`, `1..=10,000`.
///
/// # Errors
/// `InvalidArgument` if it is not such a number.
pub(crate) fn parse_part_number(value: &str) -> Result<u16, S3Error> {
    let number = value.parse::<u16>().ok().filter(|number| (1..=10_000).contains(number));
    let message = "Part number must be an integer between 1 and 10000, inclusive";
    number.ok_or_else(|| S3Error::argument("partNumber", value, message))
}

/// The bytes a read selects by header and query.
///
/// # Errors
/// `InvalidRequest` if both say something.
pub(crate) fn select(range: Option<&str>, part: Option<&str>) -> Result<Select, S3Error> {
    match (range, part) {
        (Some(_), Some(_)) => {
            let message = "Cannot specify both Range header and partNumber query parameter";
            Err(S3Error::with(Code::InvalidRequest, message))
        }
        (Some(range), None) => Ok(parse_range(range)),
        (None, Some(part)) => Ok(Select::Part(parse_part_number(part)?)),
        (None, None) => Ok(Select::All),
    }
}

/// Digits only: `u64::from_str` would take a plus sign. A number too large for 64 bits is beyond any object.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_or_are_ignored() {
        let range = |first, last| Select::Range { first, last };
        for (text, expected) in [
            ("bytes=0-0", range(0, Some(0))),
            ("bytes=5-", range(5, None)),
            (" bytes= 1 - 3 ", range(1, Some(3))),
            ("bytes=-7", Select::Suffix(7)),
            ("bytes=-0", Select::Suffix(0)),
            ("bytes=0-99999999999999999999999", range(0, Some(u64::MAX))),
            ("bytes=3-2", Select::All),
            ("bytes=-", Select::All),
            ("bytes=+1-2", Select::All),
            ("bytes=0-1,3-4", Select::All),
            ("items=0-1", Select::All),
            ("bytes", Select::All),
            ("", Select::All),
        ] {
            assert_eq!(parse_range(text), expected, "{text}");
        }
    }

    #[test]
    fn copy_ranges_are_strict() {
        assert!(parse_copy_range("bytes=0-5").is_ok());
        for text in ["bytes=5-", "bytes=-5", "0-5", "bytes=5-1"] {
            assert_eq!(parse_copy_range(text).unwrap_err().code(), Code::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn range_and_part_exclude_each_other() {
        assert_eq!(select(None, Some("10000")).unwrap(), Select::Part(10_000));
        assert_eq!(select(None, Some("0")).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(select(Some("bytes=0-"), Some("1")).unwrap_err().code(), Code::InvalidRequest);
    }
}
