//! One side of a mirror: requests of S3, signed with version 4.
//!
//! Owns: where a store is ([`Location`]), signing, TLS, what a refusal says, and how long is waited. **Retries** are the callers'
//! ([`retried`]): a request is sent once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use coffer_common::time::UnixMillis;
use coffer_gateway::s3::Element;
use coffer_gateway::s3::auth::{Credential, Signer, ToSign, percent_encode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::body::{Body, PATIENCE, framed_bytes, full};

/// Longest answer that is not an object, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How often something is tried.
pub(super) const TRIES: u32 = 5;

/// A bucket of a store, and a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    scheme: String,
    host: String,
    /// Empty for all.
    pub(super) bucket: String,
    /// Empty for all.
    pub(super) prefix: String,
}

impl Location {
    /// Reads `http(s)://HOST[:PORT][/BUCKET[/PREFIX]]`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no location: write http://HOST:PORT, …/BUCKET or …/BUCKET/PREFIX");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let good = ["http", "https"].contains(&scheme)
            && !host.is_empty()
            && !host.contains(['@', '?', '#'])
            && (prefix.is_empty() || !bucket.is_empty());
        let [scheme, host, bucket, prefix] = [scheme, host, bucket, prefix].map(str::to_owned);
        good.then_some(Self { scheme, host, bucket, prefix }).ok_or_else(wrong)
    }
}

/// How stores are reached.
pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// A client that trusts the authorities of this file, or those of the system.
///
/// # Errors
/// If the file cannot be read, or has no certificate.
pub(super) fn http_client(ca: Option<&Path>) -> anyhow::Result<HttpClient> {
    let config = rustls::ClientConfig::builder();
    let config = match ca {
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            let read = || format!("the authorities in `{}`", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
                roots.add(certificate.with_context(read)?).with_context(read)?;
            }
            anyhow::ensure!(!roots.is_empty(), "there is no certificate in `{}`", path.display());
            config.with_root_certificates(roots)
        }
        // Machines without any can still speak HTTP.
        None => config.with_native_roots().unwrap_or_else(|_| {
            rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty())
        }),
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth());
    Ok(Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build()))
}

/// See the module.
pub(super) struct Store {
    pub(super) location: Location,
    signer: Arc<Signer>,
    client: HttpClient,
}

/// A request before it is signed.
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    /// Empty for the bucket.
    pub(super) key: &'a str,
    /// Names and values, not escaped.
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

/// What a request carries.
pub(super) enum Payload {
    Whole(Bytes),
    /// A framed body, of so many bytes before it was framed.
    Framed(Body, u64),
}

impl<'a> Ask<'a> {
    /// Without query, headers and body.
    pub(super) fn new(method: &'a str, key: &'a str) -> Self {
        Self { method, key, query: &[], headers: HeaderMap::new(), payload: Payload::Whole(Bytes::new()) }
    }
}

/// What a store has answered instead of doing it.
#[derive(Debug)]
pub(super) struct Refused {
    host: String,
    pub(super) status: StatusCode,
    code: String,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, status, code, message } = self;
        match code.as_str() {
            "" => write!(f, "{host} answers {status}"),
            code => write!(f, "{host} answers {status}: {code}: {message}"),
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// Whether the same request will get the same answer.
    fn for_good(&self) -> bool {
        match self.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => false,
            StatusCode::BAD_REQUEST => {
                !["RequestTimeout", "BadDigest", "IncompleteBody"].contains(&self.code.as_str())
            }
            status => status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// Whether it was refused, and would be again.
pub(super) fn refused_for_good(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(Refused::for_good)
}

/// Whether an object is not given because it is encrypted with a customer's key. An answer to HEAD has no code.
pub(super) fn wants_customer_key(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| {
        refused.status == StatusCode::BAD_REQUEST && ["", "InvalidRequest"].contains(&refused.code.as_str())
    })
}

/// The status of a refusal.
pub(super) fn status_of(error: &anyhow::Error) -> Option<StatusCode> {
    Some(error.downcast_ref::<Refused>()?.status)
}

/// Does it again, a few times, later each time, while it may still succeed.
pub(super) async fn retried<T>(mut work: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut tries = 1;
    loop {
        match work().await {
            Err(error) if tries < TRIES && !refused_for_good(&error) => back_off(tries).await,
            done => return done,
        }
        tries += 1;
    }
}

/// The pause after so many tries.
pub(super) async fn back_off(tries: u32) {
    tokio::time::sleep(Duration::from_millis(250 << tries)).await;
}

impl Store {
    pub(super) fn new(location: Location, signer: Arc<Signer>, client: HttpClient) -> Self {
        Self { location, signer, client }
    }

    /// A signer.
    pub(super) fn signer(access_key: &str, secret_key: &str, region: &str) -> Arc<Signer> {
        Arc::new(Signer::new(Credential::new(access_key, secret_key), region.to_owned()))
    }

    /// Another bucket of the store.
    pub(super) fn bucket(&self, name: &str) -> Self {
        let location = Location { bucket: name.to_owned(), prefix: String::new(), ..self.location.clone() };
        Self::new(location, self.signer.clone(), self.client.clone())
    }

    /// Sends a request; the answer is one of success.
    ///
    /// # Errors
    /// [`Refused`], or that there was no answer.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> anyhow::Result<Response<Incoming>> {
        let Ask { method, key, query, mut headers, payload } = ask;
        let Location { scheme, host, bucket, .. } = &self.location;
        let path = match (bucket.as_str(), key) {
            ("", _) => "/".to_owned(),
            (bucket, "") => format!("/{}", percent_encode(bucket, false)),
            (bucket, key) => format!("/{}/{}", percent_encode(bucket, false), percent_encode(key, true)),
        };
        let pair = |(name, value): &(&str, &str)| {
            format!("{}={}", percent_encode(name, false), percent_encode(value, false))
        };
        let query = query.iter().map(pair).collect::<Vec<_>>().join("&");
        let (body, whole) = match payload {
            Payload::Whole(data) => (full(data.clone()), Some(data)),
            Payload::Framed(body, length) => {
                announce(&mut headers, length)?;
                (body, None)
            }
        };
        headers.insert(HOST, HeaderValue::try_from(host)?);
        let to_sign = ToSign { method, path: &path, query: &query, body: whole.as_deref() };
        self.signer.sign(&to_sign, &mut headers, UnixMillis::now())?;
        let moved = Arc::new(AtomicU64::new(0));
        let moving = moved.clone();
        let body = body.map_frame(move |frame| {
            moving.fetch_add(1, Ordering::Relaxed);
            frame
        });
        let mark = if query.is_empty() { "" } else { "?" };
        let request = Request::builder().method(method).uri(format!("{scheme}://{host}{path}{mark}{query}"));
        let mut request = request.body(body.boxed_unsync())?;
        *request.headers_mut() = headers;
        let answer = while_it_moves(self.client.request(request), &moved).await;
        let answer = answer.and_then(|answer| Ok(answer?));
        let answer = answer.with_context(|| format!("{method} at {host}"))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(host, answer).await.into()) }
    }
}

