//! One request from its head to its last byte.
//!
//! Owns: the list of what every request passes through, and the dispatch to handlers. Never: decides what an operation
//! does. Read [`S3Service::call`] top to bottom:
//!
//! 1. a request id and a span: every line logged below carries it, and so does the answer;
//! 2. admission: past the limit of requests in flight the answer is 503 `SlowDown` (a place is given back when the last
//!    byte of the answer is out, or its client takes no more, a small answer's when the connection has it, and the handler
//!    has ended, which may go on without its client);
//! 3. a panic becomes `InternalError`, and the connection lives;
//! 4. address, signature, operation ([`S3Service::dispatch`]); then whether the caller may, and the handler
//!    ([`S3Service::admit`]); an error becomes XML; a browser of another origin gets the bucket's headers for it;
//! 5. the rest of a body that nobody read, ids on the answer; `Connection: close` if there is still something left; metrics.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::time::UnixMillis;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Instrument;

use super::access::{Access, Caller};
use super::acl::Ownership;
use super::auth::{AuthConfig, AuthError, RequestParts, Verified, Verifier};
use super::body::{BodyWatch, RequestBody};
use super::checksum::HashPool;
use super::cors::Asked;
use super::error::{Code, S3Error};
use super::events::Events;
use super::operation::{self, Address, BucketOperation, ObjectOperation, Operation};
use super::query::Query;
use super::request::{Arrived, S3Request};
use super::response::{self, S3Response};
use super::server::Peer;
use super::server::proxies::TrustedProxies;
use super::settings::SettingsCache;
use super::{bucket, list, metered, multipart, object, post};
use crate::notify::Notifier;
use crate::object::ObjectStore;
use crate::users::Users;
use coffer_common::types::{BucketName, ObjectKey};

/// Requests that one gateway works on at a time; each may hold a stripe buffer.
const MAX_REQUESTS_IN_FLIGHT: usize = 1024;
/// Of a request's path, what an error repeats at most.
const RESOURCE_CHARS: usize = 1100;

/// How long a request may wait for a place.
const ADMISSION_WAIT: Duration = Duration::from_secs(2);

/// Settings of the S3 edge.
#[derive(Clone, Debug)]
pub(crate) struct S3Settings {
    /// Base domains of virtual-host style addresses, lower case.
    pub(crate) domains: Vec<String>,
    /// Whether Signature Version 2 is accepted.
    pub(crate) sigv2: bool,
    /// The region of new buckets.
    pub(crate) region: String,
    /// Whether no other region is accepted.
    pub(crate) region_fixed: bool,
    /// Who owns what others write into new buckets.
    pub(crate) ownership: Ownership,
    /// Proxies that are believed whom a request comes from.
    pub(crate) proxies: TrustedProxies,
}

/// The S3 edge of one gateway; cheap to clone.
#[derive(Clone)]
pub(crate) struct S3Service {
    inner: Arc<Inner>,
}

struct Inner {
    store: ObjectStore,
    users: Users,
    notifier: Notifier,
    cache: SettingsCache,
    settings: S3Settings,
    verifier: Verifier,
    admission: Arc<Semaphore>,
    hashes: HashPool,
    host_id: String,
}

/// A browser's page of another origin, and how it asks.
struct Origin {
    origin: String,
    method: String,
}

impl Origin {
    /// `None` for a preflight, which has its own answer, and for everybody else.
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let text = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let origin = text(header::ORIGIN).filter(|_| *request.method() != Method::OPTIONS)?;
        let method = text(header::ACCESS_CONTROL_REQUEST_METHOD).unwrap_or(request.method().as_str());
        Some(Self { origin: origin.to_owned(), method: method.to_owned() })
    }

    fn asked(&self) -> Asked<'_> {
        Asked { origin: &self.origin, method: &self.method, headers: None }
    }
}

