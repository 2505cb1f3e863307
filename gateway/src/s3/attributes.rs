//! The headers that describe an object, from a request and to an answer.
//!
//! Owns: system headers, user metadata with its 2 KB limit, tags, storage class, checksums. Never: stores. A header
//! that asks for something Coffer does not do is refused: to store the object without it would be a lie. Those of encryption
//! are read apart (see [`super::encryption`]).

use std::collections::BTreeMap;

use coffer_common::time::UnixMillis;
use coffer_common::types::{ObjectKey, OpId, VersionRef};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::auth::decode_query;
use super::checksum;
use super::convert::{algorithm_to_s3, scope_to_s3};
use super::error::{Code, S3Error};
use super::lock;
use super::query::Query;
use super::response::{http_date, quoted, set};
use super::settings::BucketSettings;
use super::tagging;
use crate::object::{
    Access, Attributes, Checksum, ChecksumScope, ObjectInfo, Select, Selected, StorageClass, VersionId,
};

/// Bytes that all names and values of user metadata may have together (S3).
const MAX_USER_METADATA_BYTES: usize = 2048;

const USER_PREFIX: &str = "x-amz-meta-";
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Reads the attributes of a new object; who else may read it is read apart (see [`super::acl`]).
///
/// # Errors
/// `MetadataTooLarge`, `InvalidTag`, `InvalidStorageClass`, or the refusal of what Coffer does not do.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Attributes, S3Error> {
    refuse_unserved(headers)?;
    Ok(Attributes {
        content_type: text(headers, &header::CONTENT_TYPE),
        content_encoding: content_encoding(headers),
        content_language: text(headers, &header::CONTENT_LANGUAGE),
        content_disposition: text(headers, &header::CONTENT_DISPOSITION),
        cache_control: text(headers, &header::CACHE_CONTROL),
        expires: text(headers, &header::EXPIRES),
        website_redirect: website_redirect(headers)?,
        user_metadata: user_metadata(headers)?,
        tags: tagging(headers)?.unwrap_or_default(),
        storage_class: storage_class(headers)?,
        retention: lock::retention(headers, UnixMillis::now())?,
        legal_hold: lock::legal_hold(headers)?,
        access: Access::Private,
    })
}

/// The tags in `x-amz-tagging`, if it is there.
///
/// # Errors
/// `InvalidTag` or `InvalidArgument`.
pub(crate) fn tagging(headers: &HeaderMap) -> Result<Option<BTreeMap<String, String>>, S3Error> {
    let Some(value) = headers.get("x-amz-tagging") else {
        return Ok(None);
    };
    let raw = value.to_str().map_err(|_| S3Error::new(Code::InvalidTag))?;
    let pairs = decode_query(raw).into_iter().map(|(key, value)| {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| S3Error::new(Code::InvalidTag));
        Ok((text(key)?, text(value)?))
    });
    tagging::collect(pairs.collect::<Result<Vec<_>, S3Error>>()?, tagging::MAX_OBJECT_TAGS).map(Some)
}

/// The storage class asked for.
///
/// # Errors
/// `InvalidStorageClass` for classes Coffer does not have.
pub(crate) fn storage_class(headers: &HeaderMap) -> Result<StorageClass, S3Error> {
    match headers.get("x-amz-storage-class").map(HeaderValue::as_bytes) {
        None | Some(b"STANDARD" | b"") => Ok(StorageClass::Standard),
        Some(b"REDUCED_REDUNDANCY") => Ok(StorageClass::ReducedRedundancy),
        Some(_) => Err(S3Error::new(Code::InvalidStorageClass)),
    }
}

/// S3's name of a storage class.
pub(crate) fn class_name(class: StorageClass) -> &'static str {
    match class {
        StorageClass::Standard => "STANDARD",
        StorageClass::ReducedRedundancy => "REDUCED_REDUNDANCY",
    }
}

