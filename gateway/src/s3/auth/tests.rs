//! AWS's published examples, the signer of the AWS SDK as oracle, tampering, and bugs other stores had.

mod examples;
mod oracle;
mod refusals;

use super::*;
use http::HeaderMap;

const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// 24 May 2013, 00:00:00 UTC: the time of the Version 4 examples.
const MAY_24: UnixMillis = UnixMillis(1_369_353_600_000);

/// A request that owns its parts, so that tests can bend it.
#[derive(Clone, Debug)]
struct TestRequest {
    method: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    authority: Option<String>,
    host_bucket: Option<String>,
}

impl TestRequest {
    fn new(method: &str, target: &str, headers: &[(&str, &str)]) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let mut request = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            headers: HeaderMap::new(),
            authority: None,
            host_bucket: None,
        };
        for (name, value) in headers {
            request.add(name, value);
        }
        request
    }

    fn add(&mut self, name: &str, value: &str) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }

    fn parts(&self) -> RequestParts<'_> {
        RequestParts {
            method: &self.method,
            raw_path: &self.path,
            raw_query: self.query.as_deref(),
            headers: &self.headers,
            authority: self.authority.as_deref(),
            host_bucket: self.host_bucket.as_deref(),
        }
    }

    fn verify_at(&self, now: UnixMillis) -> Result<Verified, AuthError> {
        let credentials = Credentials::root(ACCESS_KEY, SECRET_KEY);
        let config = AuthConfig { region: Some("us-east-1".to_owned()), sigv2: true };
        Verifier::new(config).verify(&self.parts(), &credentials, now)
    }

    fn code_at(&self, now: UnixMillis) -> &'static str {
        self.verify_at(now).map_or_else(|error| error.code(), |_| "accepted")
    }
}
