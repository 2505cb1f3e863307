//! What is known of a request, for the conditions of policies.

use coffer_common::time::UnixMillis;

use super::Caller;
use crate::policy::Facts;
use crate::s3::attributes;
use crate::s3::auth::Scheme;
use crate::s3::error::S3Error;
use crate::s3::request::S3Request;
use crate::s3::response::iso_date;
use crate::s3::tagging;

/// Headers that are condition keys under their own name.
const HEADERS: [&str; 16] = [
    "x-amz-acl",
    "x-amz-content-sha256",
    "x-amz-copy-source",
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
    ("x-amz-object-lock-mode", "s3:object-lock-mode"),
    ("x-amz-object-lock-legal-hold", "s3:object-lock-legal-hold"),
    ("x-amz-object-lock-retain-until-date", "s3:object-lock-retain-until-date"),
];

/// Gathers what head and caller tell.
pub(super) fn gather(facts: &mut Facts, request: &S3Request) {
    add_caller(facts, request.caller());
    let now = UnixMillis::now();
    facts.add("aws:CurrentTime", iso_date(now));
    facts.add("aws:EpochTime", now.seconds().to_string());
    facts.add("aws:SecureTransport", request.peer().secure.to_string());
    facts.add("aws:SourceIp", request.peer().address.ip().to_canonical().to_string());
    for (header, key) in
        [("user-agent", "aws:UserAgent"), ("referer", "aws:Referer")].into_iter().chain(RENAMED)
    {
        if let Some(value) = request.text(header) {
            facts.add(key, value);
        }
    }
    for header in HEADERS {
        if let Some(value) = request.text(header) {
            let value = if header == "x-amz-copy-source" { value.trim_start_matches('/') } else { value };
            facts.add(&format!("s3:{header}"), value);
        }
    }
    for (parameter, key) in [
        ("prefix", "s3:prefix"),
        ("delimiter", "s3:delimiter"),
        ("max-keys", "s3:max-keys"),
        ("versionId", "s3:VersionId"),
    ] {
        if let Some(value) = request.query.get(parameter) {
            facts.add(key, value);
        }
    }
    add_scheme(facts, request.scheme());
    if let Ok(Some(tags)) = attributes::tagging(&request.headers) {
        add_tags(facts, &tags);
    }
}

fn add_caller(facts: &mut Facts, caller: &Caller) {
    let kind = match caller {
        Caller::Root => "Account",
        Caller::User(_) => "User",
        Caller::Anonymous => "Anonymous",
    };
    facts.add("aws:PrincipalType", kind);
    if *caller == Caller::Anonymous {
        facts.add("aws:userid", "anonymous");
        return;
    }
    let owner = caller.owner();
    facts.add("aws:PrincipalArn", format!("arn:aws:iam::{}:user/{}", owner.id, owner.display_name));
    facts.add("aws:userid", owner.id);
    facts.add("aws:username", owner.display_name);
}

fn add_scheme(facts: &mut Facts, scheme: Scheme) {
    let (kind, version) = match scheme {
        Scheme::V4Header => ("REST-HEADER", "AWS4-HMAC-SHA256"),
        Scheme::V4Query => ("REST-QUERY-STRING", "AWS4-HMAC-SHA256"),
        Scheme::V2Header => ("REST-HEADER", "AWS"),
        Scheme::V2Query => ("REST-QUERY-STRING", "AWS"),
        Scheme::Form => ("POST", "AWS4-HMAC-SHA256"),
        Scheme::Anonymous => return,
    };
    facts.add("s3:authType", kind);
    facts.add("s3:signatureversion", version);
}

fn add_tags(facts: &mut Facts, tags: &std::collections::BTreeMap<String, String>) {
    for (name, value) in tags {
        facts.add(&format!("s3:RequestObjectTag/{name}"), value.clone());
        facts.add("s3:RequestObjectTagKeys", name.clone());
    }
}

/// Adds the tags that the body of a request for tagging names.
///
/// # Errors
/// What is wrong with the body.
pub(super) async fn add_tags_of_body(facts: &mut Facts, request: &mut S3Request) -> Result<(), S3Error> {
    if request.query.has("tagging") && request.is_put() {
        let body = request.peek_xml_body().await?;
        add_tags(facts, &tagging::parse(&body, tagging::MAX_OBJECT_TAGS)?);
    }
    Ok(())
}