/// Refuses headers that ask for what Coffer does not do.
fn refuse_unserved(headers: &HeaderMap) -> Result<(), S3Error> {
    for name in headers.keys().map(HeaderName::as_str) {
        if name == "x-amz-write-offset-bytes" {
            return Err(S3Error::not_implemented(name));
        }
    }
    Ok(())
}

/// Text of a header, whatever its bytes are.
pub(crate) fn lossy(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().map(|&byte| char::from(byte)).collect(),
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(lossy).filter(|text| !text.is_empty())
}

/// `aws-chunked` is how the body came, not what is stored.
fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter().map(lossy).collect::<Vec<_>>().join(",");
    if !values.to_ascii_lowercase().contains("aws-chunked") {
        return Some(values).filter(|text| !text.is_empty());
    }
    let kept: Vec<_> = values
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    Some(kept.join(",")).filter(|text| !text.is_empty())
}

fn website_redirect(headers: &HeaderMap) -> Result<Option<String>, S3Error> {
    let Some(target) = headers.get("x-amz-website-redirect-location").map(lossy) else {
        return Ok(None);
    };
    let absolute = target.starts_with("http://") || target.starts_with("https://") || target.starts_with('/');
    if absolute && target.len() <= 2048 {
        return Ok(Some(target));
    }
    let message = "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.";
    Err(S3Error::argument("x-amz-website-redirect-location", &target, message))
}

fn user_metadata(headers: &HeaderMap) -> Result<BTreeMap<String, String>, S3Error> {
    let mut metadata: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        metadata
            .entry(name.to_owned())
            .and_modify(|joined| {
                joined.push(',');
                joined.push_str(&lossy(value));
            })
            .or_insert_with(|| lossy(value));
    }
    let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_USER_METADATA_BYTES {
        return Err(S3Error::new(Code::MetadataTooLarge)
            .detail("Size", size.to_string())
            .detail("MaxSizeAllowed", MAX_USER_METADATA_BYTES.to_string()));
    }
    Ok(metadata)
}

/// Writes the headers that describe an object to everybody who may read it.
pub(crate) fn to_headers(info: &ObjectInfo, headers: &mut HeaderMap) {
    let attributes = &info.attributes;
    set(headers, header::ETAG, &quoted(&info.etag));
    set(headers, header::LAST_MODIFIED, &http_date(info.last_modified));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let content_type = attributes.content_type.as_deref().unwrap_or(DEFAULT_CONTENT_TYPE);
    set(headers, header::CONTENT_TYPE, content_type);
    for (name, value) in [
        (header::CONTENT_ENCODING, &attributes.content_encoding),
        (header::CONTENT_LANGUAGE, &attributes.content_language),
        (header::CONTENT_DISPOSITION, &attributes.content_disposition),
        (header::CACHE_CONTROL, &attributes.cache_control),
        (header::EXPIRES, &attributes.expires),
        (HeaderName::from_static("x-amz-website-redirect-location"), &attributes.website_redirect),
    ] {
        if let Some(value) = value {
            set(headers, name, value);
        }
    }
    for (name, value) in &attributes.user_metadata {
        if let Ok(name) = HeaderName::try_from(format!("{USER_PREFIX}{name}")) {
            set(headers, name, value);
        }
    }
    if attributes.storage_class != StorageClass::Standard {
        let class = class_name(attributes.storage_class);
        set(headers, HeaderName::from_static("x-amz-storage-class"), class);
    }
    version_to_headers(info, headers);
}

/// Writes `x-amz-expiration`, if a rule of the bucket lets the object expire.
pub(crate) fn expiration_to_headers(
    settings: &BucketSettings,
    key: &ObjectKey,
    info: &ObjectInfo,
    headers: &mut HeaderMap,
) {
    if let Some(text) = settings.expiration_header(key.as_str(), info) {
        set(headers, HeaderName::from_static("x-amz-expiration"), &text);
    }
}

