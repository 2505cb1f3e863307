//! The policy of a form: which fields it may have, and how long the file may be. Pure.
//!
//! Every field must be met by a condition, except those that sign and those that say to be ignored.

use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer_common::time::UnixMillis;
use jiff::Timestamp;
use serde_json::Value;

use super::form::Fields;
use crate::s3::body::MAX_PUT_BYTES;
use crate::s3::error::{Code, S3Error};

/// Fields that need no condition.
const FREE: [&str; 5] = ["policy", "signature", "x-amz-signature", "awsaccesskeyid", "file"];

/// A policy that was read.
#[derive(Debug)]
pub(super) struct PostPolicy {
    expiration: Timestamp,
    conditions: Vec<Condition>,
}

#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Equals(String, String),
    StartsWith(String, String),
    Length(RangeInclusive<u64>),
}

fn invalid(message: impl Into<String>) -> S3Error {
    S3Error::with(Code::InvalidPolicyDocument, format!("Invalid Policy: {}", message.into()))
}

fn denied(message: impl Into<String>) -> S3Error {
    S3Error::with(Code::AccessDenied, format!("Invalid according to Policy: {}", message.into()))
}

impl PostPolicy {
    /// Reads the Base64 text of a policy.
    ///
    /// # Errors
    /// `InvalidPolicyDocument`.
    pub(super) fn parse(text: &str) -> Result<Self, S3Error> {
        let compact: String = text.split_ascii_whitespace().collect();
        let bytes = STANDARD.decode(compact).map_err(|_| invalid("it is not Base64."))?;
        let Ok(Value::Object(document)) = serde_json::from_slice(&bytes) else {
            return Err(invalid("Invalid JSON."));
        };
        if let Some(unknown) =
            document.keys().find(|name| !matches!(name.as_str(), "expiration" | "conditions"))
        {
            return Err(invalid(format!("Unexpected: '{unknown}'.")));
        }
        let expiration = document.get("expiration").ok_or_else(|| invalid("Policy missing expiration."))?;
        let expiration = expiration
            .as_str()
            .filter(|text| text.contains('T'))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| invalid(format!("Invalid 'expiration' value: '{expiration}'")))?;
        let Some(Value::Array(conditions)) = document.get("conditions") else {
            return Err(invalid("Policy missing conditions."));
        };
        let mut found = Vec::new();
        for condition in conditions {
            parse_condition(condition, &mut found)?;
        }
        Ok(Self { expiration, conditions: found })
    }

    /// Checks a form, and answers how long its file may be.
    ///
    /// # Errors
    /// `AccessDenied`.
    pub(super) fn check(
        &self,
        fields: &Fields,
        (bucket, key): (&str, &str),
        now: UnixMillis,
    ) -> Result<RangeInclusive<u64>, S3Error> {
        if i64::try_from(now.0).unwrap_or(i64::MAX) > self.expiration.as_millisecond() {
            return Err(denied("Policy expired."));
        }
        let mut length = 0..=MAX_PUT_BYTES;
        for condition in &self.conditions {
            let (name, holds) = match condition {
                Condition::Length(allowed) => {
                    length = *length.start().max(allowed.start())..=*length.end().min(allowed.end());
                    continue;
                }
                Condition::Equals(name, wanted) => {
                    let value = value(fields, (bucket, key), name);
                    (name, value.is_some_and(|value| value == wanted || value == unescaped(wanted)))
                }
                Condition::StartsWith(name, wanted) => {
                    let value = value(fields, (bucket, key), name);
                    let begins =
                        |value: &str| value.starts_with(wanted) || value.starts_with(&unescaped(wanted));
                    // Several media types may be listed.
                    let all = |value: &str| match name.as_str() {
                        "content-type" => value.split(',').all(|one| begins(one.trim())),
                        _ => begins(value),
                    };
                    (name, value.map_or(wanted.is_empty() && name != "bucket", all))
                }
            };
            if !holds {
                return Err(denied(format!("Policy Condition failed: \"{name}\"")));
            }
        }
        let met = |name: &str| {
            self.conditions.iter().any(|condition| match condition {
                Condition::Equals(known, _) | Condition::StartsWith(known, _) => known == name,
                Condition::Length(_) => false,
            })
        };
        if !met("bucket") {
            return Err(denied("Policy Condition failed: \"bucket\""));
        }
        let free = |name: &str| FREE.contains(&name) || name.starts_with("x-ignore-");
        match fields.iter().map(|(name, _)| name).find(|name| !free(name) && !met(name)) {
            Some(extra) => Err(denied(format!("Extra input fields: {extra}"))),
            None => Ok(length),
        }
    }
}

fn value<'a>(fields: &'a Fields, (bucket, key): (&'a str, &'a str), name: &str) -> Option<&'a str> {
    match name {
        "bucket" => Some(bucket),
        "key" => Some(key),
        _ => fields.get(name),
    }
}

/// `\$` stands for `$`, which would otherwise name a field. (Forms that were made without it are met by their own text, too.)
fn unescaped(text: &str) -> String {
    text.replace("\\$", "$")
}

