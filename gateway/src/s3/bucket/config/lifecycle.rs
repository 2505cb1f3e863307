//! Rules that let objects expire: read, checked, and kept as they were written and as [`crate::lifecycle`] carries them out.
//!
//! What nothing carries out is refused after it was checked: transitions to other classes.
//!
//! Source: "PutBucketLifecycleConfiguration" of the Amazon S3 API Reference.

use std::collections::BTreeSet;

use http::StatusCode;

use super::super::super::error::{Code, S3Error};
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::names;
use super::super::super::tagging;
use super::super::super::xml::{DECLARATION, Element, malformed};
use super::{Context, id_of};
use crate::lifecycle::{self, Filter, Noncurrent, Rule, Rules, When};

/// Most rules of a bucket (S3).
const MAX_RULES: usize = 1000;
/// Longest id of a rule, in characters (S3).
const MAX_ID_CHARS: usize = 255;
/// Most versions that a rule keeps whatever their age (S3).
const MAX_NEWER: u32 = 100;

/// What a rule says once at most.
const RULE_PARTS: [&str; 7] = [
    "ID",
    "Status",
    "Prefix",
    "Filter",
    "Expiration",
    "NoncurrentVersionExpiration",
    "AbortIncompleteMultipartUpload",
];

/// The rules.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    match context.verb {
        ConfigVerb::Get => {
            let text = context.text(names::LIFECYCLE, Code::NoSuchLifecycleConfiguration)?;
            Ok(response::xml(StatusCode::OK, text.to_owned()))
        }
        ConfigVerb::Put => {
            let (document, rules) = parse(&context.request.xml_body().await?)?;
            let texts = [(names::LIFECYCLE, Some(document)), (lifecycle::DOCUMENT, Some(rules.encode()))];
            context.set_all(&texts).await?;
            Ok(response::empty(StatusCode::OK))
        }
        ConfigVerb::Delete => {
            context.set_all(&[(names::LIFECYCLE, None), (lifecycle::DOCUMENT, None)]).await?;
            Ok(response::empty(StatusCode::NO_CONTENT))
        }
    }
}

/// The document as it is shown, every rule with a name, and what it means.
fn parse(body: &[u8]) -> Result<(String, Rules), S3Error> {
    let mut document = Element::parse(body, "LifecycleConfiguration")?;
    let count = document.children_of("Rule").count();
    if count == 0 || count > MAX_RULES || document.children.len() != count {
        return Err(malformed());
    }
    let mut ids = BTreeSet::new();
    let mut rules = Vec::new();
    for rule in &mut document.children {
        let id = id_of(rule, "ID");
        if id.chars().count() > MAX_ID_CHARS {
            return Err(invalid("ID length should not exceed allowed limit of 255"));
        }
        if !ids.insert(id.clone()) {
            return Err(invalid("Rule ID must be unique. Found same ID for one or more rules"));
        }
        rules.push(parse_rule(id, rule)?);
    }
    let mut text = DECLARATION.to_owned();
    document.write(&mut text);
    Ok((text, Rules(rules)))
}

fn parse_rule(id: String, rule: &Element) -> Result<Rule, S3Error> {
    only(rule, &RULE_PARTS, &["Transition", "NoncurrentVersionTransition"])?;
    let enabled = match rule.text_of("Status").map(str::trim) {
        Some("Enabled") => true,
        Some("Disabled") => false,
        _ => return Err(malformed()),
    };
    let filter = match (rule.child("Filter"), rule.text_of("Prefix")) {
        (Some(filter), None) => parse_filter(filter)?,
        (None, Some(prefix)) => Filter { prefix: prefix.to_owned(), ..Filter::default() },
        (Some(_), Some(_)) | (None, None) => return Err(malformed()),
    };
    let expiration = rule.child("Expiration").map(parse_expiration).transpose()?;
    let noncurrent = rule.child("NoncurrentVersionExpiration").map(parse_noncurrent).transpose()?;
    let abort = rule.child("AbortIncompleteMultipartUpload");
    let abort_after_days = abort.map(parse_abort).transpose()?;
    let transitions = has_transitions(rule)?;
    if expiration.is_none() && noncurrent.is_none() && abort_after_days.is_none() && !transitions {
        return Err(invalid("At least one action needs to be specified in a rule"));
    }
    let (expiration, lone_markers) = expiration.unwrap_or_default();
    if abort_after_days.is_some() && filter.is_narrow() {
        return Err(invalid("AbortIncompleteMultipartUpload cannot be specified with Tags or object sizes"));
    }
    if lone_markers && filter.is_narrow() {
        return Err(invalid("ExpiredObjectDeleteMarker cannot be specified with Tags or object sizes"));
    }
    if transitions {
        return Err(S3Error::not_implemented("transitions of storage classes"));
    }
    Ok(Rule { id, enabled, filter, expiration, lone_markers, noncurrent, abort_after_days })
}