/// Writes `x-amz-abort-date` and `x-amz-abort-rule-id`, if a rule of the bucket gives up an upload that was begun then.
pub(crate) fn abort_to_headers(
    settings: &BucketSettings,
    key: &ObjectKey,
    initiated: UnixMillis,
    headers: &mut HeaderMap,
) {
    if let Some((date, rule)) = settings.abort_headers(key.as_str(), initiated) {
        set(headers, HeaderName::from_static("x-amz-abort-date"), &date);
        set(headers, HeaderName::from_static("x-amz-abort-rule-id"), &rule);
    }
}

/// Writes `x-amz-version-id`, in a bucket that keeps versions, or did.
pub(crate) fn version_to_headers(info: &ObjectInfo, headers: &mut HeaderMap) {
    if info.versioned {
        set(headers, HeaderName::from_static("x-amz-version-id"), &info.version.to_string());
    }
}

/// The same for an answer to a write: the null version has no id there.
pub(crate) fn new_version_to_headers(info: &ObjectInfo, headers: &mut HeaderMap) {
    if info.version != VersionId::Null {
        version_to_headers(info, headers);
    }
}

/// Reads `versionId`.
///
/// # Errors
/// `InvalidArgument` if it is none that Coffer ever gave.
pub(crate) fn parse_version(text: Option<&str>) -> Result<Option<VersionId>, S3Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text == "null" {
        return Ok(Some(VersionId::Null));
    }
    let hex = text.len() == 48 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (ordinal, op) = if hex { text.split_at(16) } else { ("", "") };
    match (u64::from_str_radix(ordinal, 16), u128::from_str_radix(op, 16)) {
        (Ok(ordinal), Ok(op)) => {
            Ok(Some(VersionId::Op(VersionRef { ordinal, op: OpId::from_bytes(op.to_be_bytes()) })))
        }
        _ => Err(S3Error::argument("versionId", text, "Invalid version id specified")),
    }
}

/// The text of a checksum, in headers and XML: a composite one ends with the number of parts.
pub(crate) fn checksum_text(value: &Checksum, parts: usize) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(&value.value);
    match value.scope {
        ChecksumScope::FullObject => text,
        ChecksumScope::Composite => format!("{text}-{parts}"),
    }
}

/// Writes `x-amz-checksum-*` of what is sent: the object's for all of it, the part's for a part, none for other ranges
/// (a client would compare it with the bytes it gets).
pub(crate) fn read_checksums(info: &ObjectInfo, select: Select, selected: Selected, headers: &mut HeaderMap) {
    match select {
        Select::Part(number) if !info.parts.is_empty() => {
            if let Some(part) = info.parts.iter().find(|part| part.number == number) {
                checksums_to_headers(&part.checksums, info.parts.len(), headers);
                // The type is the object's: it says how the parts' checksums make the object's.
                if let (false, Some(whole)) = (part.checksums.is_empty(), info.checksums.first()) {
                    let kind: checksum::ChecksumType = scope_to_s3(whole.scope);
                    set(headers, HeaderName::from_static("x-amz-checksum-type"), kind.name());
                }
            }
        }
        Select::All | Select::Part(_) => checksums_to_headers(&info.checksums, info.parts.len(), headers),
        Select::Range { .. } | Select::Suffix(_) => {
            if selected.length == info.size {
                checksums_to_headers(&info.checksums, info.parts.len(), headers);
            }
        }
    }
}

/// Writes `x-amz-checksum-<algorithm>` and `x-amz-checksum-type`.
pub(crate) fn checksums_to_headers(checksums: &[Checksum], parts: usize, headers: &mut HeaderMap) {
    for value in checksums {
        let algorithm = algorithm_to_s3(value.algorithm);
        let kind: checksum::ChecksumType = scope_to_s3(value.scope);
        set(headers, HeaderName::from_static(algorithm.header()), &checksum_text(value, parts));
        set(headers, HeaderName::from_static("x-amz-checksum-type"), kind.name());
    }
}

