//! The form of an event: pure.
//!
//! Source: "Event message structure" of the Amazon S3 User Guide. `eventVersion` is 2.1 for writes and removals, and 2.3 for
//! what came later. `sequencer` is the tag of the write, of fixed length, so that the later write of a key has the greater
//! text; tags and lists are no writes of their own and have none.
//!
//! A test event is another message: it tells a target that a bucket has been configured to send it events.

use bytes::Bytes;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ObjectKey, Tag};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::rules::{Kind, Rule};
use crate::object::{BucketInfo, Deleted, ObjectInfo, VersionId};

/// Bytes of a key that a record shows as they are; a space is `+`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'*')
    .remove(b'/')
    .remove(b' ');

/// A change of an object.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: Kind,
    /// To which key.
    pub(crate) key: ObjectKey,
    /// To which version, and so on.
    pub(crate) change: Change,
}

/// What a record says of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// The entity tag.
    pub(crate) etag: Option<String>,
    /// The version, in a bucket that keeps them.
    pub(crate) version: Option<String>,
    /// Its place in the order of the key's writes.
    pub(crate) sequence: Option<Tag>,
}

impl From<&ObjectInfo> for Change {
    fn from(info: &ObjectInfo) -> Self {
        Self {
            size: Some(info.size),
            etag: Some(info.etag.clone()),
            version: shown(info.version, info.versioned),
            sequence: info.sequence,
        }
    }
}

impl From<&Deleted> for Change {
    fn from(deleted: &Deleted) -> Self {
        let version = deleted.version.and_then(|version| shown(version, true));
        Self { version, sequence: deleted.sequence, ..Self::default() }
    }
}

fn shown(version: VersionId, versioned: bool) -> Option<String> {
    versioned.then(|| version.to_string())
}

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The canonical id of who asked.
    pub(crate) principal: String,
    /// The address that the request came from.
    pub(crate) address: String,
    /// The id of the request.
    pub(crate) request_id: String,
    /// The gateway that answered.
    pub(crate) host_id: String,
}

/// A delivery of these records.
pub(super) fn message(records: &[Record<'_>]) -> Bytes {
    #[derive(Serialize)]
    struct Message<'a> {
        #[serde(rename = "Records")]
        records: &'a [Record<'a>],
    }
    serde_json::to_vec(&Message { records }).expect("texts and numbers are JSON").into()
}

/// What a message of a test begins with.
const TEST: &[u8] = br#"{"Service":"Amazon S3","Event":"s3:TestEvent","#;

/// A test event.
pub(super) fn test(bucket: &str, source: &Source, now: UnixMillis) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Test<'a> {
        service: &'static str,
        event: &'static str,
        time: String,
        bucket: &'a str,
        request_id: &'a str,
        host_id: &'a str,
    }
    let (request_id, host_id) = (source.request_id.as_str(), source.host_id.as_str());
    let (service, event, time) = ("Amazon S3", "s3:TestEvent", iso(now));
    let test = Test { service, event, time, bucket, request_id, host_id };
    serde_json::to_vec(&test).expect("texts are JSON").into()
}

/// Whether a message is a test event.
pub(super) fn is_test(message: &[u8]) -> bool {
    message.starts_with(TEST)
}

/// One record.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    event_version: &'static str,
    event_source: &'static str,
    aws_region: &'a str,
    event_time: String,
    event_name: &'static str,
    user_identity: Identity<'a>,
    request_parameters: RequestParameters<'a>,
    response_elements: ResponseElements<'a>,
    s3: S3<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    principal_id: &'a str,
}

#[derive(Serialize)]
struct RequestParameters<'a> {
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: &'a str,
}

#[derive(Serialize)]
struct ResponseElements<'a> {
    #[serde(rename = "x-amz-request-id")]
    request_id: &'a str,
    #[serde(rename = "x-amz-id-2")]
    host_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct S3<'a> {
    #[serde(rename = "s3SchemaVersion")]
    schema_version: &'static str,
    configuration_id: &'a str,
    bucket: Bucket<'a>,
    object: Object<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bucket<'a> {
    name: &'a str,
    owner_identity: Identity<'a>,
    arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e_tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequencer: Option<String>,
}

