//! Signature Version 4: the `Authorization` header and the presigned URL.
//!
//! Owns the order of checks of both forms. [`scope`] parses credential scopes, [`canonical`] rebuilds what
//! was signed, [`signing`] holds keys and chunk signatures. Version 4A (ECDSA) is refused by name.
//!
//! Both forms run the same steps: parse, scope, time, signed headers, payload mode, signature, token.

mod canonical;
mod scope;
mod signing;

pub use signing::ChunkSigning;

use super::date::{format_amz_date, parse_amz_date, parse_any_date};
use super::encoding::lookup;
use super::{AuthError, Credential, Credentials, MAX_EXPIRES_S, MAX_SKEW};
use super::{PayloadMode, RequestParts, Scheme, Verified};
use canonical::CanonicalRequest;
use coffer_common::time::UnixMillis;
use http::{HeaderMap, HeaderName, HeaderValue};
pub(super) use scope::Scope;
use signing::{SigningKey, string_to_sign};
use subtle::ConstantTimeEq;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// Headers that say who asks and whether the answer shows a checksum, unsigned in presigned URLs.
const NEVER_SIGNED: [&str; 2] = ["x-amz-user-agent", "x-amz-checksum-mode"];

/// Stands in for the secret of an unknown key, so that both cases do the same work.
pub(super) const DECOY_SECRET: &str = "a decoy secret of usual length..........";

/// Query parameters that authenticate a presigned URL and are therefore not hoisted into headers.
const QUERY_AUTH: [&str; 8] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    SECURITY_TOKEN,
    CONTENT_SHA256,
];

/// What a request claims, in either form, before anything is believed.
struct Claim<'a> {
    scope: Scope<'a>,
    signed_headers: &'a str,
    signature: &'a str,
    /// The request's own date, `YYYYMMDDTHHMMSSZ`.
    date: String,
    /// The same as a time.
    time: UnixMillis,
    /// The literal payload hash or mode that the canonical request ends with.
    payload: &'a str,
    presigned: bool,
    token: Option<&'a [u8]>,
}

/// Verifies an `Authorization: AWS4-HMAC-SHA256 …` header, whose value is `authorization`.
pub(super) fn verify_header(
    request: &RequestParts<'_>,
    authorization: &str,
    region: Option<&str>,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    let [credential, signed_headers, signature] = authorization_fields(authorization)?;
    let scope = Scope::parse(credential).map_err(AuthError::HeaderMalformed)?;
    if let Some(expected) = scope.wrong_region(region) {
        return Err(AuthError::HeaderRegion { region: scope.region.to_owned(), expected });
    }
    let (date, time) = request_date(request.headers)?;
    if !scope.is_of_day(&date) {
        return Err(AuthError::HeaderMalformed(
            "the credential date is not the day of the request, in UTC and YYYYMMDD form",
        ));
    }
    if now.0.abs_diff(time.0) > skew_ms() {
        return Err(AuthError::TimeTooSkewed { request_time: time, server_time: now });
    }
    let payload = single(request.headers, CONTENT_SHA256)
        .map_err(|_| AuthError::InvalidContentSha256)?
        .ok_or(AuthError::MissingContentSha256)?;
    let token = request.headers.get(SECURITY_TOKEN).map(HeaderValue::as_bytes);
    check_signed_headers(request, signed_headers, payload, false)?;
    let claim = Claim { scope, signed_headers, signature, date, time, payload, presigned: false, token };
    finish(request, claim, credentials, now)
}

