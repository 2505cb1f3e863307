//! Signature Version 2: HMAC-SHA1 over method, four headers, the `x-amz-*` headers and the resource.
//!
//! boto3 still presigns with it by default. It covers less than Version 4: the body only through
//! `Content-MD5`, and of the query only sub-resources. The list of sub-resources below holds every query
//! parameter that selects another operation or version, so none can be added to a signed URL unnoticed.
//!
//! A presigned URL may carry `x-amz-*`, `content-type` and `content-md5` in its query (botocore puts them
//! there); they count as headers unless the header itself is sent.

use super::date::parse_any_date;
use super::encoding::{lookup, pairs, percent_decode};
use super::v4::unsigned_payload;
use super::{AuthError, Credential, Credentials, MAX_SKEW, PayloadMode, RequestParts, Scheme, Verified};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer_common::time::UnixMillis;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue};
use sha1::Sha1;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

/// Query parameters that are part of the signed resource. Some clients do not sign the newer ones of them
/// (botocore: `encryption`, `legal-hold`, `retention`, `attributes`, `publicAccessBlock`); those requests
/// are refused, since a signature that does not cover them could be used for another operation.
const SUB_RESOURCES: [&str; 44] = [
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "retention",
    "select",
    "select-type",
    "session",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
    "defaultObjectAcl",
];

type Fields = BTreeMap<String, Vec<u8>>;

/// Verifies `Authorization: AWS <key>:<signature>`, whose whole value is `authorization`.
pub(super) fn verify_header(
    request: &RequestParts<'_>,
    authorization: &str,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    let (access_key, signature) = authorization
        .strip_prefix("AWS ")
        .and_then(|rest| rest.trim().rsplit_once(':'))
        .ok_or(AuthError::HeaderMalformed("it must be \"AWS AccessKeyId:Signature\""))?;
    let amz_date = text_header(request, "x-amz-date");
    let date_header = text_header(request, "date");
    let date = amz_date.or(date_header).ok_or(AuthError::MissingDate)?;
    let time = parse_any_date(date).ok_or(AuthError::MissingDate)?;
    let skew = u64::try_from(MAX_SKEW.as_millis()).unwrap_or(u64::MAX);
    if now.0.abs_diff(time.0) > skew {
        return Err(AuthError::TimeTooSkewed { request_time: time, server_time: now });
    }
    let date_line = if amz_date.is_some() { "" } else { date_header.unwrap_or_default() };
    let fields = header_fields(request);
    let (fields, scheme, signed) = (&fields, Scheme::V2Header, Some(time));
    let claim = Claim { access_key, signature, date_line, fields, scheme, signed };
    finish(request, &claim, credentials, now)
}

/// Verifies a presigned URL (`AWSAccessKeyId`, `Expires`, `Signature`); `query` is the decoded query.
pub(super) fn verify_query(
    request: &RequestParts<'_>,
    query: &[(Vec<u8>, Vec<u8>)],
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    let once = |name: &str| {
        let count = query.iter().filter(|(key, _)| key.as_slice() == name.as_bytes()).count();
        lookup(query, name).filter(|_| count == 1).ok_or(AuthError::QueryV2Malformed)
    };
    let (access_key, expires_text) = (once("AWSAccessKeyId")?, once("Expires")?);
    // Base64 has `+`, which a careless client leaves unescaped and a query turns into a space.
    let signature = once("Signature")?.replace(' ', "+");
    let expires = expires_text.parse::<u64>().map_err(|_| AuthError::QueryV2Malformed)?;
    let expires = UnixMillis(expires.saturating_mul(1000));
    if now > expires {
        return Err(AuthError::Expired { expires, server_time: now });
    }
    let headers = header_fields(request);
    let mut fields = headers.clone();
    let mut hoisted = Vec::new();
    for (name, value) in query {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let wanted = name.starts_with("x-amz-") || name == "content-type" || name == "content-md5";
        if !wanted || headers.contains_key(&name) {
            continue;
        }
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| AuthError::QueryV2Malformed)?;
        let header_value = HeaderValue::from_bytes(value).map_err(|_| AuthError::QueryV2Malformed)?;
        if fields.insert(name, value.clone()).is_some() {
            return Err(AuthError::QueryV2Malformed);
        }
        hoisted.push((header, header_value));
    }
    let claim = Claim {
        access_key,
        signature: &signature,
        date_line: expires_text,
        fields: &fields,
        scheme: Scheme::V2Query,
        signed: None,
    };
    let mut verified = finish(request, &claim, credentials, now)?;
    verified.hoisted = hoisted;
    Ok(verified)
}

struct Claim<'a> {
    access_key: &'a str,
    signature: &'a str,
    date_line: &'a str,
    fields: &'a Fields,
    scheme: Scheme,
    signed: Option<UnixMillis>,
}

