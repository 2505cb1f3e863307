//! Who sent this request, proven by its signature, and how its body is to be read.
//!
//! Owns: Signature Version 4 (header and presigned URL) and Version 2 (header and presigned URL), the
//! credential store, and the one enum of authentication failures. Never: reads a body (see
//! [`super::payload`]), decides what an identity may do (policies), knows HTTP statuses or XML (the
//! error map does), opens a socket or looks at a clock (the caller passes `now`).
//!
//! Flow of [`Verifier::verify`]:
//! 1. Exactly one mechanism may carry credentials: an `Authorization` header, `X-Amz-Algorithm` in the
//!    query, or `Signature` in the query. None is anonymous, and refused here; [`Verified::anonymous`] is for callers
//!    that then ask a policy. The form of a browser carries its own.
//! 2. Parse it; refuse wrong regions, services, dates, skewed clocks and expired URLs.
//! 3. Every `x-amz-*` header present must be covered by the signature, else a presigned URL could be
//!    bent (a copy source, an ACL) by whoever holds it.
//! 4. Look the key up. An unknown key goes on with a decoy secret: same work, same time.
//! 5. Rebuild the canonical request from the raw path and query, sign, compare in constant time.
//! 6. Only then answer [`Verified`]. Handlers take it by value or reference, so a handler that skips
//!    authentication does not compile.
//!
//! Sources: "Authenticating Requests (AWS Signature Version 4)" and "Signing and authenticating REST
//! requests (AWS signature version 2)" of the Amazon S3 API Reference and Developer Guide.

mod credentials;
mod date;
mod encoding;
mod error;
pub(crate) mod form;
mod sign;
mod v2;
mod v4;

pub use credentials::{Credential, Credentials};
pub use encoding::{decode_query, percent_decode, percent_encode};
pub use error::AuthError;
pub use sign::{Signer, ToSign};
pub use v4::ChunkSigning;

use coffer_common::time::UnixMillis;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::time::Duration;

/// A request may be this much older or newer than our clock (S3).
pub const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// Longest validity of a presigned URL, in seconds: 7 days (S3).
pub const MAX_EXPIRES_S: u64 = 604_800;

/// The parts of a request that a signature covers, exactly as they came over the wire.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// The HTTP method, upper case.
    pub method: &'a str,
    /// The path as sent, still percent-encoded, beginning with `/`.
    pub raw_path: &'a str,
    /// The query as sent, without `?`, still percent-encoded.
    pub raw_query: Option<&'a str>,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// HTTP/2's `:authority` (or the authority of an absolute-form target); it stands for `Host`.
    pub authority: Option<&'a str>,
    /// The bucket named by the host in virtual-host style; Signature Version 2 signs it.
    pub host_bucket: Option<&'a str>,
}

/// How the body of a verified request is framed and protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadMode {
    /// Plain body whose SHA-256 was signed.
    Hashed([u8; 32]),
    /// Plain body, not covered by the signature.
    Unsigned,
    /// `aws-chunked` body.
    Chunked {
        /// Keys for the chunk signatures; `None` in `STREAMING-UNSIGNED-PAYLOAD-TRAILER`.
        signing: Option<ChunkSigning>,
        /// Whether trailer fields follow the last chunk.
        trailer: bool,
    },
}

impl PayloadMode {
    /// The value of `x-amz-content-sha256` that says so.
    pub fn name(&self) -> Cow<'static, str> {
        let name = match self {
            Self::Hashed(hash) => return hex::encode(hash).into(),
            Self::Unsigned => "UNSIGNED-PAYLOAD",
            Self::Chunked { signing: None, .. } => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            Self::Chunked { signing: Some(_), trailer: false } => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            Self::Chunked { signing: Some(_), trailer: true } => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        };
        name.into()
    }
}

/// Which mechanism proved the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Signature Version 4 in the `Authorization` header.
    V4Header,
    /// Signature Version 4 presigned URL.
    V4Query,
    /// Signature Version 2 in the `Authorization` header.
    V2Header,
    /// Signature Version 2 presigned URL.
    V2Query,
    /// The policy of a browser's form, signed by Signature Version 4.
    V4Form,
    /// The policy of a browser's form, signed by Signature Version 2.
    V2Form,
    /// Nobody signed.
    Anonymous,
}

/// What is proven about who sent a request: that a known key signed it, or that nobody did. Handlers take it, so that
/// none can be reached past authentication.
#[derive(Clone, Debug)]
pub struct Verified {
    /// `None` if nobody signed.
    access_key: Option<String>,
    scheme: Scheme,
    payload: PayloadMode,
    signed: Option<UnixMillis>,
    hoisted: Vec<(HeaderName, HeaderValue)>,
}

impl Verified {
    /// A request without any credentials: its body may be framed, but nothing of it is signed.
    ///
    /// # Errors
    /// [`AuthError::InvalidContentSha256`] if the body claims to be signed.
    pub fn anonymous(headers: &HeaderMap) -> Result<Self, AuthError> {
        let payload = match headers.get("x-amz-content-sha256") {
            None => PayloadMode::Unsigned,
            Some(value) => {
                v4::unsigned_payload(value.to_str().map_err(|_| AuthError::InvalidContentSha256)?)?
            }
        };
        let (access_key, signed, hoisted) = (None, None, Vec::new());
        Ok(Self { access_key, scheme: Scheme::Anonymous, payload, signed, hoisted })
    }