/// Verifies a presigned URL; `query` is the decoded query of `request`.
pub(super) fn verify_query(
    request: &RequestParts<'_>,
    query: &[(Vec<u8>, Vec<u8>)],
    region: Option<&str>,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    match required(query, "X-Amz-Algorithm")? {
        ALGORITHM => {}
        "AWS4-ECDSA-P256-SHA256" => return Err(AuthError::AsymmetricUnsupported),
        _ => return Err(AuthError::QueryMalformed("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"")),
    }
    let scope = Scope::parse(required(query, "X-Amz-Credential")?).map_err(AuthError::QueryMalformed)?;
    if let Some(expected) = scope.wrong_region(region) {
        return Err(AuthError::QueryRegion { region: scope.region.to_owned(), expected });
    }
    let date = required(query, "X-Amz-Date")?;
    let time = parse_amz_date(date).ok_or(AuthError::QueryMalformed(
        "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
    ))?;
    if !scope.is_of_day(date) {
        return Err(AuthError::QueryMalformed("Invalid credential date: it must be the day of X-Amz-Date"));
    }
    check_validity(time, required(query, "X-Amz-Expires")?, now)?;
    let signed_headers = required(query, "X-Amz-SignedHeaders")?;
    let signature = required(query, "X-Amz-Signature")?;
    let payload = query_payload(request.headers, query, signed_headers)?;
    let token = query.iter().find(|(name, _)| name.eq_ignore_ascii_case(SECURITY_TOKEN.as_bytes()));
    let token = token.map(|(_, value)| value.as_slice());
    check_signed_headers(request, signed_headers, payload, true)?;
    let date = date.to_owned();
    let claim = Claim { scope, signed_headers, signature, date, time, payload, presigned: true, token };
    let mut verified = finish(request, claim, credentials, now)?;
    verified.hoisted = hoisted(query)?;
    Ok(verified)
}

/// The steps both forms share once a claim is parsed: payload mode, signature, token.
fn finish(
    request: &RequestParts<'_>,
    claim: Claim<'_>,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    let framing = Framing::parse(claim.payload)?;
    let access_key = claim.scope.access_key;
    let credential = credentials.find(access_key);
    let secret = credential.map_or(DECOY_SECRET, Credential::secret_key);
    let key = SigningKey::derive(secret, &claim.scope);
    let scope_text = claim.scope.text();
    let canonical = CanonicalRequest {
        request,
        signed_headers: claim.signed_headers,
        payload: claim.payload,
        presigned: claim.presigned,
    };
    let mut matches = subtle::Choice::from(0);
    for hash in canonical.hashes() {
        let expected = key.sign(&[string_to_sign(&claim.date, &scope_text, &hash).as_bytes()]);
        matches |= hex::encode(expected).as_bytes().ct_eq(claim.signature.as_bytes());
    }
    let access_key = access_key.to_owned();
    let Some(credential) = credential else {
        return Err(AuthError::UnknownAccessKey { access_key });
    };
    if !bool::from(matches) {
        return Err(AuthError::SignatureMismatch { access_key });
    }
    check_token(credential, claim.token, now)?;
    let signing = || ChunkSigning::new(key, claim.date.clone(), scope_text, claim.signature);
    let payload = match framing {
        Framing::Hashed(hash) => PayloadMode::Hashed(hash),
        Framing::Unsigned => PayloadMode::Unsigned,
        Framing::Chunked { signed, trailer } => {
            PayloadMode::Chunked { signing: signed.then(signing), trailer }
        }
    };
    let scheme = if claim.presigned { Scheme::V4Query } else { Scheme::V4Header };
    let (access_key, signed, hoisted) = (Some(access_key), Some(claim.time), Vec::new());
    Ok(Verified { access_key, scheme, payload, signed, hoisted })
}

/// The values of `x-amz-content-sha256`.
enum Framing {
    Hashed([u8; 32]),
    Unsigned,
    Chunked { signed: bool, trailer: bool },
}

impl Framing {
    /// Parses the literal value; Version 4A modes are refused by name.
    fn parse(value: &str) -> Result<Self, AuthError> {
        match value {
            UNSIGNED_PAYLOAD => Ok(Self::Unsigned),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Self::Chunked { signed: false, trailer: true }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Self::Chunked { signed: true, trailer: false }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Self::Chunked { signed: true, trailer: true }),
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
            | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" => Err(AuthError::AsymmetricUnsupported),
            _ => {
                let mut hash = [0; 32];
                hex::decode_to_slice(value, &mut hash).map_err(|_| AuthError::InvalidContentSha256)?;
                Ok(Self::Hashed(hash))
            }
        }
    }
}

/// How a body without chunk signatures is framed, by the literal value of `x-amz-content-sha256`.
pub(super) fn unsigned_payload(value: &str) -> Result<PayloadMode, AuthError> {
    match Framing::parse(value)? {
        Framing::Hashed(hash) => Ok(PayloadMode::Hashed(hash)),
        Framing::Unsigned => Ok(PayloadMode::Unsigned),
        Framing::Chunked { signed: true, .. } => Err(AuthError::InvalidContentSha256),
        Framing::Chunked { signed: false, trailer } => Ok(PayloadMode::Chunked { signing: None, trailer }),
    }
}

/// The signature of text under a credential such as `<key>/<day>/<region>/s3/aws4_request`.
pub(super) fn sign_text(secret: &str, scope: &Scope<'_>, text: &[u8]) -> String {
    hex::encode(SigningKey::derive(secret, scope).sign(&[text]))
}

/// The `Authorization` of a request of ours: what [`verify_header`] accepts. All headers that are in the request and matter are signed.
pub(super) fn authorization(
    request: &RequestParts<'_>,
    credential: &Credential,
    region: &str,
    (date, payload): (&str, &str),
) -> String {
    let matters = |name: &&str| ["host", "content-type"].contains(name) || name.starts_with("x-amz-");
    let mut names: Vec<_> = request.headers.keys().map(HeaderName::as_str).filter(matters).collect();
    names.sort_unstable();
    let signed_headers = &names.join(";");
    // The first form is the documented one.
    let hashes = CanonicalRequest { request, signed_headers, payload, presigned: false }.hashes();
    let day = date.get(..8).unwrap_or_default();
    let scope = Scope { access_key: credential.access_key(), day, region };
    let text = string_to_sign(date, &scope.text(), &hashes[0]);
    let signature = sign_text(credential.secret_key(), &scope, text.as_bytes());
    let (access_key, scope) = (scope.access_key, scope.text());
    format!(
        "{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={signed_headers}, Signature={signature}"
    )
}

/// `Credential`, `SignedHeaders` and `Signature` of an `Authorization` header, each exactly once.
fn authorization_fields(value: &str) -> Result<[&str; 3], AuthError> {
    let rest = value.strip_prefix(ALGORITHM).unwrap_or_default();
    let mut found: [Option<&str>; 3] = [None; 3];
    for field in rest.split(',') {
        let (name, value) = field
            .trim()
            .split_once('=')
            .ok_or(AuthError::HeaderMalformed("the authorization header requires three components"))?;
        let index = match name {
            "Credential" => 0,
            "SignedHeaders" => 1,
            "Signature" => 2,
            _ => return Err(AuthError::HeaderMalformed("it has an unknown component")),
        };
        if found[index].replace(value).is_some() {
            return Err(AuthError::HeaderMalformed("a component is given twice"));
        }
    }
    match found {
        [Some(credential), Some(signed), Some(signature)] if !signed.is_empty() && !signature.is_empty() => {
            Ok([credential, signed, signature])
        }
        _ => Err(AuthError::HeaderMalformed(
            "the authorization header requires three components: Credential, SignedHeaders, and Signature.",
        )),
    }
}

/// The date a header-signed request carries, as signed text and as time.
fn request_date(headers: &HeaderMap) -> Result<(String, UnixMillis), AuthError> {
    let missing = AuthError::MissingDate;
    if let Some(date) = single(headers, DATE).map_err(|()| AuthError::MissingDate)? {
        let time = parse_any_date(date).ok_or(AuthError::MissingDate)?;
        return Ok((format_amz_date(time).ok_or(missing)?, time));
    }
    let date = single(headers, "date").ok().flatten().ok_or(AuthError::MissingDate)?;
    let time = parse_any_date(date).ok_or(AuthError::MissingDate)?;
    Ok((format_amz_date(time).ok_or(missing)?, time))
}

/// Refuses a presigned URL outside `[date - skew, date + expires]`.
fn check_validity(date: UnixMillis, expires: &str, now: UnixMillis) -> Result<(), AuthError> {
    let digits = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(AuthError::QueryMalformed(if expires.starts_with('-') {
            "X-Amz-Expires must be non-negative"
        } else {
            "X-Amz-Expires should be a number"
        }));
    }
    let seconds = expires.parse::<u64>().ok().filter(|seconds| *seconds <= MAX_EXPIRES_S).ok_or(
        AuthError::QueryMalformed(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be \
             less than 604800 seconds",
        ),
    )?;
    if now.0.saturating_add(skew_ms()) < date.0 {
        return Err(AuthError::NotYetValid);
    }
    let expires = UnixMillis(date.0.saturating_add(seconds * 1000));
    // One of no seconds was over when it began.
    if now > expires || seconds == 0 {
        return Err(AuthError::Expired { expires, server_time: now });
    }
    Ok(())
}

