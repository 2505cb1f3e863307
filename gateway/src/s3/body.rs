//! From an HTTP body to what the object layer stores: bytes and their digests.
//!
//! Owns: joining the payload decoder and the checksums of a request. Never: hashes more than a small body on the
//! connection's task; uploads are hashed by the [`HashPool`], copies where the object layer calls [`Digester::update`].
//!
//! 1. [`upload`] reads what the headers say about length, framing and checksums, and refuses contradictions.
//! 2. [`Source`] hands out the bytes and shows them to the pool, where many uploads are hashed at once; at the end it
//!    leaves the digests and the trailer fields as [`Evidence`].
//! 3. [`BodyDigester::finish`] judges it; only then may the object layer commit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::auth::Verified;
use super::checksum::{self, DigestSet, HashPool, ObjectHasher, RequestChecksums};
use super::convert::{algorithm_to_s3, to_object};
use super::error::{Code, S3Error, beyond_source};
use super::interim::Interim;
use super::payload::{BoxError, PayloadError, PayloadPlan, PayloadStream, Trailers};
use super::response;
use crate::object::{self, BodyError, ByteSource, ChecksumScope, Digester, Digests, MakeDigester, Select};

/// A client that sends no byte for this long has gone.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Bytes of objects and parts that were received whole.
const BYTES_RECEIVED: &str = "coffer_s3_received_bytes_total";

/// What is left of a refused body is still taken before the client is answered, up to this much: a client that writes reads
/// the answer instead of failing to write, one that waits for `100 Continue` gets it, and behind a load balancer neither
/// sends its next request where the rest of this one is expected.
const DRAIN_BYTES: u64 = 16 * 1024 * 1024;

/// For at most this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A request's body.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    rest: Arc<Mutex<Rest>>,
}

/// What became of a request's body.
enum Rest {
    /// Somebody may still read it.
    Held,
    /// Read to its end.
    Whole,
    /// Dropped before its end.
    Left(Incoming),
}

/// Tells whether a request's body was read to its end.
pub(crate) struct BodyWatch {
    rest: Arc<Mutex<Rest>>,
}