impl<'a> Record<'a> {
    /// Of an event that a rule asks for.
    pub(super) fn new(
        event: &'a Event,
        (rule, bucket): (&'a Rule, &'a BucketInfo),
        source: &'a Source,
        now: UnixMillis,
    ) -> Self {
        let Event { kind, key, change } = event;
        let name = bucket.name.as_str();
        let owner_identity = Identity { principal_id: &bucket.owner.id };
        Self {
            event_version: kind.record_version(),
            event_source: "aws:s3",
            aws_region: &bucket.region,
            event_time: iso(now),
            event_name: kind.name(),
            user_identity: Identity { principal_id: &source.principal },
            request_parameters: RequestParameters { source_ip_address: &source.address },
            response_elements: ResponseElements { request_id: &source.request_id, host_id: &source.host_id },
            s3: S3 {
                schema_version: "1.0",
                configuration_id: &rule.id,
                bucket: Bucket { name, owner_identity, arn: format!("arn:aws:s3:::{name}") },
                object: Object {
                    key: utf8_percent_encode(key.as_str(), PLAIN).to_string().replace(' ', "+"),
                    size: change.size,
                    e_tag: change.etag.as_deref(),
                    version_id: change.version.as_deref(),
                    sequencer: change.sequence.map(sequencer),
                },
            },
        }
    }
}

fn sequencer(tag: Tag) -> String {
    let Tag { fence, seq, writer } = tag;
    let writer = u128::from_be_bytes(writer.to_bytes());
    format!("{:016X}{:016X}{seq:016X}{writer:032X}", fence.generation, fence.revision)
}

fn iso(time: UnixMillis) -> String {
    let time = i64::try_from(time.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use coffer_common::types::{BucketId, BucketName, Fence, OpId};

    use super::*;
    use crate::object::{BucketVersioning, Documents, Owner};

    fn tag(revision: u64, seq: u64) -> Tag {
        let writer = OpId { session: 5, counter: 6 };
        Tag { fence: Fence { generation: 1, revision }, seq, writer }
    }

    #[test]
    fn records_have_the_form_that_s3_documents() {
        let owner = Owner { id: "owner".to_owned(), display_name: String::new() };
        let bucket = BucketInfo {
            name: BucketName::new("bucket").unwrap(),
            id: BucketId(1),
            revision: 1,
            created: UnixMillis(0),
            owner,
            region: "us-east-1".to_owned(),
            documents: Documents::default(),
            versioning: BucketVersioning::Enabled,
            object_lock: None,
        };
        let (size, etag) = (Some(5), Some("e".to_owned()));
        let change = Change { size, etag, version: Some("v".to_owned()), sequence: Some(tag(2, 3)) };
        let key = ObjectKey::new("a/b c+é".to_owned()).unwrap();
        let event = Event { kind: Kind::CreatedByPut, key, change };
        let [principal, address, request_id, host_id] = ["p", "10.0.0.1", "r", "h"].map(str::to_owned);
        let source = Source { principal, address, request_id, host_id };
        let rule = Rule { id: "rule".to_owned(), ..Rule::default() };
        let record = Record::new(&event, (&rule, &bucket), &source, UnixMillis(1_500));
        let sequencer = "0000000000000001000000000000000200000000000000030000000000000005\
                         0000000000000006";
        let expected = serde_json::json!({"Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1",
            "eventTime": "1970-01-01T00:00:01.500Z", "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "p"}, "requestParameters": {"sourceIPAddress": "10.0.0.1"},
            "responseElements": {"x-amz-request-id": "r", "x-amz-id-2": "h"},
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "rule",
                "bucket": {"name": "bucket", "ownerIdentity": {"principalId": "owner"}, "arn": "arn:aws:s3:::bucket"},
                "object": {"key": "a/b+c%2B%C3%A9", "size": 5, "eTag": "e", "versionId": "v", "sequencer": sequencer},
            },
        }]});
        let found: serde_json::Value = serde_json::from_slice(&message(&[record])).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn tests_have_the_form_that_s3_documents_and_are_known_again() {
        let [principal, address, request_id, host_id] = ["p", "10.0.0.1", "r", "h"].map(str::to_owned);
        let source = Source { principal, address, request_id, host_id };
        let message = test("bucket", &source, UnixMillis(1_500));
        let expected = serde_json::json!({
            "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "1970-01-01T00:00:01.500Z", "Bucket": "bucket",
            "RequestId": "r", "HostId": "h",
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&message).unwrap(), expected);
        assert!(is_test(&message) && !is_test(&super::message(&[])));
    }

    #[test]
    fn the_later_write_has_the_greater_sequencer() {
        let mut tags = [tag(2, 3), tag(2, 300), tag(10, 1), tag(9, u64::MAX)];
        tags.sort_unstable();
        let texts = tags.map(sequencer);
        assert!(texts.is_sorted());
    }
}