/// The headers of a framed body.
fn announce(headers: &mut HeaderMap, length: u64) -> anyhow::Result<()> {
    let coding = match headers.get(CONTENT_ENCODING) {
        Some(coding) => HeaderValue::from_bytes(&[b"aws-chunked,", coding.as_bytes()].concat())?,
        None => HeaderValue::from_static("aws-chunked"),
    };
    headers.insert(CONTENT_ENCODING, coding);
    headers.insert(CONTENT_LENGTH, framed_bytes(length).into());
    headers.insert("x-amz-decoded-content-length", length.into());
    headers.insert("x-amz-trailer", HeaderValue::from_static("x-amz-checksum-crc32c"));
    Ok(())
}

/// Waits for it as long as the body moves, and [`PATIENCE`] more.
async fn while_it_moves<T>(work: impl Future<Output = T>, moved: &AtomicU64) -> anyhow::Result<T> {
    let mut work = std::pin::pin!(work);
    let mut seen = u64::MAX;
    loop {
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
            return Ok(done);
        }
        let now = moved.load(Ordering::Relaxed);
        if std::mem::replace(&mut seen, now) == now {
            bail!("no answer within {} s", PATIENCE.as_secs());
        }
    }
}

async fn refusal(host: &str, answer: Response<Incoming>) -> Refused {
    let (parts, body) = answer.into_parts();
    let text = collect(body).await.unwrap_or_default();
    let error = Element::read(&text, "Error").unwrap_or_default();
    let said = |tag: &str| error.text_of(tag).unwrap_or_default().to_owned();
    let (code, message) = (said("Code"), said("Message"));
    Refused { host: host.to_owned(), status: parts.status, code, message }
}

/// A whole answer that is not an object.
///
/// # Errors
/// If it breaks off, or is too long.
pub(super) async fn collect(mut body: Incoming) -> anyhow::Result<Bytes> {
    let mut collected = Vec::new();
    while let Some(frame) =
        tokio::time::timeout(PATIENCE, body.frame()).await.context("the answer has no end")?
    {
        collected.extend(frame.context("the answer broke off")?.into_data().unwrap_or_default());
        anyhow::ensure!(collected.len() <= MAX_ANSWER_BYTES, "the answer is too long");
    }
    Ok(collected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_name_bucket_and_prefix() {
        let at = |text| Location::parse(text).map(|at| (at.host, at.bucket, at.prefix));
        let is = |host: &str, bucket: &str, prefix: &str| Ok((host.into(), bucket.into(), prefix.into()));
        assert_eq!(at("http://h:9000/b"), is("h:9000", "b", ""));
        assert_eq!(at("http://h:9000"), is("h:9000", "", ""));
        assert_eq!(at("http://h:9000/"), is("h:9000", "", ""));
        assert_eq!(at("https://h/b/"), is("h", "b", ""));
        assert_eq!(at("https://h/b/p/q"), is("h", "b", "p/q"));
        for wrong in ["h/b", "http://", "http:///b", "http://h//p", "http://u:p@h/b", "ftp://h/b", ""] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_still_succeed_is_tried_again() {
        let refused = |status: u16, code: &str| Refused {
            host: String::new(),
            status: StatusCode::from_u16(status).unwrap(),
            code: code.to_owned(),
            message: String::new(),
        };
        for (status, code, for_good) in [
            (500, "InternalError", false),
            (503, "SlowDown", false),
            (501, "NotImplemented", true),
            (403, "SignatureDoesNotMatch", true),
            (412, "PreconditionFailed", true),
            (409, "ConditionalRequestConflict", false),
            (400, "RequestTimeout", false),
            (400, "InvalidTag", true),
        ] {
            assert_eq!(refused(status, code).for_good(), for_good, "{status} {code}");
        }
    }
}
