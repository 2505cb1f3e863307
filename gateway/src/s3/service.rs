//! One request from its head to its last byte.
//!
//! Owns: the list of what every request passes through, and the dispatch to handlers. Never: decides what an operation
//! does. Read [`S3Service::call`] top to bottom:
//!
//! 1. a request id and a span: every line logged below carries it, and so does the answer;
//! 2. admission: past the limit of requests in flight the answer is 503 `SlowDown` (a place is given back when the last
//!    byte of the answer is out, not before);
//! 3. a panic becomes `InternalError`, and the connection lives;
//! 4. address, signature, operation, handler ([`S3Service::dispatch`]); an error becomes XML;
//! 5. the rest of a body that nobody read, ids on the answer; `Connection: close` if there is still something left; metrics.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::time::UnixMillis;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument;

use super::auth::{AuthConfig, Credentials, RequestParts, Verifier};
use super::body::{BodyWatch, RequestBody};
use super::checksum::HashPool;
use super::error::{Code, S3Error};
use super::operation::{Address, BucketOperation, ObjectOperation, Operation};
use super::query::Query;
use super::request::S3Request;
use super::response::S3Response;
use super::{bucket, list, metered, multipart, object};
use crate::object::ObjectStore;
use coffer_common::types::{BucketName, ObjectKey};

/// Requests that one gateway works on at a time; each may hold a stripe buffer.
const MAX_REQUESTS_IN_FLIGHT: usize = 1024;

/// How long a request may wait for a place.
const ADMISSION_WAIT: Duration = Duration::from_secs(2);

/// Settings of the S3 edge.
#[derive(Clone, Debug)]
pub(crate) struct S3Settings {
    /// The keys that are accepted.
    pub(crate) credentials: Credentials,
    /// Base domains of virtual-host style addresses, lower case.
    pub(crate) domains: Vec<String>,
    /// Whether Signature Version 2 is accepted.
    pub(crate) sigv2: bool,
    /// The region of new buckets.
    pub(crate) region: String,
    /// Whether no other region is accepted.
    pub(crate) region_fixed: bool,
}

/// The S3 edge of one gateway; cheap to clone.
#[derive(Clone)]
pub(crate) struct S3Service {
    inner: Arc<Inner>,
}

struct Inner {
    store: ObjectStore,
    settings: S3Settings,
    verifier: Verifier,
    admission: Arc<Semaphore>,
    hashes: HashPool,
    host_id: String,
}

/// What is known of a request before it is verified, for logs and metrics.
#[derive(Default)]
struct Labels {
    operation: Option<&'static str>,
    body: Option<BodyWatch>,
}

impl S3Service {
    /// The edge in front of `store`.
    pub(crate) fn new(store: ObjectStore, settings: S3Settings) -> Self {
        let region = settings.region_fixed.then(|| settings.region.clone());
        let verifier = Verifier::new(AuthConfig { region, sigv2: settings.sigv2 });
        let admission = Arc::new(Semaphore::new(MAX_REQUESTS_IN_FLIGHT));
        let host_id = format!("{:032x}", coffer_common::random::random::<u128>());
        let hashes = HashPool::start(HashPool::threads_for_this_machine()).unwrap_or_else(|error| {
            tracing::warn!(%error, "no hashing threads: uploads are hashed by the threads that serve them");
            HashPool::in_place()
        });
        Self { inner: Arc::new(Inner { store, settings, verifier, admission, hashes, host_id }) }
    }

    /// Answers a request. Never fails: what goes wrong is an answer, too.
    pub(crate) async fn call(self, request: Request<Incoming>) -> Result<S3Response, Infallible> {
        let started = Instant::now();
        let id = format!("{:016X}", coffer_common::random::random::<u64>());
        let span = tracing::info_span!(
            "s3",
            request_id = id.as_str(),
            method = %request.method(),
            path = request.uri().path(),
            operation = tracing::field::Empty
        );
        Ok(self.answer(request, id, started).instrument(span).await)
    }

