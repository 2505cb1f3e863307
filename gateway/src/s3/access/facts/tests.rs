use std::net::SocketAddr;

use coffer_common::types::{BucketId, BucketName, ObjectKey};
use http::{HeaderName, HeaderValue};

use super::*;
use crate::object::{BucketVersioning, Documents, Owner};
use crate::policy::{ABSENT, KEYS};
use crate::s3::auth::PayloadMode;

const NOW: UnixMillis = UnixMillis(1_795_507_697_000);
const UNTIL: &str = "2027-01-01T00:00:00Z";

/// A request that owns its parts.
struct Asked {
    caller: Caller,
    peer: Peer,
    verified: Verified,
    headers: HeaderMap,
    query: Query,
    bucket: BucketInfo,
    operation: Option<Operation>,
}

fn object(operation: ObjectOperation) -> Option<Operation> {
    Some(Operation::Object(BucketName::new("bkt").unwrap(), ObjectKey::new("k").unwrap(), operation))
}

fn on_bucket(operation: BucketOperation) -> Option<Operation> {
    Some(Operation::Bucket(BucketName::new("bkt").unwrap(), operation))
}

fn owner(id: &str) -> Owner {
    Owner { id: id.to_owned(), display_name: "alice".to_owned() }
}

/// A request with a signature that is ten seconds old.
fn asked(operation: Option<Operation>, query: &str, headers: &[(&'static str, &str)]) -> Asked {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    Asked {
        caller: Caller::User(owner("a11ce")),
        peer: Peer { address, secure: true, tls: Some(TlsVersion::V1_3) },
        verified: Verified::with(Scheme::V4Header, PayloadMode::Unsigned, Some(UnixMillis(NOW.0 - 10_000))),
        headers: headers.iter().map(pair).collect(),
        query: Query::parse(query).unwrap(),
        bucket: BucketInfo {
            name: BucketName::new("bkt").unwrap(),
            id: BucketId::from_bytes([0; 16]),
            revision: 1,
            created: NOW,
            owner: owner("0wner"),
            region: "eu-north-1".to_owned(),
            documents: Documents::default(),
            versioning: BucketVersioning::default(),
            object_lock: None,
        },
        operation,
    }
}

impl Asked {
    fn facts(&self) -> Facts {
        of_head(&Head {
            caller: &self.caller,
            peer: self.peer,
            verified: &self.verified,
            headers: &self.headers,
            query: &self.query,
            bucket: &self.bucket,
            operation: self.operation.as_ref(),
            now: NOW,
        })
    }
}

fn one<'a>(facts: &'a Facts, key: &str) -> Option<&'a str> {
    let values = facts.get(key)?;
    assert_eq!(values.len(), 1, "{key}");
    Some(&values[0])
}

