//! Dates in signatures: `20130524T000000Z`, and the HTTP dates of older clients.

use coffer_common::time::UnixMillis;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;

const HTTP_DATE: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// Parses `YYYYMMDDTHHMMSSZ`, nothing else.
pub(super) fn parse_amz_date(text: &str) -> Option<UnixMillis> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i16> {
        let digits = &bytes[from..to];
        digits.iter().all(u8::is_ascii_digit).then_some(())?;
        digits.iter().try_fold(0i16, |sum, digit| sum.checked_mul(10)?.checked_add(i16::from(digit - b'0')))
    };
    let small = |from: usize| number(from, from + 2).and_then(|value| i8::try_from(value).ok());
    let date =
        DateTime::new(number(0, 4)?, small(4)?, small(6)?, small(9)?, small(11)?, small(13)?, 0).ok()?;
    from_zoned(&date.to_zoned(TimeZone::UTC).ok()?)
}

/// Parses an HTTP date (`Fri, 24 May 2013 00:00:00 GMT`, with a numeric zone too), or the ISO basic form. The day of the week may
/// be a wrong one: the rest says the time.
pub(super) fn parse_any_date(text: &str) -> Option<UnixMillis> {
    let text = text.trim();
    parse_amz_date(text).or_else(|| from_zoned(&HTTP_DATE.parse_zoned(text).ok()?))
}

/// `YYYYMMDDTHHMMSSZ` of a time, as a client that sent only `Date` must have signed it.
pub(super) fn format_amz_date(time: UnixMillis) -> Option<String> {
    let second = i64::try_from(time.seconds()).ok()?;
    let date = jiff::Timestamp::from_second(second).ok()?.to_zoned(TimeZone::UTC).datetime();
    let (year, month, day) = (date.year(), date.month(), date.day());
    Some(format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", date.hour(), date.minute(), date.second()))
}

fn from_zoned(zoned: &jiff::Zoned) -> Option<UnixMillis> {
    u64::try_from(zoned.timestamp().as_millisecond()).ok().map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amz_dates_are_exact() {
        assert_eq!(parse_amz_date("20130524T000000Z"), Some(UnixMillis(1_369_353_600_000)));
        for bad in [
            "",
            "20130524",
            "20130524T000000",
            "20130524t000000Z",
            "20131324T000000Z",
            "2013052 T000000Z",
            "+0130524T000000Z",
        ] {
            assert_eq!(parse_amz_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn http_dates_are_read_and_iso_is_written_back() {
        let time = parse_any_date("Fri, 24 May 2013 00:00:00 GMT").unwrap();
        assert_eq!(time, UnixMillis(1_369_353_600_000));
        assert_eq!(parse_any_date("Tue, 27 Mar 2007 19:36:42 +0000"), Some(UnixMillis(1_175_024_202_000)));
        assert_eq!(format_amz_date(time).as_deref(), Some("20130524T000000Z"));
        assert_eq!(parse_any_date("Tue, 24 May 2013 00:00:00 GMT"), Some(time), "it was a Friday");
        assert_eq!(parse_any_date("Tue, 07 Jul 1950 21:53:04 GMT"), None);
        assert_eq!(parse_any_date("yesterday"), None);
    }
}