impl BodyWatch {
    /// Reads what nobody wanted, if it is not much. Returns whether the body is read to its end: if not, the connection
    /// cannot carry another request, because the next bytes may be the rest of this one.
    pub(crate) async fn take_rest(self) -> bool {
        let mut left = match std::mem::replace(&mut *self.rest.lock(), Rest::Held) {
            Rest::Whole => return true,
            Rest::Held => return false,
            Rest::Left(incoming) => incoming,
        };
        if left.size_hint().upper().is_none_or(|bytes| bytes > DRAIN_BYTES) {
            return false;
        }
        // Asking for the body is what sends `100 Continue`.
        let all = async {
            while let Some(frame) = left.frame().await {
                if frame.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(DRAIN_LIMIT, all).await.unwrap_or(false)
    }
}

impl RequestBody {
    /// The body of a request, and what outlives it. An empty body that is announced with `Expect` gets its `100 Continue`.
    pub(crate) fn new(incoming: Incoming, head: &http::request::Parts) -> (Self, BodyWatch) {
        let rest = Arc::new(Mutex::new(Rest::Held));
        let waits = head.version == http::Version::HTTP_11 && head.headers.contains_key(http::header::EXPECT);
        let empty = incoming.is_end_stream();
        let told = || !waits || head.extensions.get::<Interim>().is_some_and(Interim::send);
        if empty && told() {
            *rest.lock() = Rest::Whole;
        }
        (Self { incoming: Some(incoming), rest: rest.clone() }, BodyWatch { rest })
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(incoming) = this.incoming.as_mut().filter(|incoming| !incoming.is_end_stream()) else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(context));
        if frame.is_none() || incoming.is_end_stream() {
            *this.rest.lock() = Rest::Whole;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take().filter(|incoming| !incoming.is_end_stream()) {
            *self.rest.lock() = Rest::Left(incoming);
        }
    }
}

/// Why the edge refused a body; the object layer carries it through.
#[derive(Debug, thiserror::Error)]
#[error("{} {}", .0.code().name(), .0.message())]
pub(crate) struct Refusal(pub(crate) S3Error);

/// Largest body of one PutObject or UploadPart, in bytes (S3).
pub(crate) const MAX_PUT_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// A body that is stored: of known length, hashed with MD5, with the request's checksum and with `also`.
///
/// # Errors
/// 411 without a length, `EntityTooLarge`, or what is wrong with the checksums announced.
pub(crate) fn upload<B>(
    verified: &Verified,
    headers: &HeaderMap,
    body: B,
    also: Option<checksum::ChecksumAlgorithm>,
    hashes: &HashPool,
) -> Result<object::Body, S3Error>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let checksums = RequestChecksums::parse(headers)?;
    let mut plan = PayloadPlan::new(verified.payload(), headers)?;
    let length = plan.object_len().ok_or(S3Error::new(Code::MissingContentLength))?;
    if length > MAX_PUT_BYTES {
        let error = S3Error::new(Code::EntityTooLarge).detail("ProposedSize", length.to_string());
        return Err(error.detail("MaxSizeAllowed", MAX_PUT_BYTES.to_string()));
    }
    let sha256 = plan.take_sha256();
    let signed = sha256.map(|_| checksum::ChecksumAlgorithm::Sha256);
    let set = DigestSet::new(true, checksums.algorithms().chain(also).chain(signed));
    let evidence = Arc::new(Mutex::new(None));
    let digester = BodyDigester { checksums, also, sha256, evidence: evidence.clone() };
    let hasher = Some(hashes.hasher(set, Some(length)));
    let source = Source { stream: PayloadStream::new(body, plan), hasher, evidence };
    Ok(object::Body { length, source: Box::new(source), digester: Box::new(digester) })
}

/// Reads a small body whole and checks everything that protects it.
///
/// # Errors
/// `MaxMessageLengthExceeded` over `limit` bytes, or what is wrong with the body or its checksums.
pub(crate) async fn read_small(
    verified: &Verified,
    headers: &HeaderMap,
    body: RequestBody,
    limit: usize,
) -> Result<Bytes, S3Error> {
    let checksums = RequestChecksums::parse(headers)?;
    let plan = PayloadPlan::new(verified.payload(), headers)?;
    let too_long = || S3Error::new(Code::MaxMessageLengthExceeded);
    if plan.object_len().is_some_and(|len| len > limit as u64) {
        return Err(too_long());
    }
    let mut stream = PayloadStream::new(body, plan);
    let mut set = DigestSet::new(checksums.has_content_md5(), checksums.algorithms());
    let mut data = BytesMut::new();
    while let Some(piece) = next_in_time(&mut stream).await? {
        if data.len() + piece.len() > limit {
            return Err(too_long());
        }
        set.update(&piece);
        data.extend_from_slice(&piece);
    }
    checksums.verify(&set.finish(), stream.trailers())?;
    Ok(data.freeze())
}

async fn next_in_time(stream: &mut PayloadStream<RequestBody>) -> Result<Option<Bytes>, S3Error> {
    match tokio::time::timeout(IDLE_LIMIT, stream.next()).await {
        Ok(piece) => piece.map_err(S3Error::from),
        Err(_) => Err(response::timeout(IDLE_LIMIT)),
    }
}

/// What a whole body turned out to be.
struct Evidence {
    computed: checksum::Digests,
    trailers: Trailers,
}

struct Source<B> {
    stream: PayloadStream<B>,
    /// `None` after the end.
    hasher: Option<ObjectHasher>,
    evidence: Arc<Mutex<Option<Evidence>>>,
}

#[async_trait]
impl<B> ByteSource for Source<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BoxError>,
{
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let piece = match tokio::time::timeout(IDLE_LIMIT, self.stream.next()).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(PayloadError::Transport(error))) => return Err(BodyError::Broken(error.to_string())),
            Ok(Err(error)) => return Err(refused(error.into())),
            Err(_) => return Err(refused(response::timeout(IDLE_LIMIT))),
        };
        let lost = |_| refused(S3Error::new(Code::InternalError));
        if let Some(piece) = &piece {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(piece).await.map_err(lost)?;
            }
        } else if let Some(hasher) = self.hasher.take() {
            let computed = hasher.finish().await.map_err(lost)?;
            metrics::counter!(BYTES_RECEIVED).increment(computed.len());
            *self.evidence.lock() = Some(Evidence { computed, trailers: self.stream.trailers().clone() });
        }
        Ok(piece)
    }
}