/// All that a key can be told by.
fn everything() -> Vec<Facts> {
    let headers = [
        ("x-amz-acl", "private"),
        ("x-amz-grant-full-control", "id=1"),
        ("x-amz-grant-read", "id=1"),
        ("x-amz-grant-read-acp", "id=1"),
        ("x-amz-grant-write", "id=1"),
        ("x-amz-grant-write-acp", "id=1"),
        ("x-amz-metadata-directive", "COPY"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-storage-class", "STANDARD"),
        ("x-amz-website-redirect-location", "/x"),
        ("x-amz-object-ownership", "ObjectWriter"),
        ("x-amz-copy-source", "/other/k"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-object-lock-retain-until-date", UNTIL),
        ("x-amz-object-lock-legal-hold", "ON"),
        ("x-amz-tagging", "k=v"),
        ("if-match", "\"e\""),
        ("if-none-match", "*"),
        ("user-agent", "a"),
        ("referer", "a"),
    ];
    let put = asked(object(ObjectOperation::Put), "versionId=null", &headers);
    let list =
        asked(on_bucket(BucketOperation::ListV2), "prefix=a&delimiter=b&max-keys=1&location=x", &headers);
    let mut looked_at = Facts::default();
    of_tags(&mut looked_at, &[("k".to_owned(), "v".to_owned())].into());
    vec![put.facts(), list.facts(), looked_at]
}

#[test]
fn every_key_that_a_policy_may_ask_for_is_told() {
    let everything = everything();
    let told = |key: &str| everything.iter().any(|facts| facts.get(&key.replace('*', "k")).is_some());
    for key in KEYS {
        assert!(told(key), "{key} never has a value");
    }
    for key in ABSENT {
        assert!(!told(key), "{key} has a value");
    }
}

#[test]
fn a_signature_has_an_age_and_says_how_the_payload_is_bound() {
    let signed = |scheme: Scheme, payload: PayloadMode, at: Option<u64>| {
        let mut asked = asked(object(ObjectOperation::Put), "", &[]);
        asked.verified = Verified::with(scheme, payload, at.map(UnixMillis));
        let facts = asked.facts();
        let text = |key: &str| one(&facts, key).unwrap_or("-").to_owned();
        (
            text("s3:signatureAge"),
            text("s3:x-amz-content-sha256"),
            text("s3:authType"),
            text("s3:signatureversion"),
        )
    };
    let expect = |age: &str, payload: &str, kind: &str, version: &str| {
        (age.to_owned(), payload.to_owned(), kind.to_owned(), version.to_owned())
    };
    let (v4, v2, unsigned) = ("AWS4-HMAC-SHA256", "AWS", "UNSIGNED-PAYLOAD");
    let (query, header, post) = ("REST-QUERY-STRING", "REST-HEADER", "POST");
    let at = Some(NOW.0 - 600_000);
    assert_eq!(signed(Scheme::V4Query, PayloadMode::Unsigned, at), expect("600000", unsigned, query, v4));
    assert_eq!(signed(Scheme::V2Query, PayloadMode::Unsigned, None), expect("-", unsigned, query, v2));
    assert_eq!(signed(Scheme::V4Form, PayloadMode::Unsigned, at), expect("600000", unsigned, post, v4));
    assert_eq!(signed(Scheme::V2Form, PayloadMode::Unsigned, None), expect("-", unsigned, post, v2));
    // A clock may be ahead of ours.
    let ahead = Some(NOW.0 + 1);
    let hash = "ab".repeat(32);
    assert_eq!(
        signed(Scheme::V4Header, PayloadMode::Hashed([0xab; 32]), ahead),
        expect("0", &hash, header, v4)
    );
    let trailer = PayloadMode::Chunked { signing: None, trailer: true };
    let name = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    assert_eq!(signed(Scheme::V4Header, trailer, at), expect("600000", name, header, v4));
    let mut nobody = asked(object(ObjectOperation::Get), "", &[]);
    (nobody.caller, nobody.verified) = (Caller::Anonymous, Verified::anonymous(&nobody.headers).unwrap());
    let facts = nobody.facts();
    for key in
        ["s3:signatureAge", "s3:authType", "s3:x-amz-content-sha256", "aws:username", "aws:PrincipalArn"]
    {
        assert_eq!(one(&facts, key), None, "{key}");
    }
    assert_eq!(one(&facts, "aws:PrincipalAccount"), Some("anonymous"));
}

#[test]
fn what_protects_a_version_is_told_from_headers_and_bodies() {
    let days = |until: u64| {
        let retention = format!(
            "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
            iso_date(UnixMillis(until))
        );
        let mut facts = Facts::default();
        let put = object(ObjectOperation::PutRetention).unwrap();
        of_body(&mut facts, &put, retention.as_bytes(), NOW).unwrap();
        assert_eq!(one(&facts, "s3:object-lock-mode"), Some("COMPLIANCE"));
        assert_eq!(
            one(&facts, "s3:object-lock-retain-until-date"),
            Some(iso_date(UnixMillis(until)).as_str())
        );
        one(&facts, "s3:object-lock-remaining-retention-days").unwrap().to_owned()
    };
    assert_eq!(days(NOW.0 + 10 * DAY_MS), "10");
    assert_eq!(days(NOW.0 + 10 * DAY_MS - 5_000), "10");
    assert_eq!(days(NOW.0 + 10 * DAY_MS + 1), "11");
    let lock = [("x-amz-object-lock-mode", "GOVERNANCE"), ("x-amz-object-lock-retain-until-date", UNTIL)];
    let facts = asked(object(ObjectOperation::Put), "", &lock).facts();
    assert_eq!(one(&facts, "s3:object-lock-mode"), Some("GOVERNANCE"));
    assert_eq!(one(&facts, "s3:object-lock-remaining-retention-days"), Some("38"));
    let body = |operation: ObjectOperation, text: &str| {
        let (mut facts, operation) = (Facts::default(), object(operation).unwrap());
        assert!(in_body(&operation).is_some());
        of_body(&mut facts, &operation, text.as_bytes(), NOW).map(|()| facts)
    };
    let hold = body(ObjectOperation::PutLegalHold, "<LegalHold><Status>OFF</Status></LegalHold>").unwrap();
    assert_eq!(one(&hold, "s3:object-lock-legal-hold"), Some("OFF"));
    assert_eq!(body(ObjectOperation::PutRetention, "<Retention/>").unwrap(), Facts::default());
    assert!(body(ObjectOperation::PutRetention, "<Other/>").is_err());
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    let tags = body(ObjectOperation::PutTagging, tags).unwrap();
    assert_eq!(one(&tags, "s3:RequestObjectTag/a"), Some("1"));
}

#[test]
fn what_does_not_belong_to_an_operation_is_not_told_of_it() {
    let told = |operation: Option<Operation>, key: &str| {
        let facts = asked(operation, "prefix=home/&versionId=null", &[]).facts();
        one(&facts, key).map(str::to_owned)
    };
    assert_eq!(told(on_bucket(BucketOperation::ListVersions), "s3:prefix").as_deref(), Some("home/"));
    assert_eq!(told(object(ObjectOperation::Get), "s3:prefix"), None, "a reader names no prefix");
    assert_eq!(told(on_bucket(BucketOperation::ListVersions), "s3:VersionId"), None);
    assert_eq!(told(object(ObjectOperation::Get), "s3:VersionId").as_deref(), Some("null"));
    let creates = |operation| told(operation, "s3:ObjectCreationOperation");
    for operation in [ObjectOperation::Put, ObjectOperation::Copy, ObjectOperation::CompleteUpload] {
        assert_eq!(creates(object(operation)).as_deref(), Some("true"), "{operation:?}");
    }
    assert_eq!(creates(on_bucket(BucketOperation::PostObject)).as_deref(), Some("true"));
    for operation in
        [ObjectOperation::CreateUpload, ObjectOperation::UploadPart, ObjectOperation::UploadPartCopy]
    {
        assert_eq!(creates(object(operation)).as_deref(), Some("false"), "{operation:?}");
    }
    assert_eq!(creates(object(ObjectOperation::Get)), None);
    assert_eq!(creates(None), None, "the source of a copy is only read");
}

#[test]
fn values_are_told_as_they_are_taken() {
    let source = |raw: &str| {
        let facts = asked(object(ObjectOperation::Copy), "", &[("x-amz-copy-source", raw)]).facts();
        one(&facts, "s3:x-amz-copy-source").map(str::to_owned)
    };
    for raw in ["/bkt/secret/k", "bkt/secret/k", "bkt/%73ecret/k", "bkt%2Fsecret%2Fk"] {
        assert_eq!(source(raw).as_deref(), Some("bkt/secret/k"), "{raw}");
    }
    assert_eq!(source("bkt/k?versionId=null").as_deref(), Some("bkt/k?versionId=null"));
    assert_eq!(source("bkt"), None);
    let redirect = [("x-amz-website-redirect-location", "/\u{fc}")];
    let facts = asked(object(ObjectOperation::Put), "", &redirect).facts();
    assert_eq!(one(&facts, "s3:x-amz-website-redirect-location"), Some("/\u{fc}"));
    let version = "ABCDEF0123456789".repeat(3);
    let facts = asked(object(ObjectOperation::Get), &format!("versionId={version}"), &[]).facts();
    assert_eq!(one(&facts, "s3:VersionId"), Some(version.to_lowercase().as_str()));
}