    /// What a signature would have proven.
    #[cfg(test)]
    pub(crate) fn with(scheme: Scheme, payload: PayloadMode, signed: Option<UnixMillis>) -> Self {
        Self { access_key: Some("key".to_owned()), scheme, payload, signed, hoisted: Vec::new() }
    }

    /// The access key that signed; `None` if nobody did.
    pub fn access_key(&self) -> Option<&str> {
        self.access_key.as_deref()
    }

    /// The mechanism that was used.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// When it was signed, as its signer says; `None` where a signature says only when it ends, and if nobody signed.
    pub fn signed(&self) -> Option<UnixMillis> {
        self.signed
    }

    /// How to read the body.
    pub fn payload(&self) -> &PayloadMode {
        &self.payload
    }

    /// `x-amz-*` fields (and, in Version 2, `content-type` and `content-md5`) that a presigned URL carries
    /// in its query; S3 treats them as headers. A header of the same name wins: it was signed too.
    pub fn hoisted(&self) -> &[(HeaderName, HeaderValue)] {
        &self.hoisted
    }

    /// Adds the [`hoisted`](Self::hoisted) fields to `headers` where no header of that name is present, so
    /// that handlers look in one place.
    pub fn merge_hoisted(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.hoisted {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// Settings of request authentication.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The region that credential scopes must name; `None` accepts any.
    pub region: Option<String>,
    /// Whether Signature Version 2 is accepted.
    pub sigv2: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { region: None, sigv2: true }
    }
}

/// Verifies requests against [`AuthConfig`].
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    config: AuthConfig,
}

impl Verifier {
    /// A verifier with these settings.
    pub fn new(config: AuthConfig) -> Self {
        Self { config }
    }

    /// Checks the signature of a form's policy made with one of `credentials`, at time `now`.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub(crate) fn verify_form(
        &self,
        field: form::Field<'_>,
        policy: &str,
        credentials: &Credentials,
        now: UnixMillis,
    ) -> Result<Verified, AuthError> {
        form::verify(&self.config, field, policy, credentials, now)
    }

    /// Checks the signature of `request` made with one of `credentials`, at time `now`.
    ///
    /// # Errors
    /// Every way to fail is one case of [`AuthError`]; an anonymous request is
    /// [`AuthError::Anonymous`].
    pub fn verify(
        &self,
        request: &RequestParts<'_>,
        credentials: &Credentials,
        now: UnixMillis,
    ) -> Result<Verified, AuthError> {
        let query = decode_query(request.raw_query.unwrap_or_default());
        let has = |name: &str| query.iter().any(|(key, _)| key.as_slice() == name.as_bytes());
        let mechanism = Mechanism::of(request.headers, has("X-Amz-Algorithm"), has("Signature"))?;
        let v2 = matches!(mechanism, Mechanism::V2Header(_) | Mechanism::V2Query);
        if v2 && !self.config.sigv2 {
            return Err(AuthError::SignatureVersionOff);
        }
        let region = self.config.region.as_deref();
        match mechanism {
            Mechanism::V4Header(value) => v4::verify_header(request, value, region, credentials, now),
            Mechanism::V4Query => v4::verify_query(request, &query, region, credentials, now),
            Mechanism::V2Header(value) => v2::verify_header(request, value, credentials, now),
            Mechanism::V2Query => v2::verify_query(request, &query, credentials, now),
        }
    }
}

/// The one place where a request says who it is.
enum Mechanism<'a> {
    V4Header(&'a str),
    V4Query,
    V2Header(&'a str),
    V2Query,
}

impl<'a> Mechanism<'a> {
    fn of(headers: &'a HeaderMap, v4_query: bool, v2_query: bool) -> Result<Self, AuthError> {
        let mut authorizations = headers.get_all(http::header::AUTHORIZATION).iter();
        let authorization = authorizations.next();
        let several = authorizations.next().is_some();
        let count = [authorization.is_some(), several, v4_query, v2_query].iter().filter(|on| **on).count();
        if count > 1 {
            return Err(AuthError::SeveralMechanisms);
        }
        if v4_query {
            return Ok(Self::V4Query);
        }
        if v2_query {
            return Ok(Self::V2Query);
        }
        let Some(value) = authorization else {
            return Err(AuthError::Anonymous);
        };
        let value = value.to_str().map_err(|_| AuthError::HeaderMalformed("it is not ASCII"))?.trim();
        let scheme = value.split([' ', ',']).next().unwrap_or_default();
        match scheme {
            "AWS4-HMAC-SHA256" => Ok(Self::V4Header(value)),
            "AWS" => Ok(Self::V2Header(value)),
            "AWS4-ECDSA-P256-SHA256" => Err(AuthError::AsymmetricUnsupported),
            _ => Err(AuthError::UnsupportedAuthorization),
        }
    }
}

#[cfg(test)]
mod tests;