/// Judges what [`Source`] found at the end of an upload.
struct BodyDigester {
    checksums: RequestChecksums,
    also: Option<checksum::ChecksumAlgorithm>,
    sha256: Option<[u8; 32]>,
    evidence: Arc<Mutex<Option<Evidence>>>,
}

impl Digester for BodyDigester {
    /// The source has hashed them.
    fn update(&mut self, _: &[u8]) {}

    fn finish(self: Box<Self>) -> Result<Digests, BodyError> {
        // Without evidence the end of the body was not reached: nothing may be committed.
        let evidence = self.evidence.lock().take();
        let Evidence { computed, trailers } =
            evidence.ok_or_else(|| refused(PayloadError::IncompleteBody.into()))?;
        if let Some(expected) = self.sha256
            && computed.get(checksum::ChecksumAlgorithm::Sha256).is_none_or(|hash| hash.bytes() != expected)
        {
            return Err(refused(PayloadError::Sha256Mismatch.into()));
        }
        let proven = self.checksums.verify(&computed, &trailers).map_err(|error| refused(error.into()))?;
        let also = self.also.and_then(|algorithm| computed.get(algorithm));
        let mut checksums: Vec<_> = proven.into_iter().chain(also).collect();
        checksums.dedup();
        Ok(to_digests(&computed, &checksums))
    }
}

/// Hashes bytes that are in the store already (a copy).
struct StoreDigester {
    set: DigestSet,
    algorithm: Option<checksum::ChecksumAlgorithm>,
}

impl Digester for StoreDigester {
    fn update(&mut self, data: &[u8]) {
        self.set.update(data);
    }

    fn finish(self: Box<Self>) -> Result<Digests, BodyError> {
        let computed = self.set.finish();
        let checksums: Vec<_> =
            self.algorithm.and_then(|algorithm| computed.get(algorithm)).into_iter().collect();
        Ok(to_digests(&computed, &checksums))
    }
}

fn to_digests(computed: &checksum::Digests, checksums: &[checksum::Checksum]) -> Digests {
    Digests {
        md5: computed.md5().unwrap_or_default(),
        checksums: checksums.iter().map(|value| to_object(value, ChecksumScope::FullObject)).collect(),
    }
}

/// A body that must not be stored.
pub(crate) fn refused(error: S3Error) -> BodyError {
    BodyError::Refused(Box::new(Refusal(error)))
}

fn store_digester(algorithm: Option<checksum::ChecksumAlgorithm>) -> Box<dyn Digester> {
    Box::new(StoreDigester { set: DigestSet::new(true, algorithm), algorithm })
}

/// Hashes a copied object: with `asked`, else with what the source has.
pub(crate) fn copy_digester(asked: Option<checksum::ChecksumAlgorithm>) -> MakeDigester {
    Box::new(move |source, _| {
        let kept = source.checksums.first().map(|value| algorithm_to_s3(value.algorithm));
        Ok(store_digester(asked.or(kept)))
    })
}

/// Hashes a copied part with what its upload keeps. A range that goes beyond the source is refused.
pub(crate) fn copy_part_digester(select: Select) -> MakeDigester {
    Box::new(move |source, upload| match select {
        Select::Range { last: Some(last), .. } if last >= source.size => {
            Err(refused(beyond_source(source.size)))
        }
        Select::All | Select::Range { .. } | Select::Suffix(_) | Select::Part(_) => {
            Ok(store_digester(upload.map(|(algorithm, _)| algorithm_to_s3(algorithm))))
        }
    })
}
