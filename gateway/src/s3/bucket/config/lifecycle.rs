//! Rules that let objects expire: checked, and then refused, because nothing carries them out.
//!
//! Source: "PutBucketLifecycleConfiguration" of the Amazon S3 API Reference.

use std::collections::BTreeSet;

use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::S3Response;
use super::super::super::xml::{Element, malformed};
use super::{Context, fixed};

/// Most rules of a bucket (S3).
const MAX_RULES: usize = 1000;
/// Longest id of a rule, in characters (S3).
const MAX_ID_CHARS: usize = 255;

/// The rules.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb != ConfigVerb::Put {
        return fixed::absent(&context, Code::NoSuchLifecycleConfiguration);
    }
    check(&context.request.xml_body().await?)?;
    Err(S3Error::not_implemented("lifecycle rules"))
}

/// Refuses what S3 refuses.
fn check(body: &[u8]) -> Result<(), S3Error> {
    let document = Element::parse(body, "LifecycleConfiguration")?;
    let rules: Vec<&Element> = document.children_of("Rule").collect();
    if rules.is_empty() || rules.len() > MAX_RULES {
        return Err(malformed());
    }
    let mut ids = BTreeSet::new();
    for rule in rules {
        if let Some(id) = rule.text_of("ID") {
            if id.chars().count() > MAX_ID_CHARS {
                return Err(invalid("ID length should not exceed allowed limit of 255"));
            }
            if !ids.insert(id) {
                return Err(invalid("Rule ID must be unique. Found same ID for one or more rules"));
            }
        }
        check_rule(rule)?;
    }
    Ok(())
}

fn check_rule(rule: &Element) -> Result<(), S3Error> {
    if !matches!(rule.text_of("Status").map(str::trim), Some("Enabled" | "Disabled")) {
        return Err(malformed());
    }
    if rule.child("Filter").is_some() == rule.child("Prefix").is_some() {
        return Err(malformed());
    }
    let actions = ["Expiration", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"];
    let transitions = ["Transition", "NoncurrentVersionTransition"];
    let any = actions.iter().chain(&transitions).any(|name| rule.child(name).is_some());
    if !any {
        return Err(invalid("At least one action needs to be specified in a rule"));
    }
    for name in transitions {
        rule.children_of(name).try_for_each(|action| check_when(action, "TransitionInDays"))?;
    }
    for action in rule.children_of("Expiration") {
        let marker = action.child("ExpiredObjectDeleteMarker").is_some();
        let timed = action.child("Days").is_some() || action.child("Date").is_some();
        if marker == timed {
            return Err(malformed());
        }
        check_when(action, "Expiration")?;
    }
    for (name, days) in [
        ("NoncurrentVersionExpiration", "NoncurrentDays"),
        ("AbortIncompleteMultipartUpload", "DaysAfterInitiation"),
    ] {
        for action in rule.children_of(name) {
            check_days(action.text_of(days).ok_or_else(malformed)?, name)?;
        }
    }
    Ok(())
}

fn check_when(action: &Element, name: &str) -> Result<(), S3Error> {
    let (days, date) = (action.text_of("Days"), action.text_of("Date"));
    if days.is_some() && date.is_some() {
        return Err(malformed());
    }
    if let Some(days) = days {
        check_days(days, name)?;
    }
    if let Some(date) = date {
        let time = date.trim().parse::<jiff::Timestamp>().ok();
        let day = || date.trim().parse::<jiff::civil::Date>().ok();
        match time {
            Some(time) if time.as_second() % 86_400 != 0 => {
                return Err(invalid("'Date' must be at midnight GMT"));
            }
            Some(_) => {}
            None if day().is_some() => {}
            None => return Err(malformed()),
        }
    }
    Ok(())
}

fn check_days(text: &str, name: &str) -> Result<(), S3Error> {
    let days: i64 = text.trim().parse().map_err(|_| malformed())?;
    if days < 1 {
        return Err(invalid(&format!("'Days' for {name} action must be a positive integer")));
    }
    Ok(())
}

fn invalid(message: &str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(rules: &str) -> Option<Code> {
        let body = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        check(body.as_bytes()).err().map(|error| error.code())
    }

    fn rule(inner: &str) -> String {
        format!("<Rule><Status>Enabled</Status><Filter><Prefix>a</Prefix></Filter>{inner}</Rule>")
    }

    #[test]
    fn rules_are_checked_as_s3_does() {
        let days = |days: &str| rule(&format!("<Expiration><Days>{days}</Days></Expiration>"));
        assert_eq!(code(&days("1")), None);
        assert_eq!(code(&days("0")), Some(Code::InvalidArgument));
        assert_eq!(code(&days("x")), Some(Code::MalformedXML));
        assert_eq!(code(""), Some(Code::MalformedXML));
        assert_eq!(code(&rule("")), Some(Code::InvalidArgument));
        assert_eq!(code(&days("1").replace("Enabled", "enabled")), Some(Code::MalformedXML));
        let date = |date: &str| rule(&format!("<Expiration><Date>{date}</Date></Expiration>"));
        assert_eq!(code(&date("2030-01-01T00:00:00Z")), None);
        assert_eq!(code(&date("2030-01-01")), None);
        assert_eq!(code(&date("2030-01-01T01:00:00Z")), Some(Code::InvalidArgument));
        assert_eq!(code(&date("20301-01")), Some(Code::MalformedXML));
        let named = |id: &str| days("1").replace("<Status>", &format!("<ID>{id}</ID><Status>"));
        assert_eq!(code(&format!("{}{}", named("a"), named("b"))), None);
        assert_eq!(code(&format!("{}{}", named("a"), named("a"))), Some(Code::InvalidArgument));
        assert_eq!(code(&named(&"x".repeat(256))), Some(Code::InvalidArgument));
        assert_eq!(
            code(&rule(
                "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
            )),
            None
        );
        assert_eq!(code(&rule("<NoncurrentVersionExpiration/>")), Some(Code::MalformedXML));
    }
}