    async fn answer(&self, request: Request<Incoming>, id: String, started: Instant) -> S3Response {
        let head = *request.method() == Method::HEAD;
        let http1 = request.version() < http::Version::HTTP_2;
        let resource = request.uri().path().to_owned();
        let mut labels = Labels::default();
        let place = tokio::time::timeout(ADMISSION_WAIT, self.inner.admission.clone().acquire_owned()).await;
        let (result, place) = match place {
            Ok(Ok(place)) => {
                let result = AssertUnwindSafe(self.dispatch(request, &mut labels)).catch_unwind().await;
                (result.unwrap_or_else(|_| Err(S3Error::new(Code::InternalError))), Some(place))
            }
            Ok(Err(_)) | Err(_) => (Err(S3Error::new(Code::SlowDown)), None),
        };
        let operation = labels.operation.unwrap_or("Unknown");
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                let (code, status) = (error.code(), error.code().status());
                tracing::debug!(
                    operation,
                    code = code.name(),
                    status = status.as_u16(),
                    "refused: {}",
                    error.message()
                );
                error.into_response(head, &resource, &id, &self.inner.host_id)
            }
        };
        self.stamp(&mut response, &id);
        // A client whose body was refused must not send its next request behind what is left of it.
        let whole = match labels.body {
            Some(body) if http1 => body.take_rest().await,
            Some(_) => true,
            None => false,
        };
        if http1 && !whole {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let status = response.status();
        tracing::debug!(operation, status = status.as_u16(), elapsed = ?started.elapsed(), "answered");
        response.map(|body| metered::Metered::new(body, operation, status, started, place).boxed_unsync())
    }

    fn stamp(&self, response: &mut S3Response, id: &str) {
        let headers = response.headers_mut();
        for (name, value) in [("x-amz-request-id", id), ("x-amz-id-2", self.inner.host_id.as_str())] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers.insert(header::SERVER, HeaderValue::from_static("Coffer"));
    }

    async fn dispatch(&self, request: Request<Incoming>, labels: &mut Labels) -> Result<S3Response, S3Error> {
        let (parts, incoming) = request.into_parts();
        let (body, watch) = RequestBody::new(incoming, &parts);
        labels.body = Some(watch);
        let inner = &self.inner;
        let authority = authority(&parts.uri);
        let host = authority.or_else(|| parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()));
        let address = Address::parse(host.unwrap_or_default(), parts.uri.path(), &inner.settings.domains);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let copy = parts.headers.contains_key("x-amz-copy-source");
        if parts.method == Method::OPTIONS {
            labels.operation = Some("Preflight");
            return Err(S3Error::new(Code::AccessForbidden));
        }
        let operation =
            query.clone().and_then(|query| Operation::resolve(&parts.method, &address, &query, copy));
        if let Ok(operation) = &operation {
            labels.operation = Some(operation.name());
            tracing::Span::current().record("operation", operation.name());
        }
        let signed = RequestParts {
            method: parts.method.as_str(),
            raw_path: parts.uri.path(),
            raw_query: parts.uri.query(),
            headers: &parts.headers,
            authority,
            host_bucket: address.host_bucket(),
        };
        // A wrong signature is told before anything else about the request.
        let verified = inner.verifier.verify(&signed, &inner.settings.credentials, UnixMillis::now())?;
        let request = S3Request::new(verified, parts.headers, query?, body, inner.hashes.clone());
        request.check_expected_owner()?;
        match operation? {
            Operation::ListBuckets => bucket::list::list(&inner.store, &request).await,
            Operation::Bucket(bucket, operation) => self.bucket(bucket, operation, request).await,
            Operation::Object(bucket, key, operation) => {
                // A presigned URL may name the source in its query.
                let late_copy = !copy && request.headers.contains_key("x-amz-copy-source");
                let operation = if late_copy { operation.with_source() } else { operation };
                self.object(bucket, key, operation, request).await
            }
        }
    }

    async fn bucket(
        &self,
        bucket: BucketName,
        operation: BucketOperation,
        request: S3Request,
    ) -> Result<S3Response, S3Error> {
        let store = &self.inner.store;
        match operation {
            BucketOperation::Create => {
                let settings = &self.inner.settings;
                let region = (settings.region.as_str(), settings.region_fixed);
                bucket::create::create(store, bucket, request, region).await
            }
            BucketOperation::Head => bucket::head::head(store, &bucket).await,
            BucketOperation::Delete => bucket::delete::delete(store, &bucket).await,
            BucketOperation::Location => bucket::location::location(store, &bucket).await,
            BucketOperation::ListV1 => list::v1::list(store, &bucket, &request).await,
            BucketOperation::ListV2 => list::v2::list(store, &bucket, &request).await,
            BucketOperation::ListVersions => list::versions::list(store, &bucket, &request).await,
            BucketOperation::ListUploads => {
                multipart::list_uploads::list_uploads(store, &bucket, &request).await
            }
            BucketOperation::DeleteObjects => object::delete_many::delete_many(store, bucket, request).await,
            BucketOperation::GetDefault(default) => bucket::defaults::get(store, &bucket, default).await,
            BucketOperation::DeleteDefault => bucket::defaults::delete(store, &bucket).await,
        }
    }

    async fn object(
        &self,
        bucket: BucketName,
        key: ObjectKey,
        operation: ObjectOperation,
        request: S3Request,
    ) -> Result<S3Response, S3Error> {
        let store = &self.inner.store;
        match operation {
            ObjectOperation::Put => object::put::put(store, bucket, key, request).await,
            ObjectOperation::Copy => object::copy::copy(store, bucket, key, request).await,
            ObjectOperation::Get => object::get::get(store, bucket, key, request).await,
            ObjectOperation::Head => object::head::head(store, bucket, key, request).await,
            ObjectOperation::Delete => object::delete::delete(store, bucket, key, request).await,
            ObjectOperation::GetAcl => object::describe::acl(store, bucket, key, &request).await,
            ObjectOperation::GetTagging => object::describe::tagging(store, bucket, key, &request).await,
            ObjectOperation::GetAttributes => {
                object::describe::attributes(store, bucket, key, &request).await
            }
            ObjectOperation::GetLock => object::describe::lock(store, bucket, key, &request).await,
            ObjectOperation::CreateUpload => multipart::create::create(store, bucket, key, request).await,
            ObjectOperation::UploadPart => {
                multipart::upload_part::upload_part(store, bucket, key, request).await
            }
            ObjectOperation::UploadPartCopy => {
                multipart::copy_part::copy_part(store, bucket, key, request).await
            }
            ObjectOperation::ListParts => {
                multipart::list_parts::list_parts(store, bucket, key, request).await
            }
            ObjectOperation::CompleteUpload => {
                multipart::complete::complete(store, bucket, key, request).await
            }
            ObjectOperation::AbortUpload => multipart::abort::abort(store, bucket, key, request).await,
        }
    }
}

/// HTTP/2's `:authority`, or that of an absolute target.
fn authority(uri: &Uri) -> Option<&str> {
    uri.authority().map(http::uri::Authority::as_str)
}