/// What a presigned URL's canonical request ends with: the parameter, the signed header, or unsigned.
fn query_payload<'a>(
    headers: &'a HeaderMap,
    query: &'a [(Vec<u8>, Vec<u8>)],
    signed_headers: &str,
) -> Result<&'a str, AuthError> {
    if let Some(value) = lookup(query, "X-Amz-Content-Sha256") {
        return Ok(value);
    }
    if signed_headers.split(';').any(|name| name == CONTENT_SHA256) {
        let value = single(headers, CONTENT_SHA256).map_err(|()| AuthError::InvalidContentSha256)?;
        return value.ok_or(AuthError::MissingContentSha256);
    }
    Ok(UNSIGNED_PAYLOAD)
}

/// `host` and every `x-amz-*` header must be signed, with three exceptions. `x-amz-content-sha256` is bound
/// in another way: its value ends the canonical request, so it is exempt as long as it is that value. The
/// AWS SDKs never sign the two of [`NEVER_SIGNED`] into a presigned URL, and neither changes what is done.
fn check_signed_headers(
    request: &RequestParts<'_>,
    signed: &str,
    payload: &str,
    presigned: bool,
) -> Result<(), AuthError> {
    let is_signed = |name: &str| signed.split(';').any(|other| other == name);
    let refuse = |name: &str| Err(AuthError::HeaderNotSigned { header: name.to_owned() });
    if !is_signed("host") {
        return refuse("host");
    }
    for (name, value) in request.headers {
        let name = name.as_str();
        let bound = name == CONTENT_SHA256 && value.as_bytes() == payload.as_bytes();
        let exempt = bound || (presigned && NEVER_SIGNED.contains(&name));
        if name.starts_with("x-amz-") && !exempt && !is_signed(name) {
            return refuse(name);
        }
    }
    Ok(())
}

