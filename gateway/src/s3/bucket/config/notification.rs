//! Which events go where: read, checked, and kept as they were written and as [`crate::notify`] carries them out.
//!
//! Targets are queues, `arn:coffer:sqs::<name>:webhook`, that the gateway was told of at its start; MinIO's
//! `arn:minio:sqs::<name>:webhook` means the same. Topics and functions are nobody's here, and are refused as S3 refuses
//! those that are not there.
//!
//! Each target of a configuration is told by a test event, unless `x-amz-skip-destination-validation` says no. S3 sends it first,
//! and takes no configuration whose test fails. Here it is queued once the configuration is in force: a target may be away when
//! it is configured as it may be away later, and a request does not wait for it. Whether it came is in the gateway's log, and
//! what cannot be a target at all (one that no gateway is told of) is refused.
//!
//! Source: "PutBucketNotificationConfiguration" of the Amazon S3 API Reference, "Notification event types and destinations".

use std::collections::BTreeSet;

use http::StatusCode;

use super::super::super::error::{Code, S3Error};
use super::super::super::events;
use super::super::super::operation::ConfigVerb;
use super::super::super::response::{self, S3Response};
use super::super::super::settings::names;
use super::super::super::xml::{DECLARATION, Element, malformed};
use super::{Context, empty_document, id_of};
use crate::notify::{self, Known, Rule, Rules, known};

/// With `true` no target is told.
const SKIP_TEST: &str = "x-amz-skip-destination-validation";
/// Most rules of a bucket (S3).
const MAX_RULES: usize = 100;
/// What an ARN of a target begins and ends with.
const ARNS: [(&str, &str); 2] = [("arn:coffer:sqs:", ":webhook"), ("arn:minio:sqs:", ":webhook")];

/// The rules.
pub(super) async fn serve(mut context: Context<'_>) -> Result<S3Response, S3Error> {
    if context.verb == ConfigVerb::Get {
        let text = context.request.access()?.bucket().documents.get(names::NOTIFICATION);
        return Ok(match text {
            Some(text) => response::xml(StatusCode::OK, text.to_owned()),
            None => empty_document("NotificationConfiguration"),
        });
    }
    let body = context.request.xml_body().await?;
    let notifier = &context.request.events().notifier;
    let (document, rules) = parse(&body, &|target| notifier.knows(target))?;
    if rules.0.is_empty() {
        context.set_all(&[(names::NOTIFICATION, None), (notify::DOCUMENT, None)]).await?;
    } else {
        notifier.prepare().await?;
        let texts = [(names::NOTIFICATION, Some(document)), (notify::DOCUMENT, Some(rules.encode()))];
        context.set_all(&texts).await?;
        let request = &context.request;
        if !request.text(SKIP_TEST).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            let bucket = request.access()?.bucket().name.as_str();
            notifier.test(bucket, &rules, &events::source(request)).await?;
        }
    }
    Ok(response::empty(StatusCode::OK))
}

/// The document as it is shown, every rule with a name, and what it means.
fn parse(body: &[u8], knows: &dyn Fn(&str) -> bool) -> Result<(String, Rules), S3Error> {
    let mut document = Element::parse(body, "NotificationConfiguration")?;
    let mut rules = Vec::new();
    let mut ids = BTreeSet::new();
    for rule in &mut document.children {
        match rule.name.as_str() {
            "QueueConfiguration" => rules.push(parse_rule(rule, knows)?),
            "TopicConfiguration" | "CloudFunctionConfiguration" => return Err(no_target()),
            "EventBridgeConfiguration" => {
                return Err(S3Error::not_implemented("the delivery of events to EventBridge"));
            }
            _ => return Err(malformed()),
        }
        if rules.last().is_some_and(|rule: &Rule| !ids.insert(rule.id.clone())) {
            return Err(invalid("Same ID used for multiple configurations. IDs must be unique"));
        }
    }
    if rules.len() > MAX_RULES {
        return Err(invalid("A bucket can have at most 100 notification configurations"));
    }
    let rules = Rules(rules);
    if rules.overlapping().is_some() {
        let message =
            "Configurations overlap. Configurations on the same bucket cannot share a common event type.";
        return Err(invalid(message));
    }
    let mut text = DECLARATION.to_owned();
    document.write(&mut text);
    Ok((text, rules))
}

fn parse_rule(rule: &mut Element, knows: &dyn Fn(&str) -> bool) -> Result<Rule, S3Error> {
    let id = id_of(rule, "Id");
    let arn = rule.text_of("Queue").ok_or_else(malformed)?.trim();
    let target = target(arn).ok_or_else(|| invalid("The ARN is not well formed"))?;
    if !knows(target) {
        return Err(no_target());
    }
    let mut events = Vec::new();
    for event in rule.children_of("Event") {
        let pattern = event.text.trim();
        match known(pattern) {
            Known::Some => events.push(pattern.to_owned()),
            Known::Never => return Err(S3Error::not_implemented(&format!("the event {pattern}"))),
            Known::Unknown => {
                let message = format!("The event '{pattern}' is not supported for notifications");
                return Err(invalid(&message));
            }
        }
    }
    if events.is_empty() {
        return Err(malformed());
    }
    let (prefix, suffix) = parse_filter(rule)?;
    Ok(Rule { id, target: target.to_owned(), events, prefix, suffix })
}

