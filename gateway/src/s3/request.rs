//! A request after its signature was verified: what every handler gets.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::access::{Access, Caller};
use super::auth::{Scheme, Verified};
use super::body::{self, RequestBody};
use super::checksum;
use super::error::{Code, S3Error};
use super::events::Events;
use super::post::FileBody;
use super::query::Query;
use super::server::Peer;
use super::xml;
use crate::object::{self, CopySource};

/// A verified request. Without [`Verified`] there is none.
pub(crate) struct S3Request {
    /// Headers, those of a presigned URL's query included.
    pub(crate) headers: HeaderMap,
    /// The query, decoded.
    pub(crate) query: Query,
    host: Option<String>,
    peer: Peer,
    caller: Caller,
    verified: Verified,
    body: Option<RequestBody>,
    /// A small body that was read before its handler asked for it.
    read: Option<Bytes>,
    hashes: checksum::HashPool,
    access: Option<Access>,
    events: Events,
    _place: Arc<OwnedSemaphorePermit>,
}

/// What is known of a request before it is verified.
pub(crate) struct Arrived {
    /// The host that the client has asked.
    pub(crate) host: Option<String>,
    /// All headers.
    pub(crate) headers: HeaderMap,
    /// The query, decoded.
    pub(crate) query: Query,
    /// The body.
    pub(crate) body: RequestBody,
    /// Where it comes from.
    pub(crate) peer: Peer,
    /// How its events are told.
    pub(crate) events: Events,
    /// Its place among those in flight, until its handler has ended.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

impl S3Request {
    /// Merges what a presigned URL carries into the headers.
    pub(crate) fn new(
        (verified, caller): (Verified, Caller),
        arrived: Arrived,
        hashes: checksum::HashPool,
    ) -> Self {
        let Arrived { host, mut headers, query, body, peer, events, place } = arrived;
        verified.merge_hoisted(&mut headers);
        Self {
            headers,
            query,
            host,
            peer,
            caller,
            verified,
            body: Some(body),
            read: None,
            hashes,
            access: None,
            events,
            _place: place,
        }
    }

    /// Who asks.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Where it comes from.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// How its events are told.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What its signature proves.
    pub(crate) fn verified(&self) -> &Verified {
        &self.verified
    }

    /// How it was signed.
    pub(crate) fn scheme(&self) -> Scheme {
        self.verified.scheme()
    }

    /// Keeps that the request may go on to its handler.
    pub(crate) fn admit(&mut self, access: Access) {
        self.access = Some(access);
    }

    /// The caller in front of the request's bucket.
    ///
    /// # Errors
    /// `InternalError` if the request is about no bucket that is there, which no handler that asks is.
    pub(crate) fn access(&self) -> Result<&Access, S3Error> {
        self.access.as_ref().ok_or(S3Error::new(Code::InternalError))
    }

    /// A header's text; `None` if it is absent or not ASCII.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the client asks for checksums in the answer.
    pub(crate) fn wants_checksums(&self) -> bool {
        self.text("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("ENABLED"))
    }

    /// The body as the object layer takes it; `also` is a checksum to compute besides the request's own.
    ///
    /// # Errors
    /// See [`body::upload`].
    pub(crate) fn upload_body(
        &mut self,
        also: Option<checksum::ChecksumAlgorithm>,
    ) -> Result<object::Body, S3Error> {
        let body = self.body.take().ok_or(S3Error::new(Code::InternalError))?;
        body::upload(&self.verified, &self.headers, body, also, &self.hashes)
    }

    /// The body as it comes, for who frames it otherwise.
    ///
    /// # Errors
    /// `InternalError` if it was taken before.
    pub(crate) fn take_body(&mut self) -> Result<RequestBody, S3Error> {
        self.body.take().ok_or(S3Error::new(Code::InternalError))
    }

    /// The file of a form as the object layer takes it; the headers are those of its fields.
    ///
    /// # Errors
    /// See [`body::upload`].
    pub(crate) fn form_body(&self, file: FileBody) -> Result<object::Body, S3Error> {
        body::upload(&self.verified, &self.headers, file, None, &self.hashes)
    }

    /// Takes who signed the policy of the form that this request brings.
    pub(crate) fn sign(&mut self, verified: Verified, caller: Caller) {
        (self.verified, self.caller) = (verified, caller);
    }

    /// Scheme and host that the client has asked.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.peer.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.host.as_deref().unwrap_or_default())
    }