/// Writes `x-amz-checksum-<algorithm>` of a part.
pub(crate) fn part_checksums_to_headers(checksums: &[Checksum], headers: &mut HeaderMap) {
    for value in checksums {
        let algorithm = algorithm_to_s3(value.algorithm);
        set(headers, HeaderName::from_static(algorithm.header()), &checksum_text(value, 1));
    }
}

/// The parameters of a read that override headers of its answer.
fn overrides() -> [(&'static str, HeaderName); 6] {
    [
        ("response-content-type", header::CONTENT_TYPE),
        ("response-content-language", header::CONTENT_LANGUAGE),
        ("response-expires", header::EXPIRES),
        ("response-cache-control", header::CACHE_CONTROL),
        ("response-content-disposition", header::CONTENT_DISPOSITION),
        ("response-content-encoding", header::CONTENT_ENCODING),
    ]
}

/// Refuses the `response-*` parameters of a read that nobody has signed: anybody could put them into a link to an object that
/// is public.
///
/// # Errors
/// `InvalidRequest`.
pub(crate) fn check_overrides(query: &Query, signed: bool) -> Result<(), S3Error> {
    if signed || !overrides().iter().any(|(parameter, _)| query.has(parameter)) {
        return Ok(());
    }
    let message = "Request specific response headers cannot be used for anonymous GET requests.";
    Err(S3Error::with(Code::InvalidRequest, message))
}

/// Applies the `response-*` parameters of a read.
pub(crate) fn apply_overrides(query: &Query, headers: &mut HeaderMap) {
    for (parameter, name) in overrides() {
        if let Some(value) = query.get(parameter) {
            set(headers, name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn attributes_round_trip_through_headers() {
        let request = headers(&[
            ("content-type", "text/plain"),
            ("content-encoding", "aws-chunked, gzip"),
            ("cache-control", "no-cache"),
            ("expires", "whenever"),
            ("x-amz-meta-name", "wért"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-tagging", "a=1&b=x%20y"),
        ]);
        let attributes = from_headers(&request).unwrap();
        assert_eq!(attributes.tags.get("b").map(String::as_str), Some("x y"));
        let info = ObjectInfo { etag: "e".to_owned(), attributes, ..ObjectInfo::empty() };
        let mut answer = HeaderMap::new();
        to_headers(&info, &mut answer);
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("cache-control", "no-cache"),
            ("expires", "whenever"),
            ("x-amz-meta-name", "wért"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("etag", "\"e\""),
        ] {
            assert_eq!(answer[name].as_bytes(), value.as_bytes(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let long = "v".repeat(2048);
        for (name, value, code) in [
            ("x-amz-meta-a", long.as_str(), Code::MetadataTooLarge),
            ("x-amz-tagging", "a=1&a=2", Code::InvalidTag),
            ("x-amz-tagging", "a=1&b&c&d&e&f&g&h&i&j&k", Code::InvalidTag),
            ("x-amz-tagging", "=1", Code::InvalidTag),
            ("x-amz-storage-class", "GLACIER", Code::InvalidStorageClass),
            ("x-amz-object-lock-mode", "GOVERNANCE", Code::InvalidArgument),
        ] {
            assert_eq!(from_headers(&headers(&[(name, value)])).unwrap_err().code(), code, "{name}: {value}");
        }
        assert!(from_headers(&headers(&[("x-amz-meta-a", &long[1..])])).is_ok());
    }

    #[test]
    fn versions_parse() {
        assert_eq!(parse_version(None).unwrap(), None);
        assert_eq!(parse_version(Some("null")).unwrap(), Some(VersionId::Null));
        let text = "00000000000000070123456789abcdef0123456789abcdef";
        assert_eq!(
            parse_version(Some(text)).unwrap().map(|version| version.to_string()),
            Some(text.to_owned())
        );
        assert_eq!(parse_version(Some("x")).unwrap_err().code(), Code::InvalidArgument);
    }
}