/// When objects expire, and whether delete markers are removed below which there is nothing.
fn parse_expiration(action: &Element) -> Result<(Option<When>, bool), S3Error> {
    only(action, &["Days", "Date", "ExpiredObjectDeleteMarker"], &[])?;
    let (date, markers) = (action.text_of("Date"), action.text_of("ExpiredObjectDeleteMarker"));
    match (action.child("Days").is_some(), date, markers.map(str::trim)) {
        (true, None, None) => Ok((Some(When::Days(days(action, "Days", "Expiration")?)), false)),
        (false, Some(date), None) => Ok((Some(When::At(midnight(date)?)), false)),
        (false, None, Some("true")) => Ok((None, true)),
        (false, None, Some("false")) => Ok((None, false)),
        _ => Err(malformed()),
    }
}

fn parse_noncurrent(action: &Element) -> Result<Noncurrent, S3Error> {
    let of = "NoncurrentVersionExpiration";
    only(action, &["NoncurrentDays", "NewerNoncurrentVersions"], &[])?;
    let days = days(action, "NoncurrentDays", of)?;
    let newer = match action.child("NewerNoncurrentVersions") {
        None => 0,
        Some(_) => days_from(action, "NewerNoncurrentVersions", of, 1)?,
    };
    if newer > MAX_NEWER {
        return Err(invalid(
            "'NewerNoncurrentVersions' for NoncurrentVersionExpiration action must be at most 100",
        ));
    }
    Ok(Noncurrent { days, newer })
}

fn parse_abort(action: &Element) -> Result<u32, S3Error> {
    only(action, &["DaysAfterInitiation"], &[])?;
    days(action, "DaysAfterInitiation", "AbortIncompleteMultipartUpload")
}

fn parse_filter(filter: &Element) -> Result<Filter, S3Error> {
    let parts = match filter.children.as_slice() {
        [] => return Ok(Filter::default()),
        [all] if all.name == "And" => {
            only(all, &["Prefix", "ObjectSizeGreaterThan", "ObjectSizeLessThan"], &["Tag"])?;
            &all.children
        }
        [_] => &filter.children,
        _ => return Err(malformed()),
    };
    // An `And` of nothing would be about every object.
    if parts.is_empty() {
        return Err(malformed());
    }
    let mut found = Filter::default();
    let mut tags = Vec::new();
    for part in parts {
        let number = || part.text.trim().parse::<u64>().map(Some).map_err(|_| malformed());
        match part.name.as_str() {
            "Prefix" => found.prefix = part.text.clone(),
            "ObjectSizeGreaterThan" => found.larger_than = number()?,
            "ObjectSizeLessThan" => found.smaller_than = number()?,
            "Tag" => {
                let text = |name| part.text_of(name).map(str::to_owned).ok_or_else(malformed);
                tags.push((text("Key")?, text("Value")?));
            }
            _ => return Err(malformed()),
        }
    }
    if found.smaller_than.is_some_and(|most| found.larger_than.is_some_and(|least| most <= least)) {
        let message = "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'.";
        return Err(S3Error::with(Code::InvalidRequest, message));
    }
    found.tags = tagging::collect(tags, tagging::MAX_OBJECT_TAGS)?;
    Ok(found)
}

/// Refuses what is said twice, or is not known: what a rule deletes must not rest on what was read of it by chance.
fn only(element: &Element, once: &[&str], many: &[&str]) -> Result<(), S3Error> {
    let mut seen = BTreeSet::new();
    let is_known = |name: &str| many.contains(&name) || once.contains(&name);
    let mut names = element.children.iter().map(|child| child.name.as_str());
    if names.all(|name| is_known(name) && (many.contains(&name) || seen.insert(name))) {
        Ok(())
    } else {
        Err(malformed())
    }
}

