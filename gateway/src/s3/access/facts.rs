//! What is known of a request, for the conditions of policies.
//!
//! Owns: the value of every key of [`crate::policy`] that a request has one of, from its head ([`of_head`]), from its body
//! ([`of_body`]) and from the object it is about ([`of_version`], [`of_tags`]). Never: decides anything, or looks anything up.
//!
//! A key without its value is a condition that is never met, so a value is told in the form that the handler takes it for:
//! the source of a copy decoded, a date as a date, the payload as the signature has it.
//!
//! Source: "Actions, resources, and condition keys for Amazon S3" of the AWS Service Authorization Reference; "Amazon S3
//! Signature Version 4 Authentication Specific Policy Keys" of the Amazon S3 API Reference.

use coffer_common::time::UnixMillis;
use http::HeaderMap;

use super::Caller;
use crate::object::{BucketInfo, Retention};
use crate::policy::Facts;
use crate::s3::auth::{Scheme, Verified};
use crate::s3::error::S3Error;
use crate::s3::lock;
use crate::s3::operation::{BucketOperation, ObjectOperation, Operation};
use crate::s3::query::Query;
use crate::s3::request::parse_copy_source;
use crate::s3::response::iso_date;
use crate::s3::server::{Peer, TlsVersion};
use crate::s3::{attributes, tagging};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Headers that are condition keys under their own name.
const HEADERS: [&str; 14] = [
    "x-amz-acl",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-metadata-directive",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "if-match",
    "if-none-match",
];

/// Headers that are condition keys under another name.
const RENAMED: [(&str, &str); 3] = [
    ("user-agent", "aws:UserAgent"),
    ("referer", "aws:Referer"),
    ("x-amz-object-lock-legal-hold", LEGAL_HOLD),
];

const LEGAL_HOLD: &str = "s3:object-lock-legal-hold";

/// A request without its body, in front of a bucket.
pub(super) struct Head<'a> {
    pub(super) caller: &'a Caller,
    pub(super) peer: Peer,
    pub(super) verified: &'a Verified,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: &'a Query,
    pub(super) bucket: &'a BucketInfo,
    /// What is done with this bucket; `None` if the source of a copy is read from it.
    pub(super) operation: Option<&'a Operation>,
    pub(super) now: UnixMillis,
}

/// What a head tells.
pub(super) fn of_head(head: &Head<'_>) -> Facts {
    let mut facts = Facts::default();
    facts.add("aws:CurrentTime", iso_date(head.now));
    facts.add("aws:EpochTime", head.now.seconds().to_string());
    add_caller(&mut facts, head.caller);
    add_peer(&mut facts, head.peer);
    add_signature(&mut facts, head);
    add_headers(&mut facts, head.headers, head.now);
    facts.add("aws:ResourceAccount", head.bucket.owner.id.clone());
    facts.add("s3:ResourceAccount", head.bucket.owner.id.clone());
    facts.add("aws:RequestedRegion", head.bucket.region.clone());
    if let Some(operation) = head.operation {
        add_operation(&mut facts, operation, head.query);
    }
    facts
}

fn add_caller(facts: &mut Facts, caller: &Caller) {
    let kind = match caller {
        Caller::Root => "Account",
        Caller::User(_) => "User",
        Caller::Anonymous => "Anonymous",
    };
    facts.add("aws:PrincipalType", kind);
    // No service acts for anybody here.
    facts.add("aws:ViaAWSService", "false");
    if *caller == Caller::Anonymous {
        facts.add("aws:PrincipalAccount", "anonymous");
        facts.add("aws:userid", "anonymous");
        return;
    }
    let owner = caller.owner();
    facts.add("aws:PrincipalIsAWSService", "false");
    facts.add("aws:PrincipalArn", format!("arn:aws:iam::{}:user/{}", owner.id, owner.display_name));
    facts.add("aws:PrincipalAccount", owner.id.clone());
    facts.add("aws:userid", owner.id);
    facts.add("aws:username", owner.display_name);
}

fn add_peer(facts: &mut Facts, peer: Peer) {
    facts.add("aws:SecureTransport", peer.secure.to_string());
    facts.add("aws:SourceIp", peer.address.ip().to_canonical().to_string());
    match peer.tls {
        Some(TlsVersion::V1_2) => facts.add("s3:TlsVersion", "1.2"),
        Some(TlsVersion::V1_3) => facts.add("s3:TlsVersion", "1.3"),
        None => {}
    }
}

fn add_signature(facts: &mut Facts, head: &Head<'_>) {
    let scheme = head.verified.scheme();
    // Of a request that nobody signed it says what is sent, if it is there; of any other what the signature covers.
    if scheme != Scheme::Anonymous || head.headers.contains_key("x-amz-content-sha256") {
        facts.add("s3:x-amz-content-sha256", head.verified.payload().name());
    }
    if let Some(signed) = head.verified.signed() {
        facts.add("s3:signatureAge", head.now.0.saturating_sub(signed.0).to_string());
    }
    let (kind, version) = match scheme {
        Scheme::V4Header => ("REST-HEADER", "AWS4-HMAC-SHA256"),
        Scheme::V4Query => ("REST-QUERY-STRING", "AWS4-HMAC-SHA256"),
        Scheme::V2Header => ("REST-HEADER", "AWS"),
        Scheme::V2Query => ("REST-QUERY-STRING", "AWS"),
        Scheme::V4Form => ("POST", "AWS4-HMAC-SHA256"),
        Scheme::V2Form => ("POST", "AWS"),
        Scheme::Anonymous => return,
    };
    facts.add("s3:authType", kind);
    facts.add("s3:signatureversion", version);
}