/// What is known of a request before it is verified, for logs and metrics.
#[derive(Default)]
struct Labels {
    operation: Option<&'static str>,
    bucket: Option<BucketName>,
    body: Option<BodyWatch>,
}

impl S3Service {
    /// The edge in front of `store`.
    pub(crate) fn new(
        (store, users, notifier): (ObjectStore, Users, Notifier),
        settings: S3Settings,
    ) -> Self {
        let region = settings.region_fixed.then(|| settings.region.clone());
        let verifier = Verifier::new(AuthConfig { region, sigv2: settings.sigv2 });
        let admission = Arc::new(Semaphore::new(MAX_REQUESTS_IN_FLIGHT));
        let host_id = format!("{:032x}", coffer_common::random::random::<u128>());
        let hashes = HashPool::start(HashPool::threads_for_this_machine()).unwrap_or_else(|error| {
            tracing::warn!(%error, "no hashing threads: uploads are hashed by the threads that serve them");
            HashPool::in_place()
        });
        let cache = SettingsCache::new();
        let inner = Inner { store, users, notifier, cache, settings, verifier, admission, hashes, host_id };
        Self { inner: Arc::new(inner) }
    }

    /// Answers a request. Never fails: what goes wrong is an answer, too.
    pub(crate) async fn call(self, request: Request<Incoming>, peer: Peer) -> Result<S3Response, Infallible> {
        let started = Instant::now();
        let id = format!("{:016X}", coffer_common::random::random::<u64>());
        let span = tracing::info_span!(
            "s3",
            request_id = id.as_str(),
            method = %request.method(),
            path = request.uri().path(),
            operation = tracing::field::Empty
        );
        Ok(self.answer((request, peer), id, started).instrument(span).await)
    }

