//! A request after its signature was verified: what every handler gets.

use bytes::Bytes;
use http::HeaderMap;

use super::auth::Verified;
use super::body::{self, RequestBody};
use super::checksum;
use super::error::{Code, S3Error};
use super::query::Query;
use super::xml;
use crate::object::{self, CopySource, Owner};

/// The canonical id of the root user: what the gateway's own key pair owns. Fixed, so that a changed key still owns it.
const ROOT_OWNER_ID: &str = "3f1c0a5be7d24896a1c4d3f0987be25160fd4ab37c9e1d82f5a60b749c13e8d2";

/// Who owns what the gateway's own key pair creates.
pub(super) fn root_owner() -> Owner {
    Owner { id: ROOT_OWNER_ID.to_owned(), display_name: "root".to_owned() }
}

/// A verified request. Without [`Verified`] there is none.
pub(crate) struct S3Request {
    /// Headers, those of a presigned URL's query included.
    pub(crate) headers: HeaderMap,
    /// The query, decoded.
    pub(crate) query: Query,
    verified: Verified,
    body: Option<RequestBody>,
    hashes: checksum::HashPool,
}

impl S3Request {
    /// Merges what a presigned URL carries into the headers.
    pub(crate) fn new(
        verified: Verified,
        mut headers: HeaderMap,
        query: Query,
        body: RequestBody,
        hashes: checksum::HashPool,
    ) -> Self {
        verified.merge_hoisted(&mut headers);
        Self { headers, query, verified, body: Some(body), hashes }
    }

    /// Who owns what this request creates.
    pub(crate) fn owner(&self) -> Owner {
        root_owner()
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

    /// The body of an XML request, whole and checked.
    ///
    /// # Errors
    /// See [`body::read_small`].
    pub(crate) async fn xml_body(&mut self) -> Result<Bytes, S3Error> {
        let body = self.body.take().ok_or(S3Error::new(Code::InternalError))?;
        body::read_small(&self.verified, &self.headers, body, xml::MAX_BODY_BYTES).await
    }

    /// Refuses a request that is meant for a bucket of somebody else.
    ///
    /// # Errors
    /// `AccessDenied` if `x-amz-expected-bucket-owner` (or the source's) is not the owner.
    pub(crate) fn check_expected_owner(&self) -> Result<(), S3Error> {
        for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
            if self.text(name).is_some_and(|expected| expected != ROOT_OWNER_ID) {
                return Err(S3Error::new(Code::AccessDenied));
            }
        }
        Ok(())
    }

    /// The source in `x-amz-copy-source`: `/bucket/key?versionId=…`, percent-encoded, with or without the first slash.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not that.
    pub(crate) fn copy_source(&self) -> Result<CopySource, S3Error> {
        let raw = self.text("x-amz-copy-source").unwrap_or_default();
        parse_copy_source(raw).map(|(bucket, key, version)| CopySource {
            bucket,
            key,
            version,
            condition: super::condition::of_copy_source(&self.headers),
        })
    }
}

type Source = (coffer_common::types::BucketName, coffer_common::types::ObjectKey, Option<object::VersionId>);

fn parse_copy_source(raw: &str) -> Result<Source, S3Error> {
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