fn add_headers(facts: &mut Facts, headers: &HeaderMap, now: UnixMillis) {
    let text = |name: &str| headers.get(name).map(attributes::lossy);
    for (header, key) in RENAMED {
        if let Some(value) = text(header) {
            facts.add(key, value);
        }
    }
    for header in HEADERS {
        if let Some(value) = text(header) {
            facts.add(&format!("s3:{header}"), value);
        }
    }
    // What cannot be read is refused by whoever would carry it out.
    if let Some(Ok((bucket, key, version))) = text("x-amz-copy-source").map(|raw| parse_copy_source(&raw)) {
        let version = version.map(|version| format!("?versionId={version}")).unwrap_or_default();
        facts.add("s3:x-amz-copy-source", format!("{bucket}/{}{version}", key.as_str()));
    }
    if let Ok(Some(retention)) = lock::retention(headers, now) {
        add_retention(facts, retention, now);
    }
    if let Ok(Some(tags)) = attributes::tagging(headers) {
        add_tags(facts, &tags);
    }
}

fn add_operation(facts: &mut Facts, operation: &Operation, query: &Query) {
    let creates = match operation {
        Operation::Bucket(_, BucketOperation::PostObject)
        | Operation::Object(
            _,
            _,
            ObjectOperation::Put | ObjectOperation::Copy | ObjectOperation::CompleteUpload,
        ) => Some(true),
        Operation::Object(
            _,
            _,
            ObjectOperation::CreateUpload | ObjectOperation::UploadPart | ObjectOperation::UploadPartCopy,
        ) => Some(false),
        Operation::ListBuckets | Operation::Bucket(..) | Operation::Object(..) => None,
    };
    if let Some(creates) = creates {
        facts.add("s3:ObjectCreationOperation", creates.to_string());
    }
    let parameters: &[(&str, &str)] = match operation {
        Operation::Bucket(
            _,
            BucketOperation::ListV1
            | BucketOperation::ListV2
            | BucketOperation::ListVersions
            | BucketOperation::ListUploads,
        ) => &[("prefix", "s3:prefix"), ("delimiter", "s3:delimiter"), ("max-keys", "s3:max-keys")],
        Operation::ListBuckets | Operation::Bucket(..) | Operation::Object(..) => &[],
    };
    for (parameter, key) in parameters {
        if let Some(value) = query.get(parameter) {
            facts.add(key, value);
        }
    }
    if let Operation::Object(..) = operation {
        of_version(facts, query.get("versionId"));
    }
}

/// Adds the version that is asked about, as Coffer writes it. A text that is none is refused by who looks for it.
pub(super) fn of_version(facts: &mut Facts, version: Option<&str>) {
    if let Ok(Some(version)) = attributes::parse_version(version) {
        facts.add("s3:VersionId", version.to_string());
    }
}

/// Adds the tags of the object that is asked about.
pub(super) fn of_tags(facts: &mut Facts, tags: &tagging::Tags) {
    for (name, value) in tags {
        facts.add(&format!("s3:ExistingObjectTag/{name}"), value.clone());
    }
}

/// What keys begin with whose values are in the body of an operation.
pub(super) fn in_body(operation: &Operation) -> Option<&'static str> {
    match operation {
        Operation::Object(_, _, ObjectOperation::PutTagging) => Some("s3:RequestObjectTag"),
        Operation::Object(_, _, ObjectOperation::PutRetention | ObjectOperation::PutLegalHold) => {
            Some("s3:object-lock-")
        }
        Operation::ListBuckets | Operation::Bucket(..) | Operation::Object(..) => None,
    }
}

/// Adds what a body tells, if [`in_body`] says that it does.
///
/// # Errors
/// What is wrong with the body.
pub(super) fn of_body(
    facts: &mut Facts,
    operation: &Operation,
    body: &[u8],
    now: UnixMillis,
) -> Result<(), S3Error> {
    match operation {
        Operation::Object(_, _, ObjectOperation::PutTagging) => {
            add_tags(facts, &tagging::parse(body, tagging::MAX_OBJECT_TAGS)?);
        }
        Operation::Object(_, _, ObjectOperation::PutRetention) => {
            if let Some(retention) = lock::parse_retention(body, now)? {
                add_retention(facts, retention, now);
            }
        }
        Operation::Object(_, _, ObjectOperation::PutLegalHold) => {
            facts.add(LEGAL_HOLD, if lock::parse_legal_hold(body)? { "ON" } else { "OFF" });
        }
        Operation::ListBuckets | Operation::Bucket(..) | Operation::Object(..) => {}
    }
    Ok(())
}

fn add_retention(facts: &mut Facts, retention: Retention, now: UnixMillis) {
    facts.add("s3:object-lock-mode", lock::mode_name(retention.mode));
    facts.add("s3:object-lock-retain-until-date", iso_date(retention.until));
    // A day that has begun counts: what is kept for ten days from now is, when it comes, kept for a little less.
    let days = retention.until.0.saturating_sub(now.0).div_ceil(DAY_MS);
    facts.add("s3:object-lock-remaining-retention-days", days.to_string());
}

fn add_tags(facts: &mut Facts, tags: &tagging::Tags) {
    for (name, value) in tags {
        facts.add(&format!("s3:RequestObjectTag/{name}"), value.clone());
        facts.add("s3:RequestObjectTagKeys", name.clone());
    }
}

#[cfg(test)]
mod tests;