/// A temporary credential needs its own token, a permanent one must come without.
fn check_token(credential: &Credential, token: Option<&[u8]>, now: UnixMillis) -> Result<(), AuthError> {
    let expected = credential.session_token().map(str::as_bytes);
    let same = match (expected, token) {
        (None, None) => true,
        (Some(expected), Some(token)) => bool::from(expected.ct_eq(token)),
        _ => false,
    };
    if !same {
        return Err(AuthError::InvalidToken);
    }
    match credential.expires() {
        Some(expires) if now > expires => Err(AuthError::ExpiredToken),
        _ => Ok(()),
    }
}

/// Fields that the client moved from headers into the presigned query.
///
/// The JavaScript SDK presigns uploads with the CRC-32 of a body it does not have yet, `AAAAAA==` (that of
/// no bytes at all). Taken at its word no such URL could ever upload anything, so that one value is dropped.
fn hoisted(query: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<(HeaderName, HeaderValue)>, AuthError> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in query {
        let name = name.to_ascii_lowercase();
        if !name.starts_with(b"x-amz-") || QUERY_AUTH.iter().any(|auth| auth.as_bytes() == name) {
            continue;
        }
        let malformed = AuthError::QueryMalformed("An x-amz-* query parameter is not a valid header");
        let name = HeaderName::from_bytes(&name).map_err(|_| malformed.clone())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| malformed.clone())?;
        if fields.iter().any(|(other, _)| *other == name) {
            return Err(malformed);
        }
        fields.push((name, value));
    }
    if fields.iter().any(|(name, value)| name == "x-amz-checksum-crc32" && value == "AAAAAA==") {
        fields.retain(|(name, _)| name != "x-amz-checksum-crc32" && name != "x-amz-sdk-checksum-algorithm");
    }
    Ok(fields)
}

/// A required parameter of a presigned URL, exactly once.
fn required<'a>(query: &'a [(Vec<u8>, Vec<u8>)], name: &str) -> Result<&'a str, AuthError> {
    let count = query.iter().filter(|(key, _)| key.as_slice() == name.as_bytes()).count();
    lookup(query, name).filter(|value| count == 1 && !value.is_empty()).ok_or(AuthError::QueryMalformed(
        "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, \
         X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
    ))
}

/// The value of a header that may occur once; `Err` if it occurs twice or is not ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(|_| ()),
        _ => Err(()),
    }
}

fn skew_ms() -> u64 {
    u64::try_from(MAX_SKEW.as_millis()).unwrap_or(u64::MAX)
}