/// Whether the rule asks for transitions, which nothing carries out, once they were checked.
fn has_transitions(rule: &Element) -> Result<bool, S3Error> {
    let mut found = false;
    for transition in rule.children_of("Transition") {
        match (transition.child("Days").is_some(), transition.text_of("Date")) {
            (true, None) => {
                days_from(transition, "Days", "Transition", 0)?;
            }
            (false, Some(date)) => {
                midnight(date)?;
            }
            _ => return Err(malformed()),
        }
        found = true;
    }
    for transition in rule.children_of("NoncurrentVersionTransition") {
        days_from(transition, "NoncurrentDays", "NoncurrentVersionTransition", 0)?;
        found = true;
    }
    Ok(found)
}

fn days(action: &Element, name: &str, of: &str) -> Result<u32, S3Error> {
    days_from(action, name, of, 1)
}

fn days_from(action: &Element, name: &str, of: &str, least: u32) -> Result<u32, S3Error> {
    let text = action.text_of(name).ok_or_else(malformed)?.trim();
    let count: i64 = text.parse().map_err(|_| malformed())?;
    let count = u32::try_from(count).ok().filter(|count| *count >= least && *count <= i32::MAX as u32);
    count.ok_or_else(|| invalid(&format!("'{name}' for {of} action must be a positive integer")))
}

/// A day's beginning, in milliseconds since the Unix epoch.
fn midnight(text: &str) -> Result<u64, S3Error> {
    let text = text.trim();
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| day().map(|day| day.timestamp()));
    let time = u64::try_from(time.ok_or_else(malformed)?.as_millisecond()).map_err(|_| malformed())?;
    if time % (24 * 60 * 60 * 1000) != 0 {
        return Err(invalid("'Date' must be at midnight GMT"));
    }
    Ok(time)
}