    async fn answer(
        &self,
        (request, peer): (Request<Incoming>, Peer),
        id: String,
        started: Instant,
    ) -> S3Response {
        let head = *request.method() == Method::HEAD;
        let http1 = request.version() < http::Version::HTTP_2;
        // An error repeats it: keys have 1,024 bytes at most, and paths 64 KiB.
        let resource: String = request.uri().path().chars().take(RESOURCE_CHARS).collect();
        let origin = Origin::of(&request);
        let mut labels = Labels::default();
        let place = tokio::time::timeout(ADMISSION_WAIT, self.inner.admission.clone().acquire_owned()).await;
        let (result, place) = match place {
            Ok(Ok(place)) => {
                let place = Arc::new(place);
                let dispatched = self.dispatch((request, peer, place.clone()), &id, &mut labels);
                let result = AssertUnwindSafe(dispatched).catch_unwind().await;
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
        if let (Some(origin), Some(bucket)) = (origin, &labels.bucket)
            && let Ok(Some(headers)) = self.cross_origin(bucket, &origin.asked()).await
        {
            response.headers_mut().extend(headers);
        }
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
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let metered = |body| metered::Metered::new(body, operation, (status, length), started, place);
        response.map(|body| metered(body).boxed_unsync())
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

    async fn dispatch(
        &self,
        (request, peer, place): (Request<Incoming>, Peer, Arc<OwnedSemaphorePermit>),
        id: &str,
        labels: &mut Labels,
    ) -> Result<S3Response, S3Error> {
        let (parts, incoming) = request.into_parts();
        let (body, watch) = RequestBody::new(incoming, &parts);
        labels.body = Some(watch);
        let inner = &self.inner;
        let peer = inner.settings.proxies.behind(peer, &parts.headers);
        let authority = authority(&parts.uri);
        let host = authority.or_else(|| parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()));
        let address = Address::parse(host.unwrap_or_default(), parts.uri.path(), &inner.settings.domains);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let copy = parts.headers.contains_key("x-amz-copy-source");
        labels.bucket = address.bucket.as_deref().and_then(|name| operation::bucket_name(name).ok());
        if parts.method == Method::OPTIONS {
            labels.operation = Some("Preflight");
            return self.preflight(labels, &parts.headers).await;
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
        let proven = self.prove(&signed)?;
        let (notifier, request_id, host_id) = (inner.notifier.clone(), id.to_owned(), inner.host_id.clone());
        let events = Events { notifier, request_id, host_id };
        let host = host.map(str::to_owned);
        let (headers, query) = (parts.headers, query?);
        let arrived = Arrived { host, headers, query, body, peer, events, place };
        let request = S3Request::new(proven, arrived, inner.hashes.clone());
        self.admit(operation?, request, copy).await
    }

    /// Who sent a request.
    fn prove(&self, signed: &RequestParts<'_>) -> Result<(Verified, Caller), S3Error> {
        let users = &self.inner.users;
        match self.inner.verifier.verify(signed, &users.credentials(), UnixMillis::now()) {
            Ok(verified) => {
                let identity = verified.access_key().and_then(|key| users.identity(key));
                let identity = identity.ok_or(S3Error::new(Code::InvalidAccessKeyId))?;
                Ok((verified, identity.into()))
            }
            Err(AuthError::Anonymous) => Ok((Verified::anonymous(signed.headers)?, Caller::Anonymous)),
            // It may well be one of those that are not known yet.
            Err(AuthError::UnknownAccessKey { .. }) if !users.are_known() => {
                Err(S3Error::new(Code::ServiceUnavailable))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Who signed the policy of a form.
    fn prove_form(
        &self,
        field: &dyn Fn(&str) -> Option<String>,
        policy: &str,
    ) -> Result<(Verified, Caller), S3Error> {
        let users = &self.inner.users;
        let now = UnixMillis::now();
        let verified = self.inner.verifier.verify_form(field, policy, &users.credentials(), now)?;
        let identity = verified.access_key().and_then(|key| users.identity(key));
        Ok((verified, identity.ok_or(S3Error::new(Code::InvalidAccessKeyId))?.into()))
    }

    /// The one place where it is decided whether a request goes on.
    async fn admit(
        &self,
        operation: Operation,
        mut request: S3Request,
        copy: bool,
    ) -> Result<S3Response, S3Error> {
        let store = &self.inner.store;
        // A presigned URL may name the source in its query.
        let late_copy = !copy && request.headers.contains_key("x-amz-copy-source");
        let operation = if late_copy { operation.with_source() } else { operation };
        let bucket = match &operation {
            Operation::ListBuckets => return bucket::list::list(store, &request).await,
            Operation::Bucket(_, BucketOperation::Create) => None,
            Operation::Bucket(bucket, _) | Operation::Object(bucket, ..) => Some(bucket),
        };
        if let Some(bucket) = bucket {
            let mut access =
                Access::open((store, &self.inner.cache), bucket, &request, Some(&operation)).await?;
            access.check_owner(request.text("x-amz-expected-bucket-owner"))?;
            access.read_body(&operation, &mut request).await?;
            access.demand_operation(store, &operation, &request).await?;
            request.admit(access);
        }
        match operation {
            Operation::ListBuckets => Err(S3Error::new(Code::InternalError)),
            Operation::Bucket(bucket, operation) => {
                let (this, has_events) = (self.clone(), has_events(&request));
                let task = async move { this.bucket(bucket, operation, request).await };
                to_its_end(has_events, task).await
            }
            Operation::Object(bucket, key, operation) => {
                let told = request.access()?.clone();
                // What they say of their source is for who may list there.
                let copies = matches!(operation, ObjectOperation::Copy | ObjectOperation::UploadPartCopy);
                let (this, has_events) = (self.clone(), has_events(&request));
                let task = async move { this.object(bucket, key, operation, request).await };
                let answer = to_its_end(has_events, task).await;
                answer.map_err(|error| if copies { error } else { told.concealed(error) })
            }
        }
    }

    /// Answers a browser that asks what it may do.
    async fn preflight(&self, labels: &Labels, headers: &HeaderMap) -> Result<S3Response, S3Error> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let missing = |what: &str| {
            let message = format!("Insufficient information. {what} request header needed.");
            S3Error::with(Code::BadRequest, message)
        };
        let origin = text(header::ORIGIN).ok_or_else(|| missing("Origin"))?;
        let method = text(header::ACCESS_CONTROL_REQUEST_METHOD)
            .ok_or_else(|| missing("Access-Control-Request-Method"))?;
        let asked = Asked { origin, method, headers: text(header::ACCESS_CONTROL_REQUEST_HEADERS) };
        let allowed = match &labels.bucket {
            Some(bucket) => self.cross_origin(bucket, &asked).await?,
            None => None,
        };
        let mut answer = response::empty(StatusCode::OK);
        answer.headers_mut().extend(allowed.ok_or(S3Error::new(Code::AccessForbidden))?);
        Ok(answer)
    }

    /// The headers that a browser of another origin needs, if the bucket has a rule for it.
    async fn cross_origin(
        &self,
        bucket: &BucketName,
        asked: &Asked<'_>,
    ) -> Result<Option<HeaderMap>, S3Error> {
        let info = self.inner.store.head_bucket(bucket).await?;
        let settings = self.inner.cache.of(&info).await?;
        Ok(settings.cors.as_ref().and_then(|cors| cors.answer(asked)))
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
                let defaults = bucket::create::Defaults {
                    region: &settings.region,
                    region_fixed: settings.region_fixed,
                    ownership: settings.ownership,
                };
                bucket::create::create(store, bucket, request, defaults).await
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
            BucketOperation::PostObject => {
                let prove =
                    |field: &dyn Fn(&str) -> Option<String>, policy: &str| self.prove_form(field, policy);
                post::post(store, bucket, request, &prove).await
            }
            BucketOperation::Config(verb, config) => {
                bucket::config::serve(store, (verb, config), request).await
            }
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
            ObjectOperation::GetAcl => object::acl::get(store, bucket, key, &request).await,
            ObjectOperation::PutAcl => object::acl::put(store, bucket, key, request).await,
            ObjectOperation::GetTagging => object::tags::get(store, bucket, key, &request).await,
            ObjectOperation::PutTagging => object::tags::put(store, bucket, key, request).await,
            ObjectOperation::DeleteTagging => object::tags::delete(store, bucket, key, request).await,
            ObjectOperation::GetAttributes => {
                object::describe::attributes(store, bucket, key, &request).await
            }
            ObjectOperation::GetRetention => object::lock::get_retention(store, bucket, key, &request).await,
            ObjectOperation::PutRetention => object::lock::put_retention(store, bucket, key, request).await,
            ObjectOperation::GetLegalHold => object::lock::get_legal_hold(store, bucket, key, &request).await,
            ObjectOperation::PutLegalHold => object::lock::put_legal_hold(store, bucket, key, request).await,
            ObjectOperation::Select => object::refused::select(),
            ObjectOperation::Restore => object::refused::restore(store, bucket, key, &request).await,
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

/// Whether what a request does may have events.
fn has_events(request: &S3Request) -> bool {
    request.access().is_ok_and(|access| access.settings().notifications.is_some())
}

/// Runs a request. One that may have events is ended, events and all, if its client goes away.
async fn to_its_end(
    has_events: bool,
    task: impl Future<Output = Result<S3Response, S3Error>> + Send + 'static,
) -> Result<S3Response, S3Error> {
    if !has_events {
        return task.await;
    }
    match tokio::spawn(task.in_current_span()).await {
        Ok(answer) => answer,
        Err(_) => Err(S3Error::new(Code::InternalError)),
    }
}

/// HTTP/2's `:authority`, or that of an absolute target.
fn authority(uri: &Uri) -> Option<&str> {
    uri.authority().map(http::uri::Authority::as_str)
}
