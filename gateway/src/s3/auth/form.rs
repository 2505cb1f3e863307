//! The signed policy of a browser's form: Signature Version 4 and Version 2 over the policy's Base64 text.
//!
//! Source: "Browser-Based Uploads Using POST" of the Amazon S3 API Reference.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer_common::time::UnixMillis;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::date::parse_amz_date;
use super::v4::{DECOY_SECRET, Scope, sign_text};
use super::{AuthConfig, AuthError, Credential, Credentials, PayloadMode, Scheme, Verified};

/// What a form says about who signed it; names compare without case.
pub(crate) type Field<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Checks the signature of a form's `policy`. A form without any credentials is anonymous.
///
/// # Errors
/// [`AuthError`].
pub(crate) fn verify(
    config: &AuthConfig,
    field: Field<'_>,
    policy: &str,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    if field("x-amz-signature").is_some() || field("x-amz-credential").is_some() {
        return verify_v4(config, field, policy, credentials, now);
    }
    if !config.sigv2 {
        return Err(AuthError::SignatureVersionOff);
    }
    let access_key = field("awsaccesskeyid").ok_or(AuthError::QueryMalformed("Missing AWSAccessKeyId"))?;
    let signature = field("signature").ok_or(AuthError::QueryMalformed("Missing signature"))?;
    let expected = |secret: &str| {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(policy.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    };
    proven((&access_key, &signature, field("x-amz-security-token")), credentials, now, expected)?;
    Ok(verified(access_key, Scheme::V2Form, None))
}

fn verify_v4(
    config: &AuthConfig,
    field: Field<'_>,
    policy: &str,
    credentials: &Credentials,
    now: UnixMillis,
) -> Result<Verified, AuthError> {
    let need = |name: &str, missing: &'static str| field(name).ok_or(AuthError::QueryMalformed(missing));
    if need("x-amz-algorithm", "Missing X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(AuthError::QueryMalformed("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let credential = need("x-amz-credential", "Missing X-Amz-Credential")?;
    let signature = need("x-amz-signature", "Missing X-Amz-Signature")?;
    let date = need("x-amz-date", "Missing X-Amz-Date")?;
    let scope = Scope::parse(&credential).map_err(AuthError::QueryMalformed)?;
    if let Some(expected) = scope.wrong_region(config.region.as_deref()) {
        return Err(AuthError::QueryRegion { region: scope.region.to_owned(), expected });
    }
    let time = parse_amz_date(&date).filter(|_| scope.is_of_day(&date));
    let time = time.ok_or(AuthError::QueryMalformed("X-Amz-Date must be a date of the credential's day"))?;
    let expected = |secret: &str| sign_text(secret, &scope, policy.as_bytes());
    proven((scope.access_key, &signature, field("x-amz-security-token")), credentials, now, expected)?;
    Ok(verified(scope.access_key.to_owned(), Scheme::V4Form, Some(time)))
}

fn verified(access_key: String, scheme: Scheme, signed: Option<UnixMillis>) -> Verified {
    let (payload, hoisted) = (PayloadMode::Unsigned, Vec::new());
    Verified { access_key: Some(access_key), scheme, payload, signed, hoisted }
}

fn proven(
    (access_key, signature, token): (&str, &str, Option<String>),
    credentials: &Credentials,
    now: UnixMillis,
    expected: impl FnOnce(&str) -> String,
) -> Result<(), AuthError> {
    let credential = credentials.find(access_key);
    let expected = expected(credential.map_or(DECOY_SECRET, Credential::secret_key));
    let matches = bool::from(expected.as_bytes().ct_eq(signature.as_bytes()));
    let access_key = access_key.to_owned();
    let Some(credential) = credential else {
        return Err(AuthError::UnknownAccessKey { access_key });
    };
    if !matches {
        return Err(AuthError::SignatureMismatch { access_key });
    }
    if !bool::from(
        credential.session_token().unwrap_or_default().as_bytes().ct_eq(token.unwrap_or_default().as_bytes()),
    ) {
        return Err(AuthError::InvalidToken);
    }
    if credential.expires().is_some_and(|expires| now > expires) {
        return Err(AuthError::ExpiredToken);
    }
    Ok(())
}