fn parse_condition(condition: &Value, found: &mut Vec<Condition>) -> Result<(), S3Error> {
    let bad = || invalid(format!("Invalid Condition: {condition}"));
    match condition {
        Value::Object(pairs) if !pairs.is_empty() => {
            for (name, value) in pairs {
                let value = value.as_str().ok_or_else(bad)?;
                found.push(Condition::Equals(name.to_ascii_lowercase(), value.to_owned()));
            }
            Ok(())
        }
        Value::Array(items) if items.len() == 3 => {
            let operator = items[0].as_str().ok_or_else(bad)?.to_ascii_lowercase();
            if operator == "content-length-range" {
                let number = |value: &Value| match value {
                    Value::String(text) => text.parse::<u64>().ok(),
                    other => other.as_u64(),
                };
                let (least, most) = (number(&items[1]).ok_or_else(bad)?, number(&items[2]).ok_or_else(bad)?);
                found.push(Condition::Length(least..=most));
                return Ok(());
            }
            let name = items[1].as_str().and_then(|name| name.strip_prefix('$')).ok_or_else(bad)?;
            let (name, value) = (name.to_ascii_lowercase(), items[2].as_str().ok_or_else(bad)?.to_owned());
            found.push(match operator.as_str() {
                "eq" => Condition::Equals(name, value),
                "starts-with" => Condition::StartsWith(name, value),
                _ => return Err(bad()),
            });
            Ok(())
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::form::Fields;
    use super::*;

    fn policy(document: &Value) -> Result<PostPolicy, S3Error> {
        PostPolicy::parse(&STANDARD.encode(document.to_string()))
    }

    fn check(conditions: Value, fields: &[(&str, &str)]) -> Result<RangeInclusive<u64>, Code> {
        let document = json!({"expiration": "2030-01-01T00:00:00Z", "conditions": conditions});
        let fields = Fields::of(fields);
        let checked = policy(&document).unwrap().check(&fields, ("bkt", "user/k"), UnixMillis(0));
        checked.map_err(|error| error.code())
    }

    #[test]
    fn every_field_must_be_met_and_every_condition_hold() {
        let conditions = json!([{"Bucket": "bkt"}, ["starts-with", "$key", "user/"], {"acl": "private"},
                                ["content-length-range", 1, "10"], ["Starts-With", "$Content-Type", "image/"]]);
        let good =
            [("key", "user/k"), ("acl", "private"), ("content-type", "image/png"), ("x-ignore-me", "1")];
        assert_eq!(check(conditions.clone(), &good), Ok(1..=10));
        for bad in [
            &[("key", "user/k"), ("content-type", "image/png")][..],
            &[("key", "user/k"), ("acl", "public-read"), ("content-type", "image/png")],
            &[("key", "user/k"), ("acl", "private"), ("content-type", "text/plain")],
            &[("key", "user/k"), ("acl", "private"), ("content-type", "image/png,text/html")],
            &[("key", "user/k"), ("acl", "private"), ("content-type", "image/png"), ("x-amz-meta-a", "1")],
        ] {
            assert_eq!(check(conditions.clone(), bad), Err(Code::AccessDenied), "{bad:?}");
        }
        assert_eq!(check(json!([{"bucket": "other"}]), &[]), Err(Code::AccessDenied));
        assert_eq!(check(json!([["starts-with", "$key", ""]]), &[]), Err(Code::AccessDenied));
        assert_eq!(
            check(json!([{"bucket": "bkt"}, ["eq", "$key", "user/k"]]), &[("key", "user/k")]),
            Ok(0..=MAX_PUT_BYTES)
        );
    }

    #[test]
    fn policies_that_cannot_be_read_are_refused() {
        let good = json!({"expiration": "2030-01-01T00:00:00Z", "conditions": [{"bucket": "bkt"}]});
        assert!(policy(&good).is_ok());
        let ended = policy(&good).unwrap().check(&Fields::of(&[]), ("bkt", "k"), UnixMillis(u64::MAX));
        assert_eq!(ended.unwrap_err().code(), Code::AccessDenied);
        for (name, value) in [
            ("expiration", json!("2030-01-01 00:00:00")),
            ("expiration", json!(5)),
            ("conditions", json!({})),
            ("conditions", json!([{}])),
            ("conditions", json!([["content-length-range", 0]])),
            ("conditions", json!([["content-length-range", -1, 0]])),
            ("conditions", json!([["eq", "key", "x"]])),
            ("conditions", json!([["ends-with", "$key", "x"]])),
            ("Conditions", json!([])),
        ] {
            let mut document = good.clone();
            document[name] = value;
            assert_eq!(policy(&document).unwrap_err().code(), Code::InvalidPolicyDocument, "{document}");
        }
        for name in ["expiration", "conditions"] {
            let mut document = good.clone();
            document.as_object_mut().unwrap().remove(name);
            assert!(policy(&document).is_err(), "without {name}");
        }
        assert!(PostPolicy::parse("!").is_err());
    }
}