    /// The body of an XML or JSON request, whole and checked.
    ///
    /// # Errors
    /// See [`body::read_small`].
    pub(crate) async fn xml_body(&mut self) -> Result<Bytes, S3Error> {
        if let Some(read) = self.read.take() {
            return Ok(read);
        }
        let body = self.body.take().ok_or(S3Error::new(Code::InternalError))?;
        body::read_small(&self.verified, &self.headers, body, xml::MAX_BODY_BYTES).await
    }

    /// The same, and the handler gets it again.
    ///
    /// # Errors
    /// See [`body::read_small`].
    pub(crate) async fn peek_xml_body(&mut self) -> Result<Bytes, S3Error> {
        let read = self.xml_body().await?;
        self.read = Some(read.clone());
        Ok(read)
    }

    /// The source in `x-amz-copy-source`: `/bucket/key?versionId=…`, percent-encoded, with or without the first slash.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not that.
    pub(crate) fn copy_source(&self) -> Result<CopySource, S3Error> {
        let raw = self.text("x-amz-copy-source").unwrap_or_default();
        let (bucket, key, version) = parse_copy_source(raw)?;
        let condition = super::condition::of_copy_source(&self.headers);
        let customer_key = super::encryption::of_source(&self.headers)?;
        Ok(CopySource { bucket, key, version, condition, customer_key })
    }
}

type Source = (coffer_common::types::BucketName, coffer_common::types::ObjectKey, Option<object::VersionId>);

/// Reads `x-amz-copy-source`.
///
/// # Errors
/// `InvalidArgument`, `InvalidBucketName`.
pub(super) fn parse_copy_source(raw: &str) -> Result<Source, S3Error> {
    let (path, version) = match raw.rsplit_once("?versionId=") {
        Some((path, version)) => (path, Some(version)),
        None => (raw, None),
    };
    let invalid = || {
        let message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey";
        S3Error::argument("x-amz-copy-source", raw, message)
    };
    // Some clients encode the slash between bucket and key, too: decode first, then split.
    let path = super::auth::percent_decode(path).into_owned();
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    let slash = path.iter().position(|&byte| byte == b'/').ok_or_else(invalid)?;
    let (bucket, key) = (&path[..slash], &path[slash + 1..]);
    if bucket.is_empty() || key.is_empty() {
        return Err(invalid());
    }
    let bucket = super::operation::bucket_name(bucket)?;
    let key = super::operation::object_key(Bytes::copy_from_slice(key))?;
    Ok((bucket, key, super::attributes::parse_version(version)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_sources_parse() {
        for (raw, bucket, key, version) in [
            ("/bkt/a/b", "bkt", "a/b", None),
            ("bkt/a%20b%3Fx", "bkt", "a b?x", None),
            ("bkt%2Fa%2Fb", "bkt", "a/b", None),
            ("bkt//x", "bkt", "/x", None),
            ("bkt/k?versionId=null", "bkt", "k", Some("null")),
            ("bkt/a+b", "bkt", "a+b", None),
        ] {
            let (found_bucket, found_key, found_version) = parse_copy_source(raw).unwrap();
            assert_eq!((found_bucket.as_str(), found_key.as_str()), (bucket, key), "{raw}");
            assert_eq!(found_version.map(|version| version.to_string()).as_deref(), version, "{raw}");
        }
        for raw in ["", "bkt", "/bkt/", "/", "//k"] {
            assert_eq!(parse_copy_source(raw).unwrap_err().code(), Code::InvalidArgument, "{raw}");
        }
    }
}