/// The prefix and the suffix of keys.
fn parse_filter(rule: &Element) -> Result<(String, String), S3Error> {
    let (mut prefix, mut suffix) = (None, None);
    let key = rule.child("Filter").and_then(|filter| filter.child("S3Key"));
    for part in key.into_iter().flat_map(|key| key.children_of("FilterRule")) {
        let value = part.text_of("Value").ok_or_else(malformed)?.to_owned();
        let place = match part.text_of("Name").map(|name| name.trim().to_ascii_lowercase()).as_deref() {
            Some("prefix") => &mut prefix,
            Some("suffix") => &mut suffix,
            _ => return Err(invalid("filter rule name must be either prefix or suffix")),
        };
        if place.replace(value).is_some() {
            return Err(invalid("Cannot specify more than one prefix or suffix rule in a filter."));
        }
    }
    Ok((prefix.unwrap_or_default(), suffix.unwrap_or_default()))
}

/// The name in the ARN of a target.
fn target(arn: &str) -> Option<&str> {
    let inner = |(before, after): (&str, &str)| arn.strip_prefix(before)?.strip_suffix(after);
    let (_region, name) = ARNS.into_iter().find_map(inner)?.split_once(':')?;
    (!name.is_empty() && !name.contains(':')).then_some(name)
}

fn no_target() -> S3Error {
    invalid("Unable to validate the following destination configurations")
}

fn invalid(message: &str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rules: &str) -> Result<(String, Rules), Code> {
        let body = format!("<NotificationConfiguration>{rules}</NotificationConfiguration>");
        parse(body.as_bytes(), &|target| target == "t").map_err(|error| error.code())
    }

    fn code(rules: &str) -> Option<Code> {
        read(rules).err()
    }

    fn rule(arn: &str, inner: &str) -> String {
        format!("<QueueConfiguration><Queue>{arn}</Queue>{inner}</QueueConfiguration>")
    }

    const ARN: &str = "arn:coffer:sqs::t:webhook";
    const PUT: &str = "<Event>s3:ObjectCreated:Put</Event>";

    #[test]
    fn rules_are_read_and_named() {
        let filter = "<Filter><S3Key><FilterRule><Name>Prefix</Name><Value>a/</Value></FilterRule>\
                      <FilterRule><Name>suffix</Name><Value>.jpg</Value></FilterRule></S3Key></Filter>";
        let (text, rules) = read(&rule(ARN, &format!("<Id>one</Id>{PUT}{filter}"))).unwrap();
        let [id, target, prefix, suffix] = ["one", "t", "a/", ".jpg"].map(str::to_owned);
        let events = vec!["s3:ObjectCreated:Put".to_owned()];
        assert_eq!(rules.0, [Rule { id, target, events, prefix, suffix }]);
        assert_eq!(parse(text.as_bytes(), &|_| true).unwrap().1, rules);
        let (text, rules) = read(&rule("arn:minio:sqs:us-east-1:t:webhook", PUT)).unwrap();
        assert_eq!(rules.0[0].id.len(), 32);
        assert!(text.contains(&rules.0[0].id));
        assert_eq!(read("").unwrap().1, Rules::default());
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let event = |event: &str| rule(ARN, &format!("<Event>{event}</Event>"));
        let filter = |rules: &str| rule(ARN, &format!("{PUT}<Filter><S3Key>{rules}</S3Key></Filter>"));
        let prefix = "<FilterRule><Name>prefix</Name><Value>a</Value></FilterRule>";
        for (rules, expected) in [
            (event("s3:ObjectCreated:Nothing"), Code::InvalidArgument),
            (event("s3:ObjectRestore:*"), Code::NotImplemented),
            (rule(ARN, ""), Code::MalformedXML),
            (rule("arn:coffer:sqs::other:webhook", PUT), Code::InvalidArgument),
            (rule("arn:aws:sqs:us-east-1:123456789012:queue", PUT), Code::InvalidArgument),
            (filter(&format!("{prefix}{prefix}")), Code::InvalidArgument),
            (filter("<FilterRule><Name>x</Name><Value>a</Value></FilterRule>"), Code::InvalidArgument),
            (rule(ARN, PUT) + &rule(ARN, PUT), Code::InvalidArgument),
            ("<TopicConfiguration/>".to_owned(), Code::InvalidArgument),
            ("<EventBridgeConfiguration/>".to_owned(), Code::NotImplemented),
            ("<Other/>".to_owned(), Code::MalformedXML),
        ] {
            assert_eq!(code(&rules), Some(expected), "{rules}");
        }
        let named =
            |id: &str, event: &str| rule(ARN, &format!("<Id>{id}</Id><Event>s3:Object{event}</Event>"));
        assert_eq!(
            code(&(named("a", "Created:Put") + &named("a", "Removed:*"))),
            Some(Code::InvalidArgument)
        );
        assert_eq!(code(&(named("a", "Created:Put") + &named("b", "Removed:*"))), None);
    }
}
