//! The signer's side of Signature Version 4, for requests of Coffer's own tools: what [`super::Verifier`] accepts.

use coffer_common::time::UnixMillis;
use http::header::{AUTHORIZATION, InvalidHeaderValue};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

use super::date::format_amz_date;
use super::v4::authorization;
use super::{Credential, RequestParts};

/// A request to be signed.
#[derive(Clone, Copy, Debug)]
pub struct ToSign<'a> {
    /// Upper case.
    pub method: &'a str,
    /// The path, escaped.
    pub path: &'a str,
    /// The query, each name and value escaped; empty if there is none.
    pub query: &'a str,
    /// The whole body; `None`: it streams as `aws-chunked`, protected by a trailer instead of a signature.
    pub body: Option<&'a [u8]>,
}

/// Who signs, and for which region.
#[derive(Debug)]
pub struct Signer {
    credential: Credential,
    region: String,
}

impl Signer {
    /// Signs with this credential for this region.
    pub fn new(credential: Credential, region: String) -> Self {
        Self { credential, region }
    }

    /// Adds to a request's headers, `Host` among them, those that sign it at this time.
    ///
    /// # Errors
    /// If the access key or the region has characters that no header can have.
    pub fn sign(
        &self,
        request: &ToSign<'_>,
        headers: &mut HeaderMap,
        now: UnixMillis,
    ) -> Result<(), InvalidHeaderValue> {
        let ToSign { method, path, query, body } = *request;
        let date = format_amz_date(now).unwrap_or_default();
        let payload = body.map_or_else(
            || "STREAMING-UNSIGNED-PAYLOAD-TRAILER".into(),
            |body| hex::encode(Sha256::digest(body)),
        );
        headers.insert("x-amz-date", HeaderValue::try_from(&date)?);
        headers.insert("x-amz-content-sha256", HeaderValue::try_from(&payload)?);
        let parts = RequestParts {
            method,
            raw_path: path,
            raw_query: Some(query).filter(|query| !query.is_empty()),
            headers,
            authority: None,
            host_bucket: None,
        };
        let authorization = authorization(&parts, &self.credential, &self.region, (&date, &payload));
        headers.insert(AUTHORIZATION, HeaderValue::try_from(authorization)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AuthConfig, AuthError, Credentials, Verifier};
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_507_697_000);

    fn signed(request: &ToSign<'_>, more: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:9001"));
        for (name, value) in more {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let signer = Signer::new(Credential::new("key", "a secret of some length"), "us-east-1".to_owned());
        signer.sign(request, &mut headers, NOW).unwrap();
        headers
    }

    fn verified(secret: &str, headers: &HeaderMap, path: &str, query: Option<&str>) -> Result<(), AuthError> {
        let known: Credentials = [Credential::new("key", secret)].into_iter().collect();
        let parts = RequestParts {
            method: "POST",
            raw_path: path,
            raw_query: query,
            headers,
            authority: None,
            host_bucket: None,
        };
        Verifier::new(AuthConfig::default()).verify(&parts, &known, NOW).map(drop)
    }

    #[test]
    fn what_is_signed_here_is_accepted_here() {
        let request = ToSign { method: "POST", path: "/api/v1/users", query: "", body: Some(b"{}") };
        let headers = signed(&request, &[]);
        assert_eq!(verified("a secret of some length", &headers, request.path, None), Ok(()));
        assert!(verified("another secret", &headers, request.path, None).is_err());
    }

    #[test]
    fn query_and_headers_are_signed_whatever_bytes_they_have() {
        let query = "uploadId=x%2Fy&partNumber=1";
        let request = ToSign { method: "POST", path: "/bucket/a%20b%2B", query, body: None };
        let more: [(&'static str, &[u8]); 4] = [
            ("x-amz-meta-a", b"two  spaces"),
            ("x-amz-meta-b", "gr\u{fc}n".as_bytes()),
            ("x-amz-meta-c", b"1"),
            ("x-amz-meta-c", b"2"),
        ];
        let mut headers = signed(&request, &more);
        let verify = |headers: &HeaderMap, query| {
            verified("a secret of some length", headers, request.path, Some(query))
        };
        assert_eq!(verify(&headers, query), Ok(()));
        assert!(verify(&headers, "uploadId=x%2Fy&partNumber=2").is_err());
        headers.insert("x-amz-meta-c", HeaderValue::from_static("1"));
        assert!(verify(&headers, query).is_err());
    }
}
