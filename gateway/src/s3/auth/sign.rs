//! The signer's side of Signature Version 4, for requests of Coffer's own tools: what [`super::Verifier`] accepts.

use coffer_common::time::UnixMillis;
use sha2::{Digest, Sha256};

use super::Credential;
use super::date::format_amz_date;
use super::v4::{Scope, sign_canonical};

/// A request to be signed.
#[derive(Clone, Copy, Debug)]
pub struct ToSign<'a> {
    /// Upper case.
    pub method: &'a str,
    /// The `Host` header.
    pub host: &'a str,
    /// The path, of characters that need no escaping; there is no query.
    pub path: &'a str,
    /// The whole body.
    pub body: &'a [u8],
}

/// The headers that sign a request at this time, by name.
pub fn sign(credential: &Credential, request: &ToSign<'_>, now: UnixMillis) -> [(&'static str, String); 3] {
    const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";
    let ToSign { method, host, path, body } = request;
    let date = format_amz_date(now).unwrap_or_default();
    let hash = hex::encode(Sha256::digest(body));
    let canonical = format!(
        "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{date}\n\n{SIGNED}\n{hash}"
    );
    let day = date.get(..8).unwrap_or_default();
    let scope = Scope { access_key: credential.access_key(), day, region: "us-east-1" };
    let signature = sign_canonical(credential.secret_key(), &scope, &date, canonical.as_bytes());
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={SIGNED}, Signature={signature}",
        scope.access_key,
        scope.text()
    );
    [("authorization", authorization), ("x-amz-content-sha256", hash), ("x-amz-date", date)]
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::super::{AuthConfig, Credentials, RequestParts, Verifier};
    use super::*;

    #[test]
    fn what_is_signed_here_is_accepted_here() {
        let credential = Credential::new("key", "a secret of some length");
        let now = UnixMillis(1_795_507_697_000);
        let request = ToSign { method: "POST", host: "127.0.0.1:9001", path: "/api/v1/users", body: b"{}" };
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:9001"));
        for (name, value) in sign(&credential, &request, now) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
        }
        let parts = RequestParts {
            method: "POST",
            raw_path: "/api/v1/users",
            raw_query: None,
            headers: &headers,
            authority: None,
            host_bucket: None,
        };
        let verifier = Verifier::new(AuthConfig::default());
        let good: Credentials = [credential].into_iter().collect();
        assert!(verifier.verify(&parts, &good, now).is_ok());
        let other: Credentials = [Credential::new("key", "another secret")].into_iter().collect();
        assert!(verifier.verify(&parts, &other, now).is_err());
    }
}