fn finish(
    request: &RequestParts<'_>,
    claim: &Claim<'_>,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    let credential = credentials.find(claim.access_key);
    let secret = credential.map_or("a decoy secret of usual length..........", Credential::secret_key);
    let head = string_head(request.method, claim.date_line, claim.fields);
    let mut matches = subtle::Choice::from(0);
    for resource in resources(request) {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(&head);
        mac.update(&resource);
        let expected = STANDARD.encode(mac.finalize().into_bytes());
        matches |= expected.as_bytes().ct_eq(claim.signature.as_bytes());
    }
    let access_key = claim.access_key.to_owned();
    let Some(credential) = credential else {
        return Err(AuthError::UnknownAccessKey { access_key });
    };
    if !bool::from(matches) {
        return Err(AuthError::SignatureMismatch { access_key });
    }
    check_token(credential, claim.fields, now)?;
    let payload = payload_mode(claim.fields)?;
    let (scheme, signed, hoisted) = (claim.scheme, claim.signed, Vec::new());
    Ok(Verified { access_key: Some(access_key), scheme, payload, signed, hoisted })
}

/// Version 2 has no payload modes of its own, but `x-amz-content-sha256` is signed if it is there, and says
/// how the body is framed. Chunk signatures belong to Version 4 only.
fn payload_mode(fields: &Fields) -> Result<PayloadMode, AuthError> {
    let Some(value) = fields.get("x-amz-content-sha256") else {
        return Ok(PayloadMode::Unsigned);
    };
    unsigned_payload(std::str::from_utf8(value).map_err(|_| AuthError::InvalidContentSha256)?)
}

fn check_token(credential: &Credential, fields: &Fields, now: UnixMillis) -> Result<(), AuthError> {
    let token = fields.get("x-amz-security-token").map(Vec::as_slice).unwrap_or_default();
    let expected = credential.session_token().unwrap_or_default();
    if !bool::from(expected.as_bytes().ct_eq(token)) {
        return Err(AuthError::InvalidToken);
    }
    match credential.expires() {
        Some(expires) if now > expires => Err(AuthError::ExpiredToken),
        _ => Ok(()),
    }
}

/// The headers that Version 2 signs, lower case, several values joined by a comma.
fn header_fields(request: &RequestParts<'_>) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in request.headers {
        let name = name.as_str();
        if !(name.starts_with("x-amz-") || name == "content-type" || name == "content-md5") {
            continue;
        }
        let value = value.as_bytes().trim_ascii();
        fields
            .entry(name.to_owned())
            .and_modify(|joined| {
                joined.push(b',');
                joined.extend(value);
            })
            .or_insert_with(|| value.to_vec());
    }
    fields
}

/// Everything of the string to sign before the resource.
fn string_head(method: &str, date_line: &str, fields: &Fields) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let field = |name: &str| fields.get(name).map(Vec::as_slice).unwrap_or_default();
    for line in [method.as_bytes(), field("content-md5"), field("content-type"), date_line.as_bytes()] {
        out.extend(line);
        out.push(b'\n');
    }
    for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-amz-")) {
        out.extend(name.as_bytes());
        out.push(b':');
        out.extend(value);
        out.push(b'\n');
    }
    out
}

/// The canonicalised resource. Signers disagree on two points, so there can be several forms, which all
/// name the same resource: whether an empty sub-resource keeps its `=`, and whether a bucket in the path
/// ends with `/` (botocore signs `/bucket/` and sends `/bucket`).
fn resources(request: &RequestParts<'_>) -> Vec<Vec<u8>> {
    let mut base = Vec::new();
    if let Some(bucket) = request.host_bucket {
        base.push(b'/');
        base.extend(bucket.as_bytes());
    }
    base.extend(request.raw_path.as_bytes());
    let mut bases = vec![base];
    let name = request.raw_path.strip_prefix('/').unwrap_or_default();
    let bare_bucket = !name.is_empty() && !name.contains('/');
    if request.host_bucket.is_none() && bare_bucket {
        bases.push(format!("{}/", request.raw_path).into_bytes());
    }
    let raw = request.raw_query.unwrap_or_default();
    let mut parts: Vec<(&str, Vec<u8>)> = pairs(raw)
        .filter(|(name, _)| SUB_RESOURCES.contains(&&*String::from_utf8_lossy(&percent_decode(name))))
        .map(|(name, value)| (name, percent_decode(value).into_owned()))
        .collect();
    parts.sort_unstable();
    let equals: &[bool] =
        if parts.iter().any(|(_, value)| value.is_empty()) { &[false, true] } else { &[false] };
    let form = |base: &[u8], keep: bool| with_query(base, &parts, keep);
    bases.iter().flat_map(|base| equals.iter().map(|&keep| form(base, keep)).collect::<Vec<_>>()).collect()
}

fn with_query(base: &[u8], parts: &[(&str, Vec<u8>)], keep_equals: bool) -> Vec<u8> {
    let mut out = base.to_vec();
    for (index, (name, value)) in parts.iter().enumerate() {
        out.push(if index == 0 { b'?' } else { b'&' });
        out.extend(name.as_bytes());
        if keep_equals || !value.is_empty() {
            out.push(b'=');
        }
        out.extend(value);
    }
    out
}

fn text_header<'a>(request: &RequestParts<'a>, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok().map(str::trim)
}
