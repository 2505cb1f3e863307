//! Conditions: operators and their comparisons.
//!
//! A condition is a key, an operator and values. With several values one must hold (of a negated operator: none may). A key
//! of which nothing is known fulfils operators with `IfExists` or `ForAllValues`, negated ones without `ForAnyValue`, and no
//! other.

use std::net::IpAddr;

use jiff::Timestamp;

use super::Request;
use super::pattern::{Pattern, expand};

/// One key of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// How values are compared.
    pub(super) operator: Operator,
    /// The key, such as `aws:SourceIp`.
    pub(super) key: String,
    /// The values of the document, as text.
    pub(super) values: Vec<String>,
}

/// An operator with what may stand around its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    /// What is compared, and how.
    pub(super) test: Test,
    /// `…Not…`.
    pub(super) negated: bool,
    /// `…IfExists`.
    pub(super) if_exists: bool,
    /// `ForAllValues:` or `ForAnyValue:`.
    pub(super) set: Option<Set>,
}

/// A comparison of one value of the request with one of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Equal texts.
    Equal,
    /// Equal texts without case.
    EqualAnyCase,
    /// Wildcards.
    Like,
    /// ARNs, with wildcards in each of their six parts.
    Arn,
    /// `true` or `false`.
    Bool,
    /// Base64 of the same bytes.
    Binary,
    /// An address in a network.
    Ip,
    /// Numbers.
    Number(Order),
    /// Dates.
    Date(Order),
    /// Whether the key is absent.
    Null,
}

/// How numbers and dates compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Which values of a request with several must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    All,
    Any,
}

impl Operator {
    /// Reads an operator's name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (set, name) = match name.split_once(':') {
            Some(("ForAllValues", name)) => (Some(Set::All), name),
            Some(("ForAnyValue", name)) => (Some(Set::Any), name),
            Some(_) => return None,
            None => (None, name),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (test, negated) = match name {
            "StringEquals" => (Test::Equal, false),
            "StringNotEquals" => (Test::Equal, true),
            "StringEqualsIgnoreCase" => (Test::EqualAnyCase, false),
            "StringNotEqualsIgnoreCase" => (Test::EqualAnyCase, true),
            "StringLike" => (Test::Like, false),
            "StringNotLike" => (Test::Like, true),
            "ArnEquals" | "ArnLike" => (Test::Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Test::Arn, true),
            "Bool" => (Test::Bool, false),
            "BinaryEquals" => (Test::Binary, false),
            "IpAddress" => (Test::Ip, false),
            "NotIpAddress" => (Test::Ip, true),
            "Null" if !if_exists && set.is_none() => (Test::Null, false),
            _ => match name.strip_prefix("Numeric") {
                Some(order) => Order::parse(order).map(|(order, negated)| (Test::Number(order), negated))?,
                None => {
                    let (order, negated) = Order::parse(name.strip_prefix("Date")?)?;
                    (Test::Date(order), negated)
                }
            },
        };
        Some(Self { test, negated, if_exists, set })
    }

    /// Whether the operator can compare with this value of a document.
    pub(super) fn takes(self, value: &str) -> bool {
        match self.test {
            Test::Equal | Test::EqualAnyCase | Test::Like | Test::Arn => true,
            Test::Bool | Test::Null => {
                value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
            }
            Test::Binary => bytes_of(value).is_some(),
            Test::Ip => Network::parse(value).is_some(),
            Test::Number(_) => number(value).is_some(),
            Test::Date(_) => date(value).is_some(),
        }
    }
}

impl Order {
    fn parse(name: &str) -> Option<(Self, bool)> {
        Some(match name {
            "Equals" => (Self::Equal, false),
            "NotEquals" => (Self::Equal, true),
            "LessThan" => (Self::Less, false),
            "LessThanEquals" => (Self::LessOrEqual, false),
            "GreaterThan" => (Self::Greater, false),
            "GreaterThanEquals" => (Self::GreaterOrEqual, false),
            _ => return None,
        })
    }

    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Condition {
    /// Whether the condition is true of a request.
    pub(super) fn holds(&self, request: &Request<'_>, variables: bool) -> bool {
        let known = request.facts.get(&self.key).filter(|values| !values.is_empty());
        let Operator { test, negated, if_exists, set } = self.operator;
        if test == Test::Null {
            return self.values.iter().any(|value| value.eq_ignore_ascii_case("true") == known.is_none());
        }
        let Some(known) = known else {
            return if_exists || set == Some(Set::All) || (negated && set.is_none());
        };
        let values: Vec<Pattern> =
            self.values.iter().filter_map(|value| expand(value, request, variables)).collect();
        let one = |value: &String| values.iter().any(|wanted| compare(test, value, wanted)) != negated;
        match set {
            None if negated => known.iter().all(one),
            None | Some(Set::Any) => known.iter().any(one),
            Some(Set::All) => known.iter().all(one),
        }
    }
}

fn compare(test: Test, value: &str, wanted: &Pattern) -> bool {
    let text = || wanted.text();
    match test {
        Test::Equal => value == text(),
        Test::EqualAnyCase => value.to_lowercase() == text().to_lowercase(),
        Test::Like => wanted.matches(value),
        Test::Arn => wanted.matches_arn(value),
        Test::Bool => value.eq_ignore_ascii_case(&text()),
        Test::Binary => bytes_of(value).is_some_and(|bytes| bytes_of(&text()) == Some(bytes)),
        Test::Ip => match (value.parse(), Network::parse(&text())) {
            (Ok(address), Some(network)) => network.holds(address),
            _ => false,
        },
        Test::Number(order) => match (number(value), number(&text())) {
            (Some(value), Some(wanted)) => order.holds(&value, &wanted),
            _ => false,
        },
        Test::Date(order) => match (date(value), date(&text())) {
            (Some(value), Some(wanted)) => order.holds(&value, &wanted),
            _ => false,
        },
        // Answered before values are looked at.
        Test::Null => false,
    }
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|number| number.is_finite())
}

/// An ISO 8601 date, with or without a time, or seconds since the Unix epoch.
fn date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    let midnight = || {
        let date = text.parse::<jiff::civil::Date>().ok()?;
        Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    };
    text.parse::<Timestamp>().ok().or_else(midnight)
}

/// A network in CIDR form, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Leading bits that count.
    pub(super) bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `2001:db8::/32` or an address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(longest);
        (bits <= longest).then_some(Self { address, bits })
    }

    /// Whether an address is in it.
    pub fn holds(self, address: IpAddr) -> bool {
        // A client of a socket that takes both families is told in the longer form.
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                let cut = |address: u32| address.checked_shr(shift).unwrap_or(0);
                cut(network.to_bits()) == cut(address.to_bits())
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                let cut = |address: u128| address.checked_shr(shift).unwrap_or(0);
                cut(network.to_bits()) == cut(address.to_bits())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}