fn invalid(message: &str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rules: &str) -> Result<Rules, Code> {
        let body = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        parse(body.as_bytes()).map(|(_, rules)| rules).map_err(|error| error.code())
    }

    fn code(rules: &str) -> Option<Code> {
        read(rules).err()
    }

    fn rule(inner: &str) -> String {
        format!("<Rule><Status>Enabled</Status><Filter><Prefix>a</Prefix></Filter>{inner}</Rule>")
    }

    #[test]
    fn rules_are_checked_as_s3_does() {
        let days = |days: &str| rule(&format!("<Expiration><Days>{days}</Days></Expiration>"));
        assert_eq!(read(&days("1")).unwrap().0[0].expiration, Some(When::Days(1)));
        assert_eq!(code(&days("0")), Some(Code::InvalidArgument));
        assert_eq!(code(&days("x")), Some(Code::MalformedXML));
        assert_eq!(code(""), Some(Code::MalformedXML));
        assert_eq!(code(&rule("")), Some(Code::InvalidArgument));
        assert_eq!(code(&days("1").replace("Enabled", "enabled")), Some(Code::MalformedXML));
        let date = |date: &str| rule(&format!("<Expiration><Date>{date}</Date></Expiration>"));
        assert_eq!(read(&date("1970-01-02T00:00:00Z")).unwrap().0[0].expiration, Some(When::At(86_400_000)));
        assert_eq!(code(&date("2030-01-01")), None);
        assert_eq!(code(&date("2030-01-01T01:00:00Z")), Some(Code::InvalidArgument));
        assert_eq!(code(&date("20301-01")), Some(Code::MalformedXML));
        let named = |id: &str| days("1").replace("<Status>", &format!("<ID>{id}</ID><Status>"));
        assert_eq!(code(&format!("{}{}", named("a"), named("b"))), None);
        assert_eq!(code(&format!("{}{}", named("a"), named("a"))), Some(Code::InvalidArgument));
        assert_eq!(code(&named(&"x".repeat(256))), Some(Code::InvalidArgument));
    }

    #[test]
    fn rules_about_versions_are_checked_and_read() {
        let versions = |inner: &str| {
            rule(&format!("<NoncurrentVersionExpiration>{inner}</NoncurrentVersionExpiration>"))
        };
        let days = |days: u32| format!("<NoncurrentDays>{days}</NoncurrentDays>");
        let newer = |newer: u32| format!("<NewerNoncurrentVersions>{newer}</NewerNoncurrentVersions>");
        let noncurrent = |rules: &str| read(rules).map(|rules| rules.0[0].noncurrent.unwrap());
        assert_eq!(noncurrent(&versions(&days(3))), Ok(Noncurrent { days: 3, newer: 0 }));
        let both = versions(&(days(1) + &newer(100)));
        assert_eq!(noncurrent(&both), Ok(Noncurrent { days: 1, newer: 100 }));
        for (wrong, expected) in [
            (String::new(), Code::MalformedXML),
            (newer(1), Code::MalformedXML),
            (days(0), Code::InvalidArgument),
            (days(1) + &newer(0), Code::InvalidArgument),
            (days(1) + &newer(101), Code::InvalidArgument),
        ] {
            assert_eq!(code(&versions(&wrong)), Some(expected), "{wrong}");
        }
        let markers = |value: &str| {
            rule(&format!(
                "<Expiration><ExpiredObjectDeleteMarker>{value}</ExpiredObjectDeleteMarker></Expiration>"
            ))
        };
        assert!(read(&markers("true")).unwrap().0[0].lone_markers);
        assert!(!read(&markers("false")).unwrap().0[0].lone_markers);
        assert_eq!(code(&markers("yes")), Some(Code::MalformedXML));
        let tagged = "<Tag><Key>k</Key><Value>v</Value></Tag>";
        let narrow = markers("true").replace("<Prefix>a</Prefix>", tagged);
        assert_eq!(code(&narrow), Some(Code::InvalidArgument));
    }

    #[test]
    fn filters_mean_what_they_say() {
        let filter = |filter: &str| {
            let text = rule("<Expiration><Days>1</Days></Expiration>");
            read(&text.replace("<Prefix>a</Prefix>", filter)).map(|rules| rules.0[0].filter.clone())
        };
        assert_eq!(filter(""), Ok(Filter::default()));
        let both = filter(
            "<And><Prefix>p</Prefix><Tag><Key>k</Key><Value>v</Value></Tag>\
             <ObjectSizeGreaterThan>1</ObjectSizeGreaterThan><ObjectSizeLessThan>9</ObjectSizeLessThan></And>",
        );
        let tags = [("k".to_owned(), "v".to_owned())].into();
        let expected = Filter { prefix: "p".to_owned(), tags, larger_than: Some(1), smaller_than: Some(9) };
        assert_eq!(both, Ok(expected));
        let empty = "<And><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan><ObjectSizeLessThan>9</ObjectSizeLessThan></And>";
        assert_eq!(filter(empty), Err(Code::InvalidRequest));
        assert_eq!(filter("<Prefix>a</Prefix><Prefix>b</Prefix>"), Err(Code::MalformedXML));
        assert_eq!(filter("<Suffix>a</Suffix>"), Err(Code::MalformedXML));
        assert_eq!(filter("<And></And>"), Err(Code::MalformedXML), "it would be about everything");
        assert_eq!(filter("<And><Prefix>a</Prefix><Prefix>b</Prefix></And>"), Err(Code::MalformedXML));
    }

    #[test]
    fn what_is_said_twice_or_not_known_is_refused() {
        let days = |days: u32| format!("<Expiration><Days>{days}</Days></Expiration>");
        for inner in [
            days(1) + &days(2),
            days(1) + "<Filter><Prefix>b</Prefix></Filter>",
            days(1) + "<Status>Disabled</Status>",
            days(1) + "<DelMarkerExpiration><Days>1</Days></DelMarkerExpiration>",
            "<Expiration><Days>1</Days><Days>2</Days></Expiration>".to_owned(),
            "<Expiration><Days>1</Days><ExpiredObjectAllVersions>true</ExpiredObjectAllVersions></Expiration>".to_owned(),
        ] {
            assert_eq!(code(&rule(&inner)), Some(Code::MalformedXML), "{inner}");
        }
    }

    #[test]
    fn what_nothing_carries_out_is_refused_and_documents_keep_their_form() {
        for action in [
            "<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>",
            "<NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays><StorageClass>GLACIER</StorageClass>\
             </NoncurrentVersionTransition>",
        ] {
            assert_eq!(code(&rule(action)), Some(Code::NotImplemented), "{action}");
        }
        let body = "<LifecycleConfiguration><Rule><Prefix>a&amp;b</Prefix><Status>Disabled</Status>\
                    <AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation>\
                    </AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>";
        let (text, rules) = parse(body.as_bytes()).unwrap();
        assert_eq!((rules.0[0].abort_after_days, rules.0[0].enabled), (Some(3), false));
        assert!(text.contains("<Prefix>a&amp;b</Prefix><Status>Disabled</Status>"), "{text}");
        assert_eq!(parse(text.as_bytes()).unwrap().1, rules);
    }
}
